"""Evaluation of answers against labels: the score, how sure it is, and what it is worth.

The same figures for a model's predictions and for a file of anybody's: beside the score stands the
best constant answer's, the ceiling that the labels allow, and how varied the answers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.labels import Parser
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import CorpusScore, Pair, best_constant, score_pairs, signature
from affectgpt_r1.emotion.significance import (
    Interval,
    Statistic,
    bootstrap,
    difference,
    ew_statistic,
    mean_of,
)
from affectgpt_r1.errors import InputError


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer to be scored.

    Attributes:
        id, labels, words: the sample.
        group: samples of one group are not independent.
        baseline: another system's words for the same sample.
    """

    id: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    group: str
    baseline: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is to be said of a set of answers.

    Attributes:
        f: the score: F at the ring that was asked for, or its mean over both.
        scores: for each ring F, precision, recall, coverage, words per answer, signature.
        interval: of F, bootstrapped over groups.
        constant_words, constant: the best constant answer on these labels, and its F.
        over_constant: F minus the constant's, paired.
        ceiling: F of the labels themselves.
        distinct_answers: how many different sets of words were given.
        clips, groups: how many.
        baseline: the other system's F, where there is one.
        over_baseline: F minus the baseline's, paired.
    """

    f: float
    scores: tuple[CorpusScore, ...]
    interval: Interval
    constant_words: tuple[str, ...]
    constant: float
    over_constant: Interval
    ceiling: float
    distinct_answers: int
    clips: int
    groups: int
    baseline: float | None
    over_baseline: Interval | None

    @property
    def score(self) -> CorpusScore:
        """The score at the first ring; coverage and the like are the same at both."""
        return self.scores[0]

    @property
    def signature(self) -> str:
        """Of the score; both rings' where it is their mean."""
        return " + ".join(score.signature for score in self.scores)

    def lines(self) -> list[tuple[str, float, Interval | None]]:
        """The figures for people: name, value, interval."""
        rows: list[tuple[str, float, Interval | None]] = [
            ("F", self.f, self.interval),
            (f"constant: {', '.join(self.constant_words)}", self.constant, None),
            ("above the constant", self.over_constant.value, self.over_constant),
        ]
        if self.baseline is not None and self.over_baseline is not None:
            rows += [
                ("baseline", self.baseline, None),
                ("above the baseline", self.over_baseline.value, self.over_baseline),
            ]
        rows += [
            ("ceiling of the labels", self.ceiling, None),
            *(
                [("coverage of the answers", self.score.coverage, None)]
                if self.score.coverage is not None
                else []
            ),
            ("words per answer", self.score.words_per_answer, None),
            ("distinct answers", float(self.distinct_answers), None),
        ]
        return rows


def evaluate_words(
    scored: Sequence[Scored],
    lexicon: Lexicon,
    levels: Sequence[int] = (1,),
    *,
    parser: Parser = "robust",
    extractor: str = "none",
) -> Evaluation:
    """Evaluate answers.

    Args:
        scored: what is scored; words as the parser returned them.
        lexicon: words to classes.
        levels: one ring, or both, whose F are averaged.
        parser, extractor: by which the words came about, for the signature.

    Raises:
        InputError: there is nothing to score.
    """
    if not scored:
        raise InputError("no labelled sample to score: give predictions whose ids have labels")
    labels = [sample.labels for sample in scored]
    words = [sample.words for sample in scored]
    groups = [sample.group for sample in scored]
    constant_words, constant = best_constant(labels, lexicon, levels)
    others = [sample.baseline for sample in scored if sample.baseline is not None]
    paired = len(others) == len(scored)

    def pairs(answers: Sequence[Sequence[str]]) -> list[Pair]:
        return list(zip(labels, answers, strict=True))

    def scores(answers: Sequence[Sequence[str]]) -> tuple[CorpusScore, ...]:
        cited = [signature(lexicon, le, parser=parser, extractor=extractor) for le in levels]
        return tuple(
            score_pairs(pairs(answers), lexicon, level, cited=name)
            for level, name in zip(levels, cited, strict=True)
        )

    def statistic(answers: Sequence[Sequence[str]]) -> Statistic:
        return mean_of([ew_statistic(pairs(answers), lexicon, level) for level in levels])

    own, own_scores = statistic(words), scores(words)
    return Evaluation(
        f=_mean_f(own_scores),
        scores=own_scores,
        interval=bootstrap(own, groups),
        constant_words=constant_words,
        constant=constant,
        over_constant=bootstrap(difference(own, statistic([constant_words] * len(words))), groups),
        ceiling=_mean_f(scores(labels)),
        distinct_answers=len({frozenset(answer) for answer in words}),
        clips=len(scored),
        groups=len(set(groups)),
        baseline=_mean_f(scores(others)) if paired else None,
        over_baseline=bootstrap(difference(own, statistic(others)), groups) if paired else None,
    )


def _mean_f(scores: Sequence[CorpusScore]) -> float:
    return sum(score.f for score in scores) / len(scores)


def evaluation_row(result: Evaluation) -> dict[str, object]:
    """An evaluation as one JSON object."""
    score = result.score
    return {
        "f": result.f,
        "precision": sum(s.precision for s in result.scores) / len(result.scores),
        "recall": sum(s.recall for s in result.scores) / len(result.scores),
        "interval": interval_row(result.interval),
        "by_level": [
            {
                "f": s.f,
                "precision": s.precision,
                "recall": s.recall,
                "wheels": list(map(asdict, s.wheels)),
            }
            for s in result.scores
        ],
        "constant": {"words": list(result.constant_words), "f": result.constant},
        "over_constant": interval_row(result.over_constant),
        "baseline": result.baseline,
        "over_baseline": interval_row(result.over_baseline),
        "ceiling": result.ceiling,
        "coverage": score.coverage,
        "label_coverage": score.label_coverage,
        "words_per_answer": score.words_per_answer,
        "distinct_answers": result.distinct_answers,
        "clips": result.clips,
        "groups": result.groups,
        "n": score.n,
        "skipped": dict(score.skipped),
        "signature": result.signature,
    }


def interval_row(interval: Interval | None) -> dict[str, float | None] | None:
    """An interval as JSON, null where it is unknown; p is left out, it speaks of differences."""
    if interval is None:
        return None
    low, high = (None if isnan(bound) else bound for bound in (interval.low, interval.high))
    return {"value": interval.value, "low": low, "high": high}


def scored_clips(
    clips: Sequence[Clip],
    words: Mapping[str, tuple[str, ...]],
    baseline: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Scored]:
    """Join labelled clips with a model's words, and another's.

    Raises:
        InputError: a clip has no labels, or the baseline lacks a clip.
    """
    bare = [clip.id for clip in clips if clip.labels is None]
    if bare:
        raise InputError(
            f"{len(bare)} of {len(clips)} clips have no labels (first: {bare[0]!r}): "
            "evaluation needs them all; `predict` does not"
        )
    lacking = [clip.id for clip in clips if baseline is not None and clip.id not in baseline]
    if lacking:
        raise InputError(
            f"the baseline has no prediction for {len(lacking)} of {len(clips)} clips (first: "
            f"{lacking[0]!r}): compare predictions of the same manifest"
        )
    return [
        Scored(
            clip.id,
            clip.labels or (),
            words[clip.id],
            clip.group or clip.id,
            baseline[clip.id] if baseline is not None else None,
        )
        for clip in clips
    ]
