"""Files of answers: what a row may say, and that every fault is told at once with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError, MissingFileError, ProblemsError
from affectgpt_r1.evaluation.answers import AnswerRow, read_answers
from affectgpt_r1.evaluation.render import render
from affectgpt_r1.evaluation.scoring import Metric, Rule, keep, score_row, write_samples

BUILTIN = Lexicon.load("builtin")


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def one(tmp_path: Path, **columns: object) -> AnswerRow:
    (row,) = read_answers(write(tmp_path / "p.jsonl", {"id": "a", "label": "happy", **columns}))
    return row


@pytest.mark.parametrize(
    ("columns", "read"),
    [
        ({"prediction": "[happy, sad]"}, "[happy, sad]"),
        ({"prediction": ["happy", "sad"]}, ["happy", "sad"]),
        ({"prediction": ""}, ""),
        ({"prediction": None}, None),
        ({"words": ["on edge"]}, ["on edge"]),
        ({"words": []}, []),
        ({"words": None, "prediction": "calm"}, "calm"),
        ({"words": None, "completion": None}, None),
        ({"completion": "<think>So sad.</think><answer>happy, calm</answer>"}, ("happy", "calm")),
        ({"completion": "<think>So sad."}, ()),
        ({"words": ["calm"], "completion": "<answer>happy</answer>"}, ["calm"]),
    ],
)
def test_an_answer_is_words_a_text_or_a_completion(
    columns: dict[str, object], read: object, tmp_path: Path
) -> None:
    assert one(tmp_path, **columns).prediction == read


def test_names_labels_and_groups_have_two_spellings_each(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"name": 7, "label": -1.5, "words": [], "dataset": "meld", "checkpoint": 10},
        {"id": "b", "labels": ["sad"], "words": [], "speaker": "x", "sentiment": "negative"},
    )
    a, b = read_answers(path)
    assert (a.id, a.labels, a.group, a.dataset, a.checkpoint) == ("7", -1.5, "7", "meld", "10")
    assert (b.id, b.labels, b.group, b.sentiment) == ("b", ["sad"], "b", "negative")
    with pytest.raises(ProblemsError, match="line 1: no 'speaker' to group by"):
        read_answers(path, group="speaker")


def test_groups_may_be_numbered_from_nought(tmp_path: Path) -> None:
    rows = [{"id": i, "label": "sad", "words": [], "speaker": i % 2} for i in range(4)]
    found = read_answers(write(tmp_path / "p.jsonl", *rows), group="speaker")
    assert [row.group for row in found] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_blank_lines_and_line_ends_of_other_systems_are_no_fault(
    start: str, tmp_path: Path
) -> None:
    row = json.dumps({"id": "a", "label": "sad\u2028", "words": []}, ensure_ascii=False)
    (tmp_path / "p.jsonl").write_bytes(f"{start}\r\n{row}\r\n\r\n".encode())
    (found,) = read_answers(tmp_path / "p.jsonl")
    assert found.labels == "sad\u2028"


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"id": "a", "label": "sad", "words": []},
        "{not json",
        "[1]",
        {"label": "sad", "words": []},
        {"id": "b", "label": "sad"},
        {"id": "c", "words": []},
        {"id": "d", "label": "sad", "prediction": 3},
        {"id": "e", "label": "sad", "words": ["x", None]},
        {"id": "f", "label": True, "words": []},
        {"id": "g", "label": {"sad": 1}, "words": []},
        "[" * 100_000,
        {"id": "a", "label": "sad", "words": []},
    )
    with pytest.raises(ProblemsError) as caught:
        read_answers(path)
    assert caught.value.source == str(path)
    found = [problem.split(":")[0] for problem in caught.value.problems]
    assert found == [f"line {number}" for number in range(2, 13)]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["NaN", "Infinity", "1e999", "1" * 400, '[["sad"], 3]', "[null]"])
def test_a_label_that_is_neither_words_nor_a_number_is_told(label: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", f'{{"id": "a", "label": {label}, "words": []}}')
    with pytest.raises(ProblemsError, match=r"line 1: .*label"):
        read_answers(path)


def test_the_same_id_may_stand_for_other_checkpoints_and_sets(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "label": "sad", "words": [], "dataset": d, "checkpoint": c}
        for d in ("meld", "mer2023")
        for c in (1, 2)
    ]
    assert len(read_answers(write(tmp_path / "p.jsonl", *rows))) == 4
    with pytest.raises(ProblemsError, match="line 5: id 'a' stands on line 1 already"):
        read_answers(write(tmp_path / "p.jsonl", *rows, rows[0]))


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(MissingFileError, match="no file at"):
            read_answers(path)
    (tmp_path / "p.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(ProblemsError, match="UTF-8"):
        read_answers(tmp_path / "p.jsonl")
    with pytest.raises(ProblemsError, match="no prediction to score"):
        read_answers(write(tmp_path / "p.jsonl", "", ""))


def test_a_manifest_gives_labels_and_groups_and_must_be_answered_whole(tmp_path: Path) -> None:
    clips = [Clip("a", labels=("happy",), group="x"), Clip("b", labels=("sad",))]
    path = write(
        tmp_path / "p.jsonl",
        {"id": "b", "words": ["gloomy"], "labels": "ignored"},
        {"id": "elsewhere", "words": ["gloomy"]},
        {"id": "a", "words": None},
    )
    b, a = read_answers(path, clips)
    assert (a.labels, a.prediction, a.group) == (("happy",), None, "x")
    assert (b.labels, b.prediction, b.group) == (("sad",), ["gloomy"], "b")
    write(path, {"id": "b", "words": ["gloomy"]})
    with pytest.raises(InputError, match=r"1 of 2 clips.*'a'"):
        read_answers(path, clips)


def test_a_column_to_group_by_is_somewhere(tmp_path: Path) -> None:
    rows = [{"id": name, "words": ["sad"], "speaker": "x"} for name in "ab"]
    bare = [Clip(name, labels=("sad",)) for name in "ab"]
    path = write(tmp_path / "p.jsonl", *rows)
    assert {row.group for row in read_answers(path, bare, group="speaker")} == {"x"}
    with pytest.raises(InputError, match="no 'speakr' to group by"):
        read_answers(path, bare, group="speakr")
    grouped = [Clip(name, labels=("sad",), group="y") for name in "ab"]
    assert {row.group for row in read_answers(path, grouped, group="speakr")} == {"y"}


odd = st.sampled_from([10**400, float("nan"), float("inf"), 0, "\ud800", "", "[sad]", [], {}])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
words = st.sampled_from(["happy", "Sad, calm", "[on edge]", "qwertyuiop", "", "\ud800", None])
more = {"words": words.map(lambda text: text and [text]), "sentiment": words, "group": junk}


def rows_of(columns: st.SearchStrategy[object]) -> st.SearchStrategy[list[str]]:
    """Rows that are right but for what the columns hold."""
    row = st.fixed_dictionaries({"label": columns, "prediction": words}, optional=more)
    rows = st.lists(row, min_size=1, max_size=4)
    return rows.map(lambda rows: [json.dumps({"id": i, **row}) for i, row in enumerate(rows)])


@given(
    st.lists(st.text(max_size=20) | junk.map(json.dumps), max_size=4)
    | rows_of(words)
    | rows_of(st.floats(-3, 3))
    | rows_of(st.integers() | st.floats() | odd)
    | rows_of(junk),
    st.sampled_from(["ew", "hit", "sentiment"]),
)
def test_any_line_is_scored_or_told_and_never_more(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], metric: Metric
) -> None:
    folder, rule = tmp_path_factory.getbasetemp(), Rule(metric)
    (folder / "junk.jsonl").write_text("\n".join(lines), encoding="utf-8")
    try:
        kept = keep(read_answers(folder / "junk.jsonl"), rule, "junk")
        row = score_row(kept, rule, BUILTIN)
        write_samples(folder / "samples.jsonl", kept, rule, BUILTIN)
    except InputError:
        return
    json.loads(render(row, "json"), parse_constant=pytest.fail)
    value = float(str(row[{"ew": "f", "hit": "hit", "sentiment": "waf"}[metric]]))
    interval = row["interval"]
    assert isinstance(interval, dict)
    assert interval["value"] == pytest.approx(value)
    assert 0 <= value <= 1
    for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=pytest.fail)
