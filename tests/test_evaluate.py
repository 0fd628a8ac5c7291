"""Evaluation: what stands beside a score, and the report that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError, MissingFileError, ProblemsError
from affectgpt_r1.evaluation.answers import read_answers, words_by_id
from affectgpt_r1.evaluation.evaluate import Evaluation, evaluate_clips, evaluate_words
from affectgpt_r1.evaluation.render import json_row

LEXICON = Lexicon.load("builtin")
LABELS = [("happy", "proud"), ("sad",), ("angry", "hurt"), ("afraid",), ("calm", "loving")]


def evaluated(
    answers: Sequence[Sequence[str]] = LABELS,
    levels: Sequence[int] = (1,),
    baseline: Sequence[Sequence[str]] | None = None,
) -> Evaluation:
    """Perfect answers, unless others are given."""
    pairs = list(zip(LABELS, answers, strict=True))
    groups = [f"line-{i}" for i in range(len(LABELS))]
    return evaluate_words(pairs, groups, LEXICON, levels, baseline=baseline)


def test_perfect_answers_reach_the_ceiling_and_beat_the_constant() -> None:
    result = evaluated()
    assert result.f == result.ceiling == 1.0
    assert result.over_constant.value == pytest.approx(1.0 - result.constant.f)
    assert result.over_constant.value > 0
    assert (result.clips, result.groups, result.distinct_answers) == (5, 5, 5)
    assert result.baseline is None


def test_the_constant_answer_is_no_better_than_itself() -> None:
    words = evaluated().constant.words
    result = evaluated([words] * len(LABELS))
    assert result.over_constant.value == result.over_constant.low == result.over_constant.high == 0
    assert result.distinct_answers == 1


def test_a_baseline_is_compared_on_the_same_draws() -> None:
    result = evaluated(baseline=[("sad",)] * len(LABELS))
    assert result.baseline is not None
    assert result.over_baseline is not None
    assert result.over_baseline.value == pytest.approx(1.0 - result.baseline)
    row = json_row(result)
    assert json.loads(json.dumps(row)) == row


def test_two_rings_are_averaged() -> None:
    half = [words[:1] for words in LABELS]
    both = evaluated(half, (1, 2))
    one, two = (evaluated(half, (level,)) for level in (1, 2))
    assert both.f == pytest.approx((one.f + two.f) / 2)
    assert both.f == pytest.approx(both.interval.value)
    assert both.signature == f"{one.signature} + {two.signature}"


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(InputError, match="no labelled sample"):
        evaluate_words([], [], LEXICON)
    with pytest.raises(InputError, match="have no labels"):
        evaluate_clips([Clip(id="a")], {"a": ("sad",)}, LEXICON)
    with pytest.raises(InputError, match="baseline has no prediction"):
        evaluate_clips([Clip("a", labels=("sad",))], {"a": ("sad",)}, LEXICON, baseline={})


def test_words_are_read_from_words_or_completion(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"id": "a", "words": ["Sad", "sad"]}\n'
        '{"id": 2, "completion": "<think>x</think><answer>happy, calm</answer>", "labels": "sad"}\n'
    )
    assert words_by_id(path) == {"a": ("sad",), "2": ("happy", "calm")}
    with pytest.raises(ProblemsError, match="'a' has no labels"):
        read_answers(path)
    with pytest.raises(MissingFileError):
        words_by_id(tmp_path / "gone.jsonl")
