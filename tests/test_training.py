"""Training: it learns, it logs what it does, and a killed run goes on to the same weights."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import wave
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.config import ColdStartRecipe, DataSettings, GrpoRecipe, LoraSettings, recipe_yaml
from affectgpt_r1.dialogue import Completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import CheckpointError, InputError, MissingFileError, TrainingError
from affectgpt_r1.evaluation.predict import perceive_clips
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.profiles import PROFILES, create_model, encoder_source
from affectgpt_r1.model.sampling import SamplingSettings, sample
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.rewards import RewardBreakdown
from affectgpt_r1.training.alignment import align_projectors
from affectgpt_r1.training.checkpoints import newest
from affectgpt_r1.training.cold_start import ColdStartTrainer
from affectgpt_r1.training.grpo import GrpoTrainer, average
from affectgpt_r1.training.run import train_cold_start, train_grpo
from affectgpt_r1.training.run_folder import begin_run, check_run
from affectgpt_r1.training.trainer import Examples
from tiny import (
    WORDS,
    cold_start_recipe,
    examples,
    features,
    fill_adapter,
    grpo_recipe,
    prompt_batch,
    same_weights,
    tiny_model,
)

Metrics = list[Mapping[str, float]]


class RewardedByPlace(GrpoTrainer):
    """Every group varies, whatever was sampled."""

    def rewards(
        self, clip: Clip, completions: Sequence[Completion], perception: Any
    ) -> list[RewardBreakdown]:
        return [RewardBreakdown(1.0, None, 1.0, float(i)) for i, _ in enumerate(completions)]


def keep(rows: Metrics, _: int, __: int, row: Mapping[str, float]) -> None:
    rows.append(row)


def cold_start(
    recipe: ColdStartRecipe, data: Examples, *, resume: bool = False
) -> tuple[AffectGPTForConditionalGeneration, Metrics]:
    model, processor = tiny_model(recipe.lora.rank)
    seen: Metrics = []
    trainer = ColdStartTrainer(
        model, processor, data, recipe=recipe, progress=lambda _, __, row: seen.append(row)
    )
    checkpoint = newest(Path(recipe.run.output)) if resume else None
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.finish()
    return model, seen


def grpo(
    recipe: GrpoRecipe, start: Path, data: Examples, *, resume: bool = False
) -> tuple[AffectGPTForConditionalGeneration, Metrics]:
    model = AffectGPTForConditionalGeneration.from_pretrained(start)
    _, processor = tiny_model()
    seen: Metrics = []
    trainer = GrpoTrainer(
        model,
        processor,
        data,
        recipe=recipe,
        lexicon=Lexicon.load("builtin"),
        progress=lambda _, __, row: seen.append(row),
    )
    checkpoint = newest(Path(recipe.run.output)) if resume else None
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.finish()
    return model, seen


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned the format and half of the task."""
    folder = tmp_path_factory.mktemp("cold-start")
    cold_start(cold_start_recipe(folder, epochs=6.0), examples(64))
    return folder / "model"


def test_cold_start_learns_what_the_face_tells(started: Path) -> None:
    model = AffectGPTForConditionalGeneration.from_pretrained(started)
    _, processor = tiny_model()
    batch = prompt_batch(processor, ("I see.",))
    batch["visual"] = torch.from_numpy(features(999, 2).visual)[None]
    ((drawn,),) = sample(
        model, processor, batch, seeds=[[0]], settings=SamplingSettings(16, temperature=0)
    )
    assert processor.text(drawn.ids).startswith("<answer>angry</answer>")


def test_grpo_raises_the_reward(started: Path, tmp_path: Path) -> None:
    _, seen = grpo(grpo_recipe(tmp_path, max_steps=24), started, examples(64))
    first, last = seen[:4], seen[-4:]

    def mean(rows: Metrics) -> float:
        return sum(row["reward"] for row in rows) / len(rows)

    assert mean(last) > mean(first)
    for name in ("words_per_answer", "coverage", "frac_reward_zero_std", "sampler_drift"):
        assert all(name in row for row in seen[:1])
    assert max(row.get("sampler_drift", 0.0) for row in seen) < 1e-3
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert len(rows) == 24 * 4
    assert all(len(row["completions"]) == len(row["rewards"]) == 4 for row in rows)


def test_alignment_finds_what_the_features_tell_and_nothing_in_noise() -> None:
    model, processor = tiny_model()
    data = examples(64)
    explained = align_projectors(model, processor, data)
    assert explained["visual"] > 0.9
    assert explained["audio"] < 0.1
    table = model.language_model.get_input_embeddings().weight
    means = torch.stack([table[processor.word_ids(word)].mean(dim=0) for word in WORDS])
    for index in range(8):
        unseen = torch.from_numpy(features(1000 + index, index % 4).visual)[None]
        token = model.fusion(unseen, torch.zeros(1, 8, 8))[0, 2]
        assert int((means - token).norm(dim=-1).argmin()) == index % 4


def test_alignment_leaves_alone_what_labels_do_not_tell_apart() -> None:
    model, processor = tiny_model()
    before = model.fusion.visual_projector.weight.clone()
    data = [(replace(clip, labels=("happy", "sad")), found) for clip, found in examples(8)]
    assert align_projectors(model, processor, data) == {}
    assert torch.equal(model.fusion.visual_projector.weight, before)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_groups_without_variance_leave_the_weights_alone(tmp_path: Path, beta: float) -> None:
    # Labels no lexicon knows and a model that never answers in format: every reward is 0.
    model, processor = tiny_model(lora_rank=4)
    before = {name: tensor.clone() for name, tensor in model.trained_state().items()}
    data = [(Clip(id="a", labels=("qwertyuiop",)), features(i)) for i in range(4)]
    recipe = grpo_recipe(tmp_path, max_steps=1, weight_decay=0.0).model_copy(update={"beta": beta})
    seen: Metrics = []
    GrpoTrainer(
        model,
        processor,
        data,
        recipe=recipe,
        lexicon=Lexicon.load("builtin"),
        progress=lambda _, __, row: seen.append(row),
    ).train()
    assert seen[0]["frac_reward_zero_std"] == 1.0
    assert seen[0]["not_judged"] == 16
    for name, tensor in model.trained_state().items():
        assert torch.equal(tensor, before[name]), name


def test_a_stopped_cold_start_resumes_bit_equal(tmp_path: Path) -> None:
    whole, rows = cold_start(cold_start_recipe(tmp_path / "whole"), examples(64))
    recipe = cold_start_recipe(tmp_path / "halves")
    cold_start(recipe, examples(64))
    last = sorted((tmp_path / "halves/checkpoints").iterdir())[-1]
    (last / "manifest.json").unlink()  # as if the machine had died before the last one was whole
    again, resumed = cold_start(recipe, examples(64), resume=True)
    assert resumed[0]["step"] == 5
    assert same_weights(whole, again)
    assert [row["loss"] for row in rows[4:]] == [row["loss"] for row in resumed]
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "halves/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 9))


def test_a_stopped_grpo_resumes_bit_equal(started: Path, tmp_path: Path) -> None:
    data = examples(64)
    whole, _ = grpo(grpo_recipe(tmp_path / "whole", max_steps=4), started, data)
    recipe = grpo_recipe(tmp_path / "halves", max_steps=4)
    grpo(recipe, started, data)
    last = sorted((tmp_path / "halves/checkpoints").iterdir())[-1]
    (last / "optimizer.pt").write_bytes(b"torn")
    again, resumed = grpo(recipe, started, data, resume=True)
    assert resumed[0]["step"] == 3
    assert same_weights(whole, again)
    assert (tmp_path / "whole/rollouts.jsonl").read_text() == (
        tmp_path / "halves/rollouts.jsonl"
    ).read_text()


def test_a_killed_run_goes_on_from_the_last_whole_checkpoint(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from tiny import *
        from affectgpt_r1.training.cold_start import ColdStartTrainer
        model, processor = tiny_model(0)
        def progress(step, total, row):
            if step == 6:
                os.kill(os.getpid(), signal.SIGKILL)
        ColdStartTrainer(model, processor, examples(64),
                         recipe=cold_start_recipe(Path({str(tmp_path)!r})),
                         progress=progress).train()
        """
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ}, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert newest(tmp_path) == tmp_path / "checkpoints/step-000004"
    killed, seen = cold_start(cold_start_recipe(tmp_path), examples(64), resume=True)
    assert seen[0]["step"] == 5
    whole, _ = cold_start(cold_start_recipe(tmp_path / "whole"), examples(64))
    assert same_weights(whole, killed)


def test_nothing_but_weights_only_files_is_saved(tmp_path: Path) -> None:
    cold_start(cold_start_recipe(tmp_path), examples(64))
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.suffix in (".pt", ".pth") and "rng" not in path.name:
            torch.load(path, weights_only=True)
        assert path.suffix not in (".bin", ".pkl")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    model, processor = tiny_model(0)
    with torch.no_grad():
        model.fusion.audio_projector.weight.fill_(float("nan"))
    trainer = ColdStartTrainer(
        model, processor, examples(8), recipe=cold_start_recipe(tmp_path), progress=print
    )
    with pytest.raises(TrainingError, match="not finite at step 1"):
        trainer.train()


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    recipe = cold_start_recipe(tmp_path / "run")
    check_run(tmp_path / "run", recipe)
    begin_run(tmp_path / "run", recipe, "clips")
    check_run(tmp_path / "run", recipe)
    begin_run(tmp_path / "run", recipe, "clips")
    with pytest.raises(CheckpointError, match="was begun on other clips"):
        begin_run(tmp_path / "run", recipe, "others")
    written = tmp_path / "run/recipe.yaml"
    lines = written.read_text().splitlines()
    assert "modality_dropout: 0.0" in lines
    # As an older release wrote it, which did not know the key.
    written.write_text("\n".join(line for line in lines if "modality_dropout" not in line))
    check_run(tmp_path / "run", recipe)
    other = cold_start_recipe(tmp_path / "run", learning_rate=0.1)
    with pytest.raises(CheckpointError, match=r"optimizer\.learning_rate"):
        check_run(tmp_path / "run", other)
    for text in (recipe_yaml(grpo_recipe(tmp_path / "run")), "a: ["):
        written.write_text(text)
        with pytest.raises(CheckpointError, match="another stage or release"):
            check_run(tmp_path / "run", recipe)
    (tmp_path / "else").mkdir()
    (tmp_path / "else/file").write_text("x")
    with pytest.raises(CheckpointError, match="other files"):
        check_run(tmp_path / "else", recipe)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_the_parts_of_an_update_sum_to_its_loss_and_equal_groups_add_nothing(
    loss_type: str, tmp_path: Path
) -> None:
    made = grpo_recipe(tmp_path)
    rollout = made.rollout.model_copy(update={"max_completion_length": 8})
    recipe = made.model_copy(update={"loss_type": loss_type, "rollout": rollout})
    generator = torch.Generator().manual_seed(0)
    per_token = torch.randn(3, 3, 5, generator=generator)
    lengths = torch.tensor([[5, 2, 3], [1, 4, 4], [2, 2, 5]])
    present = torch.arange(5) < lengths[..., None]
    per_token[1] = 0.0  # a group without variance
    tokens = float(lengths.sum())
    whole = average(per_token, present, recipe, 9, tokens)
    parts = [average(per_token[i : i + 1], present[i : i + 1], recipe, 9, tokens) for i in (0, 2)]
    assert torch.allclose(whole, parts[0] + parts[1])


def test_accumulation_makes_the_update_of_one_batch_in_cold_start_too(tmp_path: Path) -> None:
    data = [
        (replace(clip, labels=(WORDS * 4)[: 1 + 5 * (i % 3)]), found)  # targets of unequal lengths
        for i, (clip, found) in enumerate(examples(64))
    ]
    models, logged = [], []
    for size, times in ((4, 1), (1, 4)):
        settings: dict[str, Any] = {"batch_size": size, "gradient_accumulation_steps": times}
        recipe = cold_start_recipe(tmp_path / str(size), max_steps=2, max_grad_norm=1e6, **settings)
        model, rows = cold_start(recipe, data)
        models.append(model)
        logged.append([row[name] for row in rows for name in ("loss", "grad_norm")])
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)
    others = models[1].state_dict()
    assert all(torch.allclose(t, others[n], atol=2e-5) for n, t in models[0].state_dict().items())


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_accumulation_makes_the_update_of_one_batch(
    started: Path, tmp_path: Path, loss_type: str
) -> None:
    models, logged = [], []
    for size, times in ((4, 1), (1, 4)):
        recipe = grpo_recipe(
            tmp_path / str(size),
            max_steps=2,
            batch_size=size,
            gradient_accumulation_steps=times,
            max_grad_norm=1e6,
        ).model_copy(update={"loss_type": loss_type})
        model, rows = grpo(recipe, started, examples(64))
        models.append(model)
        logged.append([row[name] for row in rows for name in ("loss", "grad_norm")])
    # Adam would hide a factor; the norm of the gradient does not.
    assert logged[0] == pytest.approx(logged[1], rel=1e-3, abs=1e-6)
    others = models[1].state_dict()
    assert all(torch.allclose(t, others[n], atol=2e-5) for n, t in models[0].state_dict().items())


def test_later_updates_reuse_the_completions_and_are_clipped(tmp_path: Path) -> None:
    recipe = grpo_recipe(tmp_path, max_steps=6, learning_rate=0.01).model_copy(
        update={"num_iterations": 2, "epsilon": 0.1, "epsilon_high": 0.15, "beta": 0.01}
    )
    model, processor = tiny_model(lora_rank=4)
    seen: Metrics = []
    RewardedByPlace(
        model,
        processor,
        examples(16),
        recipe=recipe,
        lexicon=Lexicon.load("builtin"),
        progress=lambda _, __, row: seen.append(row),
    ).train()
    assert len((tmp_path / "rollouts.jsonl").read_text().splitlines()) == 3 * 4
    assert ["reward" in row for row in seen] == [True, False] * 3
    assert all(row["clip_ratio"] == 0 for row in seen[::2])
    assert any(row["clip_ratio"] > 0 for row in seen[1::2])


def test_several_updates_need_a_whole_update_of_clips(tmp_path: Path) -> None:
    recipe = grpo_recipe(tmp_path, max_steps=2).model_copy(update={"num_iterations": 2})
    model, processor = tiny_model()
    trainer = RewardedByPlace(
        model,
        processor,
        examples(3),
        recipe=recipe,
        lexicon=Lexicon.load("builtin"),
        progress=lambda *_: None,
    )
    with pytest.raises(InputError, match="3 clips are fewer than the 4"):
        trainer.train()


def test_several_updates_a_batch_resume_bit_equal(started: Path, tmp_path: Path) -> None:
    def recipe(folder: str) -> GrpoRecipe:
        made = grpo_recipe(tmp_path / folder, max_steps=6)
        return made.model_copy(update={"num_iterations": 2})

    data = examples(20)
    whole, _ = grpo(recipe("whole"), started, data)
    grpo(recipe("halves"), started, data)
    last = sorted((tmp_path / "halves/checkpoints").iterdir())[-1]
    (last / "manifest.json").unlink()
    again, resumed = grpo(recipe("halves"), started, data, resume=True)
    assert resumed[0]["step"] == 5
    assert same_weights(whole, again)


def test_groups_without_variance_are_replaced_by_other_clips(tmp_path: Path) -> None:
    # Only the rewards of clips 0 to 3 vary (`Lengths`).
    model, processor = tiny_model()
    with torch.no_grad():
        model.language_model.lm_head.weight.zero_()  # every answer is noise
    clips = [Clip(id=f"c{i}", labels=("happy",)) for i in range(16)]
    data = [(clip, features(i)) for i, clip in enumerate(clips)]

    class Lengths(GrpoTrainer):
        def rewards(
            self, clip: Clip, completions: Sequence[Completion], perception: Any
        ) -> list[RewardBreakdown]:
            return [
                RewardBreakdown(1.0, None, 1.0, len(c.text) * (int(clip.id[1:]) < 4) / 100)
                for c in completions
            ]

    seen: list[Metrics] = []
    for rounds in (0, 8):
        recipe = grpo_recipe(tmp_path / str(rounds), max_steps=3)
        rollout = recipe.rollout.model_copy(update={"max_resamples": rounds})
        rows: Metrics = []
        Lengths(
            model,
            processor,
            data,
            recipe=recipe.model_copy(update={"rollout": rollout}),
            lexicon=Lexicon.load("builtin"),
            progress=partial(keep, rows),
        ).train()
        seen.append(rows)
    kept = [
        json.loads(line)["id"] for line in (tmp_path / "8/rollouts.jsonl").read_text().splitlines()
    ]
    assert seen[0][0]["resampled"] == 0
    assert seen[1][0]["resampled"] > 0
    assert sum(int(clip[1:]) < 4 for clip in kept) > len(kept) * 0.7


def test_truncated_completions_can_be_left_out(tmp_path: Path) -> None:
    # Nothing ever ends: with the mask no token is left to learn from.
    model, processor = tiny_model(lora_rank=4)
    before = {name: tensor.clone() for name, tensor in model.trained_state().items()}

    for masked in (True, False):
        recipe = grpo_recipe(tmp_path / str(masked), max_steps=1, weight_decay=0.0)
        rollout = recipe.rollout.model_copy(update={"max_completion_length": 2})
        RewardedByPlace(
            model,
            processor,
            examples(4),
            recipe=recipe.model_copy(
                update={"rollout": rollout, "mask_truncated_completions": masked}
            ),
            lexicon=Lexicon.load("builtin"),
            progress=lambda *_: None,
        ).train()
        same = all(torch.equal(t, before[n]) for n, t in model.trained_state().items())
        assert same == masked


def test_training_reads_cached_features_and_loads_no_encoder(tmp_path: Path) -> None:
    # A model of the full profile, whose encoders are not on this machine, but for its weights.
    encoders = encoder_source(PROFILES["nano"])
    profile = replace(PROFILES["full"], language_model=None)
    model, processor = create_model(profile, encoders, seed=0, lora=LoraSettings(rank=4))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    def manifest(count: int) -> Path:
        rows = []
        for i in range(count):
            path = tmp_path / f"{i}.wav"
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(16000)
                file.writeframes(bytes(random.Random(i).randbytes(32000)))
            rows.append({"id": f"c{i}", "audio": path.name, "labels": ["happy"], "subtitle": "Oh."})
        found = tmp_path / f"{count}.jsonl"
        found.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return found

    def recipe(train: Path) -> GrpoRecipe:
        return grpo_recipe(tmp_path / train.stem, epochs=2.0, batch_size=2).model_copy(
            update={
                "profile": "full",
                "model": str(tmp_path / "model"),
                "data": DataSettings(train=str(train), cache=str(tmp_path / "cache")),
            }
        )

    encoded: list[int] = []
    watch = (lambda done, _: encoded.append(done), lambda *_: None)
    with pytest.raises(MissingFileError, match="clip-vit-large-patch14"):
        train_grpo(recipe(manifest(4)), *watch)
    clips = read_manifest(manifest(4))
    perceive_clips(clips, encoders, FeatureCache(tmp_path / "cache"))
    assert train_grpo(recipe(manifest(4)), *watch).steps == 4
    assert encoded == [1, 2, 3, 4]  # once a run, read from the cache; never again in an epoch


def test_a_finished_run_that_is_begun_again_names_its_best_checkpoint_too(tmp_path: Path) -> None:
    names = ("train", "held_out")
    for name in names:
        clips = [Clip(f"{name}-{i}", subtitle=w, labels=(w,)) for i, w in enumerate(WORDS)]
        write_manifest(tmp_path / f"{name}.jsonl", clips)
    files: dict[str, Any] = {name: str(tmp_path / f"{name}.jsonl") for name in names}
    data = DataSettings(**files, cache=str(tmp_path / "cache"))
    recipe = cold_start_recipe(tmp_path / "run", max_steps=4).model_copy(update={"data": data})
    whole = train_cold_start(recipe, lambda *_: None, lambda *_: None)
    assert whole.best == tmp_path / "run/checkpoints/step-000004"
    again = train_cold_start(recipe, lambda *_: None, lambda *_: None)
    assert again == replace(whole, steps=0, dropped=None)  # of what it left out it does not know


def test_cold_start_has_the_loss_of_plain_rows(tmp_path: Path) -> None:
    model, processor = tiny_model(lora_rank=4)
    data = examples(6)
    trainer = ColdStartTrainer(
        model, processor, data, recipe=cold_start_recipe(tmp_path), progress=lambda *_: None
    )
    update, _ = trainer.get_batch_samples(iter([{"examples": data}]), 1, "cpu")
    loss = trainer.compute_loss(model, update[0])
    total, count = 0.0, 0
    for clip, found in data:
        prompt, target = trainer._example(clip, found)
        batch = processor.batch([prompt], [found])
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([target])], 1)
        batch["modality"] = torch.nn.functional.pad(batch["modality"], (0, len(target)))
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        with torch.no_grad():
            logprobs = model(**batch).logits[0, len(prompt.ids) - 1 : -1].log_softmax(-1)
        total -= float(logprobs[range(len(target)), target].sum())
        count += len(target)
    assert abs(float(loss.detach()) - total / count) < 1e-5


@pytest.mark.parametrize("rank", [0, 4])
def test_a_kl_term_refers_to_the_model_that_the_run_began_with_and_a_resumed_run_does_too(
    tmp_path: Path, rank: int
) -> None:
    start, processor = tiny_model(rank)
    fill_adapter(start, 0.1)  # as cold start left it
    start.save_pretrained(tmp_path / "start")

    def run(folder: str) -> list[float]:
        recipe = grpo_recipe(tmp_path / folder, max_steps=4).model_copy(update={"beta": 0.1})
        rows: Metrics = []
        RewardedByPlace(
            model := AffectGPTForConditionalGeneration.from_pretrained(tmp_path / "start"),
            processor,
            examples(16),
            recipe=recipe,
            lexicon=Lexicon.load("builtin"),
            progress=partial(keep, rows),
        ).train(resume_from_checkpoint=str(last) if (last := newest(tmp_path / folder)) else None)
        assert not same_weights(model, start)
        return [row["kl"] for row in rows]

    whole = run("run")
    assert whole[0] == pytest.approx(0, abs=1e-9)
    assert all(kl > 1e-6 for kl in whole[1:])
    shutil.rmtree(tmp_path / "run/checkpoints/step-000004")
    assert run("run") == whole[2:]
