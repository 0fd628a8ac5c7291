"""How the cost of scoring grows with G, P, T and B, against plain rows of the same model.

    python benchmarks/scaling.py [--json] [--repeats 3]

Plain rows are one prompt and completion each, padded to one length: what a loss without a shared
prefix computes. Both score the same completions with the same weights, forward and backward; only
the completions' positions meet the head. What does not fit into memory at once is cut into parts on
both sides. `share` is the fraction of the machine's matrix-product peak that ours reaches.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, replace
from typing import Any

import torch

from affectgpt_r1.model.shared_prefix import completion_logprobs, head_logprobs
from grpo_step import (
    Setting,
    case_of,
    forward_flops,
    language_model,
    matmul_peak,
    print_cells,
    timed,
)
from trl_pair import Case, Outcome, fill_adapter, gradient, policy, text_batch, trl_inputs

#: One dimension at a time, from B 2, P 150, G 8, T 16.
MAIN = Setting(16, prompts=2)
CELLS = (
    *(replace(MAIN, group=g) for g in (2, 4, 8, 16, 32)),
    *(replace(MAIN, prompt_tokens=p) for p in (50, 400)),
    *(replace(MAIN, completion_tokens=t) for t in (8, 96)),
    *(replace(MAIN, completion_tokens=t, prompts=1) for t in (256, 512)),
    *(replace(MAIN, prompts=b) for b in (1, 4, 16)),
)
_TOKENS_A_PART = 3000  # some 8 GB of activations


def shared(model: Any, case: Case) -> None:
    """Ours: each prompt once."""
    size = max(1, _TOKENS_A_PART // (len(case.prompts[0]) + _length(case)))
    for start in range(0, len(case.prompts), size):
        prompts = case.prompts[start : start + size]
        logprobs, _ = completion_logprobs(
            model, text_batch(prompts), case.completions[start : start + size]
        )
        (logprobs * case.advantages[start : start + size, :, None]).sum().backward()


def plain(model: Any, case: Case) -> None:
    """A row a completion, its prompt with it."""
    inputs = trl_inputs(case, 0)
    rows = len(inputs["prompt_ids"])
    longest = inputs["completion_ids"].shape[1]
    size = max(1, _TOKENS_A_PART // (inputs["prompt_ids"].shape[1] + longest))
    for start in range(0, rows, size):
        part = {
            name: tensor[start : start + size] for name, tensor in inputs.items() if tensor.ndim
        }
        ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
        hidden = model.language_model.model(
            input_ids=ids,
            attention_mask=torch.cat([part["prompt_mask"], part["completion_mask"]], 1),
            use_cache=False,
        ).last_hidden_state[:, -longest - 1 : -1]
        logprobs = head_logprobs(model, hidden.flatten(0, 1), part["completion_ids"].flatten())
        weights = part["advantages"].repeat_interleave(longest)
        (logprobs * weights * part["completion_mask"].flatten()).sum().backward()


def _length(case: Case) -> int:
    """Completion tokens a prompt."""
    return sum(map(len, case.completions[0]))


def measure(repeats: int) -> list[dict[str, Any]]:
    """Every cell's seconds, ratios and share of the peak."""
    bare, tokenizer = language_model(MAIN)
    model = policy(bare)
    fill_adapter(model)
    model.train()
    rows = []
    for cell in CELLS:
        case = case_of(cell, tokenizer, ragged=False)
        peak = matmul_peak()
        seconds: dict[str, list[float]] = {"shared": [], "plain": []}
        outcomes = {}
        for _ in range(repeats):
            for name, side in (("shared", shared), ("plain", plain)):
                model.zero_grad()
                seconds[name].append(timed(lambda side=side, case=case: side(model, case)))
                outcomes[name] = Outcome(0.0, gradient(model))
        ours, theirs = (statistics.median(seconds[name]) for name in ("shared", "plain"))
        flops = forward_flops(cell, shared=True)
        rows.append(
            {
                **asdict(cell),
                "shared_s": ours,
                "plain_s": theirs,
                "ratio": theirs / ours,
                "theory_ratio": forward_flops(cell, shared=False) / flops,
                "share_of_peak": 2 * flops / ours / peak,
                "grad_rel_diff": outcomes["shared"].difference(outcomes["plain"])[1],
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The figures as a Markdown table."""
    return [
        "| B | P | G | T | plain, s | shared, s | ratio | theory | share of peak |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['prompts']} | {row['prompt_tokens']} | {row['group']} "
            f"| {row['completion_tokens']} | {row['plain_s']:.2f} | {row['shared_s']:.2f} "
            f"| {row['ratio']:.2f} | {row['theory_ratio']:.2f} | {row['share_of_peak']:.0%} |"
            for row in rows
        ),
    ]


if __name__ == "__main__":
    print_cells("How the cost of scoring grows.", measure, lines)
