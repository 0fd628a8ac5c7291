"""Emotion words out of prose: what a description comes to, not all that it mentions.

For think blocks, reference descriptions and other models' free text. A description names emotions
in passing: in what is quoted, in what is denied, in what a brow might mean. So every mention is
weighed by where it stands, and the words whose mentions weigh most are kept.

Only words of the lexicon are found, and only English sentences are understood, by rules: a sign of
denial reaches over the words behind it until something ends it. Quotes are pairs of "", “”, «»,
「」, and within a line '' and ‘’; even a lone word in them is left out. Persons are not told apart:
a sentence about two gives the words of both. Nor is covered: times ("was happy, is sad"); what is
only supposed ("as if angry", "should be glad"); a denial behind its word ("joy is not what he
feels"), over a comma with "and" ("no anger, fear, and joy") or in degree ("little joy"); irony.
"""

import re
from bisect import bisect
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from affectgpt_r1.emotion.lexicon import Lexicon

#: Weights of a mention: in the clause that states what is inferred; in a sentence that concludes
#: without one; more where its clause speaks of feeling or expressing; else.
_STATED, _CONCLUDED, _FELT, _MENTIONED = 3.0, 1.0, 1.0, 0.3
#: A word is kept from this share of the heaviest word's weight.
_KEPT_SHARE = 0.5

_TOKEN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\S")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")
#: A comma before one more of a list ends no clause ("feels happy, excited, and proud").
_CLAUSE_END = re.compile(
    r"[;:]|,(?!\s*(?:(?:and|or)\s+)?[\w'-]+(?:\s*[,.!?]|\s+(?:and|or)\b|\s*$))"
)
_APOSTROPHES = str.maketrans("‘’", "''")
#: What a person says is not what is said about the person. An apostrophe with a letter before it
#: opens no quote, one with a letter behind it closes none.
_QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”|«[^»]*»|「[^」]*」"
    r"|(?<!\w)'(?=[^\s\d'])(?:[^'\n]|(?<=\w)'(?=\w))*+'(?!\w)"
)
_THAT = re.compile(
    r"\b(?:infer(?:red)?|deduced?|concluded?|speculated?|determined?|believed?|evident|clear)"
    r"\s+that\b"
)
_THEREFORE = re.compile(
    r"\b(?:therefore|thus|hence|overall|in summary|in conclusion|consequently)\b"
)
_FEELING = re.compile(
    r"\b(?:feel|feels|feeling|feelings|felt|sense|emotions?|emotional state|express|expresses|"
    r"expressing|expression of|conveys?|mood|attitude|state of|displays?|displaying|carry|"
    r"carries)\b"
)
#: Words of a lexicon that prose uses otherwise far more often than for a feeling.
_GRAMMAR = re.compile(
    r"active|bad|badly|beat|blue|certain|certainly|close(?:[ds]|ness)?|complete|cross(?:ed)?|"
    r"deny|denie[sd]|drive|effort|emotional(?:ly)?|emotions?|persons?|fail(?:s|ed)?|flat|"
    r"guess(?:es)?|high|involved|like|long(?:er)?|mean[st]?|miss|normal|objects?|"
    r"open(?:s|ed|ing)?|ordinary|original|present|ready|significance|significant|slight|spent|"
    r"still|used"
)
_is_grammar = lru_cache(maxsize=1 << 16)(_GRAMMAR.fullmatch)
#: Begins a predicate of its own, which a denial before it does not reach.
_ANEW = (
    r"(?:he|she|it|they|there|this|is|are|was|were|(?:look|seem|appear|remain|stay|sound)(?:s|ed)|"
    r"becomes|feels|felt|shows|expresses|displays|conveys|lacks|fails|denies)\b"
)
#: One of a row of words or noun phrases, not a comment upon the sentence ("possibly angry").
_ITEM = (
    rf"(?!\s*(?:{_ANEW}|\w+ing\s+(?!n?or\b)|(?:and|but|only|just|rather|instead|possibly|perhaps|"
    r"maybe|probably|likely|clearly|obviously|apparently)\b))(?:\s*(?!n?or\b)[\w'-]++){1,3}+"
)
_LIST = rf"(?:{_ITEM},){{0,8}}+(?:{_ITEM})?+\s*n?or\b"
#: What governs denial. `ends`: a clause's end, a reason, or what takes a denial back ("cannot hide
#: his anger", "no doubt happy"), unless the denial is of just that ("not yet happy"). `turns`:
#: denies, but takes another denial back ("never fails to smile"). `on`: a comma as in "neither joy,
#: love, nor hope". `idiom`: names nothing.
_SIGN = re.compile(
    rf"""
    (?P<ends> [.!?;:()–—]|,(?!{_LIST}) | (?<=\s)-+(?=\s) | \band(?=\s+{_ANEW}) | (?<![\w'-])(?:
        but|however|although|though|while|whereas | (?<!n.t\s)(?:yet|because|since|due)
        | as(?=\s+(?:he|she|they)\b) | rather(?!\s+than\b) | instead(?!\s+of\b)
        | only|just|merely|simply | help(?=\s+(?:but|\w+ing)\b)
        | (?:no|any|without\s+a)\s+doubt(?!,|\s+(?:n?or|and)\b) | no\s+(?:wonder|question)
        | be(?:en)?(?=\s+(?:more|\w+ier)\b) | contain(?:s|ing)?(?=\s+(?:his|her|their)\b)
        | hid(?:es?|ing) | disguis(?:es?|ing) | (?:conceal|control|restrain)(?:s|l?ing)?
        | (?:mask|suppress)(?:e?s|ing)? )(?![\w'-]) )
    | (?P<denies> (?<![\w'-])(?: not|no\s+longer|no|never|cannot|\w+n't|neither|nor|nobody|none
        |nothing|hardly|barely|scarcely|rarely|seldom | rather\s+than|instead\s+of )(?![\w'-]) )
    | (?P<turns> (?<![\w'-])(?: without|unable|impossible|lack(?:s|ed|ing)?|absence\s+of
        | (?:free|devoid)\s+(?:of|from) | far\s+from | anything\s+but
        | den(?:y|ies|ied|ying) | fail(?:s|ed|ing|ure)?\s+to | los(?:es?|ing)
        | (?:stop(?:s|ped)?|cease[sd]?)(?=\s+(?:to\s+be|\w+ing)\b) )(?![\w'-]) )
    | (?P<on> , )
    | (?P<idiom> (?<![\w'-])kind\s+of\b )
    """,
    re.VERBOSE,
)
#: Tokens with which a sign may begin: too many of them, but all. Others are not tried, which is
#: most of the work.
_SIGN_BEGINS = re.compile(
    r"absence|alth|an[dy]|as|bare|be|but|cannot|cease|conceal|contain|control|den|devoid|disguis|"
    r"due|fail|far|free|hard|help|hid|how|impossible|instead|just|kind|lack|los|mask|mere|never|"
    r"neither|no|only|rare|rather|restrain|scarce|seldom|simpl|since|stop|suppress|though|unable|"
    r"wh|without|yet|.*n't$|\W"
)
_may_sign = lru_cache(maxsize=1 << 16)(_SIGN_BEGINS.match)
#: A denial reaches this many words, or to what ends it.
_DENIED_WORDS = 10


def extract_words(text: str, lexicon: Lexicon | None = None) -> tuple[str, ...]:
    """The emotion words that a text ascribes to its person, the best supported first.

    Args:
        text: prose in English; what stands in quotes is left out.
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
    for word, weight in find_mentions(text, lexicon):
        base = lexicon.tables.bases[word][0]
        weights[base] = weights.get(base, 0.0) + weight
        if weight:
            first.setdefault(base, word)
    least = _KEPT_SHARE * max(weights.values(), default=0.0)
    kept = sorted((base for base in first if weights[base] >= least), key=lambda b: -weights[b])
    return tuple(first[base] for base in kept)


def find_mentions(text: str, lexicon: Lexicon) -> Iterator[tuple[str, float]]:
    """Every word of the lexicon in a text outside of quotes, longest match first, weighed.

    Yields:
        The word as the lexicon has it, and how much its place says: 0 where it is denied.
    """
    for sentence in _SENTENCE_END.split(_QUOTED.sub(" ", text.translate(_APOSTROPHES).lower())):
        found = _words_of(sentence, lexicon)
        if not found:
            continue
        stated = _THAT.search(sentence) if "that" in sentence else None
        concludes = not stated and _THEREFORE.search(sentence)
        ends = [end.start() for end in _CLAUSE_END.finditer(sentence)]
        felt = {bisect(ends, sign.start()) for sign in _FEELING.finditer(sentence)}
        for word, start, denied in found:
            if denied:
                yield word, 0.0
            elif stated and start < stated.end():  # a premise of what is inferred
                yield word, _MENTIONED
            else:
                weight = _MENTIONED + (_STATED if stated else _CONCLUDED if concludes else 0.0)
                yield word, weight + _FELT * (bisect(ends, start) in felt)


def _words_of(sentence: str, lexicon: Lexicon) -> list[tuple[str, int, bool]]:
    """Words of the lexicon in a sentence: the word, where it begins, whether it is denied."""
    tokens = _TOKEN.findall(sentence)
    phrases, known = lexicon.phrases, lexicon.tables.bases
    entries = {}  # place of a token -> how many the entry has that begins there
    for at in [i for i, token in enumerate(tokens) if token in phrases]:
        for end in range(min(at + phrases[tokens[at]], len(tokens)), at, -1):
            phrase = " ".join(tokens[at:end])
            if phrase in known and not _is_grammar(phrase):
                entries[at] = end - at
                break
    if not entries:
        return []
    words = []
    free = reach = 0  # the next token that is of no entry or sign yet; where a denial ends
    # What stands behind the last word says nothing of it.
    for at, token in enumerate(islice(_TOKEN.finditer(sentence), max(entries) + 1)):
        if at < free or not (at in entries or _may_sign(tokens[at])):
            continue
        sign, length = _SIGN.match(sentence, token.start()), entries.get(at, 0)
        denied = at < reach
        kind = sign.lastgroup if sign else None
        signed = len(_TOKEN.findall(sign.group())) if sign else 0
        if length > signed:
            words.append((" ".join(tokens[at : at + length]), token.start(), denied))
            if tokens[at + length : at + length + 1] not in (["of"], ["such"]):
                kind = None  # "can't wait": the denial is within the word
        free = at + max(length, signed, 1)
        if kind == "denies" or (kind == "turns" and not denied) or (kind == "on" and denied):
            reach = free + _DENIED_WORDS
        elif kind in ("turns", "ends"):
            reach = 0
    return words
