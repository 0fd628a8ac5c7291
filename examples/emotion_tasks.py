"""What the evaluation tasks for other tools share: the question, the answer, the corpus' figures.

Everything is the package's: the question is `dialogue`'s, replies are read by its parsers, and the
figures are those of `affectgpt-r1 score` and `unibench`. The tools are not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

from affectgpt_r1.clips import Clip, read_manifest
from affectgpt_r1.dialogue import QUESTIONS, Mode, Problem, parse_completion, target_text
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import hit_rate, sample_f
from affectgpt_r1.emotion.sentiment import sentiment_of, sentiment_scores
from affectgpt_r1.errors import InputError, MissingFileError
from affectgpt_r1.evaluation.answers import AnswerRow
from affectgpt_r1.evaluation.evaluate import Kept
from affectgpt_r1.evaluation.scoring import (
    HEADLINES,
    Metric,
    Rule,
    can_be_scored,
    cited,
    keep,
    score_row,
)
from affectgpt_r1.evaluation.unibench import SETS, bench

_BESIDE = (
    "precision",
    "recall",
    "accuracy",
    "coverage",
    "words_per_answer",
    "without_polarity",
    "n",
)
#: A manifest's labels are words; of an intensity, the sentiment metric sees the sign alone.
_SIGNS = {"positive": 1.0, "negative": -1.0, "neutral": 0.0}


def question(subtitle: str, mode: Mode = "answer") -> str:
    """What a model is asked beside the media: subtitle, the mode's question, the reply's form."""
    said = f"The subtitle of this video is: <Subtitle>{subtitle}</Subtitle>. " if subtitle else ""
    form = target_text(("word", "another word"), "your reasoning", mode)
    return (
        f"{said}{QUESTIONS[mode]} Use as many emotion words as apply, whichever you like, "
        f"and reply in exactly this form: {form}"
    )


def read_reply(reply: str) -> tuple[str, ...]:
    r"""The words of a reply: its answer block's, or where it has no tags those of all of it.

    >>> read_reply("<answer>happy, glad</answer>"), read_reply("1. Happy\n2. glad")
    (('happy', 'glad'), ('happy', 'glad'))
    """
    read = parse_completion(reply)
    tagged = read.think is not None or Problem.UNCLOSED in read.problems
    if read.answer is not None or tagged:
        return read.words
    return tuple(dict.fromkeys(parse_labels(read.text)))


def labelled_clips(manifest: Path) -> tuple[Clip, ...]:
    """The clips of a manifest, all of them labelled.

    Raises:
        MissingFileError, ManifestError: as `read_manifest`.
        InputError: a clip has no labels.
    """
    clips = read_manifest(manifest)
    bare = [clip.id for clip in clips if clip.labels is None]
    if bare:
        raise InputError(f"{manifest}: {bare[0]!r} has no labels: evaluation needs them all")
    return clips


def bench_manifests(folder: Path) -> dict[str, Path]:
    """The manifests of MER-UniBench's sets in a folder, by set: `mer2023.jsonl` or `.csv`, ...

    Raises:
        MissingFileError: there is none.
    """
    places = [(key, folder / f"{key}{end}") for key in SETS for end in (".csv", ".jsonl")]
    found = {key: path for key, path in places if path.is_file()}
    if not found:
        raise MissingFileError(
            f"no manifest of MER-UniBench in {folder}: name them {', '.join(SETS)}, with .jsonl"
        )
    return found


def answer_row(
    sample: str,
    labels: Sequence[str] | str,
    words: Sequence[str] | None,
    metric: Metric,
    *,
    group: str | None = None,
    dataset: str | None = None,
) -> AnswerRow:
    """One answer as the package's scores take it.

    Args:
        sample: its id.
        labels: words; for the sentiment metric one of positive, negative and neutral.
        words: the answer's; None: it could not be obtained.
        metric: of the task.
        group, dataset: as in `AnswerRow`.

    Raises:
        InputError: the sentiment metric has another label.
    """
    true: Sequence[str] | str | float = labels
    if metric == "sentiment":
        names = parse_labels(labels)
        if len(names) != 1 or names[0] not in _SIGNS:
            raise InputError(
                f"{sample!r} is labelled {', '.join(names)!r}: sentiment needs the sign of the "
                f"intensity as a word, one of {', '.join(_SIGNS)}"
            )
        true = _SIGNS[names[0]]
    said = None if words is None else list(words)
    return AnswerRow(sample, true, said, group or sample, dataset=dataset)


def sample_score(row: AnswerRow, rule: Rule, lexicon: Lexicon) -> float | None:
    """One answer's score; None where no label can be scored, or there is no answer.

    EW: the reward of the answer (`score_sample`); HIT: the share of wheels that were hit;
    sentiment: 1 where the sign is right.
    """
    kept = keep([row], rule, row.id)
    if not kept.rows or not can_be_scored(kept, rule, lexicon):
        return None
    labels, words = kept.pairs[0]
    if rule.metric == "ew":
        return sum(sample_f(labels, words, lexicon, at) for at in rule.levels) / len(rule.levels)
    if rule.metric == "hit":
        return hit_rate([labels], [words], lexicon, rule.parser).hit
    intensity = row.labels if isinstance(row.labels, int | float) else 0.0
    return sentiment_scores([intensity], [sentiment_of(words, lexicon)]).accuracy


def figures(rows: Sequence[AnswerRow], rule: Rule, lexicon: Lexicon) -> dict[str, float]:
    """A corpus' figures: the score first, then its interval and what must stand beside it.

    The score is NaN where nothing can be scored; what is not known is left out, and so are answers
    that could not be had.
    """
    headline = HEADLINES[rule.metric]
    kept = keep(rows, rule, "the answers")
    if not can_be_scored(kept, rule, lexicon):
        return {headline: nan}
    row = score_row(kept, rule, lexicon)
    found = {headline: row[headline], **{name: row.get(name) for name in _BESIDE}}
    for name, inner in (("interval", "low"), ("interval", "high"), ("constant", headline)):
        part = row[name]
        if isinstance(part, Mapping):
            found["constant" if name == "constant" else inner] = part[inner]
    found["without_words"] = sum(not words for _, words in kept.pairs)
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def bench_figures(rows: Sequence[AnswerRow], rule: Rule, lexicon: Lexicon) -> dict[str, float]:
    """MER-UniBench's figures: the mean of nine first (times 100), then each set's score and n.

    The mean is NaN unless all nine sets are there; a set that is not there is left out.
    """
    table = bench([replace(row, checkpoint="given") for row in rows], lexicon, rule)
    found = {"mean_of_nine": nan if table.fixed_mean is None else table.fixed_mean}
    for key, row in zip(SETS, table.rows, strict=True):
        if row.fixed is not None:
            found |= {key: row.fixed, f"{key}_n": float(row.n)}
    return found


def signature_of(rows: Sequence[AnswerRow], rule: Rule, lexicon: Lexicon) -> str:
    """The signature that the rows' score has, to be cited with it."""
    return cited(Kept(tuple(rows), (), 0), rule, lexicon)
