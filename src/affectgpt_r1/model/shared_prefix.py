"""A prompt computed once for all its completions: split attention, in scoring and in sampling.

Everything but attention treats tokens one by one, so a prompt and its G completions need no more
than P + GT of them. Attention is split: the prompt is causal to itself, each completion looks at
[prompt; own past]. Values and gradients are exactly those of G plain rows, and gradients reach the
prompt and its modality tokens. Not a cache with gradients: that is lost under gradient
checkpointing. The split comes in through transformers' `AttentionInterface`; without a `shared`
argument the attention is transformers' own.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from affectgpt_r1.errors import InputError

#: The ids of B groups of G completions.
Completions: TypeAlias = Sequence[Sequence[Sequence[int]]]

_HEAD_CHUNK = 256  # positions a time at the head: the vocabulary is large
_BLOCK = 128  # completion tokens a time in attention
_NAME = "shared_prefix"


@dataclass(frozen=True, slots=True, eq=False)
class Scoring:
    """B prompts and their G completions each as one row of N tokens, without padding.

    The row holds the prompts' tokens, then the completions' tokens but for each one's last: that
    one is predicted, and predicts nothing.

    Attributes:
        prompts: (B, P) each prompt token's place in the row; 0 beyond a prompt's end.
        completions: (B * G, T) likewise.
        keys: (B * G, P + T) the places that a completion looks at.
        biases: for each block of t of the T tokens (B * G, 1, share * t, P + its end), 0 where a
            token sees, -inf elsewhere; again for each of the `share` query heads of a key head.
            Blocks look at nothing behind them: half of a long completion's attention.
        restore: (N,) the place of each of the row's tokens among the B * P + B * G * T.
        positions: (N,) position in its own sequence.
        sources: (B * G, T + 1) the place of the token that predicts each completion token.
    """

    prompts: Tensor
    completions: Tensor
    keys: Tensor
    biases: tuple[Tensor, ...]
    restore: Tensor
    positions: Tensor
    sources: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention over the row: query (1, Hq, N, D) -> (1, N, Hq, D)."""
        # Causal: padding is on the right, where no real token looks.
        q, k, v = (_rows(states, self.prompts) for states in (query, key, value))
        prompt = scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=True
        )  # (B, Hq, P, D)
        own = _rows(query, self.completions)  # (B * G, Hq, T, D)
        keys, values = _rows(key, self.keys), _rows(value, self.keys)  # (B * G, Hk, P + T, D)
        tails = []
        for block, bias in zip(own.split(_BLOCK, 2), self.biases, strict=True):
            seen = bias.shape[-1]
            # A key head's queries as further rows: keys need no copy a query head.
            tail = scaled_dot_product_attention(
                block.reshape(len(own), keys.shape[1], -1, own.shape[-1]),
                keys[:, :, :seen],
                values[:, :, :seen],
                attn_mask=bias.to(query.dtype),
                scale=scale,
            )
            tails.append(tail.reshape(block.shape))
        both = [part.transpose(1, 2).flatten(0, 1) for part in (prompt, torch.cat(tails, 2))]
        return torch.cat(both).index_select(0, self.restore)[None]


def _rows(states: Tensor, places: Tensor) -> Tensor:
    """Pick (R, L) places out of one row's states (1, H, N, D): (R, H, L, D)."""
    picked = states.transpose(1, 2)[0].index_select(0, places.flatten())
    return picked.unflatten(0, places.shape).transpose(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Decoding:
    """Rows that continue B cached prompts by one token each; keys hold a row's own past alone.

    Attributes:
        prompts: each layer's keys and values (B, Hk, P, D), once for all rows of a prompt.
        bias: (R, 1, 1, P), 0 at a prompt's tokens and -inf at padding.
        slots: (R,) each row's place among the B * G.
        group: G.
        own: (1, 1, 1, t) 0 at what a row's own past holds, -inf at room that is not used yet;
            None: there is no such room.
    """

    prompts: Sequence[Any]
    bias: Tensor
    slots: Tensor
    group: int
    own: Tensor | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one token a row: query (R, Hq, 1, D), key (R, Hk, t, D) -> (R, 1, Hq, D)."""
        rows, heads = key.shape[:2]
        packed = query.view(rows, heads, -1, query.shape[-1])  # (R, Hk, share, D)
        full = torch.promote_types(query.dtype, torch.float32)
        to_prompt = self._over_prompt(packed, self.prompts[layer].keys.transpose(-1, -2)) * scale
        to_own = (packed @ key.transpose(-1, -2)) * scale  # (R, Hk, share, t)
        if self.own is not None:
            to_own = to_own + self.own
        scores = torch.cat([to_prompt + self.bias, to_own], -1)
        weights = scores.to(full).softmax(-1).to(query.dtype)
        of_prompt, of_own = weights.split([to_prompt.shape[-1], to_own.shape[-1]], -1)
        mixed = self._over_prompt(of_prompt, self.prompts[layer].values) + of_own @ value
        return mixed.reshape(rows, 1, query.shape[1], -1)

    def of(self, rows: Tensor) -> "Decoding":
        """Some of the rows, by their places."""
        return replace(self, bias=self.bias[rows], slots=self.slots[rows])

    def _over_prompt(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Multiply rows (R, Hk, s, n) by their prompts' (B, Hk, n, m), a group at a time."""
        batch = len(matrices)
        slots = rows.new_zeros(batch * self.group, *rows.shape[1:])
        slots[self.slots] = rows
        grouped = slots.unflatten(0, (batch, self.group)).transpose(1, 2).flatten(2, 3)
        product = (grouped @ matrices).unflatten(2, (self.group, rows.shape[2]))
        return product.transpose(1, 2).flatten(0, 1)[self.slots]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    eager: bool,
    shared: Scoring | Decoding | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    with sdpa_kernel(SDPBackend.MATH) if eager else nullcontext():
        if shared is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return shared.attend(module.layer_idx, query, key, value, kwargs["scaling"]), None


def share_prefixes(language_model: PreTrainedModel) -> None:
    """Let a language model take `shared=`; all other calls stay as they are.

    Its attention was `sdpa` or `eager`, and stays so: fused kernels, or plain matrix products.

    Raises:
        InputError: a layer has no full attention, or the model another kind of attention.
    """
    kind = str(language_model.config._attn_implementation).removeprefix(f"{_NAME}_")
    layers = set(getattr(language_model.config, "layer_types", None) or ["full_attention"])
    if kind not in ("sdpa", "eager") or layers != {"full_attention"}:
        raise InputError(
            f"the language model has {', '.join(sorted(layers))} layers and {kind!r} attention: "
            "prompts can be shared in full attention, by 'sdpa' or 'eager'"
        )
    name = f"{_NAME}_{kind}"
    AttentionInterface.register(name, partial(_attention, eager=kind == "eager"))
    AttentionMaskInterface.register(name, sdpa_mask)
    language_model.set_attn_implementation(name)


def lay_out(attention_mask: Tensor, lengths: Tensor, share: int, dtype: torch.dtype) -> Scoring:
    """Lay out prompts and completions in one row.

    Args:
        attention_mask: (B, P) of the prompts, padded on either side.
        lengths: (B, G) of the completions, each at least 1.
        share: query heads a key head.
        dtype: of the bias.
    """
    device, (batch, group) = attention_mask.device, lengths.shape
    prompt_lengths = attention_mask.sum(-1)  # (B,)
    inputs = (lengths - 1).flatten().to(device)  # (B * G,)
    ends = torch.cat([prompt_lengths, inputs]).cumsum(0)
    prompts, is_prompt = _places(ends[:batch], prompt_lengths)  # (B, P)
    completions, is_own = _places(ends[batch:], inputs)  # (B * G, T)
    longest, tail = prompts.shape[1], completions.shape[1]
    of_prompt = is_prompt.repeat_interleave(group, 0)[:, None].expand(-1, tail, -1)
    causal = torch.ones(tail, tail, dtype=torch.bool, device=device).tril()
    allowed = torch.cat([of_prompt, is_own[:, None] & causal], -1)  # (B * G, T, P + T)
    bias = torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, -torch.inf)
    last = (ends[:batch] - 1).repeat_interleave(group)[:, None]  # (B * G, 1)
    row, column = is_own.nonzero(as_tuple=True)
    return Scoring(
        prompts=prompts,
        completions=completions,
        keys=torch.cat([prompts.repeat_interleave(group, 0), completions], 1),
        biases=tuple(
            bias[:, i : i + _BLOCK, : longest + i + _BLOCK].repeat(1, share, 1)[:, None]
            for i in range(0, tail, _BLOCK)
        ),
        restore=torch.cat([is_prompt.flatten(), is_own.flatten()]).nonzero()[:, 0],
        positions=torch.cat([is_prompt.nonzero()[:, 1], prompt_lengths[row // group] + column]),
        sources=torch.cat([last, completions], 1),
    )


def _places(ends: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Each sequence's places in the row, 0 beyond its end; and which are no such 0: (R, L)."""
    columns = torch.arange(max(int(sizes.max()), 1), device=sizes.device)
    real = columns < sizes[:, None]
    return torch.where(real, (ends - sizes)[:, None] + columns, 0), real


def completion_logprobs(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    completions: Completions,
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of every completion token, with gradients through prompt and clip.

    Args:
        model: the policy, wrapped or not: all of this happens inside its `forward`.
        batch: the prompts, as for sampling: (B, P).
        completions: B lists of G lists of ids, none empty.
        temperature: divides the logits, as in sampling.

    Returns:
        logprobs (B, G, T), 0 beyond the ends; present (B, G, T) bool.
    """
    return model(run=lambda inner: _scores(inner, batch, completions, temperature))


def _scores(
    model: Any, batch: Mapping[str, Tensor], completions: Completions, temperature: float
) -> tuple[Tensor, Tensor]:
    config = model.language_model.config
    kind = config._attn_implementation
    if not kind.startswith(_NAME):
        raise ValueError(f"attention was changed to {kind!r}: call share_prefixes again")
    mask = batch["attention_mask"]
    rows = [ids for group in completions for ids in group]
    lengths = torch.tensor([[len(ids) for ids in group] for group in completions])  # (B, G)
    present = (torch.arange(int(lengths.max())) < lengths[..., None]).to(mask.device)  # (B, G, T)
    flat = torch.tensor([token for ids in rows for token in ids], device=mask.device)  # (n,)
    prompts = model.embed(batch["input_ids"], batch["modality"], batch["visual"], batch["audio"])
    share = config.num_attention_heads // config.num_key_value_heads
    layout = lay_out(mask, lengths, share, prompts.dtype)
    but_last = [token for ids in rows for token in ids[:-1]]
    inputs = torch.tensor(but_last, dtype=torch.long, device=mask.device)
    tails = model.get_input_embeddings()(inputs)
    hidden = model.language_model.model(
        inputs_embeds=torch.cat([prompts[mask.bool()], tails])[None],
        # Not read, but without a mask of four dimensions transformers would build one, (N, N).
        attention_mask=mask[None, None],
        position_ids=layout.positions[None],
        shared=layout,
        use_cache=False,
    ).last_hidden_state[0]  # (N, H)
    sources = layout.sources[:, : present.shape[-1]][present.flatten(0, 1)]
    scores = head_logprobs(model, hidden[sources], flat, temperature)  # (n,)
    return scores.new_zeros(present.shape).masked_scatter(present, scores), present


def head_logprobs(model: Any, hidden: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of `ids` (n,) from hidden states (n, H), a chunk of positions at a time.

    No more than a chunk of logits is held at once. A frozen head's backward pass costs no product
    with the head: what it needs, (n, H), was computed beside the logits.
    """
    head = model.get_output_embeddings()
    chosen: Any = _FrozenHead.apply
    if head.weight.requires_grad:
        chosen = partial(checkpoint, _chosen, use_reentrant=False)
    chunks = zip(hidden.split(_HEAD_CHUNK), ids.split(_HEAD_CHUNK), strict=True)
    return torch.cat([chosen(states, head, targets, temperature) for states, targets in chunks])


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Logits at a temperature, in float32 at least: bfloat16 is too coarse to draw from."""
    full = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(full) / temperature).log_softmax(-1)


def _chosen(states: Tensor, head: nn.Module, targets: Tensor, temperature: float) -> Tensor:
    logprobs = log_probabilities(head(states), temperature)
    return logprobs.gather(1, targets[:, None])[:, 0]


class _FrozenHead(torch.autograd.Function):
    """Log-probability of each target, and in the same pass its gradient by the hidden state."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Any, targets: Tensor, temperature: float) -> Tensor:
        logprobs = log_probabilities(head(states), temperature)  # (n, V)
        chosen = logprobs.gather(1, targets[:, None])[:, 0]
        if ctx.needs_input_grad[0]:
            # Less one before rounding: a likely token's slope is small, and would drown else.
            away = logprobs.exp_().scatter_add_(
                1, targets[:, None], logprobs.new_full((len(targets), 1), -1.0)
            )
            slope = away.to(head.weight.dtype) @ head.weight  # (n, H)
            ctx.save_for_backward(-slope / temperature)
        return chosen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0].to(slope.dtype)[:, None] * slope, None, None, None
