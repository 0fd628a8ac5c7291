"""Words out of prose: what is denied, quoted or taken back, and what a description comes to."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion import extract
from affectgpt_r1.emotion.extract import extract_words, find_mentions
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import score_corpus

#: The rules were made while looking at so many descriptions; the others are for measuring alone.
DEVELOPED_ON = 116
BUILTIN = Lexicon.load()


@pytest.mark.parametrize(
    "text",
    [
        "He is not happy.",
        "She isn't happy.",
        "She isn’t happy.",
        "She is not at all happy.",
        "She is not yet happy.",
        "He is hardly happy.",
        "He is rarely happy.",
        "She is seldom cheerful.",
        "She is no longer angry.",
        "No one is happy.",
        "Nobody would call him calm.",
        "I don't think he is angry.",
        "He speaks without a trace of fear.",
        "There is no surprise in her voice.",
        "There is no doubt or fear in her eyes.",
        "There is no obvious anger in the tone.",
        "She is neither happy, excited, nor pleased.",
        "She does not show any signs of happiness, sadness, or anger.",
        "She shows no hint of joy, deep gratitude, or slight relief.",
        "Not a single sign of sadness, fear, guilt, shame, or regret can be seen.",
        "She isn't loving, caring, or kind.",
        "He is not happy, excited or pleased.",
        "He is not happy, nor excited.",
        "She is not happy and excited.",
        "The text does not contain any anger or fear.",
        "He doesn't show any particular emotion such as joy or anger.",
        "He denies being angry.",
        "He failed to be calm.",
        "He lacks confidence.",
        "She is free of fear.",
        "He stopped being afraid.",
        "He loses his calm.",
        "He is anything but calm.",
        "She is far from pleased.",
        "It is impossible to be calm.",
    ],
)
def test_what_is_denied_is_not_taken(text: str) -> None:
    assert extract_words(text) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A clause, a contrast or a predicate of its own.
        ("He is not happy, he is furious.", ["furious"]),
        ("She is not angry, but sad.", ["sad"]),
        ("He is not sad – he is furious.", ["furious"]),
        ("He speaks with no joy -- he is furious.", ["furious"]),
        ("She is neither happy nor sad but calm.", ["calm"]),
        ("She is neither happy, nor sad, but calm.", ["calm"]),
        ("There is no sadness or fear, only joy.", ["joy"]),
        ("She feels nothing but contempt.", ["contempt"]),
        ("She doesn't look very happy, rather sad or tired.", ["sad", "tired"]),
        ("Far from being calm, he is furious.", ["furious"]),
        ("Rather than angry, she is sad.", ["sad"]),
        ("He is calm rather than angry.", ["calm"]),
        ("He is calm instead of angry.", ["calm"]),
        ("He is angry, not sad, and anxious.", ["angry", "anxious"]),
        ("She doesn't smile and looks sad.", ["sad"]),
        ("He isn't smiling, possibly angry or upset.", ["angry", "upset"]),
        ("He speaks without a smile, indicating sadness or anger.", ["sadness", "anger"]),
        ("No, she is happy.", ["happy"]),
        ("She doesn't cry. She is happy.", ["happy"]),
        # A reason.
        ("She doesn't smile because she is sad.", ["sad"]),
        ("She doesn't smile as she is sad.", ["sad"]),
        ("He cries not because he is sad but because he is happy.", ["cries", "happy"]),
        # More than what is denied.
        ("She is not only angry but also furious.", ["angry", "furious"]),
        ("She is not just angry but furious.", ["angry", "furious"]),
        ("She is not merely angry but furious.", ["angry", "furious"]),
        ("She is not simply angry but furious.", ["angry", "furious"]),
        ("She couldn't be happier.", ["happier"]),
        # A denial taken back.
        ("There is no doubt that she is happy.", ["happy"]),
        ("There isn't any doubt that she is happy.", ["happy"]),
        ("No doubt he is furious.", ["furious"]),
        ("No wonder she is angry.", ["angry"]),
        ("He cannot hide his anger.", ["anger"]),
        ("She is unable to conceal her joy.", ["joy"]),
        ("He fails to hide his anger.", ["anger"]),
        ("He makes no attempt to hide his anger.", ["anger"]),
        ("She can't suppress her anger.", ["anger"]),
        ("She can barely contain her joy.", ["joy"]),
        ("He cannot mask his sadness.", ["sadness"]),
        ("He did not disguise his contempt.", ["contempt"]),
        ("She couldn't control her anger.", ["anger"]),
        ("She can't help but feel sad.", ["sad"]),
        ("She cannot help feeling sad.", ["sad"]),
        ("He hides his anger.", ["anger"]),
        ("He never fails to be cheerful.", ["cheerful"]),
        ("He does not deny being angry.", ["angry"]),
        ("He isn't free from fear.", ["fear"]),
        ("It is not without joy.", ["joy"]),
        ("She can't stop feeling proud.", ["proud"]),
        (
            "She never loses her cheerfulness and remains optimistic.",
            ["cheerfulness", "optimistic"],
        ),
    ],
)
def test_a_denial_ends_where_a_reader_would_end_it(text: str, expected: list[str]) -> None:
    assert list(extract_words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He feels don't care.", ["don't care"]),
        ("He feels don’t care.", ["don't care"]),
        ("She can't wait.", ["can't wait"]),
        ("There is a lack of interest.", ["lack of interest"]),
        ("She has no words.", ["no words"]),
        ("He feels not good enough.", ["not good enough"]),
        ("She shows no lack of interest.", []),
        ("There is no obvious emotion of anger.", ["no obvious emotion"]),
        ("He's no-nonsense and cheerful.", ["no-nonsense", "cheerful"]),
        ("He is on edge.", ["on edge"]),
        ("She feels free.", ["free"]),
        ("She is kind.", ["kind"]),
        ("It is a kind of sadness.", ["sadness"]),
        ("She is happier each day, and a happy one.", ["happier"]),
        ("His mouth is open, his face long; I mean no cross word, I guess.", []),
        ("He fails, and denied it.", []),
        ("We can infer that her emotional state is angry.", ["angry"]),
        ("The person shows emotion, and joy.", ["joy"]),
    ],
)
def test_the_longest_word_is_taken_and_grammar_is_not(text: str, expected: list[str]) -> None:
    assert list(extract_words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She says 'I am so happy' and looks annoyed.", ["annoyed"]),
        ("She says ‘I am so happy’ and looks annoyed.", ["annoyed"]),
        ("She says ‘I don’t feel happy’ and looks annoyed.", ["annoyed"]),
        ("'I am happy,' she says, annoyed. 'Very happy.'", ["annoyed"]),
        ('He says, "No, never!" and is happy.', ["happy"]),
        ("He says “I'm not sad” and is happy.", ["happy"]),
        ("The dogs' joy is the boys' joy.", ["joy"]),
        ("The students’ anger isn’t the teachers’ fear.", ["anger"]),
        ("'Tis sad in the '90s.", ["sad"]),
        ("In the '90s he was happy, and the girls' mood was calm.", ["calm"]),
    ],
)
def test_quotes_are_left_out_and_apostrophes_are_none(text: str, expected: list[str]) -> None:
    assert list(extract_words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("His brow may mean anger. We can infer that he is worried.", ["worried"]),
        ("Her smile is friendly. Therefore, she is relaxed.", ["relaxed"]),
        ("Given his angry tone, we can infer that he feels sad.", ["sad"]),
        ("He is calm. It is clear that he is not angry.", ["calm"]),
    ],
)
def test_a_conclusion_outweighs_a_description(text: str, expected: list[str]) -> None:
    assert list(extract_words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She feels happy, excited, and proud.", ["happy", "excited", "proud"]),
        (
            "He expresses anger, frustration and disappointment.",
            ["anger", "frustration", "disappointment"],
        ),
        ("The character's emotional state is happy, relieved.", ["happy", "relieved"]),
        ("She feels sad, but her smile looks friendly.", ["sad"]),
        ("He feels sad; calm, friendly people are there.", ["sad"]),
    ],
)
def test_all_of_a_list_is_felt_and_what_another_clause_says_is_not(
    text: str, expected: list[str]
) -> None:
    assert list(extract_words(text)) == expected


def some_of(text: str) -> st.SearchStrategy[str]:
    """Texts of a text's words in any order."""
    return st.lists(st.sampled_from(text.split()), max_size=30).map(" ".join)


prose = st.text(max_size=60) | some_of(
    "not no never cannot hide his anger fails to deny is without a trace of joy or nor neither and "
    "but far from rather than lack kind can't wait don't care free she looks happy , . ; ' \" ‘ ’ "
    "( – - therefore we infer that feels sad because no doubt it only"
)


@given(prose)
def test_words_are_distinct_and_known_and_the_same_each_time(text: str) -> None:
    words = extract_words(text)
    assert len({BUILTIN.groups(word)[0] for word in words}) == len(words)
    assert all(BUILTIN.knows(word) for word in words)
    assert extract_words(text) == words


@given(prose)
def test_words_come_in_the_order_of_their_mentions_weight(text: str) -> None:
    weights: dict[str | None, float] = {}
    for word, weight in find_mentions(text, BUILTIN):
        base = BUILTIN.groups(word)[0]
        weights[base] = weights.get(base, 0.0) + weight
    heaviest = max(weights.values(), default=0.0)
    order = [weights[BUILTIN.groups(word)[0]] for word in extract_words(text)]
    assert order == sorted(order, reverse=True)
    assert order == [] if heaviest == 0 else order[0] == heaviest <= 2 * order[-1]


said = some_of("I'm don't not so happy no. never, anger! sad? we infer that but it’s").filter(bool)
plain = some_of("she isn't says the dogs' joy not happy , looks calm but sad. infer that")


@given(plain, said, plain, st.sampled_from(['""', "“”", "«»", "「」", "''", "‘’"]))
def test_quoted_text_changes_nothing(before: str, quoted: str, after: str, marks: str) -> None:
    text = f"{before} {marks[0]}{quoted}{marks[1]} {after}"
    assert extract_words(text) == extract_words(f"{before} {after}")


@given(st.sampled_from([word for word in BUILTIN.words if not BUILTIN.knows(f"not {word}")]))
def test_any_word_of_the_lexicon_can_be_denied(word: str) -> None:
    assert extract_words(f"She is not {word}.") == ()


def test_rules_find_the_labels_of_the_descriptions_they_were_made_with(shared_dir: Path) -> None:
    scorer = Lexicon.load("mer2026", shared_dir / "reference/emotion_wheel")
    with (shared_dir / "data/text/emer_232.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, DEVELOPED_ON)]
    labels = [parse_labels(row["labels"]) for row in rows]
    for reader in (scorer, BUILTIN):
        words = [extract_words(row["description"], reader) for row in rows]
        assert score_corpus(labels, words, scorer).f >= 0.70


SIGNS = """not no never neither nor nobody none nothing hardly can't don't cannot without unable
lacks lacking absence free devoid far from anything but denies failing fails to lose stop ceased
rather instead of than yet because since due as he only just merely simply help being been more
contains his her hid disguising concealed controls masks suppressed and is , ; . : ( ) - -- kind
any doubt wonder happy sad love while whereas however although though or""".split()  # noqa: SIM905


@given(st.lists(st.sampled_from(SIGNS), max_size=14).map(" ".join))
def test_no_sign_begins_with_a_token_that_is_not_tried(text: str) -> None:
    starts = {token.start(): token.group() for token in extract._TOKEN.finditer(text)}
    for sign in extract._SIGN.finditer(text):
        assert extract._may_sign(starts[sign.start()].lower())
