"""Evaluation: what stands beside a score, and the report that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from affectgpt_r1.clips import Clip, read_labelled, write_manifest
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError, MissingFileError, ProblemsError
from affectgpt_r1.evaluation.answers import AnswerRow, Kept, read_answers
from affectgpt_r1.evaluation.scoring import Rule, keep, score_row

LEXICON = Lexicon.load("builtin")
LABELS = [("happy", "proud"), ("sad",), ("angry", "hurt"), ("afraid",), ("calm", "loving")]


def kept(answers: Sequence[Sequence[str]], failed: int = 0) -> Kept:
    pairs = tuple(zip(LABELS, answers, strict=True))
    rows = tuple(AnswerRow(str(i), *pair, f"line-{i}") for i, pair in enumerate(pairs))
    return Kept(rows, pairs, failed)


def evaluated(
    answers: Sequence[Sequence[str]] = LABELS,
    levels: tuple[int, ...] = (1,),
    baseline: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Perfect answers, unless others are given."""
    others = None if baseline is None else {"before": kept(baseline)}
    return score_row(kept(answers), Rule(levels=levels), LEXICON, others)


def test_perfect_answers_reach_the_ceiling_and_beat_the_constant() -> None:
    result = evaluated()
    assert list(result)[:2] == ["f", "interval"]
    assert result["f"] == result["ceiling"] == 1.0
    assert result["over_constant"]["value"] == pytest.approx(1.0 - result["constant"]["f"])
    assert result["over_constant"]["value"] > 0
    assert (result["clips"], result["groups"], result["distinct_answers"]) == (5, 5, 5)
    assert "compared" not in result


def test_the_constant_answer_is_no_better_than_itself() -> None:
    words = evaluated()["constant"]["words"]
    result = evaluated([words] * len(LABELS))
    assert {result["over_constant"][key] for key in ("value", "low", "high")} == {0.0}
    assert result["distinct_answers"] == 1


def test_a_baseline_is_compared_on_the_same_draws() -> None:
    result = evaluated(baseline=[("sad",)] * len(LABELS))
    (other,) = result["compared"]
    assert other["system"] == "before"
    assert other["difference"]["value"] == pytest.approx(1.0 - other["ew"]["value"])
    assert other["p"] == other["p_holm"] < 0.05
    assert json.loads(json.dumps(result)) == result


def test_two_rings_are_averaged() -> None:
    half = [words[:1] for words in LABELS]
    both = evaluated(half, (1, 2))
    one, two = (evaluated(half, (level,)) for level in (1, 2))
    assert both["f"] == pytest.approx((one["f"] + two["f"]) / 2)
    assert both["f"] == pytest.approx(both["interval"]["value"])
    assert both["signature"] == f"{one['signature']} + {two['signature']}"
    assert [ring["f"] for ring in both["by_level"]] == [one["f"], two["f"]]


def test_nothing_to_score_is_an_error_and_no_zero(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the predictions could be obtained"):
        score_row(Kept((), (), 3), Rule(), LEXICON)
    unknown = AnswerRow("a", ["qwertyuiop"], ["sad"], "a")
    with pytest.raises(InputError, match="no label can be scored"):
        score_row(keep([unknown], Rule(), "answers"), Rule(), LEXICON)
    write_manifest(tmp_path / "m.jsonl", [Clip("a"), Clip("b", labels=("sad",))])
    with pytest.raises(InputError, match=r"m\.jsonl: 1 of 2 clips have no .* labels .first: 'a'"):
        read_labelled(tmp_path / "m.jsonl")


def test_what_has_no_prediction_is_left_out_and_counted() -> None:
    result = score_row(kept(LABELS, 2), Rule(), LEXICON)
    assert (result["f"], result["clips"], result["n"]) == (1.0, 5, 5)
    assert result["skipped"] == {"no prediction": 2}


def test_words_are_read_from_words_or_completion(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines = [
        '{"id": "a", "words": ["Sad", "sad"], "labels": ["sad"]}\n',
        '{"id": 2, "completion": "<answer>happy, calm</answer>", "labels": "sad"}\n',
    ]
    path.write_text("".join(lines))
    said = keep(read_answers(path), Rule(), str(path))
    assert [(row.id, list(pair[1])) for row, pair in zip(said.rows, said.pairs, strict=True)] == [
        ("a", ["sad", "sad"]),
        ("2", ["happy", "calm"]),
    ]
    path.write_text('{"id": "a", "words": ["Sad", "sad"]}\n')
    with pytest.raises(ProblemsError, match="'a' has no labels"):
        read_answers(path)
    with pytest.raises(MissingFileError):
        read_answers(tmp_path / "gone.jsonl")
