"""Decoding against transformers' own `generate`, on the same model, prompts and settings.

    python benchmarks/predict.py [--json] [--repeats 3]

Greedy, so that both must give the same tokens: one answer a clip (as in prediction), and eight (as
in training, where `generate` is given every prompt eight times). The opponent has the same weights
and features; what differs is the shared prompt, the merged adapter and rows that leave.
"""

from __future__ import annotations

import statistics
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.sampling import SamplingSettings, sample
from grpo_step import Setting, clips_of_tokens, language_model, print_cells, timed
from trl_pair import our_trainer

CLIPS, TOKENS = 8, 48


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds of both for one and for eight answers a clip."""
    bare, tokenizer = language_model(Setting(TOKENS))
    clips = clips_of_tokens(AffectGPTProcessor(tokenizer), 150, CLIPS)
    with TemporaryDirectory() as folder:
        trainer = our_trainer(
            deepcopy(bare), tokenizer, Path(folder), clips=clips, batch_size=CLIPS
        )
        model, processor = trainer.affect_model.train(False), AffectGPTProcessor(tokenizer)
        batch = trainer._prompts(trainer.examples)
    rows = []
    for group in (1, 8):
        clip_count = CLIPS // 2 if group > 1 else CLIPS
        part = {name: tensor[:clip_count] for name, tensor in batch.items()}
        repeated = {name: tensor.repeat_interleave(group, 0) for name, tensor in part.items()}
        found: dict[str, Any] = {}

        def ours(part: Any = part, group: int = group, found: Any = found) -> None:
            found["ours"] = sample(
                model,
                processor,
                part,
                seeds=[list(range(group))] * len(part["input_ids"]),
                settings=SamplingSettings(TOKENS, temperature=0),
            )

        def theirs(repeated: Any = repeated, found: Any = found) -> None:
            with torch.no_grad():
                found["theirs"] = model.generate(
                    **repeated,
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    stop_strings=["###"],
                    tokenizer=tokenizer,
                )

        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(repeats):
            seconds["ours"].append(timed(ours))
            seconds["theirs"].append(timed(theirs))
        tokens = [s.ids for row in found["ours"] for s in row]
        width = part["input_ids"].shape[1]
        equal = [
            tuple(row[width : width + len(ids)]) == ids
            for row, ids in zip(found["theirs"].tolist(), tokens, strict=True)
        ]
        own, other = (statistics.median(seconds[name]) for name in ("ours", "theirs"))
        count = sum(map(len, tokens))
        rows.append(
            {
                "clips": clip_count,
                "answers_a_clip": group,
                "tokens": count,
                "ours_s": own,
                "generate_s": other,
                "ratio": other / own,
                "ours_tokens_per_s": count / own,
                "equal_completions": sum(equal) / len(equal),
            }
        )
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The figures for people."""
    return [
        f"{row['clips']} clips, {row['answers_a_clip']} answers each: generate "
        f"{row['generate_s']:.2f} s, ours {row['ours_s']:.2f} s, ratio {row['ratio']:.2f}, "
        f"{row['ours_tokens_per_s']:.0f} tokens/s, equal {row['equal_completions']:.0%}"
        for row in rows
    ]


if __name__ == "__main__":
    print_cells("Decoding against transformers' generate.", measure, lines)
