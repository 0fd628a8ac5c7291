"""The full profile at its true size, on random weights: seconds and memory of every command.

    python benchmarks/full_size.py FOLDER [--steps weights encode ...] [--limit SECONDS] [--tiny]

Writes checkpoints of the real shapes (Qwen2.5-7B, CLIP ViT-L/14, chinese-hubert-large) into a hub
cache in FOLDER, 18 GB, and some demo clips; then the package's recipes run as a user runs them,
each command in a process of its own, for a few updates. Random weights never end an answer, so all
completions have their full length, and all rewards of a group are equal: a small `beta` has GRPO
score them all the same. What a step found stays in FOLDER; a step that fails is a row that says so.
`--tiny` tries all of it in two minutes anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from grpo_step import SHAPES, figure, out_of_memory, qwen_config, resident_bytes, used_bytes

#: `grpo-long` is an update of completions as long as the recipe has them.
STEPS = ("weights", "encode", "cold-start", "grpo", "predict", "grpo-long")
_CLIPS, _LENGTH, _BYTES = 8, 256, 22e9
_UPDATES = {"cold-start": 3, "grpo": 2, "grpo-long": 1}


def snapshot(folder: Path, name: str) -> Path:
    """Where a hub cache in the folder holds a model."""
    place, revision = folder / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs/main").write_text(revision)
    return place / "snapshots" / revision


def write_weights(folder: Path, tiny: bool) -> None:
    """Random checkpoints of the full profile's shapes, and clips."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        HubertConfig,
        HubertModel,
    )

    from affectgpt_r1.model.profiles import NANO_FOLDER, PROFILES

    if not tiny and shutil.disk_usage(folder).free < _BYTES:
        raise SystemExit(f"{folder} has no room for {_BYTES / 1e9:g} GB")
    tower: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
    }
    layers, patch, convolutions = 24, 14, (512,) * 7
    if tiny:
        tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
        layers, patch, convolutions = 4, 32, (8,) * 7
    vision = {**tower, "num_hidden_layers": layers, "patch_size": patch, "image_size": 224}
    full = PROFILES["full"]
    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        CLIPModel(CLIPConfig(vision_config=vision, projection_dim=768)).save_pretrained(
            snapshot(folder, full.visual)
        )
        HubertModel(
            HubertConfig(
                **tower,
                num_hidden_layers=layers,
                conv_dim=convolutions,
                conv_bias=True,
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
            )
        ).save_pretrained(snapshot(folder, full.audio))
        qwen = AutoModelForCausalLM.from_config(
            qwen_config(SHAPES["tiny" if tiny else "full"], tokenizer), dtype=torch.bfloat16
        )
    CLIPImageProcessorPil().save_pretrained(snapshot(folder, full.visual))
    assert full.language_model
    qwen.save_pretrained(snapshot(folder, full.language_model), max_shard_size="4GB")
    tokenizer.save_pretrained(snapshot(folder, full.language_model))
    write_clips(folder)


def write_clips(folder: Path) -> None:
    """Some clips a phase, and a manifest of them all."""
    from affectgpt_r1.clips import read_manifest, write_manifest
    from affectgpt_r1_demo.clips import demo_lines, write_demo

    chosen, counts = [], dict.fromkeys(("cold-start", "grpo", "test"), 0)
    for line in demo_lines():
        if counts[line.split] < _CLIPS:
            counts[line.split] += len(line.takes)
            chosen.append(line)
    write_demo(folder / "data", lines=chosen, workers=min(8, os.cpu_count() or 1))
    clips = [clip for split in counts for clip in read_manifest(folder / f"data/{split}.jsonl")]
    write_manifest(folder / "data/all.jsonl", clips)


def command(step: str, folder: Path) -> list[str]:
    """A step's command line, as a user gives it."""
    import torch

    data, cache = folder / "data", folder / "features"
    if step == "encode":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        words = [str(data / "all.jsonl"), "--profile=full", f"--cache={cache}"]
        return ["encode", *words, f"--device={device}", "--batch-clips=8", "--workers=4"]
    if step == "predict":
        words = [str(data / "test.jsonl"), f"--model={folder / 'grpo'}", f"--cache={cache}"]
        return ["predict", *words, f"--out={folder / 'predictions.jsonl'}"]
    stage = step.removesuffix("-long")
    settings = [
        f"data.train={data / stage}.jsonl",
        f"data.cache={cache}",
        f"run.output={folder / step}",
        f"optimizer.max_steps={_UPDATES[step]}",
    ]
    if stage == "grpo":
        settings += [f"model={folder / 'cold-start'}", "data.test=null", "beta=0.01"]
        settings += ["lexicon={name: builtin}"]
        settings += [f"rollout.max_completion_length={_LENGTH}"] if step == stage else []
    return ["train", stage, f"full-{stage}", *(f"--set={setting}" for setting in settings)]


def work(step: str, folder: Path, tiny: bool) -> dict[str, Any]:
    """A step in this process: what it took."""
    drawn = {"tokens": 0, "seconds": 0.0}
    began = time.perf_counter()
    if step == "weights":
        write_weights(folder, tiny)
    else:
        from affectgpt_r1 import cli

        predict: Any = import_module("affectgpt_r1.evaluation.predict")
        draw = predict.sample

        def timed_sample(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            groups = draw(*given, **named)
            drawn["seconds"] += time.perf_counter() - start
            drawn["tokens"] += sum(len(sample.ids) for group in groups for sample in group)
            return groups

        predict.sample = timed_sample
        sys.argv = ["affectgpt-r1", *command(step, folder)]
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise
    import torch

    gpu = torch.cuda.is_available()
    return {
        "seconds": time.perf_counter() - began,
        "peak_bytes": used_bytes(peak=True) if gpu else None,
        "reserved_bytes": torch.cuda.max_memory_reserved() if gpu else None,
        "ram_bytes": resident_bytes(peak=True),
        **updates(folder / step),
        **({"tokens_per_s": drawn["tokens"] / drawn["seconds"]} if drawn["tokens"] else {}),
    }


def updates(run: Path) -> dict[str, Any]:
    """A run's seconds an update, and tokens a second of its rollouts; the first warms up."""
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not rows:
        return {}
    later = rows[1:] or rows
    found = {"update_s": statistics.median(row["step_time_s"] for row in later)}
    found |= {
        key: later[-1][key] for key in ("loss", "grad_norm", "sampler_drift") if key in rows[0]
    }
    if "rollout_time_s" in rows[0]:
        found["rollout_s"] = statistics.median(row["rollout_time_s"] for row in later)
        samples = sum(1 for _ in completions(run)) / len(rows)
        tokens = samples * statistics.median(row["completion_tokens"] for row in later)
        found["tokens_per_s"] = tokens / found["rollout_s"]
    return found


def completions(run: Path) -> Iterator[str]:
    """All that a run has sampled."""
    for line in (run / "rollouts.jsonl").read_text().splitlines():
        yield from json.loads(line)["completions"]


def run_step(step: str, folder: Path, tiny: bool, limit_s: float | None) -> dict[str, Any]:
    """A step in a process of its own, its output in FOLDER/STEP.log."""
    words = [sys.executable, __file__, str(folder), "--task", step, *(["--tiny"] if tiny else [])]
    hub = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    with (folder / f"{step}.log").open("w") as log:
        try:
            done = subprocess.run(
                words,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                timeout=limit_s,
                env={**os.environ, **hub},
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"took longer than {limit_s:g} s"}
    if done.returncode:
        said = (folder / f"{step}.log").read_text()
        print(f"{step} failed:\n{said[-3000:]}", file=sys.stderr)
        return {"failed": " ".join(said.splitlines()[-1:]) or f"exit {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the figures as a Markdown table."""
    keys = ("seconds", "update_s", "rollout_s", "tokens_per_s")
    print("| step | seconds | an update, s | of it rollout, s | tokens/s | GPU, GB | RAM, GB |")
    print("|---|---|---|---|---|---|---|")
    for step, row in rows.items():
        if "failed" in row:
            print(f"| {step} | {row['failed']} |  |  |  |  |  |")
            continue
        cells = [figure(row[key]) if key in row else "" for key in keys]
        cells += [figure(row[key] / 1e9) if row[key] else "" for key in ("peak_bytes", "ram_bytes")]
        print(f"| {step} | {' | '.join(cells)} |")


def main() -> None:
    """Run steps, or one of them as a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="keeps what the steps make")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS[:-1])
    parser.add_argument("--limit", type=float, help="seconds that a step may take")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes in place of the real ones")
    parser.add_argument("--out", type=Path, help="a file that gets the figures as JSON")
    parser.add_argument("--quiet", action="store_true", help="print no table")
    parser.add_argument("--task", choices=STEPS)
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    if chosen.task:
        try:
            found = work(chosen.task, folder, chosen.tiny)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            found = {"failed": f"out of memory ({' '.join(str(error).split())[:100]})"}
        print(json.dumps(found))
        return
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "figures.json"
    for step in chosen.steps:
        rows = json.loads(kept.read_text()) if kept.is_file() else {}
        rows[step] = run_step(step, folder, chosen.tiny, chosen.limit)
        kept.write_text(json.dumps(rows))
        print(f"{step}: {rows[step]}", file=sys.stderr, flush=True)
    rows = json.loads(kept.read_text()) if kept.is_file() else {}
    if chosen.out:
        chosen.out.write_text(json.dumps(rows))
    if not chosen.quiet:
        show(rows)


if __name__ == "__main__":
    main()
