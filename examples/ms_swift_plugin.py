"""The emotion reward in ms-swift 4.6.0.

    swift rlhf --rlhf_type grpo ... --external_plugins examples/ms_swift_plugin.py \
      --reward_funcs emotion

or, each term with a weight and a curve of its own:

    ... --reward_funcs emotion_accuracy emotion_format --reward_weights 1 0.2

`emotion` is the sum of the two: use it or them. The data set's column `labels` holds lists, or
texts that name them. Where no lexicon knows a label, the accuracy is None; ms-swift leaves it out.
"""

from __future__ import annotations

from typing import Any

from swift.rewards import orms

from affectgpt_r1.rewards import RewardRule
from affectgpt_r1.rewards.adapters import EmotionReward


# Classes of their own, for ms-swift logs a reward by its class.
class EmotionAccuracy(EmotionReward):
    """The accuracy with p3 alone."""

    def __init__(self, args: Any = None) -> None:
        super().__init__(RewardRule(format=0.0, length_penalty="p3"), args=args)


class EmotionFormat(EmotionReward):
    """The format alone."""

    def __init__(self, args: Any = None) -> None:
        super().__init__(RewardRule(accuracy=0.0), args=args)


orms["emotion"] = EmotionReward
orms["emotion_accuracy"] = EmotionAccuracy
orms["emotion_format"] = EmotionFormat
