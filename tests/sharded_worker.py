"""Run under torchrun by test_processes: a sharded model beside a whole one, in every process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.sampling import SamplingSettings, sample
from affectgpt_r1.model.sharding import is_sharded, shard, whole
from affectgpt_r1.model.shared_prefix import completion_logprobs
from tiny import features, fill_adapter, tiny_model


def loss_of(
    model: AffectGPTForConditionalGeneration, processor: AffectGPTProcessor, clips: list[int]
) -> torch.Tensor:
    """Two targets a clip, of different lengths in different processes."""
    prompts = [processor.ask("w " * i, features(i), view="face") for i in clips]
    batch = processor.batch(prompts, [features(i) for i in clips])
    ids = [[[5 + i] * (2 + i), [9] * 3] for i in clips]
    logprobs, _ = completion_logprobs(model, batch, ids)
    return -logprobs.mean(-1).sum()


def main() -> None:
    """Assert, in every process."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    plain, processor = tiny_model(4)
    model, _ = tiny_model(4)
    for one in (plain, model):
        fill_adapter(one, 0.1)
    model.activation_checkpointing_enable()
    shard(model, model.language_model.model.layers)
    assert is_sharded(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    held = sum(p.to_local().numel() for p in model.parameters())  # type: ignore[attr-defined]
    assert held < 0.6 * sum(p.numel() for p in plain.parameters())

    share = [0, 1] if rank == 0 else [2, 3]
    loss = loss_of(model.train(), processor, share)
    loss.backward()
    parts = [loss_of(plain.train(), processor, part) for part in ([0, 1], [2, 3])]
    torch.stack(parts).mean().backward()
    assert torch.allclose(loss, parts[rank], rtol=1e-5)
    gradients = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            mine: Any = parameter.grad
            theirs: Any = gradients[name].grad
            assert torch.allclose(whole(mine), theirs, rtol=1e-4, atol=1e-6), name

    for one in (plain, model):
        one.eval()  # type: ignore[no-untyped-call]
    # A process whose completions end early waits, in step, for the other.
    prompt = processor.ask("w", features(rank), view="face")
    batch = processor.batch([prompt], [features(rank)])
    settings = SamplingSettings(max_new_tokens=24)
    ((long,),) = sample(plain, processor, batch, seeds=[[1]], settings=settings)
    if rank == 0:
        processor.tokenizer.eos_token = processor.tokenizer.convert_ids_to_tokens(long.ids[4])
    ((alone,),) = sample(plain, processor, batch, seeds=[[1]], settings=settings)
    ((drawn,),) = sample(model, processor, batch, seeds=[[1]], settings=settings)
    assert drawn.ids == alone.ids
    assert len(drawn.ids) <= 5 if rank == 0 else len(drawn.ids) == 24
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
