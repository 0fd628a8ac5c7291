"""Scores of files: the published numbers, presets, comparisons and tables, as a user has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import score_corpus
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation import scoring
from affectgpt_r1.evaluation.answers import Kept, read_answers
from affectgpt_r1.evaluation.prose import read_predictions
from affectgpt_r1.evaluation.render import Format, render
from affectgpt_r1.evaluation.scoring import Metric, Rule, compare, keep, score_row
from test_cli import answer, complaint, run

BUILTIN = Lexicon.load("builtin")
MAIN = {"ew": "f", "hit": "hit", "sentiment": "waf"}
HAPPY = {"id": "a", "labels": ["happy"], "prediction": "joyful"}
SAD = {"id": "b", "labels": ["sad"], "prediction": "gloomy"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, rule: Rule, *rows: object) -> Kept:
    return keep(read_answers(write(path, *rows)), rule, "p")


def of_stdin(text: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "affectgpt_r1.cli", "score", "-", *options],
        input=text,
        capture_output=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )


@pytest.fixture
def published(shared_dir: Path) -> tuple[str, ...]:
    folder = shared_dir / "reference/emotion_wheel"
    return "--lexicon", "mer2025", "--lexicon-folder", str(folder), "--parser", "reference"


def test_hit_on_meld_is_the_published(shared_dir: Path, published: tuple[str, ...]) -> None:
    expected = json.loads((shared_dir / "reference/unibench/expected.json").read_text())["meld"]
    path = shared_dir / "reference/unibench/meld.jsonl"
    row = answer("score", path, "--metric", "hit", *published)
    assert row["hit"] == pytest.approx(0.5564914455680917, abs=1e-12)
    assert row["wheels"] == pytest.approx(expected["hit_wheels"], abs=1e-12)
    assert str(row["signature"]).startswith("hit|lexicon:mer2025#")


def test_sentiment_on_mosi_is_the_published(shared_dir: Path, published: tuple[str, ...]) -> None:
    path = shared_dir / "reference/unibench/cmumosi.jsonl"
    row = answer("score", path, "--metric", "sentiment", *published)
    assert row["waf"] == pytest.approx(0.8130135648592024, abs=1e-12)
    assert (row["accuracy"], row["n"]) == (0.8125, 656)
    assert row["skipped"] == {"the label is 0": 30}
    assert str(row["signature"]).endswith("|sentiment:given")


def oracle_rows(shared_dir: Path) -> list[dict[str, str]]:
    loaded = json.loads((shared_dir / "reference/oracle/random_1000.json").read_text())
    rows = [{key: row[key] for key in ("name", "label", "prediction")} for row in loaded["rows"]]
    return [row for row in rows if row["label"]]  # without a label, no wheel keeps a sample


@pytest.mark.parametrize("preset", scoring.PRESETS)
def test_a_preset_is_the_mean_of_its_rings(
    preset: scoring.PresetName, shared_dir: Path, tmp_path: Path
) -> None:
    rows = oracle_rows(shared_dir)[:200]
    name, levels, parser = {
        "mer2025-track2": ("mer2025", (1, 2), "reference"),
        "mer2026-track2": ("mer2026", (1,), "reference"),
        "ovmerd-plus": ("mer2025", (1,), "reference"),
        "builtin": ("builtin", (1,), "robust"),
    }[preset]
    rule = scoring.rule_of(preset, None, None, None, None)
    assert (rule.lexicon, rule.levels, rule.parser) == (name, levels, parser)
    folder = None if name == "builtin" else shared_dir / "reference/emotion_wheel"
    lexicon = Lexicon.load(name, folder)
    texts = [row["label"] for row in rows], [row["prediction"] for row in rows]
    scores = [score_corpus(*texts, lexicon, level, parser=rule.parser) for level in levels]
    row = score_row(read(tmp_path / "p.jsonl", rule, *rows), rule, lexicon)
    for figure in ("f", "precision", "recall"):
        mean = sum(getattr(score, figure) for score in scores) / len(scores)
        assert row[figure] == pytest.approx(mean, abs=1e-12)
    assert row["signature"] == " + ".join(score.signature for score in scores)


def test_the_command_knows_the_presets(shared_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", *oracle_rows(shared_dir))
    oracle = json.loads((shared_dir / "reference/oracle/random_1000.json").read_text())
    folder = shared_dir / "reference/emotion_wheel"
    row = answer("score", path, "--preset", "mer2026-track2", "--lexicon-folder", folder)
    assert row["f"] == pytest.approx(oracle["corpus"]["level1"][0], abs=1e-12)
    row = answer("score", path, "--preset", "mer2025-track2", "--lexicon-folder", folder)
    by_level = row["by_level"]
    assert isinstance(by_level, list)
    assert row["f"] == pytest.approx(sum(level["f"] for level in by_level) / 2, abs=1e-12)
    assert all(f"level:{level}" in str(row["signature"]) for level in (1, 2))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--lexicon", "builtin"), "lexicon"),
        (("--level", "1"), "level"),
        (("--parser", "robust", "--metric", "hit"), "metric, parser"),
    ],
)
def test_an_option_against_the_preset_is_refused(
    options: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    line = complaint("score", tmp_path / "p.jsonl", "--preset", "mer2025-track2", *options)
    assert f"fixes {named}" in line


def test_standard_input_reads_as_the_file_does(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", HAPPY, {**SAD, "prediction": "『悲しい』, sad"})
    for text in (path.read_bytes(), b"\xef\xbb\xbf" + path.read_bytes()):
        done = of_stdin(text)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == answer("score", path)
    done = of_stdin(b'{"id": "\xff"}\n')
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert b"standard input: not UTF-8" in line


def test_a_missing_answer_is_left_out_and_an_empty_one_scores_nothing(tmp_path: Path) -> None:
    path, rule = tmp_path / "p.jsonl", Rule()
    row = score_row(read(path, rule, HAPPY, {**SAD, "prediction": None}), rule, BUILTIN)
    assert (row["f"], row["n"], row["skipped"]) == (1.0, 1, {"no prediction": 1})
    row = score_row(read(path, rule, HAPPY, {**SAD, "prediction": ""}), rule, BUILTIN)
    assert (row["f"], row["n"], row["skipped"]) == (0.5, 2, {})
    with pytest.raises(InputError, match="nothing to score"):
        score_row(read(path, rule, {**SAD, "prediction": None}), rule, BUILTIN)


def test_a_given_sentiment_does_not_make_a_missing_answer_an_empty_one(tmp_path: Path) -> None:
    failed = {**SAD, "prediction": None, "sentiment": "negative"}
    for metric in ("ew", "hit"):
        rule = scoring.rule_of(None, metric, None, None, None)
        row = score_row(read(tmp_path / "p.jsonl", rule, HAPPY, failed), rule, BUILTIN)
        assert row["n"] == 1
        assert row["skipped"] == {"no prediction": 1}


@pytest.mark.parametrize(
    ("metric", "labels", "wrong"),
    [
        ("ew", (1.0, -1.0), 0),
        ("hit", ("sad", 1), 1),
        ("sentiment", ("sad", "sad"), 0),
        ("sentiment", (1, "sad"), 1),
    ],
)
def test_labels_of_the_wrong_kind_are_refused(
    metric: Metric, labels: tuple[object, object], wrong: int, tmp_path: Path
) -> None:
    rows = [{"id": i, "label": label, "words": []} for i, label in enumerate(labels)]
    with pytest.raises(InputError, match=f"--metric {metric} needs labels.*'{wrong}'"):
        read(tmp_path / "p.jsonl", Rule(metric), *rows)


def test_prose_is_replaced_by_its_words(tmp_path: Path) -> None:
    text = 'She says "I am so happy". We can infer that she is not pleased but annoyed.'
    path = write(tmp_path / "p.jsonl", {**HAPPY, "prediction": text}, {**SAD, "prediction": None})
    rows = read_predictions(read_answers(path), Rule(extractor="lexical"), BUILTIN)
    assert [row.prediction for row in rows] == [extract_words(text, BUILTIN), None]
    assert rows[0].prediction == ("annoyed",)
    assert read_predictions(rows, Rule(), BUILTIN) == rows
    row = answer("score", path, "--extractor", "lexical")
    assert row["f"] == 0.0
    assert row["skipped"] == {"no prediction": 1}
    assert "|extractor:lexical|" in str(row["signature"])
    assert "--server URL" in complaint("score", path, "--extractor", "openai")


def test_sentiments_are_the_files_or_the_lexicons(tmp_path: Path) -> None:
    rows = [{"id": i, "label": 1, "words": ["happy"], "sentiment": "negative"} for i in range(2)]
    path = write(tmp_path / "p.jsonl", *rows)
    for source, waf in (("given", 0.0), ("lexicon", 1.0)):
        row = answer("score", path, "--metric", "sentiment", "--sentiments", source)
        assert row["waf"] == waf
        named = "given" if source == "given" else f"builtin#{BUILTIN.hash}"
        assert str(row["signature"]).endswith(f"|sentiment:{named}")


def test_a_completion_is_scored_by_its_answer_and_extracted_from_its_thoughts(
    tmp_path: Path,
) -> None:
    said = "<think>She is clearly furious.</think><answer>happy</answer>"
    path = write(tmp_path / "p.jsonl", {"id": "a", "label": "angry", "completion": said})
    assert answer("score", path)["f"] == 0.0
    assert answer("score", path, "--extractor", "lexical")["f"] == 1.0
    assert "no completions" in complaint("score", path, "--parser", "reference")


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", HAPPY, SAD)
    for options in (
        ("--metric", "hit", "--level", "2"),
        ("--lexicon-folder", tmp_path),
        ("--server", "http://localhost:1/v1"),
        ("--sentiments", "lexicon"),
    ):
        assert "--" in complaint("score", path, *options)


def test_no_score_is_made_up_where_nothing_can_be_scored(tmp_path: Path) -> None:
    row = {"id": "a", "label": "neutral", "words": ["happy"]}
    assert "there is no score" in complaint("score", write(tmp_path / "p.jsonl", row))
    several = {"id": "a", "label": "happy, sad", "words": ["happy"]}
    path = write(tmp_path / "q.jsonl", several)
    assert "'a' has more" in complaint("score", path, "--metric", "hit")


def test_one_group_tells_no_interval(tmp_path: Path) -> None:
    rows = [{**HAPPY, "speaker": 1}, {**SAD, "speaker": 1}]
    path = write(tmp_path / "p.jsonl", *rows)
    row = answer("score", path, "--group", "speaker", "--compare", path)
    assert row["interval"] == {"value": row["f"], "low": None, "high": None}
    compared = row["compared"]
    assert isinstance(compared, list)
    other = compared[0]
    assert (other["p"], other["p_holm"]) == (None, None)


def test_equal_labels_may_be_written_differently(tmp_path: Path) -> None:
    one = write(tmp_path / "p.jsonl", {"id": "a", "label": "happy", "words": ["sad"]}, SAD)
    other = write(tmp_path / "q.jsonl", {"id": "a", "label": ["happy"], "words": ["glad"]}, SAD)
    compared = answer("score", one, "--compare", other)["compared"]
    assert isinstance(compared, list)
    row = compared[0]
    assert row["signature"].startswith("ew|lexicon:builtin#")


def test_another_system_gets_a_paired_difference(tmp_path: Path) -> None:
    labels = ["happy", "sad", "angry", "afraid"] * 10
    rows = [{"id": i, "label": label, "words": [label]} for i, label in enumerate(labels)]
    one = write(tmp_path / "one.jsonl", *rows)
    half = write(tmp_path / "half.jsonl", *({**row, "words": ["sad"]} for row in rows[::-1]))
    row = answer("score", one, "--compare", half, "--compare", one)
    compared = row["compared"]
    assert isinstance(compared, list)
    worse, same = compared
    assert [worse["system"], same["system"]] == [str(half), str(one)]
    alone = answer("score", half)
    assert worse["ew"]["value"] == pytest.approx(alone["f"])
    assert worse["difference"]["value"] == pytest.approx(1 - worse["ew"]["value"])
    assert 0 < worse["difference"]["low"] < worse["difference"]["high"]
    assert worse["p"] < 0.01
    assert worse["p_holm"] == pytest.approx(2 * worse["p"])
    assert same["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (same["p"], same["p_holm"]) == (1.0, 1.0)
    assert (worse["n_paired"], worse["n_unpaired"]) == (40, 0)


def test_what_one_side_lacks_is_left_out_of_the_pair_and_counted(tmp_path: Path) -> None:
    third = {"id": "c", "labels": ["angry"], "prediction": "mad"}
    rule = Rule()
    one = read(tmp_path / "a.jsonl", rule, HAPPY, SAD, third)
    other = read(tmp_path / "b.jsonl", rule, HAPPY, {**SAD, "prediction": None}, third)
    (row,) = compare(one, {"b": other}, rule, BUILTIN)
    assert (row["n_paired"], row["n_unpaired"]) == (2, 1)


def test_systems_on_other_data_are_not_compared(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", HAPPY, SAD)
    other = write(tmp_path / "other.jsonl", {**HAPPY, "id": "x"})
    assert "other.jsonl answers none of the samples" in complaint("score", one, "--compare", other)
    write(other, HAPPY, {**SAD, "labels": ["angry"]})
    assert "other.jsonl has other labels for 'b'" in complaint("score", one, "--compare", other)


@pytest.mark.parametrize("metric", ["ew", "hit", "sentiment"])
def test_each_sample_is_told_on_a_line_of_its_own(metric: str, tmp_path: Path) -> None:
    labels: tuple[object, object] = (1.0, -2) if metric == "sentiment" else ("happy", "sad")
    words = ["joyful", "qwertyuiop"], ["joyful"]
    rows = [
        {"id": f"{i}\n", "label": label, "words": said}
        for i, (label, said) in enumerate(zip(labels, words, strict=True))
    ]
    out = tmp_path / "new/samples.jsonl"
    path = write(tmp_path / "p.jsonl", *rows, {**rows[0], "id": "failed", "words": None})
    row = answer("score", path, "--metric", metric, "--per-sample", out)
    samples = [json.loads(line) for line in out.read_text().splitlines()]
    assert [sample["id"] for sample in samples] == ["0\n", "1\n"]
    assert [sample["labels"] for sample in samples] == list(labels)
    assert [sample["unknown"] for sample in samples] == [["qwertyuiop"], []]
    if metric == "ew":
        assert [sample["f"] for sample in samples] == [1.0, 0.0]
        assert row["f"] == 0.5
    elif metric == "hit":
        assert [sample["hits"] for sample in samples] == [[True] * 5, [False] * 5]
    else:
        assert [sample["sentiment"] for sample in samples] == ["positive"] * 2
    assert list(out.parent.iterdir()) == [out]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", HAPPY)
    assert str(tmp_path) in complaint("score", path, "--per-sample", tmp_path)


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
@pytest.mark.parametrize("metric", ["ew", "hit", "sentiment"])
def test_every_table_has_the_value_and_the_signature(
    form: Format, metric: Metric, tmp_path: Path
) -> None:
    label: object = 1.5 if metric == "sentiment" else "happy"
    rows = [{"id": i, "label": label, "prediction": said} for i, said in enumerate(("glad", "sad"))]
    rule, failed = Rule(metric), {"id": "c", "label": label, "words": None}
    kept = read(tmp_path / "p.jsonl", rule, *rows, failed)
    row = score_row(kept, rule, BUILTIN)
    (same,) = compare(kept, {"p_1.jsonl": kept}, rule, BUILTIN)
    assert same["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert same[metric] == row["interval"]
    row["compared"] = [same]
    text = render(row, form)
    interval = row["interval"]
    assert isinstance(interval, dict)
    marks = {"text": "-----", "markdown": "|-", "latex": "\\begin{tabular}"}
    for part in (
        f"{row[MAIN[metric]]:.4f}",
        f"{interval['low']:.4f} to {interval['high']:.4f}",
        str(row["signature"]),
        "left out: no prediction",
        "minus p\\_1.jsonl" if form == "latex" else "minus p_1.jsonl",
        marks[form],
    ):
        assert part in text


def test_the_command_prints_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", HAPPY, SAD)
    row = answer("score", path)
    done = run("score", path, "--format", "markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert "| 1.0000" in done.stdout
    assert str(row["signature"]) in done.stdout


def test_samples_of_one_speaker_move_together(tmp_path: Path) -> None:
    rows = [
        {
            "id": i,
            "label": "happy",
            "words": ["happy" if i < 10 else "sad"],
            "speaker": f"s{i // 10}",
        }
        for i in range(20)
    ]
    path = write(tmp_path / "p.jsonl", *rows)
    alone, grouped = answer("score", path), answer("score", path, "--group", "speaker")
    assert (alone["groups"], grouped["groups"]) == (20, 2)
    assert alone["f"] == grouped["f"]


@pytest.mark.parametrize("command", ["score", "unibench"])
def test_scoring_loads_no_torch(command: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {**HAPPY, "dataset": "meld"})
    arguments = [command, str(path), "--lexicon", "builtin"]
    code = (
        "import sys; from affectgpt_r1.cli import main\n"
        f"sys.argv = ['affectgpt-r1', *{arguments}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    heavy = {'torch', 'transformers', 'av', 'cv2', 'httpx'}\n"
        "    print(end.code, sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    scored, ended = done.stdout.splitlines()
    assert json.loads(scored)
    assert ended == "0 []"
