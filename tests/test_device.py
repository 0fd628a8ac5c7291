"""What must hold on a GPU where there is one, and on the CPU where there is none.

A GPU has kernels, random generators and copies of its own; the oracle is the CPU in float64.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affectgpt_r1.model.sampling import SamplingSettings, sample
from affectgpt_r1.model.shared_prefix import completion_logprobs, share_prefixes
from affectgpt_r1.perception.pretrained import ClipImageEncoder, PretrainedSpeechEncoder
from forked import begin, free_port, together
from test_perception import make_image_folder, make_speech_folder, pictures, windows_of_noise
from test_processes import command, lines, place, train  # noqa: F401
from test_shared_prefix import completions_of, plain_logprobs
from tiny import fill_adapter, prompt_batch, tiny_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


Note = Callable[[str, object], None]


def moved(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """A batch beside its model."""
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def gradient(model: Any) -> Tensor:
    """As one vector, on the CPU."""
    found = {name: p.grad for name, p in model.trained_state().items()}
    return torch.cat([found[name].flatten().cpu() for name in sorted(found)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_plain_rows_but_for_rounding(
    attention: str, dtype: torch.dtype, record_property: Note
) -> None:
    model, processor = tiny_model()
    fill_adapter(model, 0.05)
    nn.Module.to(model.train(), dtype)
    batch = prompt_batch(processor)
    completions = completions_of([[3, 129, 300], [1, 128, 257]])
    weights = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))

    def of_plain_rows(model: Any) -> tuple[Tensor, Tensor]:
        rows = plain_logprobs(model, moved(batch, model), completions)
        sums = torch.stack([torch.stack([values.sum() for values in row]) for row in rows])
        (sums * weights).sum().backward()
        return torch.cat([row.detach() for group in rows for row in group]), gradient(model)

    truth = of_plain_rows(deepcopy(model).double())
    plain = of_plain_rows(deepcopy(model))
    model.language_model.set_attn_implementation(attention)
    share_prefixes(model.language_model)
    nn.Module.to(model, DEVICE)
    logprobs, present = completion_logprobs(model, moved(batch, model), completions)
    (logprobs.sum(-1) * weights.to(DEVICE)).sum().backward()
    found = logprobs[present].detach().cpu(), gradient(model)
    for name, true, near, ours in zip(("values", "gradient"), truth, plain, found, strict=True):
        off, rounding = (float((x.double() - true).norm() / true.norm()) for x in (ours, near))
        record_property(f"{name}_off", f"{off:.1e}, plain rows on the CPU {rounding:.1e}")
        assert off < 4 * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_answers_are_those_of_generate(dtype: torch.dtype, record_property: Note) -> None:
    model, processor = tiny_model()
    fill_adapter(model, 0.2)
    nn.Module.to(model.train(False), DEVICE, dtype)
    batch = moved(prompt_batch(processor), model)
    settings = SamplingSettings(24, temperature=0)
    ours = sample(model, processor, batch, seeds=[[0], [1]], settings=settings)
    with torch.no_grad():
        theirs = cast(Any, model).generate(**batch, max_new_tokens=24, do_sample=False)
    equal = [
        first == second
        for (one,), row in zip(ours, theirs[:, batch["input_ids"].shape[1] :].tolist(), strict=True)
        for first, second in zip(one.ids, row, strict=False)
    ]
    record_property("greedy_tokens_equal", f"{np.mean(equal):.0%}")
    assert dtype == torch.bfloat16 or all(equal)


def test_draws_are_those_of_a_cpu_and_score_as_they_were_drawn() -> None:
    model, processor = tiny_model()
    fill_adapter(model, 0.2)
    nn.Module.to(model.train(False), torch.float64)
    batch = prompt_batch(processor)
    seeds, settings = [[1, 2, 3], [4, 5, 6]], SamplingSettings(24, 0.9, top_p=0.95, top_k=50)
    here = sample(model, processor, batch, seeds=seeds, settings=settings)
    nn.Module.to(model, DEVICE)
    there = sample(model, processor, moved(batch, model), seeds=seeds, settings=settings)
    ids = [[s.ids for s in group] for group in there]
    assert ids == [[s.ids for s in group] for group in here]
    with torch.no_grad():
        scores, present = completion_logprobs(model, moved(batch, model), ids, temperature=0.9)
    drawn = torch.tensor([p for group in there for s in group for p in s.logprobs])
    assert float((scores[present].cpu() - drawn).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["clip", "hubert"])
def test_features_are_those_of_a_cpu(tmp_path: Path, kind: str, record_property: Note) -> None:
    encoder: Any = ClipImageEncoder if kind == "clip" else PretrainedSpeechEncoder
    folder = make_image_folder(tmp_path) if kind == "clip" else make_speech_folder(tmp_path)
    steps = pictures() if kind == "clip" else windows_of_noise()
    here, there = (encoder.load(str(folder), device=str(d)) for d in ("cpu", DEVICE))
    expected = here.encode(steps)
    with torch.inference_mode():  # as a GPU would by itself: convolutions in TF32
        loose = there._features(there._prepared(steps).to(DEVICE)).float().cpu().numpy()
    off, other = (np.abs(x - expected).max() for x in (there.encode(steps), loose))
    record_property("features_off", f"{off:.1e}, with TF32 {other:.1e}")
    assert off < 1e-4


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_command_of_a_run_works(
    place: Path,  # noqa: F811
    precision: str,
    record_property: Note,
) -> None:
    half = f"run.bf16={str(precision == 'bf16').lower()}"
    own = (half, "run.gradient_checkpointing=true", "optimizer.max_steps=3", "lora.rank=4")
    for row in train(place, f"cold-{precision}", 1, *own):
        assert np.isfinite(row["loss"])
    start = f"model={place / f'cold-{precision}'}"
    rows = train(place, f"grpo-{precision}", 1, start, half, "optimizer.max_steps=2", "beta=0.01")
    drift = max(row["sampler_drift"] for row in rows)
    record_property("sampler_drift", f"{drift:.1e}")
    assert drift < (1e-4 if precision == "float32" else 1.0)
    out = place / f"{precision}.jsonl"
    words = ["predict", str(place / "cold.jsonl"), f"--model={place / f'grpo-{precision}'}"]
    words += [f"--cache={place / 'features'}", f"--out={out}"]
    assert together(words, place / "predict.err") == 0, (place / "predict.0").read_text()
    assert len(out.read_text().splitlines()) == 8


def test_a_run_that_lost_its_last_updates_makes_them_again(
    place: Path,  # noqa: F811
    record_property: Note,
) -> None:
    settings = ("optimizer.max_steps=4", "run.save_steps=2")
    before = train(place, "grpo-resumed", 1, *settings)
    shutil.rmtree(place / "grpo-resumed/model")
    shutil.rmtree(place / "grpo-resumed/checkpoints/step-000004")
    after = train(place, "grpo-resumed", 1, *settings)
    assert [row["step"] for row in after] == [1, 2, 3, 4]
    assert after[3]["reward"] == pytest.approx(before[3]["reward"], abs=0.05)
    off = abs(after[2]["loss"] - before[2]["loss"])
    record_property("resumed_loss_off", f"{off:.1e}")
    assert off < 1e-4


@pytest.mark.parametrize("stage", ["cold-start", "grpo"])
def test_one_process_may_be_sharded(place: Path, stage: str) -> None:  # noqa: F811
    steps = ("optimizer.max_steps=2", "optimizer.batch_size=4")
    plain = train(place, f"{stage}-plain", 1, *steps)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    words, said = command(place, f"{stage}-shard", *steps, "run.shard=true"), place / "shard.err"
    child = begin(words, said, {**alone, "MASTER_PORT": str(free_port())})
    child.join(240)
    assert child.exitcode == 0, said.read_text()[-4000:]
    sharded = map(json.loads, lines(place / f"{stage}-shard"))
    for one, two in zip(plain, sharded, strict=True):
        for figure in ("loss", "grad_norm"):
            assert two[figure] == pytest.approx(one[figure], rel=1e-3, abs=1e-6)
