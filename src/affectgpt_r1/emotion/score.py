"""The emotion-wheel score: of one answer (the reward) and of a corpus (the metric).

One set of statistics a sample and wheel serves both, so reward and metric cannot drift apart
(METRIC.md, "Score"). No model, no spreadsheet, no other words enter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1 import __version__
from affectgpt_r1.emotion.lexicon import WHEELS, Lexicon

#: One sample: its true words and the predicted ones.
Pair = tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class SampleScore:
    """One answer's score: the accuracy reward.

    Attributes:
        f: mean over five wheels of the sample's F1; a wheel that knows no label counts 0.
        by_wheel: F1 a wheel, None where the wheel knows no label.
    """

    f: float
    by_wheel: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class CorpusScore:
    """A corpus' score.

    Attributes:
        f, precision, recall: means over the five wheels.
        by_wheel: (F, precision, recall) a wheel.
        coverage: share of predicted words that the lexicon knows; None where none were predicted.
        label_coverage: share of the labels that it knows.
        words_per_answer: distinct words.
        samples: how many.
        skipped: samples none of whose labels has a class on any wheel.
        signature: names lexicon, level and release.
    """

    f: float
    precision: float
    recall: float
    by_wheel: tuple[tuple[float, float, float], ...]
    coverage: float | None
    label_coverage: float | None
    words_per_answer: float
    samples: int
    skipped: int
    signature: str


def signature(lexicon: Lexicon, level: int, *, parser: str = "robust") -> str:
    """What a score depends on, in one line to be cited with it.

    >>> signature(Lexicon.load("builtin"), 1).split("|")[2:4]
    ['level:1', 'wheels:5']
    """
    return (
        f"ew|lexicon:{lexicon.name}#{lexicon.hash}|level:{level}|wheels:{WHEELS}"
        f"|parser:{parser}|extractor:none|v:{__version__}"
    )


def statistics(pairs: Sequence[Pair], lexicon: Lexicon, level: int = 1) -> NDArray[np.float64]:
    """Precision and recall of every sample on every wheel.

    Returns:
        (N, 5, 2); NaN where the wheel knows no label (the sample is skipped there); 0 where it
        knows no predicted word.
    """
    found = np.full((len(pairs), WHEELS, 2), np.nan)
    for row, (labels, words) in enumerate(pairs):
        true_classes = [lexicon.classes(word, level) for word in labels]
        said_classes = [lexicon.classes(word, level) for word in words]
        for wheel in range(WHEELS):
            true = {classes[wheel] for classes in true_classes} - {None}
            said = {classes[wheel] for classes in said_classes} - {None}
            if true:
                hits = len(true & said)
                found[row, wheel] = (hits / len(said) if said else 0.0, hits / len(true))
    return found


def f_measure(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """2PR / (P + R), 0 where the sum is 0; element by element."""
    total = precision + recall
    safe = np.where(total > 0, total, 1.0)
    return np.where(total > 0, 2 * precision * recall / safe, 0.0)


def wheel_means(found: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F, precision, recall) a wheel from statistics (N, 5, 2) and sample weights (..., N).

    Returns:
        (..., 5, 3). Means are over the samples a wheel keeps; 0 where it keeps none.
    """
    kept = ~np.isnan(found[:, :, 0])  # (N, 5)
    counts = weights @ kept  # (..., 5)
    sums = np.tensordot(weights, np.where(kept[..., None], found, 0.0), axes=1)  # (..., 5, 2)
    means = sums / np.where(counts > 0, counts, 1.0)[..., None]
    f = f_measure(means[..., 0], means[..., 1])
    return np.concatenate([f[..., None], means], axis=-1)


def score_sample(
    labels: Sequence[str], words: Sequence[str], lexicon: Lexicon, level: int = 1
) -> SampleScore:
    """Score one answer: the accuracy reward (METRIC.md, "Single-sample reward").

    >>> score_sample(["happy"], ["joyful"], Lexicon.load("builtin")).f
    1.0
    """
    (found,) = statistics([(labels, words)], lexicon, level)  # (5, 2)
    by_wheel = [
        None if np.isnan(p) else float(f_measure(np.asarray(p), np.asarray(r))) for p, r in found
    ]
    return SampleScore(sum(f or 0.0 for f in by_wheel) / WHEELS, tuple(by_wheel))


def score_corpus(pairs: Sequence[Pair], lexicon: Lexicon, level: int = 1) -> CorpusScore:
    """Score a corpus: F, precision and recall, and what a score cannot say by itself."""
    found = statistics(pairs, lexicon, level)
    wheels = wheel_means(found, np.ones(len(pairs)))  # (5, 3)
    f, precision, recall = (float(sum(wheels[:, i]) / WHEELS) for i in range(3))
    said = [list(dict.fromkeys(words)) for _, words in pairs]
    return CorpusScore(
        f=f,
        precision=precision,
        recall=recall,
        by_wheel=tuple((float(a), float(b), float(c)) for a, b, c in wheels),
        coverage=_share_known([word for words in said for word in words], lexicon),
        label_coverage=_share_known([word for labels, _ in pairs for word in labels], lexicon),
        words_per_answer=sum(map(len, said)) / max(len(said), 1),
        samples=len(pairs),
        skipped=int(np.isnan(found[:, :, 0]).all(axis=1).sum()),
        signature=signature(lexicon, level),
    )


def best_constant(
    labels: Sequence[Sequence[str]], lexicon: Lexicon, level: int = 1, max_words: int = 6
) -> tuple[tuple[str, ...], CorpusScore]:
    """The constant answer that scores best on these very labels, found greedily.

    A hard opponent: it has seen the labels. From the best pair of words on, words are added while
    the corpus F rises.

    Args:
        labels: the true words of each sample.
        lexicon, level: as in `score_corpus`.
        max_words: of the answer.
    """
    # Words of equal classes answer equally: the first of them, by the alphabet, stands for all.
    known = {word for words in labels for word in words if lexicon.knows(word)}
    voices = {lexicon.classes(word, level): word for word in sorted(known, reverse=True)}
    words = sorted(voices.values())
    if not words:
        return (), score_corpus([(words, ()) for words in labels], lexicon, level)

    def f(answer: Iterable[str]) -> float:
        return _constant_f(truths, tuple(answer), lexicon, level)

    truths = _class_sets(labels, lexicon, level)
    best: tuple[str, ...] = tuple(
        dict.fromkeys(max(combinations_with_replacement(words, 2), key=f))
    )
    while len(best) < max_words:
        longer = max(((*best, word) for word in words if word not in best), key=f, default=best)
        if f(longer) <= f(best):
            break
        best = longer
    return best, score_corpus([(words, best) for words in labels], lexicon, level)


def _share_known(words: Sequence[str], lexicon: Lexicon) -> float | None:
    return sum(map(lexicon.knows, words)) / len(words) if words else None


#: For each wheel: the samples' class sets as rows of booleans, and each class' column.
_ClassSets = list[tuple[NDArray[np.bool_], dict[str, int]]]


def _class_sets(labels: Sequence[Sequence[str]], lexicon: Lexicon, level: int) -> _ClassSets:
    sets: _ClassSets = []
    for wheel in range(WHEELS):
        rows = [{lexicon.classes(w, level)[wheel] for w in words} - {None} for words in labels]
        columns = {name: i for i, name in enumerate(sorted({str(c) for row in rows for c in row}))}
        matrix = np.zeros((len(rows), len(columns)), dtype=bool)
        for i, row in enumerate(rows):
            matrix[i, [columns[str(name)] for name in row]] = True
        sets.append((matrix[matrix.any(axis=1)], columns))
    return sets


def _constant_f(truths: _ClassSets, answer: Sequence[str], lexicon: Lexicon, level: int) -> float:
    """The corpus F of one answer to all samples, from class sets made once."""
    total = 0.0
    for wheel, (matrix, columns) in enumerate(truths):
        said = {lexicon.classes(word, level)[wheel] for word in answer} - {None}
        places = [columns[str(name)] for name in said if name in columns]
        if len(matrix) and places:
            hits = matrix[:, places].sum(axis=1)
            precision = float(hits.mean() / len(said))
            recall = float((hits / matrix.sum(axis=1)).mean())
            total += float(f_measure(np.asarray(precision), np.asarray(recall)))
    return total / WHEELS
