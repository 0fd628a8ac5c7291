"""MER-UniBench's table: nine rows always, two columns never mixed, a mean of all nine or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import hit_rate, score_corpus
from affectgpt_r1.emotion.sentiment import sentiment_of, sentiment_scores
from affectgpt_r1.errors import InputError, ProblemsError
from affectgpt_r1.evaluation.answers import AnswerRow
from affectgpt_r1.evaluation.scoring import Rule
from affectgpt_r1.evaluation.unibench import SETS, Bench, bench, bench_lines, read_bench
from test_cli import answer, complaint, run

BUILTIN = Lexicon.load("builtin")
SENTIMENT = [key for key, kind in SETS.items() if kind.metric == "sentiment"]
SAID = [["joyful"], ["gloomy"], ["gloomy", "joyful"], ["qwertyuiop"], []]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row_of(key: str, sample: int, said: list[str], checkpoint: str = "last") -> AnswerRow:
    """A sample whose truth is pleasant where its number is even."""
    label = ("happy", "sad")[sample % 2]
    sign = (1.5, -0.5)[sample % 2]
    return AnswerRow(
        id=str(sample),
        labels=sign if key in SENTIMENT else [label],
        prediction=said,
        group=str(sample),
        dataset=key,
        checkpoint=checkpoint,
    )


def scored(rows: list[AnswerRow], checkpoint: str | None = None) -> Bench:
    return bench(rows, BUILTIN, Rule(), checkpoint)


def test_the_published_rows_come_out_and_no_mean_does(shared_dir: Path) -> None:
    folder = shared_dir / "reference"
    files = [folder / f"unibench/{name}.jsonl" for name in ("meld", "cmumosi")]
    row = answer("unibench", *files, "--lexicon-folder", folder / "emotion_wheel")
    rows = row["rows"]
    assert isinstance(rows, list)
    assert [line["title"] for line in rows] == [kind.title for kind in SETS.values()]
    # Each set has one file: together they are one checkpoint.
    assert all(line["fixed"] == line["best"] for line in rows)
    best = {line["title"]: (line["best"], line["n"]) for line in rows}
    assert best.pop("MELD") == (pytest.approx(0.5564914455680917, abs=1e-12), 2610)
    assert best.pop("CMU-MOSI") == (pytest.approx(0.8130135648592024, abs=1e-12), 686)
    assert set(best.values()) == {(None, 0)}
    assert (row["fixed_checkpoint"], row["fixed_mean"], row["best_mean"]) == ("given", None, None)


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_a_missing_set_is_missing_and_no_number(form: str, tmp_path: Path) -> None:
    rows = [{"id": i, "label": "sad", "words": ["sad"], "dataset": "MELD"} for i in range(2)]
    path = write(tmp_path / "step-1.jsonl", *rows)
    done = run("unibench", path, "--lexicon", "builtin", "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    (meld,) = [line for line in lines if "MELD" in line]
    assert "100.00" in meld
    assert "2 of 2610" in meld
    assert sum(line.count("missing") == 2 for line in lines) == 8
    assert done.stdout.count("not all sets are there") == 2


def test_the_mean_is_the_plain_mean_of_the_nine_times_100() -> None:
    rows: list[AnswerRow] = []
    values = {}
    for place, (key, kind) in enumerate(SETS.items()):
        part = [row_of(key, i, SAID[(i * place + i) % 5]) for i in range(4 + place)]
        said = [list(row.prediction or ()) for row in part]
        if kind.metric == "sentiment":
            signs = [(1.5, -0.5)[i % 2] for i in range(len(part))]
            values[key] = sentiment_scores(signs, [sentiment_of(w, BUILTIN) for w in said]).waf
        else:
            labels = [[("happy", "sad")[i % 2]] for i in range(len(part))]
            hit, f = hit_rate(labels, said, BUILTIN).hit, score_corpus(labels, said, BUILTIN).f
            values[key] = hit if kind.metric == "hit" else f
        rows += part
    result = scored(rows)
    assert [row.fixed for row in result.rows] == pytest.approx(list(values.values()))
    assert len(set(values.values())) > 4
    assert result.fixed_mean == pytest.approx(100 * sum(values.values()) / 9)
    assert result.best_mean == result.fixed_mean
    assert bench_lines(result)[-1][3] == f"{result.fixed_mean:.2f}"


@given(
    st.lists(
        st.tuples(st.sampled_from(list(SETS)), st.integers(1, 12), st.sampled_from(SAID)),
        min_size=1,
        max_size=30,
        unique_by=lambda cell: cell[:2],
    )
)
@settings(deadline=None)
def test_the_best_of_each_set_is_never_below_the_fixed(
    cells: list[tuple[str, int, list[str]]],
) -> None:
    rows = [row_of(key, i, said, f"step-{step}") for key, step, said in cells for i in (0, 1)]
    result = scored(rows)
    assert len(result.rows) == 9
    last = max(step for _, step, _ in cells)
    assert result.fixed_checkpoint == f"step-{last}"
    for key, row in zip(SETS, result.rows, strict=True):
        there = {step for name, step, _ in cells if name == key}
        assert (row.fixed is None) == (last not in there)
        assert (row.best is None) == (not there)
        assert (row.best or 0) >= (row.fixed or 0)
        if row.best is not None:
            part = [r for r in rows if r.checkpoint == row.best_checkpoint]
            assert row.best in [r.fixed for r in scored(part).rows if r.title == row.title]


def test_a_checkpoint_that_answered_less_is_never_the_best() -> None:
    rows = [row_of("meld", i, SAID[0], "step-2") for i in range(4)]
    rows.append(row_of("meld", 0, SAID[0], "step-1"))  # right, on one sample of four
    (row,) = (row for row in scored(rows).rows if row.n)
    assert (row.fixed, row.best, row.best_checkpoint, row.n) == (0.5, 0.5, "step-2", 4)


def test_the_fixed_checkpoint_is_the_last_as_people_count(tmp_path: Path) -> None:
    row = {"id": 1, "label": "sad", "words": ["sad"], "dataset": "meld"}
    files = [write(tmp_path / f"step-{n}.jsonl", row) for n in (10, 9, 100, 2)]
    rows = read_bench(files)
    assert scored(rows).fixed_checkpoint == "step-100"
    assert scored([r for r in rows if r.checkpoint != "step-100"]).fixed_checkpoint == "step-10"
    assert scored(rows, "step-9").fixed_checkpoint == "step-9"
    with pytest.raises(InputError, match="step-2, step-9, step-10, step-100"):
        scored(rows, "step-8")


@given(st.lists(st.text(max_size=4), min_size=1, max_size=5))
@example(["²", "1"])
@example(["", "1", "a1", "1a"])
def test_any_name_of_a_checkpoint_will_do(names: list[str]) -> None:
    result = scored([row_of("meld", 0, ["glad"], name) for name in dict.fromkeys(names)])
    assert result.fixed_checkpoint in names


def test_an_answer_may_not_stand_twice_at_one_checkpoint(tmp_path: Path) -> None:
    row = {"id": "x", "label": "sad", "words": ["sad"], "dataset": "meld", "checkpoint": "c"}
    one = write(tmp_path / "one.jsonl", row)
    for other in (row, {**row, "dataset": "MELD"}):
        path = write(tmp_path / "other.jsonl", other)
        with pytest.raises(InputError, match="meld at c: 'x' is answered twice"):
            scored(read_bench([one, path]))
    with pytest.raises(ProblemsError, match="line 2"):
        read_bench([write(tmp_path / "twice.jsonl", row, row)])


@pytest.mark.parametrize("dataset", ["imdb", None, "", "OV-MERD"])
def test_a_set_that_is_not_of_the_benchmark_is_told_with_those_that_are(
    dataset: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "a", "label": "sad", "words": [], "dataset": dataset})
    line = complaint("unibench", path, "--lexicon", "builtin")
    assert repr(dataset) in line
    assert ", ".join(SETS) in line


def test_a_set_may_be_named_as_papers_do(tmp_path: Path) -> None:
    names = {kind.title: key for key, kind in SETS.items()}
    names |= {"sims": "chsims", "SIMS-v2": "chsimsv2", "iemocap": "iemocap"}
    rows = [{"id": i, "label": "sad", "words": [], "dataset": name} for i, name in enumerate(names)]
    found = read_bench([write(tmp_path / "p.jsonl", *rows)])
    assert [row.dataset for row in found] == list(names.values())


def test_rows_that_were_not_answered_are_not_counted(tmp_path: Path) -> None:
    row = {"id": 1, "label": "sad", "words": ["sad"], "dataset": "meld"}
    rows = read_bench([write(tmp_path / "p.jsonl", row, {**row, "id": 2, "words": None})])
    (meld,) = [line for line in scored(rows).rows if line.title == "MELD"]
    assert (meld.fixed, meld.n) == (1.0, 1)


def test_a_set_without_any_answer_is_missing_and_the_others_are_scored(tmp_path: Path) -> None:
    row = {"id": 1, "label": "sad", "words": ["sad"], "dataset": "meld"}
    failed = {**row, "dataset": "mer2023", "words": None}
    rows = read_bench([write(tmp_path / "p.jsonl", row, failed)])
    found = {line.title: (line.fixed, line.best, line.n) for line in scored(rows).rows}
    assert found["MELD"] == (1.0, 1.0, 1)
    assert found["MER2023"] == (None, None, 0)


def test_labels_of_another_metric_are_told_with_their_set(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", {"id": 1, "label": "sad", "words": [], "dataset": "cmumosi"})
    line = complaint("unibench", path, "--lexicon", "builtin")
    assert "cmumosi at given: " in line
    assert "numbers" in line
