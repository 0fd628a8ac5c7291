"""Rewards: completions in, numbers out; the score is the metric's own function.

Importing this package loads neither torch nor transformers.
"""

from affectgpt_r1.rewards.compose import TERMS, RewardBreakdown, RewardRule, reward

__all__ = ["TERMS", "RewardBreakdown", "RewardRule", "reward"]
