"""The label parsers: the authors' to the bit, and ours, which never surprises."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.labels import parse_labels


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["Happy ", "SAD"], ["happy", "sad"]),
        ("", []),
        (None, []),
        (float("nan"), []),
        ("[happy, sad]", ["happy", "sad"]),
        (" [happy, sad]", ["[happy", "sad"]),
        ("[happy, sad].", ["happy", "sad]."]),
        ("happy; sad", ["happy; sad"]),
        ("happy and sad", ["happy and sad"]),
        ("don't care", ["don", "t care"]),
        ("['happy', \"sad\", 'sad']", ["happy", "sad", "sad"]),
        ("[", []),
        ("]", []),
        ("happy，sad", ["happy，sad"]),
    ],
)
def test_the_reference_is_followed_to_the_letter(value: object, expected: list[str]) -> None:
    assert parse_labels(value, "reference") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Happy, relieved.", ["happy", "relieved"]),
        ("1. happy\n2) sad\n(3) on edge", ["happy", "sad", "on edge"]),
        ("- happy\n* sad\n• calm", ["happy", "sad", "calm"]),
        ('["happy", "sad"]', ["happy", "sad"]),
        ("happy；sad、calm，angry", ["happy", "sad", "calm", "angry"]),
        ("happy and sad or calm & angry", ["happy", "sad", "calm", "angry"]),
        ("don’t care", ["don't care"]),
        ("ＨＡＰＰＹ", ["happy"]),
        ("self-deprecating / light-hearted", ["self-deprecating", "light-hearted"]),
        ("**happy**", ["happy"]),
        ("happy, and sad", ["happy", "sad"]),
        ("android, sandy, orange", ["android", "sandy", "orange"]),
        ("[happy, sad].", ["happy", "sad"]),
        (["happy, sad", "calm"], ["happy", "sad", "calm"]),
        (float("nan"), []),
        ('"happy" "sad"', ["happy", "sad"]),
        ("happy (joyful)", ["happy", "joyful"]),
        ("[happy][sad]", ["happy", "sad"]),
        ("1. happy 2. sad", ["happy", "sad"]),
        ("burnt\u2011out, self\u2013conscious", ["burnt-out", "self-conscious"]),
        ("happy \u2014 sad", ["happy", "sad"]),
        ("hap\u200bpy", ["happy"]),
        ('["happy", null]', ["happy"]),
    ],
)
def test_the_robust_parser_reads_what_models_write(value: object, expected: list[str]) -> None:
    assert parse_labels(value) == expected


def test_an_array_is_a_list_and_pandas_missing_value_none() -> None:
    for parser in ("robust", "reference"):
        assert parse_labels(np.array(["happy", "sad"], dtype=object), parser) == ["happy", "sad"]
        assert parse_labels(np.float64("nan"), parser) == []


anything = st.text(max_size=40) | st.text("[]\"',;. \n-*1)and&|、", max_size=40)


@given(anything | st.none() | st.floats() | st.integers() | st.lists(anything))
def test_neither_parser_ever_raises(value: object) -> None:
    for parser in ("robust", "reference"):
        words = parse_labels(value, parser)
        assert all(isinstance(word, str) for word in words)


@given(anything)
def test_the_robust_parser_is_idempotent(text: str) -> None:
    words = parse_labels(text)
    assert all(words)
    assert parse_labels(words) == words
    assert parse_labels(json.dumps(words)) == words


@given(st.lists(st.sampled_from(["a", "sad", "and-x", "or-or", "orb", "sad-and"]), min_size=1))
def test_plain_lists_are_read_as_any_others(words: list[str]) -> None:
    text = ", ".join(words)
    assert parse_labels(text) == parse_labels(f"[{text}]") == parse_labels(f"{text};")


clean = st.from_regex(r"[a-z]{2,8}(-[a-z]{2,8})?", fullmatch=True).filter(
    lambda word: word not in ("and", "or")
)


@given(st.lists(clean, max_size=6))
def test_both_parsers_agree_on_clean_lists(words: list[str]) -> None:
    for text in (words, ", ".join(words), f"[{', '.join(words)}]"):
        assert parse_labels(text) == parse_labels(text, "reference") == words
