"""Sentiment: pleasant or unpleasant, against a signed intensity (METRIC.md, "Sentiment").

The score of CMU-MOSI, CMU-MOSEI, CH-SIMS and CH-SIMS v2. The authors have a 7B language model turn
emotion words into a sentiment; here the lexicon's polarity does, unless sentiments are given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import reasons


@dataclass(frozen=True, slots=True)
class SentimentScore:
    """How well sentiments agree with signed labels.

    Attributes:
        waf: F1 of the two signs, weighted by their frequency.
        accuracy: share of right signs.
        n: samples scored.
        skipped: how many were left out, by reason (labels of exactly 0 are).
    """

    waf: float
    accuracy: float
    n: int
    skipped: Mapping[str, int]


def sentiment_scores(labels: Sequence[float], sentiments: Sequence[str | None]) -> SentimentScore:
    """Score sentiments against signed labels.

    Args:
        labels: intensities; those of exactly 0 are left out, as published.
        sentiments: `positive` counts as positive and any other text as negative, as published;
            None is unknown: left out and counted.

    >>> sentiment_scores([1.2, -0.4, 0.0], ["positive", "neutral", "positive"]).accuracy
    1.0
    """
    _, true, said = signs(labels, sentiments)
    n, zero = len(true), sum(label == 0 for label in labels)
    return SentimentScore(
        waf=float(weighted_f1(true, said, np.ones(n))),
        accuracy=float((true == said).sum()) / max(n, 1),
        n=n,
        skipped=reasons({"the label is 0": zero, "no label or sentiment": len(labels) - zero - n}),
    )


def signs(
    labels: Sequence[float], sentiments: Sequence[str | None]
) -> tuple[NDArray[np.bool_], ...]:
    """Which samples are scored, (N,), and of those which are positive and were said to be."""
    signed = np.asarray(labels, dtype=np.float64)
    scored = (signed != 0) & ~np.isnan(signed)
    scored &= np.array([isinstance(s, str) for s in sentiments], dtype=bool)
    said = np.array([sentiment == "positive" for sentiment in sentiments], dtype=bool)
    return scored, signed[scored] > 0, said[scored]


def weighted_f1(
    true: NDArray[np.bool_], said: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """F1 of both signs, weighted by their frequency, from sample weights (..., N): (...).

    Args:
        true, said: (N,) whether a sample is positive, and was said to be.
        weights: how often each sample counts.
    """
    total = np.zeros(weights.shape[:-1])
    for is_so, named in ((true, said), (~true, ~said)):
        support, claimed, hits = (weights @ part for part in (is_so, named, is_so & named))
        total += support * 2 * hits / np.where(support + claimed > 0, support + claimed, 1.0)
    scored = weights.sum(axis=-1)
    return np.asarray(total / np.where(scored > 0, scored, 1.0))


def sentiment_of(words: Sequence[str], lexicon: Lexicon | None = None) -> str:
    """The sentiment of emotion words by a vote of their polarities.

    A tied vote goes to the word that was named last: descriptions move from what is seen at first
    to what it comes down to. Words without polarity have no vote; without any, it is neutral.

    >>> sentiment_of(["happy", "excited", "worried"]), sentiment_of(["calm", "tense"])
    ('positive', 'negative')
    """
    lexicon = lexicon or Lexicon.load()
    votes = [polarity for word in words if (polarity := lexicon.polarity(word))]
    outcome = sum(votes) or (votes[-1] if votes else 0)
    return "positive" if outcome > 0 else "negative" if outcome < 0 else "neutral"
