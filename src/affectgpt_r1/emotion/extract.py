"""Emotion words out of prose: what a description comes to, not all that it mentions.

For think blocks, reference descriptions and other models' free text. A description names emotions
in passing: in what is quoted, in what is denied, in what a brow might mean. So every mention is
weighed by where it stands, and the words whose mentions weigh most are kept. Only words of the
lexicon are found, and only English sentences are understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from affectgpt_r1.emotion.lexicon import Lexicon

#: Weights of a mention: in the clause that states what is inferred; in a sentence that concludes
#: without one; more where its clause speaks of feeling or expressing; else.
_STATED, _CONCLUDED, _FELT, _MENTIONED = 3.0, 1.0, 1.0, 0.3
#: A word is kept from this share of the heaviest word's weight.
_KEPT_SHARE = 0.5

_LONGEST_PHRASE = 5
_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[.!?;:,()]")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_CLAUSE = re.compile(r"[^,;:]+")
#: What a person says is not what is said about the person.
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|「[^」]*」")
_THAT = re.compile(
    r"\b(?:infer(?:red)?|deduced?|concluded?|speculated?|determined?|believed?|evident|clear)"
    r"\s+that\b",
    re.IGNORECASE,
)
_THEREFORE = re.compile(
    r"\b(?:therefore|thus|hence|overall|in summary|in conclusion|consequently)\b", re.IGNORECASE
)
_FEELING = re.compile(
    r"\b(?:feel|feels|feeling|feelings|felt|sense|emotions?|emotional state|express|expresses|"
    r"expressing|expression of|conveys?|mood|attitude|state of|displays?|displaying|carry|"
    r"carries)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"not|no|never|without|hardly|barely|neither|nor|cannot|\w+n't|lack|lacks|lacking|unable"
)
_CLAUSE_END = re.compile(r"[.!?;:,()]|but|however|although|though|yet|while|whereas|rather")
#: Words of a lexicon that prose uses for grammar far more often than for a feeling.
_GRAMMAR = re.compile(
    r"active|bad|badly|certain|certainly|close|closeness|complete|drive|effort|high|involved|like|"
    r"normal|ordinary|original|present|ready|significance|significant|still|used"
)
#: A negation reaches this many words, or to the end of its clause.
_NEGATED_WORDS = 8


@dataclass(frozen=True, slots=True)
class Mention:
    """A word of the lexicon in a text, and how much its place says.

    Attributes:
        word: as the lexicon has it.
        weight: 0 where it is denied.
    """

    word: str
    weight: float


def extract_words(text: str, lexicon: Lexicon | None = None) -> tuple[str, ...]:
    """The emotion words that a text ascribes to its person, the best supported first.

    Args:
        text: prose in English; quoted speech is left out.
        lexicon: whose words are looked for; None: the built-in one.

    Returns:
        Distinct words as they stand in the text; of a word's several forms the first. Empty where
        the text names no emotion: that is an answer, not a failure.

    >>> extract_words('She says "I am so happy". We can infer that she is not pleased but annoyed.')
    ('annoyed',)
    """
    lexicon = lexicon or Lexicon.load()
    weights: dict[str, float] = {}
    first: dict[str, str] = {}
    for mention in find_mentions(text, lexicon):
        base = lexicon.groups(mention.word)[0] or mention.word
        weights[base] = weights.get(base, 0.0) + mention.weight
        if mention.weight:
            first.setdefault(base, mention.word)
    least = _KEPT_SHARE * max(weights.values(), default=0.0)
    kept = sorted((base for base in first if weights[base] >= least), key=lambda b: -weights[b])
    return tuple(first[base] for base in kept)


def find_mentions(text: str, lexicon: Lexicon) -> Iterator[Mention]:
    """Every word of the lexicon in a text outside of quotes, longest match first, weighed."""
    for sentence in _SENTENCE_END.split(_QUOTED.sub(" ", text)):
        stated = _THAT.search(sentence)
        concludes = _THEREFORE.search(sentence) is not None
        for word, start, denied in _words_of(sentence, lexicon):
            if denied:
                yield Mention(word, 0.0)
            elif stated and start < stated.end():  # a premise of what is inferred
                yield Mention(word, _MENTIONED)
            else:
                weight = _MENTIONED + (_STATED if stated else _CONCLUDED if concludes else 0.0)
                yield Mention(word, weight + _FELT * _speaks_of_feeling(sentence, start))


def _words_of(sentence: str, lexicon: Lexicon) -> Iterator[tuple[str, int, bool]]:
    """Words of the lexicon in a sentence: the word, where it begins, whether it is denied."""
    tokens = [
        (found.group().lower().replace("’", "'"), found.start())
        for found in _TOKEN.finditer(sentence)
    ]
    denied_words = at = 0
    while at < len(tokens):
        token, start = tokens[at]
        length = 1
        if _CLAUSE_END.fullmatch(token):
            denied_words = 0
        elif _NEGATION.fullmatch(token) and tokens[at + 1 : at + 2] != [
            ("only", start + len(token) + 1)
        ]:
            denied_words = _NEGATED_WORDS + 1
        for count in range(min(_LONGEST_PHRASE, len(tokens) - at), 0, -1):
            phrase = " ".join(word for word, _ in tokens[at : at + count])
            if lexicon.knows(phrase) and not _GRAMMAR.fullmatch(phrase):
                yield phrase, start, denied_words > 0
                length = count
                break
        at += length
        denied_words = max(0, denied_words - 1)


def _speaks_of_feeling(sentence: str, start: int) -> bool:
    """Whether the clause around a position speaks of feeling or expressing."""
    clause = next(found for found in _CLAUSE.finditer(sentence) if found.end() > start)
    return _FEELING.search(clause.group()) is not None
