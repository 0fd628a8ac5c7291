"""Scoring with the prompt computed once equals scoring G plain rows: values and gradients.

Tolerances are not those of float64: Llama's norms compute in float32 whatever the model's type.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.sampling import SamplingSettings, sample
from affectgpt_r1.training.shared_prefix import completion_logprobs, pack
from tiny import prompt_batch, tiny_model

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
    if checkpointing:
        model.language_model.activation_checkpointing_enable()
    with torch.no_grad():
        for name, parameter in model.trained_state().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
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


def test_sampler_and_loss_are_one_policy() -> None:
    model, processor = tiny_model()
    model.eval()
    batch = prompt_batch(processor)
    groups = sample(
        model,
        processor,
        batch,
        seeds=[[0, 1], [2, 3]],
        settings=SamplingSettings(10, temperature=0.7),
    )
    logprobs, _ = completion_logprobs(
        model, batch, [[s.ids for s in group] for group in groups], temperature=0.7
    )
    for b, group in enumerate(groups):
        for g, drawn in enumerate(group):
            difference = logprobs[b, g, : len(drawn.ids)] - torch.tensor(drawn.logprobs)
            assert float(difference.abs().max()) < 1e-4


def test_the_packed_row_holds_the_prompt_once() -> None:
    packing = pack([[[1, 2, 3], [4]], [[5], [6, 7]]], prompt_length=10)
    assert packing.length == 14
    assert packing.present.sum() == 7
    assert packing.sources[0, 0, 0] == packing.sources[0, 1, 0] == 9
