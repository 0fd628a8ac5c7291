"""HIT: whether an answer names the one basic emotion that is true (METRIC.md, "HIT").

The score of MER2023, MER2024, MELD and IEMOCAP in MER-UniBench. It has no price for further words:
an answer that names every class scores 1, so words per answer stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from affectgpt_r1.emotion.labels import Parser
from affectgpt_r1.emotion.lexicon import WHEELS, Lexicon
from affectgpt_r1.emotion.score import (
    Answer,
    Pair,
    read_pairs,
    reasons,
    share_known,
    signature,
    statistics,
    wheel_means,
)


@dataclass(frozen=True, slots=True)
class HitScore:
    """How often the true emotion's class was named.

    Attributes:
        hit: mean over the five wheels.
        wheels: the same, a wheel; 0 where it knows none of the labels.
        coverage: share of predicted words that the lexicon knows; None where none were predicted.
        words_per_answer: distinct words.
        n: samples whose label has a class on at least one wheel.
        skipped: how many were left out, by reason (`neutral` never counts).
        signature: names lexicon, parser and release.
    """

    hit: float
    wheels: tuple[float, ...]
    coverage: float | None
    words_per_answer: float
    n: int
    skipped: Mapping[str, int]
    signature: str


def hit_rate(
    labels: Sequence[Answer],
    predictions: Sequence[Answer],
    lexicon: Lexicon | None = None,
    parser: Parser = "robust",
    extractor: str = "none",
) -> HitScore:
    """Score answers against one basic emotion each, at the inner ring.

    Args:
        labels: one word each.
        predictions: as in `score_corpus`; None is left out and counted.
        lexicon, parser, extractor: as in `score_corpus`.

    >>> hit_rate(["joy", "anger", "neutral"], ["happy, sad", "calm", "calm"]).hit
    0.5
    """
    lexicon = lexicon or Lexicon.load()
    pairs, failed = read_pairs(labels, predictions, parser)
    cited = signature(lexicon, 1, metric="hit", parser=parser, extractor=extractor)
    return hit_pairs(pairs, lexicon, failed=failed, cited=cited)


def hit_pairs(
    pairs: Sequence[Pair], lexicon: Lexicon, *, failed: int = 0, cited: str = ""
) -> HitScore:
    """HIT of words that are parsed already; arguments as in `score.score_pairs`."""
    found = np.ceil(statistics(pairs, lexicon))  # any class in common is a hit
    wheels = wheel_means(found, np.ones(len(pairs)))[:, 2].tolist()
    unmapped = int(np.isnan(found[:, :, 0]).all(axis=1).sum())
    distinct = [set(words) for _, words in pairs]
    return HitScore(
        hit=sum(wheels) / WHEELS,
        wheels=tuple(wheels),
        coverage=share_known(distinct, lexicon),
        words_per_answer=sum(map(len, distinct)) / max(len(pairs), 1),
        n=len(pairs) - unmapped,
        skipped=reasons({"the label has no class": unmapped, "no prediction": failed}),
        signature=cited,
    )
