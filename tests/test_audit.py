"""The audit of a reward: what its ways of answering must get by the reward's own definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import RewardRecipe, RewardSettings
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation.rewarding import Audited, audit
from test_cli import run

CLIPS = [
    Clip("a", labels=("happy", "proud"), description="He laughs. So he is happy."),
    Clip("b", labels=("sad",), description="She weeps! She feels sad and lonely.", subtitle="Oh."),
    Clip("c", labels=("angry", "annoyed"), description="A frown. He is angry."),
    Clip("d", labels=("qwertyuiop",), description="He is happy."),
    Clip("e", labels=("afraid", "nervous", "tense"), description="We infer that he is nervous."),
]


def audited(clips: list[Clip] = CLIPS, mode: str = "answer", **rewards: object) -> list[Audited]:
    settings = RewardSettings.model_validate(rewards)
    return audit(clips, RewardRecipe.model_validate({"mode": mode, "rewards": settings}))


def named(rows: list[Audited], way: str) -> Audited:
    (row,) = (row for row in rows if row.way.startswith(way))
    return row


def test_the_best_paid_stands_first_and_nothing_beats_the_labels() -> None:
    rows = audited()
    totals = [row.reward.value for row in rows]
    assert totals == sorted(totals, reverse=True)
    labels = named(rows, "the labels themselves")
    assert (labels.kind, labels.example) == ("bound", "<answer>happy, proud</answer>")
    assert labels.reward.value == pytest.approx(totals[0])


def test_the_search_finds_a_constant_no_worse_than_any_single_label() -> None:
    rows = audited()
    best = named(rows, "the best constant").reward.value
    lexicon = Lexicon.load()
    singles = [w for clip in CLIPS for w in clip.labels or () if lexicon.counts(w)]
    for word in singles:
        said = [Clip(c.id, labels=c.labels, description=f"{word}.") for c in CLIPS]
        assert named(audited(said), "honest:").reward.value <= best
    assert named(rows, "the commonest label").reward.value <= best


def test_padding_pays_no_less_than_honesty_and_p3_takes_words_that_add_nothing() -> None:
    for penalty in ("none", "p1", "p2", "p3"):
        rows = audited(length_penalty=penalty)
        for way in ("honest, with the best padding", "honest, with padding by its tone"):
            gain = named(rows, way).over_honest
            assert gain is not None
            assert gain.value >= 0
        gain = named(rows, "honest, with synonyms").over_honest
        assert gain is not None
        assert (gain.value < 0) == (penalty != "none")


def test_tags_of_no_meaning_get_nothing_behind_a_gate() -> None:
    rows = audited(gate=True)
    for way in ("nothing", "empty tags", "tags inside", "the answer twice", "words without tags"):
        assert named(rows, way).reward.value == 0
    assert named(rows, "a subtitle's order").reward.value == 0


def test_a_clip_without_a_description_is_no_honest_zero(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bare = [Clip(f"{c.id}2", labels=c.labels) for c in CLIPS]
    few, many = named(audited(), "honest:"), named(audited([*CLIPS, *bare]), "honest:")
    assert few.reward == many.reward
    assert "6 of 10 clips are left out" in caplog.text


def test_other_clips_are_of_other_groups() -> None:
    same = [Clip(f"{i}", labels=("happy",), group="g") for i in range(4)]
    assert named(audited(same), "another clip's").reward.value == 0
    mixed = [*same, Clip("z", labels=("sad",))]
    assert named(audited(mixed), "five other clips'").terms["accuracy"] == 0


def test_without_descriptions_none_is_honest() -> None:
    rows = audited([Clip(c.id, labels=c.labels) for c in CLIPS])
    assert {row.kind for row in rows} == {"bound", "exploit"}
    assert {row.over_honest for row in rows} == {None}


def test_an_empty_description_is_none() -> None:
    rows = audited([Clip(c.id, labels=c.labels, description="") for c in CLIPS])
    assert {row.over_honest for row in rows} == {None}


def test_the_thinking_repeats_the_answer_and_no_more() -> None:
    rows = audited(mode="think", alignment=0.4, dual=0.6)
    row = named(rows, "honest:")
    assert row.example == "<think>happy</think><answer>happy</answer>"
    assert row.terms["dual"] == row.terms["accuracy"]


def test_labels_that_no_lexicon_knows_cannot_be_audited() -> None:
    with pytest.raises(InputError, match="nothing to audit"):
        audited([CLIPS[3]])


def test_the_command_tells_every_way_as_json(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.jsonl"
    rows = [{"id": c.id, "labels": c.labels, "description": c.description} for c in CLIPS]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("audit", "reward", manifest, "--set", "rewards.length_penalty=none")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["way"] for row in told] == [row.way for row in audited(length_penalty="none")]
    assert {row["kind"] for row in told} == {"bound", "honest", "exploit"}
