"""Evaluation of answers against labels: the score, how sure it is, and what it is worth.

The same figures for a model's predictions and for a file of anybody's: beside the score stands the
best constant answer's, the ceiling that the labels allow, and how varied the answers are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from affectgpt_r1.emotion import significance
from affectgpt_r1.emotion.labels import Parser
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import RingScore, WheelScore, best_constant, score_corpus
from affectgpt_r1.emotion.significance import Interval, Statistic
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation.answers import Kept


@dataclass(frozen=True, slots=True)
class Constant:
    """The constant answer that scores best on these labels, and its F."""

    words: tuple[str, ...]
    f: float


@dataclass(frozen=True, slots=True)
class Evaluation(WheelScore):
    """What is to be said of a set of answers; its JSON object has these keys in this order.

    Attributes:
        f, precision, recall: at the ring that was asked for, or their means over both.
        interval: of F, bootstrapped over groups.
        by_level: the same for each ring.
        constant: the best constant answer.
        over_constant: F minus the constant's, paired.
        baseline: the other system's F, where there is one.
        over_baseline: F minus the baseline's, paired.
        ceiling: F of the labels themselves.
        coverage, label_coverage, words_per_answer, n, skipped: as in `CorpusScore`.
        distinct_answers: how many different sets of words were given.
        clips, groups: how many.
        signature: of the score; both rings' where it is their mean.
    """

    interval: Interval
    by_level: tuple[RingScore, ...]
    constant: Constant
    over_constant: Interval
    baseline: float | None
    over_baseline: Interval | None
    ceiling: float
    coverage: float | None
    label_coverage: float | None
    words_per_answer: float
    distinct_answers: int
    clips: int
    groups: int
    n: int
    skipped: Mapping[str, int]
    signature: str


def evaluate_words(
    kept: Kept,
    lexicon: Lexicon,
    levels: Sequence[int] = (1,),
    *,
    baseline: Mapping[str, Sequence[str]] | None = None,
    parser: Parser = "robust",
) -> Evaluation:
    """Evaluate answers.

    Args:
        kept: the answers, with labels that are words.
        lexicon: words to classes.
        levels: one ring, or both, whose F are averaged.
        baseline: another system's words for the same samples, by id.
        parser: which parser that was.

    Raises:
        InputError: there is nothing to score, or the baseline lacks a sample.
    """
    if not kept.rows:
        raise InputError("no labelled sample to score: give predictions whose ids have labels")
    ids, groups = [row.id for row in kept.rows], kept.groups
    lacking = [name for name in ids if baseline is not None and name not in baseline]
    if lacking:
        raise InputError(
            f"the baseline has no prediction for {len(lacking)} of {len(ids)} clips (first: "
            f"{lacking[0]!r}): compare predictions of the same manifest"
        )
    labels, words = zip(*kept.pairs, strict=True)
    rings = [score_corpus(labels, words, lexicon, level, parser) for level in levels]

    def f_of(answers: Sequence[Sequence[str]]) -> Statistic:
        return significance.ew_statistic(list(zip(labels, answers, strict=True)), lexicon, levels)

    def above(other: Statistic) -> Interval:
        return significance.bootstrap(significance.difference(own, other), groups)

    own, once = f_of(words), np.ones(len(ids))
    other = None if baseline is None else f_of([baseline[name] for name in ids])
    constant = Constant(*best_constant(labels, lexicon, levels))
    always = f_of([constant.words] * len(words))
    failed = {"no prediction": kept.failed} if kept.failed else {}
    first = rings[0]  # coverage and the like are the same at both rings
    return Evaluation(
        f=fmean(ring.f for ring in rings),
        precision=fmean(ring.precision for ring in rings),
        recall=fmean(ring.recall for ring in rings),
        interval=significance.bootstrap(own, groups),
        by_level=tuple(RingScore(r.f, r.precision, r.recall, r.wheels) for r in rings),
        constant=constant,
        over_constant=above(always),
        baseline=float(other(once)) if other else None,
        over_baseline=above(other) if other else None,
        ceiling=float(f_of(labels)(once)),
        coverage=first.coverage,
        label_coverage=first.label_coverage,
        words_per_answer=first.words_per_answer,
        distinct_answers=len({frozenset(answer) for answer in words}),
        clips=len(ids),
        groups=len(set(groups)),
        n=first.n,
        skipped={**first.skipped, **failed},
        signature=" + ".join(ring.signature for ring in rings),
    )
