"""verl: its own configuration, loader, reward managers and reward workers, in Ray; no training.

The command line's overrides go through verl's Hydra configuration as `main_ppo` reads it. Real
rows, tokenized, go through `RewardLoopManager` and so through `run_single` of the managers
`naive` (in one process) and `remote` (which pickles the function into others). verl trains on GPUs
only; what its trainer would be given is compared with this project's numbers.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import verl
from hydra import compose, initialize_config_dir
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopManager
from verl.trainer.ppo.reward import get_custom_reward_fn

from affectgpt_r1.rewards import RewardBreakdown
from rows import ROWS, UNKNOWN, expected, tokenizer

EXAMPLE = Path(__file__).resolve().parents[1] / "verl_reward.py"
PLACE = "reward.custom_reward_function"
LENGTH = 128


def main() -> None:
    """Both managers, with and without settings, and the trap of the old key."""
    assert get_custom_reward_fn(configured(f"custom_reward_function.path={EXAMPLE}")) is None
    words = tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        words.save_pretrained(folder)
        model = f"actor_rollout_ref.model.path={folder}"
        few = "reward.num_workers=1"
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            plain = configured(model, few, f"{PLACE}.path={EXAMPLE}")
            compare(rewarded(plain, words), expected())
            settings = [f"+{PLACE}.reward_kwargs.{key}" for key in ("mode=think", "format=0.2")]
            settings += ["reward.reward_manager.name=remote"]
            other = configured(model, few, f"{PLACE}.path={EXAMPLE}", *settings)
            compare(rewarded(other, words), expected(mode="think", format=0.2))
        finally:
            ray.shutdown()
    print(
        f"verl {version('verl')}: ok, {len(ROWS)} rows through RewardLoopManager in Ray: "
        "Hydra overrides, loader, run_single of naive and remote, reward_kwargs, extra infos"
    )


def configured(*overrides: str) -> Any:
    """`main_ppo`'s configuration with the command line's overrides."""
    folder = os.path.join(os.path.dirname(verl.__file__), "trainer", "config")
    with initialize_config_dir(folder, version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def rewarded(config: Any, words: Any) -> DataProto:
    """What verl's trainer is given for the rows."""
    return RewardLoopManager(config).compute_rm_score(batch(words))


def batch(words: Any) -> DataProto:
    """The rows as rollouts leave them: padded tokens, and columns of objects."""
    responses = torch.full((len(ROWS), LENGTH), words.pad_token_id)
    mask = torch.zeros_like(responses)
    for at, row in enumerate(ROWS):
        ids = [*words(row.completion, add_special_tokens=False).input_ids, words.eos_token_id]
        responses[at, : len(ids)] = torch.tensor(ids)
        mask[at, : len(ids)] = 1
    prompts = torch.ones((len(ROWS), 2), dtype=torch.long)
    columns: dict[str, Any] = {
        "data_source": ["clips"] * len(ROWS),
        "reward_model": [{"style": "rule", "ground_truth": row.labels} for row in ROWS],
        "extra_info": [{"index": at} for at in range(len(ROWS))],
    }
    return DataProto.from_dict(
        tensors={
            "prompts": prompts,
            "responses": responses,
            "attention_mask": torch.cat([torch.ones_like(prompts), mask], dim=1),
        },
        non_tensors={name: np.array(values, dtype=object) for name, values in columns.items()},
    )


def compare(given: DataProto, rows: list[RewardBreakdown]) -> None:
    """The total on the last token; every term, None as 0."""
    totals = given.batch["rm_scores"].sum(dim=1).tolist()
    assert np.allclose(totals, [row.total for row in rows], atol=1e-6), totals
    infos = given.non_tensor_batch
    assert infos["score"].tolist() == [row.total for row in rows]
    for name in set(asdict(rows[0])) - {"total"}:
        assert infos[name].tolist() == [getattr(row, name) or 0.0 for row in rows], name
    assert infos["judged"].tolist() == [float(at != UNKNOWN) for at in range(len(rows))]


if __name__ == "__main__":
    main()
