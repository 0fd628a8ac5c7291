"""The total reward: weighted terms, with the length penalty on accuracy.

A term that could not be judged is None: left out of the sum and counted, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from affectgpt_r1.dialogue import Completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.rewards.length import LengthPenalty, length_factor
from affectgpt_r1.rewards.terms import accuracy_reward, format_reward


@dataclass(frozen=True, slots=True)
class RewardRule:
    """Which terms count how much.

    Attributes:
        accuracy, format: weights; a term of weight 0 is still reported.
        length_penalty: on accuracy.
        level: ring of the wheels.
    """

    accuracy: float = 1.0
    format: float = 1.0
    length_penalty: LengthPenalty = "none"
    level: int = 1


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """One completion's reward, term by term.

    Attributes:
        format: 0 or 1.
        accuracy: before the penalty; None where no label is in the lexicon, so that nothing can
            be said.
        penalty: the factor on accuracy.
        total: the weighted sum over the terms that were judged.
    """

    format: float
    accuracy: float | None
    penalty: float
    total: float


def reward(
    completion: Completion, labels: Sequence[str], lexicon: Lexicon, rule: RewardRule
) -> RewardBreakdown:
    """Reward one completion.

    Args:
        completion: read by `dialogue.parse_completion` in the mode that was asked.
        labels: the clip's true words.
        lexicon: words to wheel classes.
        rule: weights and penalty.
    """
    form = format_reward(completion)
    judged = any(lexicon.counts(word) for word in labels)
    accuracy = accuracy_reward(completion, labels, lexicon, rule.level) if judged else None
    penalty = length_factor(len(completion.words), len(set(labels)), rule.length_penalty)
    total = rule.format * form + rule.accuracy * (accuracy or 0.0) * penalty
    return RewardBreakdown(form, accuracy, penalty, total)
