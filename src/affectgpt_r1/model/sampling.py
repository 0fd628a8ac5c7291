"""Sampling completions: the prompt is computed once per clip, then continued any number of times.

The only sampler: rollouts, evaluation, prediction and server call it. Random numbers belong to a
completion (its seed), never to a position in a batch, so a completion does not depend on what it
is sampled together with.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, StaticLayer, TopKLogitsWarper, TopPLogitsWarper

from affectgpt_r1.dialogue import STOP
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.sharding import any_goes_on, is_sharded
from affectgpt_r1.model.shared_prefix import Decoding, log_probabilities

#: Merging the adapter costs some ten tokens' gain (docs/benchmarks.md): not for short completions.
_MERGE_FROM = 32
#: Recording a step costs the time of some four, and then saves most of each (docs/benchmarks.md).
_RECORD_FROM = 8


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How tokens are drawn; names and meanings as in transformers' GenerationConfig.

    Attributes:
        max_new_tokens: a completion that reaches it is cut (`Sample.finished` is False).
        temperature: 0: the most probable token always.
        top_p: smallest set of tokens with this much of the probability that top-k left; 1: all.
        top_k: so many most probable tokens; 0: all.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled completion.

    Attributes:
        ids: its tokens, with the stop string's or the end token.
        logprobs: each token's log-probability at the sampling temperature, before top-p and top-k.
        finished: False where `max_new_tokens` cut it.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part: run, step, clip, sample.

    >>> seed_of(0, "clip", 1) == seed_of(0, "clip", 1) != seed_of(0, "clip", 2)
    True
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@torch.no_grad()
def sample(
    model: nn.Module,
    processor: AffectGPTProcessor,
    batch: Mapping[str, Tensor],
    *,
    seeds: Sequence[Sequence[int]],
    settings: SamplingSettings,
) -> list[list[Sample]]:
    """Sample G completions for each of B prompts.

    Args:
        model: wrapped or not; in eval mode, else dropout disturbs it.
        processor: decodes, to find the stop string.
        batch: input_ids, attention_mask, modality (B, P), visual, audio; padded on the left.
        seeds: B lists of G seeds, one a completion.
        settings: how tokens are drawn.

    Returns:
        B lists of G samples. Finished rows leave the batch at once, but on a GPU, where a step is
        recorded as a graph: there a row costs little beside the weights, and all stay.
    """
    group = len(seeds[0])
    if any(len(row) != group for row in seeds):
        raise ValueError("every prompt needs as many seeds as the others")
    flat = [seed for row in seeds for seed in row]

    def run(inner: AffectGPTForConditionalGeneration) -> list[Sample]:
        longest = settings.max_new_tokens
        # The layers of a sharded model fetch their weights in each step: no graph does that.
        fixed = inner.device.type == "cuda" and longest >= _RECORD_FROM and not is_sharded(inner)
        with inner.adapter_merged() if longest >= _MERGE_FROM else nullcontext():
            return _continue(inner, processor, batch, flat, settings, fixed)

    drawn = model(run=run)
    return [drawn[start : start + group] for start in range(0, len(drawn), group)]


def _continue(
    model: AffectGPTForConditionalGeneration,
    processor: AffectGPTProcessor,
    batch: Mapping[str, Any],
    seeds: Sequence[int],
    settings: SamplingSettings,
    fixed: bool,
) -> list[Sample]:
    """Compute the prompts once, then a token a row at a time; `fixed`: all rows to the end."""
    attention, group = batch["attention_mask"], len(seeds) // len(batch["input_ids"])  # (B, P)
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    output = model.forward(**batch, position_ids=positions, use_cache=True, logits_to_keep=1)
    slots = torch.arange(len(seeds), device=attention.device)
    prompts = slots // group  # each row's, of R = B * G
    prefix = Decoding(
        prompts=output.past_key_values.layers,
        bias=torch.where(attention == 0, -torch.inf, 0.0)[prompts, None, None],
        slots=slots,
        group=group,
    )
    logits, position = output.logits[prompts, -1], positions[prompts, -1:]  # (R, V), (R, 1)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    ids: list[list[int]] = [[] for _ in seeds]
    logprobs: list[list[float]] = [[] for _ in seeds]
    finished = [False] * len(seeds)
    rows = list(range(len(seeds)))  # which completion each row of the batch is
    cache, advance = DynamicCache(), None
    if fixed:
        advance = _fixed_step(model, prefix, position, settings.max_new_tokens - 1)
    for step in range(settings.max_new_tokens):
        draws = [torch.rand((), generator=generators[row], dtype=torch.float64) for row in rows]
        tokens, chosen = draw(logits, torch.stack(draws).to(logits.device), settings)
        for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
            if not finished[row]:
                ids[row].append(token)
                logprobs[row].append(logprob)
                finished[row] = token == processor.end_id or STOP in processor.text(ids[row][-8:])
        going = [place for place, row in enumerate(rows) if not finished[row]]
        if step + 1 == settings.max_new_tokens or not any_goes_on(bool(going), model):
            break
        if advance:
            logits = advance(tokens)
            continue
        going = going or [0]  # its tokens are not kept: other processes are not done yet
        if len(going) < len(rows):
            index = torch.tensor(going, device=tokens.device)
            cache.batch_select_indices(index)
            tokens, position = tokens[index], position[index]
            prefix = prefix.of(index)
            rows = [rows[place] for place in going]
        position = position + 1
        output = model.forward(
            tokens[:, None], position_ids=position, past_key_values=cache, shared=prefix
        )
        logits = output.logits[:, -1]
    return [Sample(tuple(i), tuple(p), f) for i, p, f in zip(ids, logprobs, finished, strict=True)]


class _FixedLayer(StaticLayer):
    """transformers' cache of fixed size, also where autocast leaves keys and values unlike."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        dtype = torch.promote_types(key_states.dtype, value_states.dtype)
        return super().update(key_states.to(dtype), value_states.to(dtype))


def _fixed_step(
    model: AffectGPTForConditionalGeneration, prefix: Decoding, position: Tensor, room: int
) -> Callable[[Tensor], Tensor]:
    """A function of all rows' tokens (R,) to their next logits (R, V), for `room` steps.

    Everything stays in its place in memory, so that a GPU records a step as a graph after the first
    and replays it: a step is a thousand small kernels, and to start them one by one takes longer
    than they do. Elsewhere it is the same step without a graph.

    Args:
        model, prefix: the model; its prompts.
        position: (R, 1) of the last token that is known.
        room: tokens that the cache of a row's own past holds.
    """
    tokens, position, count = torch.zeros_like(position), position.clone(), position.new_zeros(1)
    own = torch.full((1, 1, 1, room), -torch.inf, device=position.device)
    cache = Cache([_FixedLayer(room) for _ in prefix.prompts])
    known: Any = {"position_ids": position, "past_key_values": cache}
    # The mask is not read; without one of four dimensions transformers would build it.
    known |= {"attention_mask": own, "shared": replace(prefix, own=own)}
    graph = torch.cuda.CUDAGraph() if position.device.type == "cuda" else None
    held: list[Tensor] = []

    def step() -> None:
        own.index_fill_(-1, count, 0.0)
        count.add_(1)
        position.add_(1)
        held[:] = [model.forward(tokens, **known).logits[:, -1]]

    run: Callable[[], None] = step

    def advance(drawn: Tensor) -> Tensor:
        nonlocal run
        tokens.copy_(drawn[:, None])
        run()
        (logits,) = held
        if graph is not None and run is step:  # what a first step allocates must not be recorded
            # Of this thread alone: others may read the next clips meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                step()
            run = graph.replay
        return logits

    return advance


def draw(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the distribution function at `uniform`.

    Args:
        logits: (R, V).
        uniform: (R,) numbers in [0, 1), one a row.
        settings: temperature, top-p, top-k.

    Returns:
        tokens (R,) and their log-probabilities (R,) at the temperature, before any cut.
    """
    if settings.temperature == 0:
        tokens, logprobs = logits.argmax(-1), logits.float().log_softmax(-1)
        return tokens, logprobs.gather(1, tokens[:, None])[:, 0]
    logprobs = log_probabilities(logits, settings.temperature)  # (R, V)
    kept = logprobs
    if settings.top_k:
        kept = TopKLogitsWarper(settings.top_k)(None, kept)
    if settings.top_p < 1:
        kept = TopPLogitsWarper(settings.top_p)(None, kept)
    tokens = _invert(kept.exp(), uniform)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The column at which each row's running sum passes `uniform` of its total: (R,)."""
    total = probabilities.cumsum(-1, dtype=torch.float64)  # (R, V)
    end = total[:, -1:]
    # Rounding must not reach the end: the column found is one that holds some probability; unless
    # none is a number, which the log-probabilities tell.
    passed = (uniform[:, None] * end).minimum(end.nextafter(torch.zeros_like(end)))
    return torch.searchsorted(total, passed, right=True)[:, 0].clamp(max=total.shape[1] - 1)
