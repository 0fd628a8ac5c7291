"""The demo for several seeds: is GRPO better than cold start, and does each part of a clip count?

    python benchmarks/demo_seeds.py --out runs/seeds --seeds 0 1 2

Every seed is a whole demo (`runs/demo.sh`): its own cold start and GRPO run, on the same clips. It
is evaluated on the held-out lines after cold start, after GRPO, and after GRPO with face, voice or
words left out, greedily decoded; and after both phases as published (temperature 1, top-p 0.9,
top-k 20). Intervals are bootstrapped over lines, with the mean of the seeds' F computed on
every draw; both sides of a difference see the same draws. Finished parts are kept: an interrupted
run is started again with the same command. Some 35 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.clips import read_manifest
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import best_constant, signature
from affectgpt_r1.emotion.significance import (
    Interval,
    Statistic,
    bootstrap,
    difference,
    ew_statistic,
    mean_of,
)
from affectgpt_r1.files import own_rows

#: Further evaluations: the folder, which phase's model, and how it is asked.
EVALUATIONS = {
    "without-face": ("grpo", ["--without", "face"]),
    "without-voice": ("grpo", ["--without", "voice"]),
    "without-words": ("grpo", ["--without", "words"]),
    "cold-start-published": ("cold-start", ["--decode", "published"]),
    "grpo-published": ("grpo", ["--decode", "published"]),
}


def main() -> None:
    """Run what is missing, then print the table and write `summary.json`."""
    parser = argparse.ArgumentParser(description="Run the demo for several seeds.")
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    out: Path = arguments.out
    data = out / f"seed-{arguments.seeds[0]}" / "data"
    for seed in arguments.seeds:
        run_seed(out / f"seed-{seed}", data, seed)
    summary = summarise(out, data, arguments.seeds)
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    for line in table(summary):
        print(line)


def run_seed(folder: Path, data: Path, seed: int) -> None:
    """A demo and the evaluations with a part left out; what is finished stays."""
    if not (folder / "evaluation/grpo/report.html").is_file():
        scripts = Path(sys.executable).parent
        subprocess.run(
            ["sh", "runs/demo.sh", str(folder)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "PATH": f"{scripts}:{os.environ['PATH']}",
                "SEED": str(seed),
                "DATA": str(data),
            },
        )
    for name, (phase, options) in EVALUATIONS.items():
        target = folder / "evaluation" / name
        if not (target / "evaluation.json").is_file():
            command = [sys.executable, "-m", "affectgpt_r1.cli", "evaluate", str(folder / phase)]
            command += [str(data / "test.jsonl"), "--cache", str(data / "features")]
            command += ["--out", str(target), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def summarise(out: Path, data: Path, seeds: Sequence[int]) -> dict[str, object]:
    """Means over the seeds with their intervals over lines."""
    lexicon = Lexicon.load("builtin")
    clips = read_manifest(data / "test.jsonl")
    labels = [clip.labels or () for clip in clips]
    groups = [clip.group or clip.id for clip in clips]
    constant_words, constant_f = best_constant(labels, lexicon)

    def answers(name: str) -> list[list[tuple[str, ...]]]:
        found = [
            own_rows(out / f"seed-{seed}/evaluation" / name / "predictions.jsonl") for seed in seeds
        ]
        return [[tuple(row["words"]) for row in rows] for rows in found]

    def system(runs: Sequence[Sequence[tuple[str, ...]]]) -> Statistic:
        return mean_of([ew_statistic(list(zip(labels, run, strict=True)), lexicon) for run in runs])

    def interval(one: Statistic, other: Statistic | None = None) -> dict[str, float]:
        return _row(bootstrap(one if other is None else difference(one, other), groups))

    best = system([[constant_words] * len(clips)])
    system_of = {name: system(answers(name)) for name in ("cold-start", "grpo", *EVALUATIONS)}
    cold, final = system_of["cold-start"], system_of["grpo"]
    published = system_of["cold-start-published"], system_of["grpo-published"]
    return {
        "seeds": list(seeds),
        "clips": len(clips),
        "lines": len(set(groups)),
        "signature": signature(lexicon),
        "constant": {"words": list(constant_words), "f": constant_f},
        "by_seed": {
            name: [bootstrap(system([run]), groups, resamples=1).value for run in answers(name)]
            for name in ("cold-start", "grpo")
        },
        "cold start": interval(cold),
        "GRPO": interval(final),
        "GRPO - cold start": interval(final, cold),
        "GRPO - best constant": interval(final, best),
        "cold start - best constant": interval(cold, best),
        **{
            f"GRPO without {part} - GRPO": interval(system_of[f"without-{part}"], final)
            for part in ("face", "voice", "words")
        },
        "cold start, decoded as published": interval(published[0]),
        "GRPO, decoded as published": interval(published[1]),
        "GRPO - cold start, decoded as published": interval(published[1], published[0]),
        "distinct answers": [len({frozenset(words) for words in run}) for run in answers("grpo")],
        "words per answer": [
            sum(len(words) for words in run) / len(run)
            for name in ("cold-start", "grpo")
            for run in answers(name)
        ],
    }


def _row(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def table(summary: dict[str, object]) -> list[str]:
    """The summary as the lines of a Markdown table."""
    constant = summary["constant"]
    assert isinstance(constant, dict)
    lines = [
        f"{summary['clips']} held-out clips of {summary['lines']} lines, seeds {summary['seeds']}, "
        f"`{summary['signature']}`",
        "",
        "| | EW F, mean of the seeds | 95 % interval over lines |",
        "|---|---|---|",
        f"| best constant answer ({', '.join(constant['words'])}) | {constant['f']:.3f} | |",
    ]
    for name, value in summary.items():
        if isinstance(value, dict) and "low" in value:
            lines.append(
                f"| {name} | {value['value']:.3f} | {value['low']:.3f} to {value['high']:.3f} |"
            )
    extra = ("by_seed", "distinct answers", "words per answer")
    lines += [f"{name}: {json.dumps(summary[name])}" for name in extra]
    return lines


if __name__ == "__main__":
    main()
