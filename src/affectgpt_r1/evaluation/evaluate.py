"""Evaluation of answers against labels: the score, how sure it is, and what it is worth.

The same figures for a model's predictions and for a file of anybody's: beside the score stands the
best constant answer's, the ceiling that the labels allow, and how varied the answers are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from affectgpt_r1.clips import Clip, read_manifest
from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import CorpusScore, best_constant, score_corpus, signature
from affectgpt_r1.emotion.significance import Interval, bootstrap
from affectgpt_r1.errors import InputError, MissingFileError, ProblemsError


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
        score: F, precision, recall, coverage, words per answer.
        interval: of F, bootstrapped over groups.
        constant_words, constant: the best constant answer on these labels, and its F.
        over_constant: F minus the constant's, paired.
        ceiling: F of the labels themselves.
        distinct_answers: how many different sets of words were given.
        clips, groups: how many.
        baseline: the other system's score, where there is one.
        over_baseline: F minus the baseline's, paired.
        signature: of the score.
    """

    score: CorpusScore
    interval: Interval
    constant_words: tuple[str, ...]
    constant: float
    over_constant: Interval
    ceiling: float
    distinct_answers: int
    clips: int
    groups: int
    baseline: CorpusScore | None
    over_baseline: Interval | None
    signature: str

    def lines(self) -> list[tuple[str, float, Interval | None]]:
        """The figures for people: name, value, interval."""
        rows: list[tuple[str, float, Interval | None]] = [
            ("this model", self.score.f, self.interval),
            (f"constant: {', '.join(self.constant_words)}", self.constant, None),
            ("above the constant", self.over_constant.value, self.over_constant),
        ]
        if self.baseline is not None and self.over_baseline is not None:
            rows += [
                ("baseline", self.baseline.f, None),
                ("above the baseline", self.over_baseline.value, self.over_baseline),
            ]
        rows += [
            ("ceiling of the labels", self.ceiling, None),
            ("coverage of the answers", self.score.coverage or 0.0, None),
            ("words per answer", self.score.words_per_answer, None),
            ("distinct answers", float(self.distinct_answers), None),
        ]
        return rows


def evaluate_words(scored: Sequence[Scored], lexicon: Lexicon, level: int = 1) -> Evaluation:
    """Evaluate answers.

    Raises:
        InputError: there is nothing to score.
    """
    if not scored:
        raise InputError("no labelled sample to score: give predictions whose ids have labels")
    labels = [sample.labels for sample in scored]
    words = [sample.words for sample in scored]
    groups = [sample.group for sample in scored]
    constant_words, constant = best_constant(labels, lexicon, level)
    others = [sample.baseline for sample in scored if sample.baseline is not None]
    paired = len(others) == len(scored)
    return Evaluation(
        score=score_corpus(list(zip(labels, words, strict=True)), lexicon, level),
        interval=bootstrap(labels, [words], groups, lexicon, level=level),
        constant_words=constant_words,
        constant=constant.f,
        over_constant=bootstrap(
            labels, [words], groups, lexicon, baseline=[[constant_words] * len(words)], level=level
        ),
        ceiling=score_corpus(list(zip(labels, labels, strict=True)), lexicon, level).f,
        distinct_answers=len({frozenset(answer) for answer in words}),
        clips=len(scored),
        groups=len(set(groups)),
        baseline=score_corpus(list(zip(labels, others, strict=True)), lexicon, level)
        if paired
        else None,
        over_baseline=bootstrap(labels, [words], groups, lexicon, baseline=[others], level=level)
        if paired
        else None,
        signature=signature(lexicon, level),
    )


def evaluation_row(result: Evaluation) -> dict[str, object]:
    """An evaluation as one JSON object."""

    def bounds(interval: Interval | None) -> dict[str, float] | None:
        if interval is None:
            return None
        return {"value": interval.value, "low": interval.low, "high": interval.high}

    score = result.score
    return {
        "f": score.f,
        "precision": score.precision,
        "recall": score.recall,
        "interval": bounds(result.interval),
        "by_wheel": [list(wheel) for wheel in score.by_wheel],
        "constant": {"words": list(result.constant_words), "f": result.constant},
        "over_constant": bounds(result.over_constant),
        "baseline": None if result.baseline is None else result.baseline.f,
        "over_baseline": bounds(result.over_baseline),
        "ceiling": result.ceiling,
        "coverage": score.coverage,
        "label_coverage": score.label_coverage,
        "words_per_answer": score.words_per_answer,
        "distinct_answers": result.distinct_answers,
        "clips": result.clips,
        "groups": result.groups,
        "skipped": score.skipped,
        "signature": result.signature,
    }


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


def read_words(path: Path) -> dict[str, tuple[str, ...]]:
    """Words by id from a predictions file: `words`, or else read from `completion`.

    Raises:
        MissingFileError: there is no such file.
        ProblemsError: wrong lines, all of them, with their numbers.
    """
    return {str(row["id"]): _words(row) for row in _read_rows(path)}


def read_scored(path: Path, manifest: Path | None) -> list[Scored]:
    """Predictions with their labels, inline or from a manifest.

    Raises:
        MissingFileError: a file does not exist.
        ProblemsError: wrong lines, or samples without labels.
    """
    rows = _read_rows(path)
    truth = {clip.id: clip for clip in read_manifest(manifest)} if manifest is not None else {}
    scored, problems = [], []
    for row in rows:
        name = str(row["id"])
        clip = truth.get(name)
        found = clip.labels if clip is not None else row.get("labels")
        labels = tuple(parse_labels(found))
        if not labels:
            problems.append(f"{name!r} has no labels: write them inline or name --labels MANIFEST")
        group = (clip.group if clip is not None else row.get("group")) or name
        scored.append(Scored(name, labels, _words(row), str(group)))
    if problems:
        raise ProblemsError(str(path), problems)
    return scored


def _words(row: Mapping[str, object]) -> tuple[str, ...]:
    if row.get("words") is not None:
        return tuple(dict.fromkeys(parse_labels(row["words"])))
    completion = parse_completion(str(row["completion"]))
    return completion.words


def _read_rows(path: Path) -> list[Mapping[str, object]]:
    if not path.is_file():
        raise MissingFileError(f"no predictions at {path}: give a .jsonl file that exists")
    rows: list[Mapping[str, object]] = []
    problems: list[str] = []
    seen: set[str] = set()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ProblemsError(str(path), ["not UTF-8: save the file as UTF-8"]) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            problems.append(f"line {number}: not JSON")
            continue
        if not isinstance(row, dict) or "id" not in row:
            problems.append(f"line {number}: no 'id'")
        elif row.get("words") is None and row.get("completion") is None:
            problems.append(f"line {number}: neither 'words' nor 'completion'")
        elif str(row["id"]) in seen:
            problems.append(f"line {number}: id {row['id']!r} stands above already")
        else:
            seen.add(str(row["id"]))
            rows.append(row)
    if not rows and not problems:
        problems.append("the file holds no prediction")
    if problems:
        raise ProblemsError(str(path), problems)
    return rows
