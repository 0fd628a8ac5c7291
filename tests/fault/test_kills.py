"""Whatever moment a process is killed at, the same command comes to what it would have come to.

Children are forked from a server that has imported everything, so that most of a child's life is
work that can be lost. `make stress` kills 32 times, `make test` five times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from forked import begin
from test_media import write_take

WORDS = ("happy", "sad", "angry", "afraid")
STRESS = "AFFECTGPT_R1_STRESS" in os.environ
Outcome = dict[str, bytes]


def run(words: list[str]) -> float:
    """Undisturbed; how long it took."""
    began = time.monotonic()
    child = begin(words)
    child.join(300)
    assert child.exitcode == 0, words
    return time.monotonic() - began


def killed(
    words: list[str], outcome: Callable[[], Outcome], clear: Callable[[], None], kills: int
) -> Iterator[Outcome]:
    """Outcomes of a command that is killed again and again, so many times in all."""
    clear()
    took_s = run(words)
    yield outcome()
    clear()
    draw = random.Random(len(words[0]))
    while kills:
        child = begin(words)
        child.join(draw.uniform(0.1, 0.9) * took_s)
        if child.exitcode is None:
            child.kill()
            kills -= 1
        child.join()
        if child.exitcode == 0:
            yield outcome()
            clear()
    run(words)
    yield outcome()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with their features, forty that are told apart by their words, and a model."""
    folder = tmp_path_factory.mktemp("kills")
    clips = []
    for i in range(6):
        film, sound = write_take(folder, i)
        labels = (WORDS[i % 4], WORDS[(i + 1) % 4])
        clips.append(Clip(f"clip{i}", video=film, audio=sound, subtitle="so", labels=labels))
    write_manifest(folder / "clips.jsonl", clips)
    many = [replace(clips[i % 6], id=f"said{i}", subtitle=f"line {i}") for i in range(40)]
    write_manifest(folder / "many.jsonl", many)
    run([*("train", "cold-start", "nano-cold-start"), *settings(folder, "start", 80, 40)])
    return folder


def settings(folder: Path, name: str, steps: int, save_steps: int) -> list[str]:
    given = (
        f"data.train={folder / 'clips.jsonl'}",
        f"data.cache={folder / 'features'}",
        "data.allow_shared=true",
        f"data.held_out={folder / 'clips.jsonl'}",
        f"run.output={folder / name}",
        f"run.save_steps={save_steps}",
        f"optimizer.max_steps={steps}",
        "optimizer.batch_size=3",
    )
    return [f"--set={setting}" for setting in given]


def of_run(folder: Path) -> Outcome:
    """What a run leaves behind, but for the time it took."""
    found = {p.name: p.read_bytes() for p in sorted((folder / "model").rglob("*.safetensors"))}
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        if (folder / name).is_file():
            rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
            kept = [{k: v for k, v in row.items() if not k.endswith("_time_s")} for row in rows]
            found[name] = json.dumps(kept).encode()
    assert not [*folder.rglob("*.tmp")]
    return found


@pytest.mark.parametrize("stage", ["cold-start", "grpo"])
def test_a_run_killed_at_any_moment_ends_with_the_same_weights_and_figures(
    place: Path, stage: str
) -> None:
    own = [f"--set=model={place / 'start'}"] if stage == "grpo" else []
    words = ["train", stage, f"nano-{stage}", *settings(place, stage, 11, 3), *own]
    first, *others = killed(
        words,
        lambda: of_run(place / stage),
        lambda: shutil.rmtree(place / stage, ignore_errors=True),
        10 if STRESS else 2 if stage == "grpo" else 1,
    )
    assert len(first) >= 2
    assert others
    assert all(other == first for other in others)


def test_an_encode_killed_at_any_moment_leaves_the_same_cache(place: Path) -> None:
    cache = place / "encoded"

    def entries() -> Outcome:
        files = (path for path in sorted(cache.rglob("*")) if path.is_file())
        return {str(path.relative_to(cache)): path.read_bytes() for path in files}

    first, *others = killed(
        ["encode", str(place / "clips.jsonl"), "--profile=nano", f"--cache={cache}"],
        entries,
        lambda: shutil.rmtree(cache, ignore_errors=True),
        6 if STRESS else 1,
    )
    assert len(first) == len(read_manifest(place / "clips.jsonl"))
    assert others
    assert all(other == first for other in others)


def test_predictions_killed_at_any_moment_are_the_same_to_the_byte(place: Path) -> None:
    out = place / "predictions.jsonl"
    many, model = place / "many.jsonl", place / "start"
    first, *others = killed(
        ["predict", str(many), f"--model={model}", f"--cache={place / 'features'}", f"--out={out}"],
        lambda: {"out": out.read_bytes()},
        lambda: out.unlink(missing_ok=True),
        6 if STRESS else 1,
    )
    assert len(first["out"].splitlines()) == 40
    assert others
    assert all(other == first for other in others)


def test_a_file_of_other_predictions_is_not_gone_on_with(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "said.jsonl"
    words = [f"--model={place / 'start'}", f"--cache={place / 'features'}", f"--out={out}"]
    run(["predict", str(place / "clips.jsonl"), *words])
    whole = out.read_bytes()
    out.write_bytes(whole + b'{"id": "torn')
    run(["predict", str(place / "clips.jsonl"), *words])
    assert out.read_bytes() == whole
    for spoilt in (b"no JSON\n", whole.replace(b"clip0", b"clip9"), b"[]\n"):
        out.write_bytes(spoilt)
        child = begin(["predict", str(place / "clips.jsonl"), *words])
        child.join(60)
        assert child.exitcode == 2
        assert out.read_bytes() == spoilt
