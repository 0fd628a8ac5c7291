"""The command line: the whole main job at nano size, and every bad input as one line, status 2."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from affectgpt_r1.cli.runs import evaluate
from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError, ModelFolderError
from affectgpt_r1.evaluation.scoring import HEADLINES, rule_of, score_of
from affectgpt_r1.files import own_rows
from affectgpt_r1_demo.clips import demo_lines, write_demo
from test_report import checked


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "affectgpt_r1.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def answer(*arguments: str | Path) -> dict[str, object]:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    read: dict[str, object] = json.loads(line)
    return read


def complaint(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("affectgpt-r1: ")
    return line


def flags(sets: list[str]) -> list[str]:
    return [part for one in sets for part in ("--set", one)]


def with_a_broken_clip(manifest: Path, folder: Path) -> Path:
    """The same clips, and one more that is no film."""
    (folder / "broken.mp4").write_bytes(b"no film")
    clips = read_manifest(manifest)
    broken = replace(clips[0], id="broken", video=folder / "broken.mp4")
    write_manifest(folder / "clips.jsonl", [*clips, broken])
    return folder / "clips.jsonl"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main job at nano size: demo clips, cold start, GRPO; the commands a user types."""
    folder = tmp_path_factory.mktemp("job")
    lines = [line for line in demo_lines() if line.split == "test"][:3]
    lines += [line for line in demo_lines() if line.split == "cold-start"][:5]
    lines += [line for line in demo_lines() if line.split == "grpo"][:5]
    write_demo(folder / "data", lines=lines, workers=2)
    common = [
        "--set",
        f"data.train={folder}/data/cold-start.jsonl",
        "--set",
        f"data.test={folder}/data/test.jsonl",
        "--set",
        f"data.cache={folder}/features",
    ]
    first = answer(
        "train",
        "cold-start",
        "nano-cold-start",
        *common,
        "--set",
        f"run.output={folder}/cold-start",
        "--set",
        "optimizer.max_steps=12",
    )
    assert first["steps"] == 12
    second = answer(
        "train",
        "grpo",
        "nano-grpo",
        *common,
        "--set",
        f"model={folder}/cold-start",
        "--set",
        f"run.output={folder}/grpo",
        "--set",
        "optimizer.max_steps=3",
    )
    assert second["steps"] == 3
    return folder


def test_the_main_job_leaves_its_records(job: Path) -> None:
    for stage in ("cold-start", "grpo"):
        names = {path.name for path in (job / stage).iterdir()}
        assert {"recipe.yaml", "environment.json", "metrics.jsonl", "model"} <= names
    assert (job / "grpo/rollouts.jsonl").is_file()
    metrics = [json.loads(row) for row in (job / "grpo/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3]


def test_evaluation_writes_predictions_scores_and_a_report(job: Path, tmp_path: Path) -> None:
    manifest, cache = job / "data/test.jsonl", job / "features"
    answer("evaluate", job / "cold-start", manifest, "--cache", cache, "--out", tmp_path / "a")
    result = answer(
        "evaluate",
        job / "grpo",
        manifest,
        "--cache",
        cache,
        "--out",
        tmp_path / "b",
        "--baseline",
        tmp_path / "a/predictions.jsonl",
        "--without",
        "face",
    )
    (other,) = json.loads((tmp_path / "b/evaluation.json").read_text())["compared"]
    assert other["n_paired"] == result["clips"]
    assert "without:face" in (tmp_path / "b/predictions.jsonl").read_text()
    page = checked((tmp_path / "b/report.html").read_text())
    for part in ("scores", "comparison", "training", "wheels", "words", "clips"):
        assert page.named("h2", id=part)
    assert page.named("img")
    assert page.named("svg", **{"class": "voice"})
    again = answer("score", tmp_path / "b/predictions.jsonl", "--labels", manifest)
    assert again["f"] == result["f"]
    assert again["signature"] == result["signature"]


def test_an_evaluation_goes_on_where_it_was_cut_and_counts_what_cannot_be_read(
    job: Path, tmp_path: Path
) -> None:
    manifest, out = with_a_broken_clip(job / "data/test.jsonl", tmp_path), tmp_path / "out"
    command = ("evaluate", job / "grpo", manifest, "--cache", tmp_path / "c")
    told = run(*command, "--out", out)
    assert "clip 'broken'" in told.stderr
    first = json.loads(told.stdout)
    assert first["skipped"] == {"no prediction": 1}
    assert first["clips"] == len(read_manifest(manifest)) - 1
    predictions = out / "predictions.jsonl"
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:-30])
    assert answer(*command, "--out", out) == first == answer(*command)
    assert predictions.read_bytes() == whole
    refused = run(*command, "--out", out, "--without", "face")
    assert (refused.returncode, predictions.read_bytes()) == (2, whole)
    assert "holds other predictions" in refused.stderr


def test_training_leaves_out_and_counts_what_could_not_be_encoded(
    job: Path, tmp_path: Path
) -> None:
    manifest = with_a_broken_clip(job / "data/cold-start.jsonl", tmp_path)
    sets = [f"data.train={manifest}", f"data.cache={tmp_path}/c", f"run.output={tmp_path}/run"]
    sets += ["optimizer.max_steps=1"]
    command = ("train", "cold-start", "nano-cold-start", *flags(sets))
    assert "`encode` the manifest" in complaint(*command)
    assert answer("encode", manifest, "--profile", "nano", "--cache", tmp_path / "c")["failed"] == 1
    refused = complaint(*command)
    assert f"1 of {len(read_manifest(manifest))} clips (first: 'broken', " in refused
    assert "raise data.max_unreadable" in refused
    assert not (tmp_path / "run").exists()
    assert answer(*command, *flags(["data.max_unreadable=0.2"]))["dropped"] == {
        "could not be read": 1
    }


def test_a_report_is_made_of_predictions_or_of_a_run(job: Path, tmp_path: Path) -> None:
    page, predictions = tmp_path / "page.html", tmp_path / "p.jsonl"
    assert answer("report", job / "grpo", "--out", page) == {"report": str(page)}
    assert [found["id"] for found in checked(page.read_text()).named("h2")] == ["training"]
    clips = [json.loads(row) for row in (job / "data/test.jsonl").read_text().splitlines()]
    rows = [{"id": clip["id"], "words": ["sad"]} for clip in clips]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labelled = ("--labels", job / "data/test.jsonl", "--out", page)
    answer("report", predictions, "--baseline", predictions, *labelled)
    found = checked(page.read_text())
    assert found.named("img")
    assert clips[0]["subtitle"] in found.text
    assert "equal on" in found.text
    assert "has no labels" in complaint("report", predictions, "--out", page)
    assert "no metrics.jsonl" in complaint("report", tmp_path, "--out", page)
    assert "are for predictions" in complaint("report", job / "grpo", *labelled)
    assert "cannot be written" in complaint("report", job / "grpo", "--out", tmp_path)


def test_prediction_is_one_object_a_line_in_the_stable_keys(job: Path, tmp_path: Path) -> None:
    files = sorted((job / "data/clips").glob("*.mp4"))[:2]
    done = run(
        "predict", *files, "--subtitle", "Oh.", "--model", job / "grpo", "--cache", tmp_path / "c"
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [path.stem for path in files]
    for row in rows:
        assert {"id", "words", "think", "completion", "model", "signature"} <= row.keys()
        assert row["model"].startswith("affectgpt-r1|profile:nano|weights:")


def test_predictions_into_a_file_keep_what_others_wrote_and_try_again_what_failed(
    job: Path, tmp_path: Path
) -> None:
    good, *_ = sorted((job / "data/clips").glob("*.mp4"))
    clips, own, out = tmp_path / "clips", tmp_path / "notes.txt", tmp_path / "out.jsonl"
    clips.mkdir()
    clip = clips / "a.mp4"
    clip.write_bytes(b"not recorded yet")
    common = ("--model", job / "grpo", "--cache", tmp_path / "c", "--out")
    for text in ("a line of one's own", '{"id": "a", "video": "a.mp4"}'):
        own.write_text(text)
        assert "holds other predictions" in complaint("predict", clip, *common, own)
        assert own.read_text() == text
    assert answer("predict", clips, clip, *common, out)["unreadable"] == 1
    shutil.copy(good, clip)
    mended = answer("predict", clips, *common, out)
    assert (mended["clips"], mended["there_before"], mended["unreadable"]) == (1, 0, 0)
    whole = tmp_path / "whole.jsonl"
    found = answer("predict", clips, clip, *common, whole)
    assert (found["clips"], found["unreadable"]) == (1, 0)
    assert out.read_bytes() == whole.read_bytes()
    with whole.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "cannot be written" in complaint("predict", clip, *common, whole)
    for left in (0, 5, 30, 90):
        out.write_bytes(whole.read_bytes()[:left])
        assert answer("predict", clip, *common, out)["there_before"] == 0
        assert out.read_bytes() == whole.read_bytes()


def test_an_answer_never_stands_for_another_clip_or_subtitle_of_its_id(
    job: Path, tmp_path: Path
) -> None:
    one, other, *_ = sorted((job / "data/clips").glob("*.mp4"))
    clip, out = tmp_path / "a.mp4", tmp_path / "out.jsonl"
    common = ("--model", job / "grpo", "--cache", tmp_path / "c", "--out", out)
    shutil.copy(one, clip)
    answer("predict", clip, *common)
    before = out.read_bytes()
    assert "holds other predictions" in complaint("predict", clip, "--subtitle", "Oh.", *common)
    shutil.copy(other, clip)
    assert "holds other predictions" in complaint("predict", clip, *common)
    assert out.read_bytes() == before
    shutil.copy(one, clip)
    assert answer("predict", clip, *common)["there_before"] == 1
    assert out.read_bytes() == before
    row = json.loads(before)
    assert len(row.pop("asked")) == 16
    out.write_text(json.dumps(row) + "\n")  # of an older release: of which content, it cannot say
    assert answer("predict", clip, *common)["there_before"] == 0
    assert out.read_bytes() == before


def test_weights_in_bfloat16_answer_too_and_are_another_model(job: Path, tmp_path: Path) -> None:
    clip, out = next((job / "data/clips").glob("*.mp4")), tmp_path / "out.jsonl"
    common = ("predict", clip, "--model", job / "grpo")
    whole, half = (str(answer(*common, *more)["model"]) for more in ((), ("--bf16",)))
    assert half == whole.replace("|v:", "|bf16|v:")
    assert answer(*common, "--out", out, "--bf16")["there_before"] == 0
    assert answer(*common, "--out", out, "--bf16")["there_before"] == 1
    assert "holds other predictions" in complaint(*common, "--out", out)
    manifest = job / "data/test.jsonl"
    answer("evaluate", job / "grpo", manifest, "--bf16", "--out", tmp_path / "evaluated")
    assert own_rows(tmp_path / "evaluated/predictions.jsonl")[0]["model"] == half


def test_what_was_mended_is_asked_about_and_its_neighbours_stay(job: Path, tmp_path: Path) -> None:
    good = sorted((job / "data/clips").glob("*.mp4"))
    films = [tmp_path / f"{place:02}.mp4" for place in range(19)]
    for film in films:
        shutil.copy(good[0], film)
    for place in (1, 5, 18):
        films[place].write_bytes(b"not recorded yet")
    common = ("--model", job / "grpo", "--cache", tmp_path / "c", "--out")
    told = run("predict", *films, *common, tmp_path / "out.csv")
    assert [line.split(":")[1] for line in told.stderr.splitlines()] == [
        f" clip {films[place].stem!r}" for place in (1, 5, 18)
    ]
    assert "cannot be read as video or sound" in told.stderr
    for place in (1, 18):
        shutil.copy(good[1], films[place])
    found = answer("predict", *films, *common, tmp_path / "out.csv")
    assert (found["clips"], found["there_before"], found["unreadable"]) == (19, 17, 1)
    answer("predict", *films, *common, tmp_path / "anew.csv")
    for kind in (".jsonl", ".csv"):
        written = (tmp_path / "out.csv").with_suffix(kind).read_bytes()
        assert written == (tmp_path / "anew.csv").with_suffix(kind).read_bytes()
    assert f"name {tmp_path}/out.jsonl" in complaint("score", tmp_path / "out.csv")


def test_of_many_clips_that_cannot_be_read_the_first_are_named(job: Path, tmp_path: Path) -> None:
    films = [tmp_path / f"{place}.mp4" for place in range(7)]
    for film in films:
        film.write_text("no film")
    told = run("predict", *films, "--model", job / "grpo", "--out", tmp_path / "out.jsonl")
    assert told.returncode == 0
    *named, rest = told.stderr.splitlines()
    assert [str(film) in line for film, line in zip(films, named, strict=False)] == [True] * 5
    assert "and 2 more clips" in rest


def test_what_cannot_be_written_or_is_not_read_is_told_before_any_clip(
    job: Path, tmp_path: Path
) -> None:
    manifest, store = job / "data/test.jsonl", tmp_path / "features"
    common = ("--model", job / "grpo", "--cache", store)
    place = tmp_path / "none" / "out.csv"
    assert "none/out.jsonl cannot be written" in complaint(
        "predict", manifest, *common, "--out", place
    )
    assert "--subtitle is for media files" in complaint(
        "predict", manifest, "--subtitle", "Oh.", *common
    )
    assert not store.exists()


def test_a_finished_run_is_not_run_again_and_another_is_refused(job: Path) -> None:
    recipe = job / "grpo/recipe.yaml"
    assert answer("train", "grpo", recipe)["steps"] == 0
    assert "optimizer.learning_rate" in complaint(
        "train", "grpo", recipe, "--set", "optimizer.learning_rate=0.9"
    )


def test_a_model_of_another_profile_is_refused(job: Path, tmp_path: Path) -> None:
    text = complaint(
        "train",
        "grpo",
        "small-grpo",
        "--set",
        f"model={job}/cold-start",
        "--set",
        f"data.train={job}/data/grpo.jsonl",
        "--set",
        f"run.output={tmp_path}/run",
    )
    assert "profile 'nano'" in text
    assert not (tmp_path / "run").exists()


def test_train_and_test_may_not_share_a_clip(job: Path, tmp_path: Path) -> None:
    words = (
        "train",
        "cold-start",
        "nano-cold-start",
        *("--set", f"data.train={job}/data/test.jsonl"),
        *("--set", f"data.test={job}/data/test.jsonl"),
        *("--set", f"run.output={tmp_path}/run"),
    )
    text = complaint(*words)
    assert "are in" in text
    assert "data.allow_shared=true" in text
    assert not (tmp_path / "run").exists()
    done = run(
        *words,
        *("--set", "data.allow_shared=true"),
        *("--set", f"data.cache={job}/features"),
        *("--set", "optimizer.max_steps=1"),
    )
    assert done.returncode == 0, done.stderr
    assert "as allowed" in done.stderr


@pytest.mark.parametrize("kind", ["missing", "empty", "text"])
def test_a_bad_file_is_one_line(job: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip.mp4"
    if kind != "missing":
        path.write_text("" if kind == "empty" else "no video\n" * 50)
    good = next((job / "data/clips").glob("*.mp4"))
    assert "clip.mp4" in complaint(
        "predict", good, path, "--model", job / "grpo", "--cache", tmp_path / "c"
    )


def test_a_set_of_the_benchmark_is_evaluated_by_its_own_metric(job: Path, tmp_path: Path) -> None:
    clips = read_manifest(job / "data/test.jsonl")
    truths: dict[str, list[dict[str, object]]] = {
        "meld": [{"labels": (word,)} for word in ("joy", "anger")],
        "CMU-MOSI": [
            {"valence": -0.6, "labels": ("negative",)},
            {"valence": 1.0, "labels": ("positive",)},
        ],
        "ovmerdplus": [{"labels": ("happy", "proud")}],
        "my own": [{"labels": ("sad",)}],
    }
    found = {}
    for name, truth in truths.items():
        labelled = [
            replace(clip, dataset=name, **truth[i % len(truth)])  # type: ignore[arg-type]
            for i, clip in enumerate(clips)
        ]
        write_manifest(path := tmp_path / f"{name}.jsonl", labelled)
        out, cache = tmp_path / name, job / "features"
        one = evaluate(job / "cold-start", path, out=out, cache=cache)
        said = out / "predictions.jsonl"
        assert json.loads((out / "evaluation.json").read_text()) == one
        other = evaluate(job / "cold-start", path, cache=cache, baseline=said)
        assert isinstance(one, dict)
        assert isinstance(other, dict)
        metric = one["signature"].partition("|")[0]
        found[name] = metric, (out / "report.html").is_file()
        # The open-words question, and the score of the file by that metric.
        assert {row["signature"].split("|")[0] for row in own_rows(said)} == {"mode:answer"}
        rule = rule_of(None, metric, None, None, None)
        scored = score_of(said.read_bytes(), rule, Lexicon.load())
        same = HEADLINES[rule.metric], "n", "constant", "words_per_answer", "signature"
        assert [scored.get(key) for key in same] == [one.get(key) for key in same]
        assert one.get("groups", 3) == 3  # takes of one line, which predictions do not tell
        gap = other["compared"][0]["difference"]
        assert (gap["value"], gap["low"], gap["high"]) == (0, 0, 0)
    assert found == {
        "meld": ("hit", False),
        "CMU-MOSI": ("sentiment", False),
        "ovmerdplus": ("ew", True),
        "my own": ("ew", True),
    }


def test_labels_of_another_metric_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_manifest(words := tmp_path / "w.jsonl", [Clip("a", labels=("happy", "proud"))])
    write_manifest(signs := tmp_path / "s.jsonl", [Clip("a", labels=("sad",), valence=-1.0)])
    write_manifest(odd := tmp_path / "o.jsonl", [Clip("a", labels=("qwertyuiop",))])
    two = [Clip("a", labels=("happy", "proud"), dataset="meld")]
    write_manifest(meld := tmp_path / "m.jsonl", two)
    for manifest, options, told in (
        (signs, {}, "--metric ew needs labels that are emotion words"),
        (odd, {}, "no label can be scored by ew"),
        (words, {"metric": "sentiment"}, "needs labels that are numbers"),
        (words, {"metric": "hit"}, "hit needs one emotion a sample"),
        (meld, {}, "hit needs one emotion a sample"),
        (meld, {"level": 2}, "--level is for --metric ew"),
    ):
        with pytest.raises(InputError, match=told):
            evaluate(tmp_path / "no model", manifest, **options)
    with pytest.raises(ModelFolderError, match="no model at"):
        evaluate(tmp_path / "no model", meld, metric="ew", level=2)


def test_no_model_is_one_line(tmp_path: Path) -> None:
    assert f"no model at {tmp_path}/none" in complaint(
        "predict", "clip.mp4", "--model", tmp_path / "none"
    )


def test_an_unfinished_run_is_no_model(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job / "grpo", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    assert "not finished" in complaint("predict", "clip.mp4", "--model", tmp_path / "run")


def test_a_manifest_with_wrong_lines_tells_them_all(job: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "video": "gone.mp4"}\n{"idd": 1}\n')
    text = complaint("evaluate", job / "grpo", path)
    assert "line 1: no video file at 'gone.mp4'" in text
    assert "line 2: unknown column 'idd', 'id' is meant?" in text


def test_a_recipe_with_unknown_keys_tells_them_all() -> None:
    text = complaint(
        "train", "grpo", "nano-grpo", "--set", "betta=1", "--set", "rollout.num_generation=2"
    )
    assert "'beta' is meant?" in text
    assert "'num_generations' is meant?" in text


def test_wrong_predictions_tell_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"id": "a"}\nnot json\n{"id": "b", "words": ["sad"]}\n{"id": "b", "words": []}\n'
    )
    text = complaint("score", path)
    for part in ("line 1", "line 2", "line 4"):
        assert part in text
    path.write_text('{"id": "b", "words": ["sad"]}\n')
    assert "has no labels" in complaint("score", path)


def test_a_wrong_option_is_one_line() -> None:
    assert "--modle" in complaint("predict", "x.mp4", "--modle", "y")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--renderings", "0"), ("--renderings", "1.5"), ("--seed", "two"), ("--seed", "0.5")],
)
def test_a_value_out_of_range_is_named_with_its_option(
    option: str, value: str, tmp_path: Path
) -> None:
    line = complaint("prepare", "demo", tmp_path / "data", option, value)
    assert option in line
    assert value in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("scoer", "p.jsonl"), '"score"'),
        (("lexicon", "explian"), '"explain"'),
        (("predict", "clip.mp4"), "--model"),
        (("predict", "--model", "m"), "FILES"),
        (("score", "p.jsonl", "q.jsonl"), "q.jsonl"),
        (("score", "--format", "yaml", "p.jsonl"), "yaml"),
        (("encode", "m.jsonl", "--profile", "nano", "--memory-mib", "9"), "--memory-mib"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(words: tuple[str, ...], named: str) -> None:
    assert named in complaint(*words)


@pytest.mark.parametrize("group", [(), ("train",), ("lexicon",), ("cache",)])
def test_without_a_command_there_is_help_and_status_2(group: tuple[str, ...]) -> None:
    done = run(*group)
    assert done.returncode == 2
    assert "Commands" in done.stdout
    assert len(done.stderr.splitlines()) == 1


def test_options_may_stand_anywhere_and_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "-.jsonl"
    path.write_text('{"id": "a", "label": "happy", "words": ["glad"], "--format": "g"}\n')
    plain = answer("score", path)
    assert plain == answer("score", "--group", "--format", "--level", "2", path, "--level=1")
    words = run("lexicon", "explain", "glad", "--lexicon", "builtin", "sad").stdout.splitlines()
    assert [json.loads(row)["word"] for row in words] == ["glad", "sad"]


@pytest.mark.parametrize(
    "command",
    [
        "",
        "cache gc",
        "encode",
        "evaluate",
        "lexicon",
        "merge",
        "predict",
        "prepare",
        "report",
        "score",
        "train grpo",
    ],
)
def test_help_answers_on_stdout(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: affectgpt-r1 {command}".rstrip())
    assert not done.stderr


def test_the_answer_goes_to_stdout_while_a_terminal_shows_bars(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "affectgpt_r1.cli", "cache", "compact", "--cache"]
    done = subprocess.run(
        [*command, str(tmp_path)], stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True
    )
    os.close(theirs)
    os.close(ours)
    assert json.loads(done.stdout)["clips"] == 0


def test_the_doctor_names_what_there_is() -> None:
    found = answer("doctor")
    assert "torch" in found
    assert "weights of the small profile" in found
    assert found["openai/clip-vit-large-patch14"] in ("there", "missing")
    assert "free" in str(found["memory"])
    assert "fastapi" in found
    assert str(found["self-test"]).startswith("passed in")


@pytest.mark.parametrize("package", ["peft", "pebble"])
def test_the_doctor_names_what_does_not_work(package: str, tmp_path: Path) -> None:
    broken = tmp_path / package
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('built for another torch')\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "affectgpt_r1.cli", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "built for another torch" in json.loads(done.stdout)["self-test"]
    assert any(line.startswith("-- self-test: failed") for line in done.stderr.splitlines())


def test_help_score_and_report_load_no_torch() -> None:
    code = (
        "import sys; import affectgpt_r1.cli, affectgpt_r1.evaluation.report;"
        "print('torch' in sys.modules, 'transformers' in sys.modules, 'av' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]


def test_a_missing_extra_is_named_in_one_line(tmp_path: Path) -> None:
    write_manifest(tmp_path / "none.jsonl", [Clip("a", video=Path(__file__))])
    code = (
        "import sys; sys.modules['torch'] = None; from affectgpt_r1.cli import main;"
        f"sys.argv = ['x', 'encode', {str(tmp_path / 'none.jsonl')!r}, '--profile', 'nano']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "affectgpt-r1: torch is not installed: pip install 'affectgpt-r1[train]'\n"
    )


@pytest.mark.parametrize("lacking", ["torch", "fastapi"])
def test_who_wants_to_serve_is_told_the_extra_for_it(lacking: str) -> None:
    code = (
        f"import sys; sys.modules[{lacking!r}] = None; from affectgpt_r1.cli import main;"
        "sys.argv = ['x', 'serve', '--model', 'none']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"affectgpt-r1: {lacking} is not installed: pip install 'affectgpt-r1[serve]'\n"
    )
