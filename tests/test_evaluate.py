"""Evaluation: what stands beside a score, and the report that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from affectgpt_r1.clips import Clip, read_labelled, write_manifest
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError, MissingFileError, ProblemsError
from affectgpt_r1.evaluation.answers import AnswerRow, Kept, read_answers, words_by_id
from affectgpt_r1.evaluation.evaluate import Evaluation, evaluate_words
from affectgpt_r1.evaluation.render import json_row

LEXICON = Lexicon.load("builtin")
LABELS = [("happy", "proud"), ("sad",), ("angry", "hurt"), ("afraid",), ("calm", "loving")]


def evaluated(
    answers: Sequence[Sequence[str]] = LABELS,
    levels: Sequence[int] = (1,),
    baseline: Sequence[Sequence[str]] | None = None,
) -> Evaluation:
    """Perfect answers, unless others are given."""
    pairs = tuple(zip(LABELS, answers, strict=True))
    rows = tuple(AnswerRow(str(i), *pair, f"line-{i}") for i, pair in enumerate(pairs))
    before = None if baseline is None else {str(i): words for i, words in enumerate(baseline)}
    return evaluate_words(Kept(rows, pairs), LEXICON, levels, baseline=before)


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


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labelled sample"):
        evaluate_words(Kept((), ()), LEXICON)
    write_manifest(tmp_path / "m.jsonl", [Clip("a"), Clip("b", labels=("sad",))])
    with pytest.raises(InputError, match=r"m\.jsonl: 1 of 2 clips have no .* labels .first: 'a'"):
        read_labelled(tmp_path / "m.jsonl")
    with pytest.raises(InputError, match=r"baseline has no prediction for 5 of 5 .*'0'"):
        evaluated(baseline=[])


def test_what_has_no_prediction_is_left_out_and_counted() -> None:
    pair = ("happy",), ("happy",)
    result = evaluate_words(Kept((AnswerRow("a", *pair, "a"),), (pair,), 2), LEXICON)
    assert (result.f, result.clips, result.n) == (1.0, 1, 1)
    assert result.skipped == {"no prediction": 2}


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
