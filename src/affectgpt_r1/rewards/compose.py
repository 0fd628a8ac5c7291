"""The total reward: weighted terms, with length penalties.

A term that could not be judged is None: left out of the sum and counted, never 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import fsum, log
from typing import Any, Self, TypeAlias

from pydantic import ValidationError, model_validator

from affectgpt_r1.config import LengthPenalty, RewardSettings, problem_of
from affectgpt_r1.dialogue import Completion, Mode
from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import sample_f, sample_jaccard
from affectgpt_r1.errors import InputError

_Score: TypeAlias = Callable[[Sequence[str], Sequence[str], Lexicon, int], float]


class RewardRule(RewardSettings):
    """Which terms count how much: a recipe's settings, and the mode that completions have.

    Format and accuracy are reported at weight 0 too; the thinking is read, and a judge asked, only
    where a weight asks for it.

    Raises:
        InputError: a value of no meaning, or alignment or dual without a thinking to read.
    """

    mode: Mode = "answer"

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            problems = [problem_of(item, type(self)) for item in error.errors()]
            raise InputError("; ".join(problems)) from None

    @model_validator(mode="after")
    def _reads_what_is_there(self) -> Self:
        asked = [name for name in ("alignment", "dual") if getattr(self, name)]
        if asked and self.mode == "answer":
            raise ValueError(
                f"rewards.{asked[0]} needs mode=think: set that, or rewards.{asked[0]}=0"
            )
        return self

    @property
    def levels(self) -> tuple[int, ...]:
        """The rings; every score is the mean over them."""
        return (1, 2) if self.level == "mixed" else (self.level,)

    @classmethod
    def of(cls, settings: RewardSettings, mode: Mode) -> Self:
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
    """Reward one completion (PAPER.md, "Five rewards").

    Accuracy, and of the thinking dual, is the metric itself: the emotion-wheel F against the
    labels; no words score 0, for they were judged and name no emotion. Alignment is how far answer
    and thinking agree on the wheels, 0 where either names nothing. Format is 1 where the completion
    is exactly its mode's blocks, each non-empty, else 0.

    Args:
        completion: read by `dialogue.parse_completion` in the mode that was asked.
        labels: the clip's true words.
        lexicon: words to wheel classes.
        rule: weights and penalty.
        perception: what a judge gave (`rewards.perception`); None: not judged.
    """
    words, level = completion.words, rule.level

    def over_rings(score: _Score, one: Sequence[str], other: Sequence[str]) -> float:
        if level != "mixed":
            return score(one, other, lexicon, level)
        return (score(one, other, lexicon, 1) + score(one, other, lexicon, 2)) / 2

    judged = any(lexicon.counts(word) for word in labels)
    form = float(completion.well_formed)
    accuracy = over_rings(sample_f, labels, words) if judged else None
    penalty = _factor(words, labels, rule, "accuracy")
    total = rule.format * form + rule.accuracy * (accuracy or 0.0) * penalty
    total += rule.perception * (perception or 0.0)
    alignment, dual, dual_penalty = None, None, 1.0
    if rule.alignment or rule.dual:
        thought = extract_words(completion.think or "", lexicon)
        agreement = sample_f if rule.alignment_by == "f" else sample_jaccard
        alignment = over_rings(agreement, thought, words)
        dual = over_rings(sample_f, labels, thought) if judged else None
        dual_penalty = _factor(thought, labels, rule, "dual")
        total += rule.alignment * alignment + rule.dual * (dual or 0.0) * dual_penalty
    if rule.gate:
        total *= form
    return RewardBreakdown(
        form, accuracy, penalty, total, alignment, dual, dual_penalty, perception
    )


def length_factor(predicted: int, labelled: int, penalty: LengthPenalty) -> float:
    """The factor on accuracy for `predicted` distinct words where `labelled` are right.

    Further words of a class already named cost the score nothing, so a policy learns to list many;
    the penalties therefore count distinct words, not classes (PAPER.md, "Length penalty").

    1 where no more words are predicted than labelled. p3 is log Lg / log Lp; at Lg <= 1, where
    that is 0 or undefined, log(Lg + 1) / log(Lp + 1) (docs/paper.md).

    >>> [length_factor(4, 2, p) for p in ("none", "p1", "p2", "p3")]
    [1.0, 0.3333333333333333, 0.5, 0.5]
    """
    if penalty == "none" or predicted <= labelled:
        return 1.0
    if penalty == "p1":
        return 1 / (predicted - labelled + 1)
    if penalty == "p2":
        return labelled / predicted
    more = int(labelled <= 1)
    return log(labelled + more) / log(predicted + more)


def term_means(found: Sequence[RewardBreakdown]) -> dict[str, float]:
    """The mean of every term over the completions where it was judged, and of the penalties."""
    means = {}
    for name in (field.name for field in fields(RewardBreakdown) if field.name != "total"):
        # A penalty on what was not judged says nothing.
        term = {"penalty": "accuracy", "dual_penalty": "dual"}.get(name, name)
        if values := [getattr(row, name) for row in found if getattr(row, term) is not None]:
            means[name] = fsum(values) / len(values)
    return means


def _factor(words: Sequence[str], labels: Sequence[str], rule: RewardRule, term: str) -> float:
    if term not in rule.penalised:
        return 1.0
    return length_factor(len(words), len(set(labels)), rule.length_penalty)
