"""Scoring with the prompt computed once equals scoring G plain rows: values and gradients.

Tolerances are not those of float64: Llama's norms compute in float32 whatever the model's type.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from affectgpt_r1.errors import InputError
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.sampling import SamplingSettings, sample
from affectgpt_r1.model.shared_prefix import completion_logprobs, head_logprobs, share_prefixes
from tiny import fill_adapter, prompt_batch, tiny_model

Ids = Sequence[Sequence[Sequence[int]]]


def plain_logprobs(
    model: AffectGPTForConditionalGeneration, batch: dict[str, Tensor], completions: Ids
) -> list[list[Tensor]]:
    """One row a completion, the prompt computed each time: the oracle."""
    prompts = model.embed(batch["input_ids"], batch["modality"], batch["visual"], batch["audio"])
    rows = []
    for b, group in enumerate(completions):
        prompt = prompts[b : b + 1, int((batch["attention_mask"][b] == 0).sum()) :]  # no padding
        row = []
        for ids in group:
            completion = model.get_input_embeddings()(torch.tensor([list(ids)]))
            logits = model(inputs_embeds=torch.cat([prompt, completion], dim=1)).logits
            logprobs = logits[0, -len(ids) - 1 : -1].log_softmax(-1)
            row.append(logprobs.gather(1, torch.tensor(list(ids))[:, None])[:, 0])
        rows.append(row)
    return rows


def completions_of(lengths: Sequence[Sequence[int]], seed: int = 0) -> list[list[list[int]]]:
    draw = random.Random(seed)
    return [[[draw.randrange(2, 300) for _ in range(n)] for n in row] for row in lengths]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(1, 7), min_size=3, max_size=3), min_size=2, max_size=2))
@example([[3, 129, 300], [1, 128, 256]])  # several blocks of attention
def test_values_are_those_of_plain_rows(lengths: list[list[int]]) -> None:
    model, processor = tiny_model()
    model = model.double().eval()
    batch = prompt_batch(processor)
    completions = completions_of(lengths)
    logprobs, present = completion_logprobs(model, batch, completions)
    for b, row in enumerate(plain_logprobs(model, batch, completions)):
        for g, expected in enumerate(row):
            assert present[b, g].sum() == len(expected)
            assert (logprobs[b, g, : len(expected)] - expected).abs().max() < 1e-6
            assert (logprobs[b, g, len(expected) :] == 0).all()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_are_those_of_plain_rows(checkpointing: bool, attention: str) -> None:
    model, processor = tiny_model()
    model = model.double().train()
    model.language_model.set_attn_implementation(attention)
    share_prefixes(model.language_model)
    if checkpointing:
        model.language_model.activation_checkpointing_enable()
    fill_adapter(model, 0.2)
    batch = prompt_batch(processor)
    completions = completions_of([[3, 1, 6], [2, 5, 2]])
    weights = torch.randn(2, 3, 1, dtype=torch.float64)

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        state = model.trained_state()
        return dict(zip(state, torch.autograd.grad(loss, list(state.values())), strict=True))

    packed = gradients((completion_logprobs(model, batch, completions)[0] * weights).sum())
    plain = plain_logprobs(model, batch, completions)
    expected = gradients(
        sum(
            (
                values.sum() * weights[b, g, 0]
                for b, row in enumerate(plain)
                for g, values in enumerate(row)
            ),
            torch.zeros((), dtype=torch.float64),
        )
    )
    assert any(name.startswith("fusion.") for name in expected)
    for name, gradient in expected.items():
        assert (packed[name] - gradient).abs().max() < 1e-5 * (1 + gradient.abs().max()), name


@pytest.mark.parametrize("longest", [10, 40])  # the adapter is merged for the longer ones
def test_sampler_and_loss_are_one_policy(longest: int) -> None:
    model, processor = tiny_model()
    bare, _ = tiny_model()
    fill_adapter(model, 0.3)
    model.eval()
    batch = prompt_batch(processor)
    groups = sample(
        model,
        processor,
        batch,
        seeds=[[0, 1], [2, 3]],
        settings=SamplingSettings(longest, temperature=0.7),
    )
    ids = [[s.ids for s in group] for group in groups]
    with torch.no_grad():
        logprobs, _ = completion_logprobs(model, batch, ids, temperature=0.7)
        others, _ = completion_logprobs(bare.eval(), batch, ids, temperature=0.7)
    for b, group in enumerate(groups):
        for g, drawn in enumerate(group):
            difference = logprobs[b, g, : len(drawn.ids)] - torch.tensor(drawn.logprobs)
            assert float(difference.abs().max()) < 1e-4
    assert float((logprobs - others).abs().max()) > 0.1  # the adapter does count


def test_one_row_under_a_dense_block_mask_gives_the_same() -> None:
    model, processor = tiny_model()
    model = model.double().eval()
    batch = prompt_batch(processor)
    completions = completions_of([[3, 1, 6], [2, 5, 2]])
    logprobs, present = completion_logprobs(model, batch, completions)
    prompts = model.embed(batch["input_ids"], batch["modality"], batch["visual"], batch["audio"])
    owners: list[tuple[int, int]] = []
    positions: list[int] = []
    rows = []
    for b, mask in enumerate(batch["attention_mask"].bool()):
        rows.append(prompts[b][mask])
        owners += [(b, -1)] * int(mask.sum())
        positions += range(int(mask.sum()))
    for b, group in enumerate(completions):
        for g, ids in enumerate(group):
            rows.append(model.get_input_embeddings()(torch.tensor(ids)))
            owners += [(b, g)] * len(ids)
            start = int(batch["attention_mask"][b].sum())
            positions += range(start, start + len(ids))
    seen = torch.tensor(
        [
            [j <= i and b == c and h in (-1, g) for j, (c, h) in enumerate(owners)]
            for i, (b, g) in enumerate(owners)
        ]
    )
    hidden = model.language_model.model(
        inputs_embeds=torch.cat(rows)[None],
        attention_mask=torch.zeros(seen.shape).double().masked_fill(~seen, -1e300)[None, None],
        position_ids=torch.tensor(positions)[None],
    ).last_hidden_state[0]
    table = model.get_output_embeddings()(hidden).log_softmax(-1)
    for b, group in enumerate(completions):
        for g, ids in enumerate(group):
            own = owners.index((b, g))
            last = max(i for i, owner in enumerate(owners) if owner == (b, -1))
            before = [last, *range(own, own + len(ids) - 1)]
            expected = table[before, ids]
            assert (logprobs[b, g][present[b, g]] - expected).abs().max() < 1e-6


def test_bfloat16_scores_are_those_of_float32_but_for_rounding() -> None:
    model, processor = tiny_model()
    batch = prompt_batch(processor)
    completions = completions_of([[3, 1, 6], [2, 5, 2]])
    exact, _ = completion_logprobs(model, batch, completions)
    rounded, _ = completion_logprobs(model.bfloat16(), batch, completions)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1


@pytest.mark.parametrize("trained", [False, True])
def test_the_head_in_chunks_is_the_head(trained: bool) -> None:
    model, _ = tiny_model(lora_rank=0 if trained else 4)
    head = model.get_output_embeddings()
    hidden = torch.randn(700, 64, requires_grad=True)  # more than two chunks
    ids, weights = torch.randint(0, head.weight.shape[0], (700,)), torch.randn(700)
    wanted = [hidden, head.weight] if trained else [hidden]
    ours = head_logprobs(model, hidden, ids, 0.7)
    plain = (head(hidden) / 0.7).log_softmax(-1)[torch.arange(700), ids]
    assert (ours - plain).abs().max() < 1e-5
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((plain * weights).sum(), wanted),
        strict=True,
    ):
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


def test_bfloat16_slopes_of_likely_tokens_do_not_drown_in_rounding() -> None:
    model, _ = tiny_model()
    head = model.get_output_embeddings()
    ids = torch.arange(10, 50)  # the embedding of padding is 0
    hidden = (head.weight[ids] / head.weight[ids].norm(dim=-1, keepdim=True) ** 2 * 13).detach()
    exact = hidden.clone().requires_grad_()
    logprobs = head_logprobs(model, exact, ids)
    assert float(logprobs.detach().exp().min()) > 0.9
    (slope,) = torch.autograd.grad(logprobs.sum(), exact)
    rounded = hidden.bfloat16().requires_grad_()
    model.bfloat16()
    (coarse,) = torch.autograd.grad(head_logprobs(model, rounded, ids).sum(), rounded)
    assert float((coarse.float() - slope).norm() / slope.norm()) < 0.1


def test_attention_that_cannot_be_shared_is_refused() -> None:
    model, processor = tiny_model()
    model.language_model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="share_prefixes"):
        completion_logprobs(model, prompt_batch(processor), completions_of([[1], [1]]))
    model.language_model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(InputError, match="sliding_attention"):
        share_prefixes(model.language_model)


def test_a_model_folder_does_not_name_the_attention(tmp_path: Path) -> None:
    model, _ = tiny_model()
    model.save_pretrained(tmp_path)
    assert not [p for p in tmp_path.rglob("*.json") if "shared_prefix" in p.read_text()]
