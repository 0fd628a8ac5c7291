"""What goes wrong in a long run is said, keeps what there is, and can be looked at again."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from affectgpt_r1.config import ColdStartRecipe
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import CheckpointError, InputError, ModelFolderError, TrainingError
from affectgpt_r1.model.sampling import Sample
from affectgpt_r1.rewards import RewardBreakdown
from affectgpt_r1.training.checkpoints import best, fault, newest
from affectgpt_r1.training.cold_start import ColdStartTrainer
from affectgpt_r1.training.grpo import GrpoTrainer, Rollout
from affectgpt_r1.training.monitor import alarms
from affectgpt_r1.training.replay import replay
from affectgpt_r1.training.run import _run
from affectgpt_r1.training.run_folder import begin_run, check_run
from affectgpt_r1.training.trainer import Examples, RunTrainer
from tiny import cold_start_recipe, examples, grpo_recipe, tiny_model


def told(*_: object) -> None:
    """Nobody waits for progress here."""


def cold_start_trainer(folder: Path, data: Examples, **settings: Any) -> RunTrainer:
    recipe = cold_start_recipe(folder, **settings)
    return ColdStartTrainer(*tiny_model(0), data, recipe=recipe, progress=told)


def grpo_trainer(folder: Path, data: Examples, **settings: Any) -> RunTrainer:
    own: dict[str, Any] = {
        name: settings.pop(name) for name in ("num_iterations", "beta") if name in settings
    }
    recipe = grpo_recipe(folder, **settings).model_copy(update=own)
    return GrpoTrainer(*tiny_model(4), data, recipe=recipe, lexicon=Lexicon.load(), progress=told)


@pytest.mark.parametrize("make", [cold_start_trainer, grpo_trainer])
def test_an_update_that_is_no_number_is_kept_and_its_clip_is_found_again(
    tmp_path: Path, make: Callable[..., RunTrainer]
) -> None:
    data = examples(16)
    data[5][1].visual[3] = np.nan
    trainer = make(tmp_path / "run", data, batch_size=4)
    with pytest.raises(TrainingError, match="not finite at step") as raised:
        _run(trainer, {})
    (folder,) = (tmp_path / "run/failed").iterdir()
    assert f"affectgpt-r1 train replay {folder}" in str(raised.value)
    before = sorted(p.name for p in (tmp_path / "run").rglob("*"))
    said = replay(folder)
    assert said.error is not None
    assert said.error in str(raised.value)
    assert said.clips == ("clip-5",)
    assert said.step == int(folder.name.split("-")[1])
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == before


def test_a_later_update_on_the_same_completions_is_replayed_with_them(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path / "run", examples(8), batch_size=4, num_iterations=2, beta=0.1)
    loss = trainer.compute_loss

    def spoilt(model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        if trainer.state.global_step == 1:
            inputs["rollouts"][2].old[0] = -torch.inf  # as if the first update had ruled it out
        return loss(model, inputs, *given, **named)

    trainer.compute_loss = spoilt  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="not finite at step 2"):
        _run(trainer, {})
    said = replay(tmp_path / "run/failed/step-000002")
    assert said.step == 2
    assert said.error is not None
    assert said.error.endswith("is not finite at step 2")
    assert said.clips == (trainer.update[0]["rollouts"][2].clip.id,)


def test_clips_with_completions_of_other_lengths_are_replayed_alone(tmp_path: Path) -> None:
    trainer = cast(Any, grpo_trainer(tmp_path / "run", examples(8), batch_size=4))
    roll, loss = trainer._rollouts, trainer.compute_loss

    def shorter(data: Examples, attempt: int) -> list[Rollout]:
        rollouts: list[Rollout] = roll(data, attempt)
        for place, rollout in enumerate(rollouts):
            longest = 4 + 2 * place
            rollout.samples = [
                Sample(drawn.ids[:longest], drawn.logprobs[:longest], finished=True)
                for drawn in rollout.samples
            ]
            breakdowns = [RewardBreakdown(1.0, None, 1.0, float(g)) for g in range(4)]
            rollout.rewards = breakdowns  # every group varies
        return rollouts

    def spoilt(model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        found = loss(model, inputs, *given, **named)
        inputs["rollouts"][1].old[0] = -torch.inf
        return found * torch.nan

    trainer._rollouts, trainer.compute_loss = shorter, spoilt
    with pytest.raises(TrainingError, match="not finite at step 1"):
        _run(trainer, {})
    ids = [rollout.clip.id for rollout in trainer.update[0]["rollouts"]]
    assert replay(tmp_path / "run/failed/step-000001").clips == (ids[1],)


def test_a_saved_update_holds_nothing_that_could_run(tmp_path: Path) -> None:
    data = examples(8)
    data[0][1].audio[:] = np.inf
    with pytest.raises(TrainingError):
        _run(cold_start_trainer(tmp_path / "run", data), {})
    (folder,) = (tmp_path / "run/failed").iterdir()
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(trap),)

    torch.save({"step": 0, "update": [Trap()]}, folder / "update-0.pt")
    with pytest.raises(ModelFolderError, match="no whole update"):
        replay(folder)
    assert not trap.exists()
    (folder / "update-0.pt").write_bytes(b"torn")
    with pytest.raises(ModelFolderError, match="no whole update"):
        replay(folder)
    with pytest.raises(CheckpointError, match="no update is at"):
        replay(folder, process=1)


def full(folder: Path, limit_bytes: int) -> None:
    """Run with files that may not grow beyond a limit: what a full disk does, at any place."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    trainer = cold_start_trainer(folder, examples(64), batch_size=8)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        _run(trainer, {})
    except InputError as error:
        sys.stderr.write(str(error))
        os._exit(2)
    os._exit(0)


@pytest.mark.parametrize("limit_bytes", [100, 2_000, 50_000, 700_000])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_says_so(
    tmp_path: Path, limit_bytes: int
) -> None:
    folder = tmp_path / "run"
    stopped = cold_start_trainer(folder, examples(64), batch_size=8)
    stopped.progress = lambda step, *_: next(iter(())) if step == 5 else None
    with pytest.raises(StopIteration):
        _run(stopped, {})
    before = newest(folder)
    assert before is not None
    script = f"from test_faults import *; full(Path({str(folder)!r}), {limit_bytes})"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": f"{here}:{here.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "the same command goes on" in done.stderr
    assert newest(folder) == before
    assert not list(folder.rglob("*.tmp"))
    whole, again = tmp_path / "whole", cold_start_trainer(folder, examples(64), batch_size=8)
    _run(again, {})
    _run(cold_start_trainer(whole, examples(64), batch_size=8), {})
    for name in ("fusion.safetensors", "language_model/model.safetensors"):
        assert (folder / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


def test_a_run_folder_that_cannot_be_made_is_the_inputs_fault() -> None:
    with pytest.raises(InputError, match=r"/proc/runs cannot be written"):
        _run(cold_start_trainer(Path("/proc/runs"), examples(8)), {})


def test_the_best_checkpoint_on_clips_held_out_stays(tmp_path: Path) -> None:
    recipe = cold_start_recipe(tmp_path, batch_size=8, max_steps=10)
    run = recipe.run.model_copy(update={"save_steps": 2, "keep_checkpoints": 1})
    scores = iter([0.2, 0.7, 0.7, 0.3, 0.1])
    trainer = ColdStartTrainer(
        *tiny_model(0),
        examples(32),
        recipe=recipe.model_copy(update={"run": run}),
        progress=told,
        held_out=lambda: next(scores),
    )
    result = _run(trainer, {})
    assert result.best == tmp_path / "checkpoints/step-000004"
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-000004", "step-000010"]
    (tmp_path / "checkpoints/step-000004/optimizer.pt").unlink()
    assert best(tmp_path) == tmp_path / "checkpoints/step-000010"
    assert fault(tmp_path / "model") is None


def test_alarms_are_of_the_kinds_that_the_figures_show() -> None:
    calm = [
        {"grad_norm": 1.0, "reward": 0.5, "frac_reward_zero_std": 0.2, "words_per_answer": 2.0}
        for _ in range(30)
    ]
    assert alarms(calm) == {}
    assert alarms([]) == {}

    def after(**figures: float) -> set[str]:
        return set(alarms([*calm, *[row | figures for row in calm[:12]]]))

    assert set(alarms([*calm, {"grad_norm": 30.0}])) == {"grad_norm"}
    assert after(reward=0.1) == {"reward"}
    assert after(reward=0.9) == set()
    assert after(frac_reward_zero_std=1.0) == {"frac_reward_zero_std"}
    assert after(words_per_answer=5.0) == {"words_per_answer"}
    assert after(words_per_answer=1.0) == set()


def test_an_alarm_is_said_once_and_stands_in_the_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = cold_start_trainer(tmp_path, examples(8))
    with caplog.at_level(logging.WARNING, logger="affectgpt_r1"):
        for step in range(15):
            trainer.state.global_step = step + 1
            trainer.log({"grad_norm": 1.0 if step < 12 else 50.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("alarms") for row in rows] == [None] * 12 + [["grad_norm"]] * 3
    assert [record.message for record in caplog.records] == [
        "step 13: the gradient's norm is 50, where 1 is usual"
    ]


def test_figures_of_all_batches_and_processes_are_averaged_and_counts_are_summed(
    tmp_path: Path,
) -> None:
    trainer = cold_start_trainer(tmp_path, examples(8))
    trainer.record({"reward": 1.0, "not_judged": 3.0, "resampled": 0.0})
    trainer.record({"reward": 2.0, "not_judged": 4.0, "resampled": 1.0})
    trainer.log({})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (row["reward"], row["not_judged"], row["resampled"]) == (1.5, 7.0, 1.0)


def test_a_run_whose_last_checkpoint_stands_at_its_end_makes_no_further_update(
    tmp_path: Path,
) -> None:
    data = examples(16)
    _run(cold_start_trainer(tmp_path, data, batch_size=4, max_steps=5), {})
    before = (tmp_path / "model/fusion.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "model")  # as if killed while it was written
    result = _run(cold_start_trainer(tmp_path, data, batch_size=4, max_steps=5), {})
    assert result.steps == 5
    assert (tmp_path / "model/fusion.safetensors").read_bytes() == before


def test_a_run_that_is_asked_to_end_between_two_updates_on_the_same_completions_makes_both(
    tmp_path: Path,
) -> None:
    def trainer(folder: Path) -> RunTrainer:
        return grpo_trainer(folder, examples(8), batch_size=4, num_iterations=2, max_steps=6)

    asked = trainer(tmp_path / "run")
    asked.progress = lambda step, *_: asked.ask_to_end() if step == 2 else None
    with pytest.raises(SystemExit) as ended:
        _run(asked, {})
    assert ended.value.code == 143
    assert newest(tmp_path / "run") == tmp_path / "run/checkpoints/step-000004"
    assert _run(trainer(tmp_path / "run"), {}).steps == 6
    _run(trainer(tmp_path / "whole"), {})
    files = [tmp_path / run / "model/fusion.safetensors" for run in ("run", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_goes_on_with_no_other_clips_and_from_no_other_model(tmp_path: Path) -> None:
    def trainer(data: Examples) -> RunTrainer:
        return cold_start_trainer(tmp_path / "run", data, max_steps=6)

    clips = examples(8)
    stopped = trainer(clips)
    stopped.progress = lambda step, *_: stopped.ask_to_end() if step == 2 else None
    with pytest.raises(SystemExit):
        _run(stopped, {}, "a model")
    relabelled = [(replace(clip, labels=("calm",)), found) for clip, found in clips]
    for data, start in ((clips[:-1], "a model"), (relabelled, "a model"), (clips, "another")):
        with pytest.raises(CheckpointError, match="was begun on other clips"):
            _run(trainer(data), {}, start)
    assert _run(trainer(clips), {}, "a model").steps == 6


def test_a_run_killed_while_its_folder_was_begun_is_begun_again(tmp_path: Path) -> None:
    trainer = cold_start_trainer(tmp_path / "run", examples(8))
    (tmp_path / "run/recipe.yaml.0a1b.tmp").write_text("half")
    assert not check_run(tmp_path / "run", cast(ColdStartRecipe, trainer.recipe))
    begin_run(tmp_path / "run", trainer.recipe, "clips")
    (tmp_path / "run/environment.json").unlink()
    assert not check_run(tmp_path / "run", cast(ColdStartRecipe, trainer.recipe))
    _run(trainer, {})
    assert (tmp_path / "run/environment.json").is_file()


def test_an_update_with_groups_drawn_again_is_replayed_too(tmp_path: Path) -> None:
    data = examples(16)
    data[5][1].visual[3] = np.nan
    trainer = grpo_trainer(tmp_path / "run", data, batch_size=4)
    rollout = trainer.recipe.rollout.model_copy(update={"max_resamples": 2})  # type: ignore[union-attr]
    trainer.recipe = trainer.recipe.model_copy(update={"rollout": rollout})
    with pytest.raises(TrainingError):
        _run(trainer, {})
    (folder,) = (tmp_path / "run/failed").iterdir()
    assert replay(folder).clips == ("clip-5",)
