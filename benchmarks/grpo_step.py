"""A whole GRPO step against stock TRL: time, peak memory, scoring alone, and equal numbers.

    python benchmarks/grpo_step.py --setting short|long [--json]

Both train the same language model with the same adapter, on prompts of the same length, under the
same reward. Each run of a side is a fresh process, the sides take turns, and the second step of a
process is timed. Ours also carries a clip's features through the fusion. TRL runs as it comes
(with gradient checkpointing) and without checkpointing; so does ours. The ratios are those of
`trl` to the side that the setting names, and of like to like. `gpu-short` and `gpu-long` are for
a machine with a GPU: a randomly initialised model of Qwen2.5-7B's shape in bfloat16.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured.

    Attributes:
        prompts, prompt_tokens, group, completion_tokens: B, P, G, T.
        ours: the side that the main ratios are of.
        on_gpu: Qwen2.5-7B's shape in bfloat16, else SmolLM2-135M in float32.
        rounds: fresh processes of the two main sides; the others run once.
        compared: prompts in the comparison of losses and gradients.
    """

    completion_tokens: int
    ours: str = "ours"
    on_gpu: bool = False
    rounds: int = 3
    compared: int = 4
    prompts: int = 4
    prompt_tokens: int = 150
    group: int = 8


SETTINGS = {
    "short": Setting(16),
    "long": Setting(96, ours="ours_checkpointing", rounds=2, compared=1),
    "gpu-short": Setting(16, on_gpu=True),
    "gpu-long": Setting(256, ours="ours_checkpointing", on_gpu=True),
}
#: `trl` is as it comes, with gradient checkpointing; `ours_in_parts` makes the same update from one
#: prompt at a time.
SIDES = ("ours", "ours_checkpointing", "ours_in_parts", "trl", "trl_without_checkpointing")
WORDS = "well the rain came down on old roofs while people in the house spoke of a long quiet day "


def language_model(setting: Setting) -> tuple[Any, Any]:
    """The language model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    from affectgpt_r1.model.profiles import NANO_FOLDER
    from affectgpt_r1.model.weights import SMOLLM2, load_language_model

    if not setting.on_gpu:
        model = load_language_model(SMOLLM2, profile="small")
        return model, AutoTokenizer.from_pretrained(model.name_or_path)
    # No weights can be fetched: any words will do.
    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)
    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), tokenizer


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
    """One whole step, then scoring alone, in this process."""
    from affectgpt_r1.model.processing import AffectGPTProcessor
    from trl_pair import our_part, our_trainer, trl_inputs, trl_trainer

    model, tokenizer = language_model(setting)
    common: dict[str, Any] = {
        "group": setting.group,
        "longest": setting.completion_tokens,
        "bf16": setting.on_gpu,
        "steps": 2,
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
    trainer.add_callback(step_clock(steps))
    trainer.train()
    figures = {"step_s": steps[1][0], "peak_bytes": float(steps[1][1] - loaded)}
    if ours:
        row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
        figures |= {name: row[name] for name in ("rollout_time_s", "reward_time_s")}
        figures["completion_tokens"] = row["completion_tokens"]
        if row["frac_reward_zero_std"]:
            raise SystemExit("a group did not vary: ours would have had less to do")
        part = our_part(trainer, case)
        figures["score_s"] = timed(
            lambda: trainer.compute_loss(trainer.affect_model.train(), part).backward()
        )
        return figures
    name = "completions/mean_length"
    figures["completion_tokens"] = [r[name] for r in trainer.state.log_history if name in r][-1]
    inputs = trl_inputs(case, tokenizer.pad_token_id, trainer.args.device)
    figures["score_s"] = timed(
        lambda: trainer._compute_loss(trainer.model.train(), inputs).backward()
    )
    return figures


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
    hidden, inner, layers, heads, key_heads, width, vocabulary = (
        (3584, 18944, 28, 28, 4, 128, 152064)
        if setting.on_gpu
        else (576, 1536, 30, 9, 3, 64, 49152)
    )
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


def run_child(task: str, side: str, name: str, folder: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--setting", name, "--task", task, "--side", side]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str) -> dict[str, Any]:
    """All sides in turn: medians, times as opponent over ours, memory as ours over opponent."""
    setting = SETTINGS[name]
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(setting.rounds):
            for side in SIDES if number == 0 else (setting.ours, "trl"):
                folder = Path(temporary) / f"{side}-{number}"
                runs[side].append(run_child("step", side, name, folder))
                print(f"round {number + 1}, {side}: {runs[side][-1]}", file=sys.stderr, flush=True)
        rows: dict[str, tuple[float, float]] = {}
        if not setting.on_gpu:
            for side in ("ours", "trl"):
                run_child("equal", side, name, Path(temporary) / "equal")
            rows = differences(Path(temporary) / "equal")
    sides = {
        side: {key: statistics.median(r[key] for r in found) for key in found[0]}
        for side, found in runs.items()
    }
    ours, trl = sides[setting.ours], sides["trl"]
    like = {
        "with": (sides["ours_checkpointing"], trl),
        "without": (sides["ours"], sides["trl_without_checkpointing"]),
    }
    theory = forward_flops(setting, shared=False) / forward_flops(setting, shared=True)
    peak = matmul_peak()
    # The backward pass by the states is as much work as the forward pass; checkpointing does not
    # count as work.
    scored = 2 * forward_flops(setting, shared=True) / sides["ours"]["score_s"]
    rows_a_step = setting.prompts * setting.group
    return {
        "setting": name,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": setting.rounds,
        "ours": setting.ours,
        "step_ratio": trl["step_s"] / ours["step_s"],
        "step_ratios": [
            other["step_s"] / own["step_s"]
            for own, other in zip(runs[setting.ours], runs["trl"], strict=True)
        ],
        "score_ratio": trl["score_s"] / ours["score_s"],
        "theory_ratio": theory,
        "memory_ratio": ours["peak_bytes"] / trl["peak_bytes"],
        "like_to_like": {
            f"{name} checkpointing": {
                "step_ratio": other["step_s"] / own["step_s"],
                "score_ratio": other["score_s"] / own["score_s"],
                "memory_ratio": own["peak_bytes"] / other["peak_bytes"],
            }
            for name, (own, other) in like.items()
        },
        "reward_share": ours["reward_time_s"] / ours["step_s"],
        "matmul_share": scored / peak,
        "matmul_peak_gflops": peak / 1e9,
        "tokens_per_s": {
            side: rows_a_step * sides[side]["completion_tokens"] / sides[side]["step_s"]
            for side in SIDES
        },
        "loss_rel_diff": max((loss for loss, _ in rows.values()), default=None),
        "grad_rel_diff": max((gradient for _, gradient in rows.values()), default=None),
        "differences": rows,
        "sides": sides,
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures for people."""
    print(f"GRPO step, setting {found['setting']}, {found['rounds']} rounds, {found['machine']}")
    for side, row in found["sides"].items():
        print(
            f"  {side:27} step {row['step_s']:7.2f} s   scoring {row['score_s']:7.2f} s   "
            f"peak {row['peak_bytes'] / 1e9:6.2f} GB   {row['completion_tokens']:.1f} tokens"
        )
    for key in (
        "step_ratio",
        "score_ratio",
        "theory_ratio",
        "memory_ratio",
        "reward_share",
        "matmul_share",
        "loss_rel_diff",
        "grad_rel_diff",
    ):
        value = found[key]
        print(f"  {key:16} {'not run' if value is None else f'{value:.3g}'}")
    for name, ratios in found["like_to_like"].items():
        print(f"  {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in ratios.items()))


def main() -> None:
    """Run the sides, or one side as a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--setting", choices=SETTINGS, default="short")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--task", choices=("all", "step", "equal"), default="all")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.task == "all":
        found = measure(chosen.setting)
        print(json.dumps(found)) if chosen.json else show(found)
        return
    work = child if chosen.task == "step" else equal
    print(json.dumps(work(chosen.side, SETTINGS[chosen.setting], chosen.folder)))


if __name__ == "__main__":
    main()
