"""A whole GRPO step against stock TRL: time, peak memory, scoring alone, and equal numbers.

    python benchmarks/grpo_step.py --setting short|long [--json] [--rounds N] [--limit SECONDS]

Both train the same language model with the same adapter, on prompts of the same length, under the
same reward. Each run of a side is a fresh process, the sides take turns, and all steps of a process
but its first are timed. Ours also carries a clip's features through the fusion. TRL runs as it
comes (with gradient checkpointing) and without checkpointing; so does ours. The ratios are those of
`trl` to the side that the setting names, and of like to like. `gpu-short`, `gpu-long`, `gpu-wide`
are for a machine with a GPU: a randomly initialised model of Qwen2.5-7B's shape in bfloat16; `tiny`
tries the same in a minute anywhere. A side that runs out of memory or time is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isinf
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

#: `trl` is as it comes, with gradient checkpointing; `ours_in_parts` makes the same update from one
#: prompt at a time.
SIDES = ("ours", "ours_checkpointing", "ours_in_parts", "trl", "trl_without_checkpointing")
_IN_WHOLE = tuple(side for side in SIDES if side != "ours_in_parts")


class Shape(NamedTuple):
    """Of a language model: widths, layers, heads, entries of the vocabulary."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int


#: SmolLM2-135M, Qwen2.5-7B, and one that takes no time.
SHAPES = {
    "small": Shape(576, 1536, 30, 9, 3, 64, 49152),
    "full": Shape(3584, 18944, 28, 28, 4, 128, 152064),
    "tiny": Shape(64, 128, 2, 4, 2, 16, 4096),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured.

    Attributes:
        prompts, prompt_tokens, group, completion_tokens: B, P, G, T.
        ours: the side that the main ratios are of.
        shape: small: SmolLM2-135M in float32; another: random weights of that shape in bfloat16.
        rounds: fresh processes of the two main sides; the others run once.
        steps: of a process; the first is not timed.
        compared: prompts in the comparison of losses and gradients.
        sides: which run at all.
    """

    completion_tokens: int
    ours: str = "ours"
    shape: str = "small"
    rounds: int = 3
    steps: int = 2
    compared: int = 4
    prompts: int = 4
    prompt_tokens: int = 150
    group: int = 8
    sides: tuple[str, ...] = SIDES


_RANDOM: dict[str, Any] = {"rounds": 1, "sides": _IN_WHOLE}
_LONG: dict[str, Any] = {
    "ours": "ours_checkpointing",
    "shape": "full",
    "rounds": 1,
    "steps": 3,
    "sides": ("ours_checkpointing", "trl"),
}
SETTINGS = {
    "short": Setting(16),
    "long": Setting(96, ours="ours_checkpointing", rounds=2, compared=1),
    "gpu-short": Setting(16, shape="full", steps=4, **_RANDOM),
    "gpu-long": Setting(256, **_LONG),
    "gpu-wide": Setting(128, **_LONG, prompts=8, group=16),
    "tiny": Setting(6, shape="tiny", steps=3, **_RANDOM),
}
WORDS = "well the rain came down on old roofs while people in the house spoke of a long quiet day "


def language_model(setting: Setting) -> tuple[Any, Any]:
    """The language model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from affectgpt_r1.model.profiles import NANO_FOLDER
    from affectgpt_r1.model.weights import SMOLLM2, load_language_model

    if setting.shape == "small":
        model = load_language_model(SMOLLM2, profile="small")
        return model, AutoTokenizer.from_pretrained(model.name_or_path)
    # No weights can be fetched: any words will do.
    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)
    config = qwen_config(SHAPES[setting.shape], tokenizer)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), tokenizer


def qwen_config(shape: Shape, tokenizer: Any) -> Any:
    """Qwen2.5's configuration of a shape, with a tokenizer of fewer entries."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def text_of_length(length: Callable[[str], int], count: int) -> str:
    """A text whose length, as `length` counts tokens, is exactly `count`."""
    words: list[str] = []
    while length(" ".join(words)) < count:
        words.append(WORDS.split()[len(words) % len(WORDS.split())])
    while (found := length(" ".join(words))) != count:
        words[-1] = words[-1][:-1] if found > count else words[-1] + "a"
    return " ".join(words)


def text_of_tokens(tokenizer: Any, count: int) -> str:
    """A text of exactly `count` tokens."""
    return text_of_length(lambda text: len(tokenizer(text).input_ids), count)


def clips_of_tokens(processor: Any, count: int, clips: int) -> list[Any]:
    """Clips whose whole prompts have exactly `count` tokens."""
    from affectgpt_r1.clips import Clip
    from affectgpt_r1.dialogue import prompt_pieces

    def length(text: str) -> int:
        return len(processor.prompt(prompt_pieces(text)).ids)

    subtitle = text_of_length(length, count)
    return [Clip(id=f"c{i}", subtitle=subtitle, labels=("happy",)) for i in range(clips)]


def resident_bytes(peak: bool = False) -> int:
    """Resident memory of this process, now or at its highest since `forget_peak`."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {key}")


def used_bytes(peak: bool = False) -> int:
    """Memory in use: the GPU's where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    return resident_bytes(peak)


def forget_peak() -> None:
    """Start the peak anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def timed(call: Any) -> float:
    """Seconds of a call, the GPU's work included."""
    import torch

    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def print_cells(
    what: str,
    measure: Callable[[int], list[dict[str, Any]]],
    lines: Callable[[list[dict[str, Any]]], Sequence[str]],
) -> None:
    """A benchmark of cells as a command: measure, then print lines for people, or JSON."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    cells = measure(chosen.repeats)
    print(json.dumps({"cells": cells}) if chosen.json else "\n".join(lines(cells)))


def step_clock(steps: list[tuple[float, int]]) -> Any:
    """A callback that notes each step's seconds, from the batch to the updated weights, and peak.

    The checkpoint that ours writes after its last step is in neither.
    """
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began_s = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            steps.append((time.perf_counter() - self.began_s, used_bytes(peak=True)))
            self.began_s = time.perf_counter()

    return Clock()


def case_of(setting: Setting, tokenizer: Any, ragged: bool) -> Any:
    """Prompts and random completions, of all lengths up to T or all of length T."""
    import torch

    from trl_pair import Case

    ids = tokenizer(text_of_tokens(tokenizer, setting.prompt_tokens)).input_ids
    vocabulary = len(tokenizer)
    if ragged:
        few = [ids] * setting.compared
        return Case.random(few, setting.group, setting.completion_tokens, vocabulary)
    prompts = [ids] * setting.prompts
    generator = torch.Generator().manual_seed(0)
    shape = (setting.prompts, setting.group, setting.completion_tokens)
    full = torch.randint(10, vocabulary, shape, generator=generator).tolist()
    return Case(prompts, full, torch.randn(shape[:2], generator=generator), drift=0.0)


def child(side: str, setting: Setting, folder: Path) -> dict[str, float]:
    """Whole steps, then scoring alone, in this process."""
    from affectgpt_r1.model.processing import AffectGPTProcessor
    from trl_pair import our_part, our_trainer, trl_inputs, trl_trainer

    model, tokenizer = language_model(setting)
    common: dict[str, Any] = {
        "group": setting.group,
        "longest": setting.completion_tokens,
        "bf16": setting.shape != "small",
        "steps": setting.steps,
    }
    case = case_of(setting, tokenizer, ragged=False)
    ours = side.startswith("ours")
    if ours:
        processor = AffectGPTProcessor(tokenizer)
        clips = clips_of_tokens(processor, setting.prompt_tokens, setting.prompts)
        trainer: Any = our_trainer(
            model,
            tokenizer,
            folder,
            clips=clips,
            batch_size=setting.prompts,
            checkpointing=side == "ours_checkpointing",
            parts=setting.prompts if side == "ours_in_parts" else 1,
            **common,
        )
    else:
        text = text_of_tokens(tokenizer, setting.prompt_tokens)
        other: dict[str, Any] = {} if side == "trl" else {"gradient_checkpointing": False}
        trainer = trl_trainer(
            model, tokenizer, folder, prompts=[text] * setting.prompts, **common, **other
        )
    loaded = used_bytes()
    forget_peak()
    steps: list[tuple[float, int]] = []
    rollouts: list[float] = []
    trainer.add_callback(step_clock(steps))
    if not ours:
        draw = trainer._generate_and_score_completions

        def drawn(*given: Any) -> Any:
            found: list[Any] = []
            rollouts.append(timed(lambda: found.append(draw(*given))))
            return found[0]

        trainer._generate_and_score_completions = drawn
    trainer.train()
    figures = {
        "step_s": statistics.median(seconds for seconds, _ in steps[1:]),
        "loaded_bytes": float(loaded),
        "peak_bytes": float(max(peak for _, peak in steps[1:]) - loaded),
    }
    if ours:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines][1:]
        for name in ("rollout_time_s", "reward_time_s", "completion_tokens", "sampler_drift"):
            figures[name] = statistics.median(row[name] for row in rows)
        if any(row["frac_reward_zero_std"] for row in rows):
            raise SystemExit("a group did not vary: ours would have had less to do")
        part = our_part(trainer, case)
        model = trainer.affect_model.train()

        def loss() -> Any:
            return trainer.compute_loss(model, part)
    else:
        figures["rollout_time_s"] = statistics.median(rollouts[1:])
        name = "completions/mean_length"
        figures["completion_tokens"] = [r[name] for r in trainer.state.log_history if name in r][-1]
        inputs = trl_inputs(case, tokenizer.pad_token_id, trainer.args.device)
        model = trainer.model.train()

        def loss() -> Any:
            return trainer._compute_loss(model, inputs)

    scores = []
    for _ in range(setting.steps - 1):
        model.zero_grad()
        scores.append(timed(lambda: loss().backward()))
    return figures | {"score_s": statistics.median(scores)}


def equal(side: str, setting: Setting, folder: Path) -> dict[str, float]:
    """Loss and gradient for each loss type, with and without KL, kept in `folder`."""
    import torch

    from trl_pair import LOSSES, our_outcome, our_trainer, trl_outcome, trl_trainer

    model, tokenizer = language_model(setting)
    case = case_of(setting, tokenizer, ragged=True)
    common: dict[str, Any] = {"group": setting.group, "longest": setting.completion_tokens}
    outcomes = {}
    if side == "ours":
        ours = our_trainer(model, tokenizer, folder / side, **common)
    else:
        text = text_of_tokens(tokenizer, setting.prompt_tokens)
        prompts = [text] * setting.prompts
        theirs = trl_trainer(model, tokenizer, folder / side, prompts=prompts, **common)
    for loss_type in LOSSES:
        for beta in (0.0, 0.1):
            if side == "ours":
                ours.recipe = ours.recipe.model_copy(update={"loss_type": loss_type, "beta": beta})
                outcome = our_outcome(ours, case)
            else:
                theirs.loss_type, theirs.beta = loss_type, beta
                outcome = trl_outcome(theirs, case, tokenizer.pad_token_id)
            outcomes[f"{loss_type}, beta {beta}"] = (outcome.loss, outcome.gradient)
    torch.save(outcomes, folder / f"{side}.pt")
    return {}


def differences(folder: Path) -> dict[str, tuple[float, float]]:
    """Relative differences of loss and gradient that `equal` left in `folder`."""
    import torch

    from trl_pair import Outcome

    ours, theirs = (torch.load(folder / f"{side}.pt") for side in ("ours", "trl"))
    return {name: Outcome(*ours[name]).difference(Outcome(*theirs[name])) for name in ours}


def forward_flops(setting: Setting, *, shared: bool) -> float:
    """Floating-point operations of one forward pass: layers, attention and head."""
    hidden, inner, layers, heads, key_heads, width, vocabulary = SHAPES[setting.shape]
    b, p = setting.prompts, setting.prompt_tokens
    g, t = setting.group, setting.completion_tokens
    a_token = 2 * (2 * hidden * heads * width + 2 * hidden * key_heads * width + 3 * hidden * inner)
    rank = 16
    a_token += (
        2
        * rank
        * (
            3 * (hidden + inner)  # gate, up, down
            + 2 * (hidden + heads * width)
            + 2 * (hidden + key_heads * width)
        )
    )
    a_pair = 4 * heads * width
    tokens = b * (p + g * t) if shared else b * g * (p + t)
    causal = p * p / 2
    own = t * p + t * t / 2
    pairs = b * (causal + g * own) if shared else b * g * (causal + own)
    return layers * (tokens * a_token + pairs * a_pair) + 2 * b * g * t * hidden * vocabulary


def matmul_peak() -> float:
    """Operations a second of a large matrix product on this machine."""
    import torch

    size, device = (8192, "cuda") if torch.cuda.is_available() else (2048, "cpu")
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    one, two = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    one @ two
    return 2 * size**3 / min(timed(lambda: one @ two) for _ in range(5))


def run_child(
    task: str, side: str, name: str, folder: Path, limit_s: float = inf
) -> dict[str, Any]:
    """Run one side in a process of its own: its figures, or `failed` and why."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--setting", name, "--task", task, "--side", side]
    try:
        done = subprocess.run(
            [*command, "--folder", str(folder)],
            capture_output=True,
            text=True,
            timeout=None if isinf(limit_s) else limit_s,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {limit_s:.0f} s"}
    if done.returncode:
        print(f"{side} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
        return {"failed": " ".join(done.stderr.splitlines()[-1:]) or f"exit {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, the GPU's or the machine's."""
    import torch

    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def measure(
    name: str,
    rounds: int | None = None,
    limit_s: float = inf,
    budget_s: float = inf,
) -> dict[str, Any]:
    """All sides in turn: medians, times as opponent over ours, memory as ours over opponent.

    Args:
        name: of the setting.
        rounds: in place of the setting's.
        limit_s: of one process.
        budget_s: of all of them.
    """
    setting = SETTINGS[name]
    rounds = setting.rounds if rounds is None else rounds
    ends_s = time.monotonic() + budget_s
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in setting.sides}
    rows: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(rounds):
            for side in setting.sides if number == 0 else (setting.ours, "trl"):
                folder = Path(temporary) / f"{side}-{number}"
                left_s = max(min(limit_s, ends_s - time.monotonic()), 0.0)
                runs[side].append(run_child("step", side, name, folder, left_s))
                print(f"round {number + 1}, {side}: {runs[side][-1]}", file=sys.stderr, flush=True)
        if setting.shape == "small":
            for side in ("ours", "trl"):
                run_child("equal", side, name, Path(temporary) / "equal")
            rows = differences(Path(temporary) / "equal")
    failed = {side: why for side, found in runs.items() for r in found if (why := r.get("failed"))}
    sides = {
        side: {key: statistics.median(r[key] for r in found) for key in found[0]}
        for side, found in runs.items()
        if side not in failed
    }
    peak = matmul_peak()
    theory = forward_flops(setting, shared=False) / forward_flops(setting, shared=True)
    for side, row in sides.items():
        # The backward pass by the states is as much work as the forward pass; checkpointing does
        # not count as work.
        flops = 2 * forward_flops(setting, shared=side.startswith("ours"))
        row["matmul_share"] = flops / row["score_s"] / peak
        tokens = setting.prompts * setting.group * row["completion_tokens"]
        row["tokens_per_s"] = tokens / row["step_s"]
    return {
        "setting": name,
        "machine": machine(),
        "rounds": rounds,
        "steps_timed": setting.steps - 1,
        "ours": setting.ours,
        **ratios(sides, setting.ours, "trl"),
        "step_ratios": [
            other["step_s"] / own["step_s"]
            for own, other in zip(runs[setting.ours], runs["trl"], strict=True)
            if "failed" not in own | other
        ],
        "theory_ratio": theory,
        "like_to_like": {
            "with checkpointing": ratios(sides, "ours_checkpointing", "trl"),
            "without checkpointing": ratios(sides, "ours", "trl_without_checkpointing"),
        },
        "reward_share": (
            sides[setting.ours]["reward_time_s"] / sides[setting.ours]["step_s"]
            if setting.ours in sides
            else None
        ),
        "matmul_peak_gflops": peak / 1e9,
        "loss_rel_diff": max((loss for loss, _ in rows.values()), default=None),
        "grad_rel_diff": max((gradient for _, gradient in rows.values()), default=None),
        "differences": rows,
        "sides": sides,
        "failed": failed,
    }


def ratios(sides: Mapping[str, dict[str, float]], own: str, other: str) -> dict[str, float | None]:
    """Times as opponent over ours, memory as ours over opponent; None where a side has failed."""
    both = own in sides and other in sides
    return {
        "step_ratio": sides[other]["step_s"] / sides[own]["step_s"] if both else None,
        "score_ratio": sides[other]["score_s"] / sides[own]["score_s"] if both else None,
        "memory_ratio": sides[own]["peak_bytes"] / sides[other]["peak_bytes"] if both else None,
    }


def machine() -> str:
    """What the figures are of."""
    import torch

    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


def show(found: dict[str, Any]) -> None:
    """Print the figures for people."""
    print(
        f"GRPO step, setting {found['setting']}, {found['rounds']} rounds of "
        f"{found['steps_timed']} timed steps, {found['machine']}"
    )
    for side, row in found["sides"].items():
        print(
            f"  {side:25} step {row['step_s']:7.2f} s  rollout {row['rollout_time_s']:7.2f}  "
            f"scoring {row['score_s']:7.2f}  {row['tokens_per_s']:7.0f} tokens/s  "
            f"MFU {row['matmul_share']:4.0%}  peak {row['peak_bytes'] / 1e9:6.2f} GB over "
            f"{row['loaded_bytes'] / 1e9:.2f}  {row['completion_tokens']:.1f} tokens"
            + (f"  drift {row['sampler_drift']:.1e}" if "sampler_drift" in row else "")
        )
    for side, why in found["failed"].items():
        print(f"  {side:25} {why}")
    for key in (
        *("step_ratio", "score_ratio", "theory_ratio", "memory_ratio", "reward_share"),
        *("matmul_peak_gflops", "loss_rel_diff", "grad_rel_diff"),
    ):
        print(f"  {key:18} {figure(found[key])}")
    for name, both in found["like_to_like"].items():
        print(f"  {name}: " + ", ".join(f"{key} {figure(value)}" for key, value in both.items()))


def figure(value: float | None) -> str:
    """Three digits, where there is a value."""
    return "not run" if value is None else f"{value:.3g}"


def main() -> None:
    """Run the sides, or one side as a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--setting", choices=SETTINGS, default="short")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="a file that gets the JSON object too")
    parser.add_argument("--rounds", type=int, help="processes of the two main sides")
    parser.add_argument("--limit", type=float, default=inf, help="seconds of a process at most")
    parser.add_argument("--budget", type=float, default=inf, help="seconds of all of them")
    parser.add_argument("--task", choices=("all", "step", "equal"), default="all")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    setting = SETTINGS[chosen.setting]
    if chosen.task == "all":
        found = measure(chosen.setting, chosen.rounds, chosen.limit, chosen.budget)
        if chosen.out:
            chosen.out.write_text(json.dumps(found))
        print(json.dumps(found)) if chosen.json else show(found)
        return
    work = child if chosen.task == "step" else equal
    figures: dict[str, Any]
    try:
        figures = work(chosen.side, setting, chosen.folder)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        figures = {"failed": f"out of memory ({' '.join(str(error).split())[:100]})"}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
