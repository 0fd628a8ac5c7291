"""Scoring a group's completions with the prompt computed once.

A prompt and its G completions are packed into one row: the prompt is causal to itself, each
completion sees the prompt and its own past, through a dense block mask. Gradients reach the prompt,
and through it the modality tokens, exactly as in G plain rows. The mask costs (P + GT)^2 attention:
for short completions that is far less than computing the prompt G times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration

_HEAD_CHUNK = 256  # positions a time at the head: the vocabulary is large


@dataclass(frozen=True, slots=True)
class Packing:
    """Where everything stands in the packed rows.

    Attributes:
        ids: (B, G, T) completion ids, 0 beyond their ends.
        present: (B, G, T) bool, which of them exist.
        columns: (B, G, T) each completion token's column in the packed row.
        sources: (B, G, T) the column whose hidden state predicts that token.
        length: packed row length P + max over rows of the sum of completion lengths.
    """

    ids: Tensor
    present: Tensor
    columns: Tensor
    sources: Tensor
    length: int


def pack(completions: Sequence[Sequence[Sequence[int]]], prompt_length: int) -> Packing:
    """Lay out G completions behind each of B prompts of `prompt_length` columns."""
    groups = len(completions[0])
    longest = max(len(ids) for row in completions for ids in row)
    shape = (len(completions), groups, longest)
    ids, columns = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    sources, present = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    length = prompt_length
    for b, row in enumerate(completions):
        start = prompt_length
        for g, completion in enumerate(row):
            n = len(completion)
            ids[b, g, :n] = torch.tensor(list(completion), dtype=torch.long)
            present[b, g, :n] = True
            columns[b, g, :n] = torch.arange(start, start + n)
            sources[b, g, :n] = columns[b, g, :n] - 1
            sources[b, g, 0] = prompt_length - 1  # the prompt's last column: padding is on the left
            start += n
        length = max(length, start)
    return Packing(ids, present, columns, sources, length)


def block_mask(attention_mask: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """The packed rows' attention mask and positions.

    Args:
        attention_mask: (B, P) of the prompts.
        packing: the layout.

    Returns:
        allowed (B, 1, L, L) bool: row i may look at column j; position_ids (B, L).
    """
    batch, prompt_length = attention_mask.shape
    length, device = packing.length, attention_mask.device
    owner = torch.full((batch, length), -1, device=device)  # -1 prompt, g a completion, -2 nothing
    owner[:, :prompt_length] = torch.where(attention_mask.bool(), -1, -2)
    owner[:, prompt_length:] = -2
    positions = torch.zeros((batch, length), dtype=torch.long, device=device)
    positions[:, :prompt_length] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    lengths = attention_mask.sum(-1)  # (B,)
    b, g, t = (index.to(device) for index in packing.present.nonzero(as_tuple=True))
    columns = packing.columns.to(device)[b, g, t]
    owner[b, columns] = g
    positions[b, columns] = lengths[b] + t
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    same = owner[:, :, None] == owner[:, None, :]
    to_prompt = (owner == -1)[:, None, :]
    allowed = causal & (same | to_prompt) & (owner != -2)[:, None, :]
    # A padding row that sees nothing would be NaN under softmax; it sees itself.
    allowed = allowed | torch.eye(length, dtype=torch.bool, device=device)
    return allowed[:, None], positions


def completion_logprobs(
    model: AffectGPTForConditionalGeneration,
    batch: Mapping[str, Tensor],
    completions: Sequence[Sequence[Sequence[int]]],
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of every completion token, with gradients through prompt and clip.

    Args:
        model: the policy.
        batch: the prompts, as for sampling: (B, P), padded on the left.
        completions: B lists of G lists of ids.
        temperature: divides the logits, as in sampling.

    Returns:
        logprobs (B, G, T), 0 beyond the ends; present (B, G, T) bool.
    """
    device = batch["input_ids"].device
    packing = pack(completions, batch["input_ids"].shape[1])
    ids, present = packing.ids.to(device), packing.present.to(device)
    prompt = model.embed(batch["input_ids"], batch["modality"], batch["visual"], batch["audio"])
    tail = torch.zeros(
        (prompt.shape[0], packing.length - prompt.shape[1]), dtype=torch.long, device=device
    )
    b, g, t = present.nonzero(as_tuple=True)
    tail[b, packing.columns.to(device)[b, g, t] - prompt.shape[1]] = ids[b, g, t]
    embeds = torch.cat([prompt, model.get_input_embeddings()(tail)], dim=1)  # (B, L, H)
    allowed, positions = block_mask(batch["attention_mask"], packing)
    bias = torch.zeros(allowed.shape, dtype=embeds.dtype, device=device)
    bias = bias.masked_fill(~allowed, torch.finfo(embeds.dtype).min)
    hidden = model.language_model.model(
        inputs_embeds=embeds, attention_mask=bias, position_ids=positions, use_cache=False
    ).last_hidden_state  # (B, L, H)
    sources = packing.sources.to(device)[b, g, t]
    flat = _head_logprobs(model, hidden[b, sources], ids[b, g, t], temperature)  # (N,)
    logprobs = torch.zeros(present.shape, dtype=flat.dtype, device=device)
    return logprobs.index_put((b, g, t), flat), present


def _head_logprobs(
    model: AffectGPTForConditionalGeneration, hidden: Tensor, ids: Tensor, temperature: float
) -> Tensor:
    """Log-probabilities of `ids` (N,) from hidden states (N, H), a chunk at a time."""

    def chunk(states: Tensor, targets: Tensor) -> Tensor:
        logits = model.get_output_embeddings()(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]

    parts = [
        checkpoint(chunk, states, targets, use_reentrant=False)
        for states, targets in zip(hidden.split(_HEAD_CHUNK), ids.split(_HEAD_CHUNK), strict=True)
    ]
    return torch.cat(parts)
