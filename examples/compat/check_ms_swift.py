"""ms-swift: `swift rlhf` with the plug-in, GRPO steps of a tiny model on the CPU included.

The command line goes to ms-swift's own entry point. The model has two random layers and has been
taught two answers, so that rewards differ; each completion that ms-swift logged, with the rewards
it computed, is compared with this project's numbers. Before that, the rows go through
`score_completions`, which its trainer calls, as samples of their own.
"""

from __future__ import annotations

import json
import math
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from swift import rlhf_main
from swift.rewards import orms
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import score_completions
from transformers import Qwen2Config, Qwen2ForCausalLM

from affectgpt_r1.rewards import RewardRule
from affectgpt_r1.rewards.adapters import EmotionReward
from rows import ROWS, UNKNOWN, expected, tokenizer

EXAMPLE = Path(__file__).resolve().parents[1] / "ms_swift_plugin.py"
SYSTEM, QUESTION = "Listen.", "How does she feel?"
PROMPT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
HAPPY, SAD = "<answer>happy</answer>", "<answer>sad</answer>"
LABELS = (["joyful", "glad"], ["qwertyuiop"])  # known, unknown
STEPS = 4


def main() -> None:
    """Train, then the rows: the command line is what registers the rewards."""
    with tempfile.TemporaryDirectory() as folder:
        logged, completions = trained(Path(folder))
    assert sum("rewards/EmotionAccuracy/mean" in row for row in logged) == STEPS, logged
    assert any(row.get("reward_std", 0) > 0.1 for row in logged), logged
    compared = compare(completions)
    score()
    print(
        f"ms-swift {version('ms-swift')}: ok, swift rlhf took {STEPS} GRPO steps, "
        f"{compared} completions with their rewards compared; {len(ROWS)} rows through "
        "score_completions"
    )


def trained(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The metrics of each step, and its completions with their rewards as ms-swift wrote them."""
    model, rows = folder / "model", folder / "rows.jsonl"
    taught(model)
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    rows.write_text("".join(json.dumps(asked | {"labels": words}) + "\n" for words in LABELS * 4))
    settings = {
        "rlhf_type": "grpo",
        "external_plugins": EXAMPLE,
        "reward_funcs": ("emotion_accuracy", "emotion_format"),
        "reward_weights": (1, 0.2),
        "model": model,
        "model_type": "qwen2",
        "template": "qwen2_5",
        "system": SYSTEM,
        "tuner_type": "full",
        "torch_dtype": "float32",
        "dataset": rows,
        "dataset_shuffle": "false",
        "train_dataloader_shuffle": "false",
        "check_model": "false",
        "use_vllm": "false",
        "num_generations": 8,
        "per_device_train_batch_size": 16,
        "max_completion_length": 32,
        "max_steps": STEPS,
        "learning_rate": 1e-4,
        "gradient_checkpointing": "false",
        "logging_steps": 1,
        "log_completions": "true",
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": folder / "out",
    }
    line: list[str] = []
    for name, value in settings.items():
        line += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    logged = rlhf_main(line)["log_history"]
    (written,) = (folder / "out").rglob("completions.jsonl")
    steps = [json.loads(row) for row in written.read_text().splitlines()]
    # The last step is written once more at the end.
    return logged, list({step["step"][0]: step for step in steps}.values())


def taught(folder: Path) -> None:
    """Save a model that gives either of two answers to the one question."""
    torch.manual_seed(0)
    words = tokenizer()
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    prompt = words(PROMPT).input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = torch.zeros(())
        for answer in (HAPPY, SAD):
            reply = [*words(answer).input_ids, words.eos_token_id]
            labels = torch.tensor([[-100] * len(prompt) + reply])
            loss = loss + model(input_ids=torch.tensor([prompt + reply]), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def compare(steps: list[dict[str, Any]]) -> int:
    """How many completions were logged; each has this project's rewards, half of them None."""
    accuracy = EmotionReward(RewardRule(format=0.0, length_penalty="p3"))
    form = EmotionReward(RewardRule(accuracy=0.0))
    judged: set[str] = set()
    for step in steps:
        texts, rewards = step["completion"], step["EmotionAccuracy"]
        known = [at for at, value in enumerate(rewards) if not math.isnan(value)]
        assert len(known) == len(texts) // 2, step  # the other half's labels are in no lexicon
        kept = [texts[at] for at in known]
        assert [rewards[at] for at in known] == accuracy(kept, labels=[LABELS[0]] * len(kept))
        assert step["EmotionFormat"] == form(texts, labels=[LABELS[0]] * len(texts))
        judged |= {*kept}
    assert {HAPPY, SAD} <= judged, judged
    return sum(len(step["completion"]) for step in steps)


def score() -> None:
    """The rows as samples of their own: totals and terms, None where nothing can be said."""
    rewards = [orms[name](args=None) for name in ("emotion", "emotion_accuracy", "emotion_format")]
    samples = [
        GRPOSample(
            messages=[
                {"role": "user", "content": QUESTION},
                {"role": "assistant", "content": row.completion},
            ],
            extra={"labels": row.labels},
        )
        for row in ROWS
    ]
    given = score_completions(samples, rewards, [None] * 3, False, torch.device("cpu"))
    for at, (row, (total, accuracy, form)) in enumerate(
        zip(expected(), given.tolist(), strict=True)
    ):
        assert form == row.format
        if at == UNKNOWN:
            assert math.isnan(total)
            assert math.isnan(accuracy)
            continue
        assert row.accuracy is not None
        assert abs(total - row.total) < 1e-6, (at, total, row)
        assert abs(accuracy - row.accuracy * row.penalty) < 1e-6, (at, accuracy, row)


if __name__ == "__main__":
    main()
