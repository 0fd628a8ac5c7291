"""Is one system better than another? Paired bootstrap of the corpus score over groups.

Samples of one group (renderings of one line, clips of one speaker) are not independent: groups are
drawn, with replacement, and their samples move together. The corpus F is computed anew on every
draw, from statistics made once. Several runs (seeds) of a system over the same samples are
averaged: the intervals then speak of the mean run over other lines, not of other seeds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.emotion.lexicon import WHEELS, Lexicon
from affectgpt_r1.emotion.score import statistics, wheel_means

#: The words that a system gave, one answer a sample.
Answers = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile bootstrap interval.

    Attributes:
        value: on the samples as they are.
        low, high: 2.5th and 97.5th percentile of the draws.
    """

    value: float
    low: float
    high: float


def bootstrap(
    labels: Answers,
    runs: Sequence[Answers],
    groups: Sequence[Hashable],
    lexicon: Lexicon,
    *,
    baseline: Sequence[Answers] | None = None,
    level: int = 1,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The corpus F, or its difference to a baseline's on the same draws.

    Args:
        labels: the true words of N samples.
        runs: one or more runs' answers, N each; their Fs are averaged.
        groups: N group names.
        lexicon, level: as in `score_corpus`.
        baseline: runs of another system; then the value is `runs` minus `baseline`.
        resamples: draws.
        seed: of the draws.
    """
    weights = _weights(groups, resamples, seed)  # (1 + R, N)
    values = _mean_f(labels, runs, lexicon, level, weights)
    if baseline is not None:
        values = values - _mean_f(labels, baseline, lexicon, level, weights)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))


def _mean_f(
    labels: Answers,
    runs: Sequence[Answers],
    lexicon: Lexicon,
    level: int,
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(1 + R,) corpus Fs, the mean over the runs."""
    total = np.zeros(len(weights))
    for answers in runs:
        found = statistics(list(zip(labels, answers, strict=True)), lexicon, level)
        total += wheel_means(found, weights)[..., 0].sum(axis=-1) / WHEELS
    return total / len(runs)


def _weights(groups: Sequence[Hashable], resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each sample is drawn: (1 + R, N); the first row is the samples as they are."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    member = np.array([names[name] for name in groups])  # (N,)
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    )  # (R, groups)
    return np.concatenate([np.ones((1, len(groups))), draws[:, member].astype(np.float64)])
