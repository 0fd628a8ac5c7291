"""The total reward: weighted terms, with length penalties.

A term that could not be judged is None: left out of the sum and counted, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import fsum
from typing import TYPE_CHECKING, get_args

from affectgpt_r1.dialogue import Completion, Mode
from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.rewards.length import LengthPenalty, length_factor
from affectgpt_r1.rewards.terms import (
    Agreement,
    accuracy_reward,
    alignment_reward,
    format_reward,
)

if TYPE_CHECKING:
    from affectgpt_r1.config import RewardSettings


@dataclass(frozen=True, slots=True)
class RewardRule:
    """Which terms count how much.

    Attributes:
        accuracy, format, alignment, dual, perception: weights. Format and accuracy are reported at
            weight 0 too; the thinking is read, and a judge asked, only where a weight asks for it.
        length_penalty: on the terms of `penalised`: accuracy by the answer's words, dual by the
            thinking's.
        penalised: of accuracy and dual.
        gate: whether a completion out of format gets 0 in all.
        alignment_by: Jaccard index of the classes, or the symmetric F.
        level: ring of the wheels.
        mode: which blocks are asked for.

    Raises:
        InputError: a value that is none of these, or alignment or dual without a thinking to read.
    """

    accuracy: float = 1.0
    format: float = 1.0
    length_penalty: LengthPenalty = "none"
    level: int = 1
    alignment: float = 0.0
    dual: float = 0.0
    perception: float = 0.0
    penalised: tuple[str, ...] = ("accuracy", "dual")
    gate: bool = False
    alignment_by: Agreement = "jaccard"
    mode: Mode = "answer"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("length_penalty", {self.length_penalty}, get_args(LengthPenalty)),
            ("level", {self.level}, (1, 2)),
            ("penalised", set(self.penalised), ("accuracy", "dual")),
            ("alignment_by", {self.alignment_by}, get_args(Agreement)),
            ("mode", {self.mode}, get_args(Mode)),
        ):
            if value - set(known):
                raise InputError(f"{name}={getattr(self, name)!r}: choose from {known}")
        asked = [name for name in ("alignment", "dual") if getattr(self, name)]
        if asked and self.mode == "answer":
            raise InputError(
                f"rewards.{asked[0]} reads the think block, which mode 'answer' has not: "
                f"set mode=think, or rewards.{asked[0]}=0"
            )

    @classmethod
    def of(cls, settings: RewardSettings, mode: Mode) -> RewardRule:
        """The rule of a recipe."""
        return cls(**settings.model_dump(), mode=mode)


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """One completion's reward, term by term.

    Attributes:
        format: 0 or 1.
        accuracy: before the penalty; None where no label is in the lexicon, so that nothing can
            be said.
        penalty: the factor on accuracy.
        total: the weighted sum over the terms that were judged; 0 behind a gate.
        alignment, dual: None where neither was asked for, or (dual) nothing can be said.
        dual_penalty: the factor on dual.
        perception: None where no judge was asked, or none answered.
    """

    format: float
    accuracy: float | None
    penalty: float
    total: float
    alignment: float | None = None
    dual: float | None = None
    dual_penalty: float = 1.0
    perception: float | None = None


def reward(
    completion: Completion,
    labels: Sequence[str],
    lexicon: Lexicon,
    rule: RewardRule,
    perception: float | None = None,
) -> RewardBreakdown:
    """Reward one completion.

    Args:
        completion: read by `dialogue.parse_completion` in the mode that was asked.
        labels: the clip's true words.
        lexicon: words to wheel classes.
        rule: weights and penalty.
        perception: what a judge gave (`rewards.perception`); None: not judged.
    """
    words, level = completion.words, rule.level
    judged = any(lexicon.counts(word) for word in labels)
    form = format_reward(completion)
    accuracy = accuracy_reward(words, labels, lexicon, level) if judged else None
    penalty = _factor(words, labels, rule, "accuracy")
    total = rule.format * form + rule.accuracy * (accuracy or 0.0) * penalty
    total += rule.perception * (perception or 0.0)
    alignment, dual, dual_penalty = None, None, 1.0
    if rule.alignment or rule.dual:
        thought = extract_words(completion.think or "", lexicon)
        alignment = alignment_reward(words, thought, lexicon, level, rule.alignment_by)
        dual = accuracy_reward(thought, labels, lexicon, level) if judged else None
        dual_penalty = _factor(thought, labels, rule, "dual")
        total += rule.alignment * alignment + rule.dual * (dual or 0.0) * dual_penalty
    if rule.gate:
        total *= form
    return RewardBreakdown(
        form, accuracy, penalty, total, alignment, dual, dual_penalty, perception
    )


def term_means(found: Sequence[RewardBreakdown]) -> dict[str, float]:
    """The mean of every term over the completions where it was judged, and of the penalties."""
    means = {}
    for name in (field.name for field in fields(RewardBreakdown) if field.name != "total"):
        # A penalty on what was not judged says nothing.
        term = {"penalty": "accuracy", "dual_penalty": "dual"}.get(name, name)
        values = [getattr(row, name) for row in found if getattr(row, term) is not None]
        if values:
            means[name] = fsum(values) / len(values)
    return means


def _factor(words: Sequence[str], labels: Sequence[str], rule: RewardRule, term: str) -> float:
    if term not in rule.penalised:
        return 1.0
    return length_factor(len(words), len(set(labels)), rule.length_penalty)
