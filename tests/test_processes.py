"""Two processes train as one does: same losses and weights, no stall; a lost one ends the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from affectgpt_r1.clips import Clip, write_manifest
from affectgpt_r1.training.checkpoints import fault, newest
from forked import free_port, together
from test_media import write_take

WORDS = ("happy", "sad", "angry", "afraid")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight labelled clips, one without sound and one without picture; a model to begin with.

    In the manifest for GRPO one clip's label is one that the model has never seen: its rewards are
    all 0.
    """
    folder = tmp_path_factory.mktemp("processes")
    clips = []
    for i in range(8):
        film, sound = write_take(folder, i)
        clips.append(
            Clip(
                f"clip{i}",
                video=None if i == 5 else film,
                audio=None if i == 2 else sound,
                subtitle=f"line {i}",
                labels=(WORDS[i % 4], WORDS[(i + 1) % 4]),
            )
        )
    write_manifest(folder / "cold.jsonl", clips)
    strange = Clip("clip8", video=clips[0].video, audio=clips[1].audio, labels=("disgusted",))
    write_manifest(folder / "grpo.jsonl", [*clips[:-1], strange])
    train(folder, "start", 1, "optimizer.batch_size=8", "optimizer.max_steps=120")
    return folder


def command(folder: Path, name: str, *settings: str) -> list[str]:
    stage = "grpo" if name.startswith("grpo") else "cold-start"
    own = (
        (f"model={folder / 'start'}", "rewards.format=0", "loss_type=dapo")
        if stage == "grpo"
        else ("run.save_steps=1000",)
    )
    return [
        *("train", stage, f"nano-{stage}"),
        *(
            f"--set={setting}"
            for setting in (
                f"data.train={folder / ('grpo.jsonl' if stage == 'grpo' else 'cold.jsonl')}",
                f"data.cache={folder / 'features'}",
                f"run.output={folder / name}",
                *own,
                *settings,
            )
        ),
    ]


def launched(words: list[str], processes: int) -> list[str]:
    """A command as a user gives it: by itself, or under torchrun."""
    by = ["torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
    return [
        sys.executable,
        "-m",
        *([*by, "-m"] if processes > 1 else []),
        "affectgpt_r1.cli",
        *words,
    ]


def train(folder: Path, name: str, processes: int, *settings: str) -> list[dict[str, Any]]:
    """Run to the end; the metrics."""
    said = folder / f"{name}.err"
    status = together(command(folder, name, *settings), said, processes)
    assert status == 0, said.with_suffix(".0").read_text()[-4000:]
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted((folder / "model").rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            yield f"{path.name} {name}", tensor


def test_two_processes_tune_as_one_does(place: Path) -> None:
    one = train(place, "one", 1, "optimizer.batch_size=4", "optimizer.max_steps=4")
    two = train(place, "two", 2, "optimizer.batch_size=2", "optimizer.max_steps=4")
    assert len(one) == len(two) == 4
    for alone, shared in zip(one, two, strict=True):
        for figure in ("loss", "grad_norm"):
            assert shared[figure] == pytest.approx(alone[figure], rel=1e-5)
    mine, theirs = dict(weights(place / "one")), dict(weights(place / "two"))
    assert mine.keys() == theirs.keys()
    # AdamW's first steps are of one size whatever the gradient's: rounding shows where it is tiny.
    assert max(np.abs(mine[name] - theirs[name]).max() for name in mine) < 1e-3
    assert np.mean([np.abs(mine[name] - theirs[name]).mean() for name in mine]) < 1e-6


def test_two_processes_reinforce_as_one_does_though_a_group_on_one_teaches_nothing(
    place: Path,
) -> None:
    one = train(place, "grpo-one", 1, "optimizer.batch_size=4", "optimizer.max_steps=2")
    two = train(place, "grpo-two", 2, "optimizer.batch_size=2", "optimizer.max_steps=2")
    assert {row["frac_reward_zero_std"] for row in one} != {0.0}
    for alone, shared in zip(one, two, strict=True):
        for figure in ("loss", "grad_norm", "reward", "frac_reward_zero_std", "completion_tokens"):
            assert shared[figure] == pytest.approx(alone[figure], rel=1e-4, abs=1e-6)

    def rollouts(name: str) -> list[str]:
        return sorted((place / name / "rollouts.jsonl").read_text().splitlines())

    assert rollouts("grpo-one") == rollouts("grpo-two")


def test_a_sharded_model_has_the_losses_gradients_and_completions_of_a_whole_one() -> None:
    here = Path(__file__).parent
    words = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = subprocess.run(
        [sys.executable, *words, str(here / "sharded_worker.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(here)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]


#: What a sharded run of a large model uses: an adapter, recomputed activations, accumulation.
LARGE = ("lora.rank=4", "lora.dropout=0.0", "run.gradient_checkpointing=true")


def test_two_processes_with_a_part_of_the_weights_each_tune_as_one_does(place: Path) -> None:
    accumulated = "optimizer.gradient_accumulation_steps=2"
    steps = ("optimizer.max_steps=4", "run.save_steps=2", accumulated, *LARGE)
    one = train(place, "whole", 1, "optimizer.batch_size=4", *steps)
    parts = ("optimizer.batch_size=2", "run.shard=true")
    two = train(place, "sharded", 2, *parts, *steps)
    for alone, shared in zip(one, two, strict=True):
        for figure in ("loss", "grad_norm"):
            assert shared[figure] == pytest.approx(alone[figure], rel=1e-5)
    mine, theirs = dict(weights(place / "whole")), dict(weights(place / "sharded"))
    assert mine.keys() == theirs.keys()
    assert np.mean([np.abs(mine[name] - theirs[name]).mean() for name in mine]) < 1e-6
    # A checkpoint is the same whatever trained it: this one goes on from its middle.
    shutil.rmtree(place / "sharded/checkpoints/step-000004")
    shutil.rmtree(place / "sharded/model")
    again = train(place, "sharded", 2, *parts, *steps)
    for before, after in zip(two[2:], again[2:], strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-6)
    after = dict(weights(place / "sharded"))
    assert all(np.allclose(after[name], theirs[name], atol=1e-6) for name in theirs)


@pytest.mark.parametrize("beta", [0.0, 10.0])  # so large that the loss shows the reference
def test_two_processes_with_a_part_of_the_weights_each_reinforce_as_one_does(
    place: Path, beta: float
) -> None:
    steps, parts = ("optimizer.max_steps=2", f"beta={beta}"), ("run.shard=true",)
    one = train(place, f"grpo-whole-{beta}", 1, "optimizer.batch_size=4", *steps)
    two = train(place, f"grpo-sharded-{beta}", 2, "optimizer.batch_size=2", *parts, *steps)
    assert {row["frac_reward_zero_std"] for row in one} != {0.0}
    for alone, shared in zip(one, two, strict=True):
        for figure in ("loss", "grad_norm", "reward", "completion_tokens"):
            assert shared[figure] == pytest.approx(alone[figure], rel=1e-4, abs=1e-6)
    if beta:
        assert one[0]["kl"] < 1e-9 < 1e-4 < one[1]["kl"]


def test_a_process_that_draws_again_keeps_nobody_waiting(place: Path) -> None:
    settings = ("optimizer.batch_size=2", "optimizer.max_steps=3", "rollout.max_resamples=2")
    rows = train(place, "grpo-again", 2, *settings)
    assert len(rows) == 3
    assert {row["resampled"] for row in rows} != {0.0}
    assert all(row["resampled"] % 1 == 0 for row in rows)


def test_sharding_wants_several_processes_and_no_drawing_again(place: Path) -> None:
    for settings, said in (
        (("run.shard=true",), "needs several processes"),
        (("run.shard=true", "rollout.max_resamples=2"), "rollout.max_resamples"),
    ):
        heard = place / "refused.err"
        assert together(command(place, "grpo-refused", *settings), heard) == 2
        assert said in heard.with_suffix(".0").read_text()


@pytest.mark.parametrize(("gpus", "name"), [(1, "full-{}"), (2, "full-8gpu-{}")])
def test_the_recipes_for_gpus_run_with_another_profile_in_its_place(
    place: Path, gpus: int, name: str
) -> None:
    for stage in ("cold-start", "grpo"):
        words = command(place, f"{stage}-{gpus}gpu", "optimizer.max_steps=1")
        here = words.index(f"nano-{stage}")
        words[here] = name.format(stage)
        words[here + 1 : here + 1] = ["--set=profile=nano", "--set=data.test=null"]
        if stage == "cold-start":
            words.append("--set=lora.rank=4")
        else:
            words.append("--set=lexicon={name: builtin}")
        said = place / f"{stage}.err"
        assert together(words, said, gpus) == 0, said.with_suffix(".0").read_text()[-4000:]
        assert len(lines(place / f"{stage}-{gpus}gpu")) == 1


def test_a_last_batch_that_does_not_share_out_stalls_nobody(place: Path) -> None:
    rows = train(place, "odd", 2, "optimizer.batch_size=3", "optimizer.epochs=2.0")
    assert len(rows) == 4
    assert all(np.isfinite(row["loss"]) for row in rows)


def begun(place: Path, name: str, processes: int, *settings: str) -> subprocess.Popen[str]:
    """A long run that has made its first six updates."""
    run = subprocess.Popen(
        launched(
            command(place, name, "optimizer.max_steps=100000", "run.save_steps=5", *settings),
            processes,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 120
    while len(lines(place / name)) < 6 and time.monotonic() < until:
        time.sleep(0.2)
    return run


def lines(run: Path) -> list[str]:
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.is_file() else []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_asked_to_end_saves_says_how_to_go_on_and_exits_143(
    place: Path, processes: int
) -> None:
    name = f"asked-{processes}"
    run = begun(place, name, processes, "run.save_steps=1000000", "optimizer.batch_size=2")
    assert newest(place / name) is None
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    for pid in children if processes > 1 else [str(run.pid)]:
        os.kill(int(pid), signal.SIGTERM)
        break  # one process is asked, and all end
    _, err = run.communicate(timeout=120)
    assert "the same command goes on from it" in " ".join(err.split())
    if processes == 1:
        assert run.returncode == 143
    rows = lines(place / name)
    whole = newest(place / name)
    assert whole is not None
    assert int(whole.name.split("-")[1]) == json.loads(rows[-1])["step"]
    assert list((place / name / "checkpoints").glob("*.tmp")) == []


def test_a_second_run_in_a_folder_is_refused_while_the_first_one_lives(place: Path) -> None:
    run = begun(place, "held", 1, "optimizer.batch_size=2")
    try:
        settings = ("optimizer.max_steps=100000", "run.save_steps=5", "optimizer.batch_size=2")
        words = launched(command(place, "held", *settings), 1)
        second = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        assert second.returncode == 2
        assert "another run works there" in " ".join(second.stderr.split())
        assert run.poll() is None
    finally:
        run.kill()
        run.communicate()
    # The dead hold nothing: the same command goes on, and ends when it is asked to.
    again = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = len(lines(place / "held"))
    until = time.monotonic() + 120
    while len(lines(place / "held")) <= before and time.monotonic() < until:
        time.sleep(0.2)
    again.terminate()
    assert again.wait(timeout=60) == 143


def test_a_killed_process_ends_the_run_and_the_last_checkpoint_goes_on(place: Path) -> None:
    run = begun(place, "killed", 2, "optimizer.batch_size=2")
    try:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        began = time.monotonic()
        assert run.wait(timeout=60) != 0
        assert time.monotonic() - began < 60
    finally:
        run.kill()
        run.communicate()
    whole = newest(place / "killed")
    assert whole is not None
    assert fault(whole) is None
    step = int(whole.name.split("-")[1])
    # It goes on from there: a run of the same recipe that is as good as done.
    recipe = place / "killed" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("100000", str(step + 2)))
    settings = (f"optimizer.max_steps={step + 2}", "run.save_steps=5", "optimizer.batch_size=2")
    done = train(place, "killed", 2, *settings)
    assert [row["step"] for row in done] == list(range(1, step + 3))
