"""The emotion-wheel score: of one answer (the reward) and of a corpus (the metric); and HIT.

One set of counts a sample and wheel serves both, so reward and metric cannot drift apart
(METRIC.md, "Score"). No model, no spreadsheet, no other words enter.

HIT says whether an answer names the one basic emotion that is true (METRIC.md, "HIT"): the score of
MER2023, MER2024, MELD and IEMOCAP in MER-UniBench. It has no price for further words: an answer
that names every class scores 1, so words per answer stand beside it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1 import __version__
from affectgpt_r1.emotion.labels import Parser, read_words
from affectgpt_r1.emotion.lexicon import WHEELS, Lexicon

#: What is scored: words, a text that names them, or None where it could not be obtained.
Answer: TypeAlias = Sequence[str] | str | None
#: One sample: its true words and the predicted ones, as the parser returns them.
Pair: TypeAlias = tuple[Sequence[str], Sequence[str]]

_BEAM = 16
_WHEELS = tuple(((1 << 64) - 1) << (64 * wheel) for wheel in range(WHEELS))


@dataclass(frozen=True, slots=True)
class WheelScore:
    """F, precision and recall on one wheel (or in one grouping of OV-MER)."""

    f: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class CorpusScore(WheelScore):
    """A corpus' score at one ring, and what a score cannot say by itself.

    Attributes:
        f, precision, recall: means over the wheels.
        wheels: the same, a wheel.
        coverage: share of predicted words that the lexicon knows; None where none were predicted.
        label_coverage: share of the labels that it knows.
        words_per_answer: distinct words.
        n: samples that were scored, on at least one wheel.
        skipped: how many were not, by reason.
        signature: names lexicon, level, parser and release.
    """

    wheels: tuple[WheelScore, ...]
    coverage: float | None
    label_coverage: float | None
    words_per_answer: float
    n: int
    skipped: Mapping[str, int]
    signature: str


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


def signature(
    lexicon: Lexicon,
    level: int | None = 1,
    *,
    metric: str = "ew",
    parser: str = "robust",
    extractor: str = "none",
) -> str:
    """What a score depends on, in one line to be cited with it.

    >>> signature(Lexicon.load("builtin"), 1).split("|")[2:4]
    ['level:1', 'wheels:5']
    """
    ring = "" if level is None else f"|level:{level}|wheels:{WHEELS}"
    return (
        f"{metric}|lexicon:{lexicon.name}#{lexicon.hash}{ring}"
        f"|parser:{parser}|extractor:{extractor}|v:{__version__}"
    )


def _class_bits(rows: Sequence[Sequence[str]], lexicon: Lexicon, level: int) -> NDArray[np.uint64]:
    """The classes that each row of words names, one bit each: (N, 5)."""
    codes = lexicon.codes[level - 1]
    unions = [_union(words, codes).to_bytes(8 * WHEELS, "little") for words in rows]
    return np.frombuffer(b"".join(unions), "<u8").reshape(-1, WHEELS)


def statistics(pairs: Sequence[Pair], lexicon: Lexicon, level: int = 1) -> NDArray[np.float64]:
    """Precision and recall of every sample on every wheel.

    Returns:
        (N, 5, 2); NaN where the wheel knows no label (the sample is skipped there); 0 where it
        knows no predicted word.
    """
    labelled = _class_bits([labels for labels, _ in pairs], lexicon, level)
    named = _class_bits([words for _, words in pairs], lexicon, level)
    counts = np.bitwise_count(np.stack([labelled & named, named, labelled]))
    hits, said, true = counts.astype(np.float64)  # (N, 5) each
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(said > 0, hits / said, 0.0)
        found = np.stack([precision, hits / true], axis=-1)
    found[true == 0] = np.nan
    return found


def wheel_means(found: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F, precision, recall) a wheel from statistics (N, 5, 2) and sample weights (..., N).

    Returns:
        (..., 5, 3). Means are over the samples a wheel keeps; 0 where it keeps none.
    """
    kept = ~np.isnan(found[:, :, 0])  # (N, 5)
    counts = weights @ kept  # (..., 5)
    sums = np.tensordot(weights, np.where(kept[..., None], found, 0.0), axes=1)  # (..., 5, 2)
    means = sums / np.where(counts > 0, counts, 1.0)[..., None]
    return np.concatenate([f1(means)[..., None], means], axis=-1)


def f1(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """2PR / (P + R) of precisions and recalls (..., 2): (...); 0 where both are 0, NaN of NaN."""
    total = np.where(found.any(axis=-1), found.sum(axis=-1), 1.0)
    return np.asarray(2 * found.prod(axis=-1) / total)


def sample_f(
    labels: Sequence[str], words: Sequence[str], lexicon: Lexicon, level: int = 1
) -> float:
    """One answer's score from words that are parsed already; see `score_sample`."""
    codes = lexicon.codes[level - 1]
    true, said = _union(labels, codes), _union(words, codes)
    common = true & said
    if not common:
        return 0.0
    total = 0.0
    for bits in _WHEELS:  # `f1` written out: this is what a rollout calls most
        if hits := (common & bits).bit_count():
            total += 2 * hits / ((true & bits).bit_count() + (said & bits).bit_count())
    return total / WHEELS


def sample_jaccard(
    one: Sequence[str], other: Sequence[str], lexicon: Lexicon, level: int = 1
) -> float:
    """How far two answers agree: the mean over wheels of their classes' Jaccard index.

    A wheel on which either names nothing counts 0 (PAPER.md, "Five rewards", alignment).
    """
    codes = lexicon.codes[level - 1]
    a, b = _union(one, codes), _union(other, codes)
    shares = (
        (a & b & bits).bit_count() / ((a | b) & bits).bit_count()
        for bits in _WHEELS
        if a & b & bits
    )
    return sum(shares) / WHEELS


def _union(words: Sequence[str], codes: Mapping[str, int]) -> int:
    union, get = 0, codes.get
    for word in words:
        union |= get(word, 0)
    return union


def score_sample(
    labels: Answer,
    prediction: Answer,
    lexicon: Lexicon | None = None,
    level: int = 1,
    parser: Parser = "robust",
) -> float:
    """Score one answer: the accuracy reward (METRIC.md, "Single-sample reward").

    The mean over five wheels of the sample's F1; a wheel that knows no label counts 0, so that a
    perfect answer may score below 1. `lexicon` None: the built-in one.

    >>> score_sample("happy", "joyful, glad")
    1.0
    """
    lexicon = lexicon or Lexicon.load()
    return sample_f(read_words(labels, parser), read_words(prediction, parser), lexicon, level)


def score_corpus(
    labels: Sequence[Answer],
    predictions: Sequence[Answer],
    lexicon: Lexicon | None = None,
    level: int = 1,
    parser: Parser = "robust",
    extractor: str = "none",
) -> CorpusScore:
    """Score a corpus (METRIC.md, "Score"): means of precision and recall, then F, a wheel.

    Args:
        labels, predictions: of N samples, texts or words; words that were parsed already are read
            as they are. A prediction of None could not be obtained: it is left out and counted; an
            empty one is an answer, and scores 0.
        lexicon: None: the built-in one.
        level: 1 inner ring, 2 middle ring.
        parser: reads texts; `reference` for published numbers.
        extractor: what took the words out of prose, for the signature.

    >>> score_corpus(["happy", "sad, lonely"], ["joyful", "[sad]"]).recall
    1.0
    """
    lexicon = lexicon or Lexicon.load()
    pairs = _read_pairs(labels, predictions, parser)
    found = statistics(pairs, lexicon, level)
    wheels = wheel_means(found, np.ones(len(pairs)))  # (5, 3)
    f, precision, recall = (float(sum(wheels[:, i]) / WHEELS) for i in range(3))
    return CorpusScore(
        f=f,
        precision=precision,
        recall=recall,
        wheels=tuple(WheelScore(*wheel) for wheel in wheels.tolist()),
        label_coverage=_share_known([true for true, _ in pairs], lexicon),
        signature=signature(lexicon, level, parser=parser, extractor=extractor),
        **_beside(pairs, found, lexicon, len(labels), "no label has a class"),
    )


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
    pairs = _read_pairs(labels, predictions, parser)
    found = np.ceil(statistics(pairs, lexicon))  # any class in common is a hit
    wheels = wheel_means(found, np.ones(len(pairs)))[:, 2].tolist()
    return HitScore(
        hit=sum(wheels) / WHEELS,
        wheels=tuple(wheels),
        signature=signature(lexicon, 1, metric="hit", parser=parser, extractor=extractor),
        **_beside(pairs, found, lexicon, len(labels), "the label has no class"),
    )


def _beside(
    pairs: Sequence[Pair], found: NDArray[np.float64], lexicon: Lexicon, n: int, unscored: str
) -> dict[str, Any]:
    """What a score of `n` samples, those without a prediction among them, cannot say by itself."""
    unmapped = int(np.isnan(found[:, :, 0]).all(axis=1).sum())
    distinct = [set(words) for _, words in pairs]
    return {
        "coverage": _share_known(distinct, lexicon),
        "words_per_answer": sum(map(len, distinct)) / max(len(pairs), 1),
        "n": len(pairs) - unmapped,
        "skipped": reasons({unscored: unmapped, "no prediction": n - len(pairs)}),
    }


def ov_mer_table(
    labels: Sequence[Answer],
    predictions: Sequence[Answer],
    lexicon: Lexicon | None = None,
    parser: Parser = "robust",
) -> dict[str, WheelScore]:
    """OV-MER's twelve values: M1 forms, M2 forms and synonyms, M3-Wi-Lj all three stages.

    M1 compares base forms, M2 the first wheel word of the first base form (METRIC.md, "Names").
    """
    lexicon = lexicon or Lexicon.load()
    pairs = _read_pairs(labels, predictions, parser)
    found = {f"M{i + 1}": _grouped(pairs, lexicon, i) for i in range(2)}
    for level in (1, 2):
        wheels = np.split(statistics(pairs, lexicon, level), WHEELS, axis=1)
        found |= {f"M3-W{i}-L{level}": wheel for i, wheel in enumerate(wheels, 1)}
    means = {name: wheel_means(part, np.ones(len(pairs))) for name, part in found.items()}
    return {name: WheelScore(*mean[0].tolist()) for name, mean in means.items()}


def best_constant(
    labels: Sequence[Sequence[str]],
    lexicon: Lexicon,
    levels: Sequence[int] = (1,),
    max_words: int = 4,
    metric: Literal["ew", "hit"] = "ew",
) -> tuple[tuple[str, ...], float]:
    """The constant answer that scores best on these very labels, and its F (or HIT).

    A hard opponent: it has seen the labels. Searched word by word, sixteen answers at a time, among
    the labels' own words: greedy, so a better one may exist.

    Args:
        labels: the true words of each sample.
        lexicon: words to classes.
        levels: the rings; the score is the mean over them.
        max_words: of the answer.
        metric: ew for F, or hit.
    """
    known = {word for words in labels for word in words if lexicon.counts(word)}
    words = sorted(known, reverse=True)
    flags = dict(zip(words, _class_flags([[word] for word in words], lexicon, levels), strict=True))
    # Words of equal classes answer equally: the first of them, by the alphabet, stands for all.
    voices = {has.tobytes(): word for word, has in flags.items()}
    true = _class_flags(labels, lexicon, levels)  # (N, 64, wheels)
    counts = true.sum(axis=1)  # (N, wheels)
    recall = true / np.maximum(counts, 1)[:, None]
    kept = np.maximum((counts > 0).sum(axis=0), 1)  # (wheels,)
    # Of each class on each wheel: the share of samples that have it, and its mean recall.
    shares = np.stack([true.sum(axis=0), recall.sum(axis=0)]) / kept  # (2, 64, wheels)

    def value(answer: tuple[str, ...]) -> float:
        """The corpus score: with one answer to all, precision and recall are sums over classes."""
        if not answer:
            return 0.0
        said = np.logical_or.reduce([flags[word] for word in answer])
        hits, recalls = (shares * said).sum(axis=1)  # (wheels,) each
        precisions = hits / np.maximum(said.sum(axis=0), 1)
        fs = 2 * precisions * recalls / np.maximum(precisions + recalls, 1e-300)
        values: list[float] = (fs if metric == "ew" else hits).tolist()
        return sum(values) / len(values)

    return search_constant(list(voices.values()), value, max_words)


def search_constant(
    words: Sequence[str],
    value: Callable[[tuple[str, ...]], float],
    max_words: int,
    kept: int = _BEAM,
) -> tuple[tuple[str, ...], float]:
    """The answer of at most so many words whose value is largest, by beam search; and its value."""
    best: tuple[str, ...] = ()
    beam: list[tuple[str, ...]] = [()]
    for _ in range(max_words):
        longer = {tuple(sorted({*answer, word})) for answer in beam for word in words}
        beam = sorted(longer, key=lambda answer: (-value(answer), answer))[:kept]
        if beam and value(beam[0]) > value(best):
            best = beam[0]
    return best, value(best)


def _read_pairs(
    labels: Sequence[Answer], predictions: Sequence[Answer], parser: Parser
) -> list[Pair]:
    """Words of both sides, without the samples that have no prediction.

    Raises:
        ValueError: not as many predictions as labels.
    """
    return [
        (read_words(true, parser), read_words(said, parser))
        for true, said in zip(labels, predictions, strict=True)
        if said is not None and not (isinstance(said, float) and np.isnan(said))  # pandas' missing
    ]


def _share_known(answers: Sequence[Collection[str]], lexicon: Lexicon) -> float | None:
    """Share of the answers' words that the lexicon knows; None of none."""
    total = sum(map(len, answers))
    known = sum(map(lexicon.tables.bases.__contains__, chain.from_iterable(answers)))
    return known / total if total else None


def reasons(counts: Mapping[str, int]) -> dict[str, int]:
    """Why samples were left out: the reasons that occurred."""
    return {reason: count for reason, count in counts.items() if count}


def _grouped(pairs: Sequence[Pair], lexicon: Lexicon, stage: int) -> NDArray[np.float64]:
    """As `statistics`, of one wheel whose classes are the groups of a stage: (N, 1, 2)."""
    found = np.full((len(pairs), 1, 2), np.nan)
    for i, sides in enumerate(pairs):
        true, said = ({lexicon.groups(word)[stage] for word in words} - {None} for words in sides)
        if true:
            hits = len(true & said)
            found[i, 0] = hits / max(len(said), 1), hits / len(true)
    return found


def _class_flags(
    rows: Sequence[Sequence[str]], lexicon: Lexicon, levels: Sequence[int]
) -> NDArray[np.bool_]:
    """Which classes each row of words names: (N, 64, wheels of all levels)."""
    bits = np.concatenate([_class_bits(rows, lexicon, level) for level in levels], axis=1)
    return (bits[:, None] >> np.arange(64, dtype=np.uint64)[:, None] & np.uint64(1)).astype(bool)
