"""Rewards: completions in, numbers out; the score is the metric's own function.

Importing this package loads neither torch nor transformers.
"""

from affectgpt_r1.rewards.compose import RewardBreakdown, RewardRule, reward, term_means

__all__ = ["RewardBreakdown", "RewardRule", "reward", "term_means"]
