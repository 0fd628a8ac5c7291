"""How sure a score is, and whether one system is better than another: paired bootstrap over groups.

Samples of one group (renderings of one line, clips of one speaker) are not independent: groups are
drawn, with replacement, and their samples move together. The corpus score is computed anew on every
draw, from statistics made once. Several runs (seeds) of a system over the same samples are
averaged: the intervals then speak of the mean run over other samples, not of other seeds.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.emotion.lexicon import WHEELS, Lexicon
from affectgpt_r1.emotion.score import Pair, statistics, wheel_means
from affectgpt_r1.emotion.sentiment import signs, weighted_f1

#: A corpus score as a function of how often each sample counts: weights (R, N) to values (R,).
Statistic: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile bootstrap interval.

    Attributes:
        value: on the samples as they are.
        low, high: 2.5th and 97.5th percentile of the draws; NaN where all is of one group, whose
            draws are all alike and tell nothing.
        p: share of draws on the far side of 0, two-sided: of use where the value is a difference.
    """

    value: float
    low: float
    high: float
    p: float


def bootstrap(
    statistic: Statistic, groups: Sequence[Hashable], *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """A statistic's interval over draws of whole groups.

    Args:
        statistic: for example `ew_statistic(...)`, or the `difference` of two; it may give several
            values a draw, all of equal weight.
        groups: N group names.
        resamples: draws.
        seed: of the draws; both sides of a difference see the same ones.
    """
    values = statistic(_weights(tuple(groups), resamples, seed))
    if len(set(groups)) < 2:
        return Interval(float(values[0]), math.nan, math.nan, math.nan)
    drawn = np.sort(values[1:])
    low, high = np.interp([2.5, 97.5], np.linspace(0, 100, len(drawn)), drawn)
    share = min((drawn <= 0).mean(), (drawn >= 0).mean())
    p = min(1.0, 2 * (float(share) * resamples + 1) / (resamples + 1))
    return Interval(float(values[0]), float(low), float(high), p)


def difference(one: Statistic, other: Statistic) -> Statistic:
    """One statistic minus another, on the same draws."""
    return lambda weights: one(weights) - other(weights)


def mean_of(several: Sequence[Statistic]) -> Statistic:
    """The mean of statistics: of several runs, or of the two rings."""
    return lambda weights: np.mean([statistic(weights) for statistic in several], axis=0)


def ew_statistic(
    pairs: Sequence[Pair], lexicon: Lexicon, levels: Sequence[int] = (1,)
) -> Statistic:
    """The corpus F of answers to N samples, or the mean of both rings'.

    Args:
        pairs: labels and words as the parser returns them.
        lexicon: words to classes.
        levels: the rings.
    """
    return mean_of([_over_wheels(statistics(pairs, lexicon, level), 0) for level in levels])


def hit_statistic(pairs: Sequence[Pair], lexicon: Lexicon) -> Statistic:
    """HIT of answers to N samples."""
    return _over_wheels(np.ceil(statistics(pairs, lexicon)), 2)  # any class in common is a hit


def _over_wheels(found: NDArray[np.float64], figure: int) -> Statistic:
    """The mean over the wheels of F (0), precision (1) or recall (2)."""
    return lambda weights: wheel_means(found, weights)[..., figure].sum(axis=-1) / WHEELS


def waf_statistic(labels: Sequence[float], sentiments: Sequence[str]) -> Statistic:
    """Weighted F1 of sentiments; samples whose label is 0 count nothing."""
    scored, true, said = signs(labels, sentiments)
    return lambda weights: weighted_f1(true, said, weights[..., scored])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values of several comparisons with one system, to be read together.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, scaled))
    return list(map(float, corrected))


@lru_cache(maxsize=1)
def _weights(groups: tuple[Hashable, ...], resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each sample is drawn: (1 + R, N); the first row is the samples as they are."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    member = np.array([names[name] for name in groups])  # (N,)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    drawn += len(names) * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * len(names))
    weights = np.ones((1 + resamples, len(groups)))
    weights[1:] = counts.reshape(resamples, len(names))[:, member]
    return weights
