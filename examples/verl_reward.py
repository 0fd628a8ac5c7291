"""The emotion reward in verl 0.9.1, a completion at a time.

    python -m verl.trainer.main_ppo ... \
      reward.custom_reward_function.path=examples/verl_reward.py \
      +reward.custom_reward_function.reward_kwargs.length_penalty=p2 \
      +reward.custom_reward_function.reward_kwargs.format=0.2

A row's `reward_model.ground_truth` holds the labels: a list, or a text that names them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from affectgpt_r1.config import LengthPenalty
from affectgpt_r1.rewards import RewardRule
from affectgpt_r1.rewards.adapters import EmotionReward


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    length_penalty: LengthPenalty = "p3",
    lexicon: str = "builtin",
    folder: str | None = None,
    **rule: Any,
) -> dict[str, float]:
    """The total as `score`, and every term; the same keys, all floats, on every call.

    Args:
        data_source, extra_info: verl's own; not read.
        solution_str: the completion.
        ground_truth: the labels.
        length_penalty: as in `RewardRule`.
        lexicon, folder: as in `Lexicon.load`.
        **rule: more of `RewardRule`: mode, gate, and the weights.
    """
    # Made on every call, which takes microseconds: verl's `remote` manager pickles this function
    # with what it refers to, and could not pickle a cache.
    asked = RewardRule(length_penalty=length_penalty, **rule)
    reward = EmotionReward(asked, lexicon=lexicon, folder=folder)
    # A list may come back from parquet as an array.
    labels = ground_truth if isinstance(ground_truth, str) else list(ground_truth)
    row = asdict(reward.breakdown(solution_str, labels))
    # verl knows no None. Where no lexicon knows a label, `judged` is 0 and the total is that of
    # the other terms; a group shares its labels, so its advantages are right all the same.
    judged = float(row["accuracy"] is not None)
    score = row.pop("total")
    return {"score": score, **{term: value or 0.0 for term, value in row.items()}, "judged": judged}
