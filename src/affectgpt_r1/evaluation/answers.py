"""Answers out of a file: anybody's predictions, as JSON Lines, with or without their labels.

A row names its sample (`id` or `name`) and gives `prediction` (a text or a list), `words`, or
`completion` (read by `dialogue.parse_completion`); null is an answer that could not be obtained.
What is scored how, this module does not know.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.score import Answer, Pair
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import Source, read_rows

_ANSWERS = ("words", "prediction", "completion")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One answer as the file has it.

    Attributes:
        id: of the sample.
        labels: the true words, or a number where the truth is an intensity; None: not given.
        prediction: words or a text; None where it could not be obtained.
        group: samples of one group are not independent.
        sentiment: where the file gives it; what is not `positive` counts as negative.
        dataset, checkpoint: of MER-UniBench's files.
        prose: of a completion, what an extractor reads: its think block, or else all of it.
        given: all that the file's row holds.
    """

    id: str
    labels: Answer | float
    prediction: Answer
    group: str
    sentiment: str | None = None
    dataset: str | None = None
    checkpoint: str | None = None
    prose: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def text(self) -> str | None:
        """What an extractor reads."""
        if self.prose is not None:
            return self.prose
        if isinstance(self.prediction, str | None):
            return self.prediction
        return ", ".join(self.prediction)


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows that can be scored, and the number that cannot; `scoring.keep` makes it.

    Attributes:
        rows: with a prediction.
        pairs: their labels and words, as the parser returns them (no words for sentiment labels).
        failed: rows whose prediction could not be obtained: left out.
    """

    rows: tuple[AnswerRow, ...]
    pairs: tuple[Pair, ...]
    failed: int = 0

    @property
    def groups(self) -> list[str]:
        """Of the rows."""
        return [row.group for row in self.rows]

    @property
    def truths(self) -> list[object]:
        """Labels as they are scored: words, or a number where there are none."""
        return [labels or row.labels for row, (labels, _) in self]

    def __iter__(self) -> Iterator[tuple[AnswerRow, Pair]]:
        """Every row with its pair."""
        return zip(self.rows, self.pairs, strict=True)


def read_answers(
    path: Source, clips: Iterable[Clip] = (), *, group: str = "group"
) -> list[AnswerRow]:
    """Read a file of answers; labels stand in it or are those of clips.

    Args:
        path: JSON Lines; `-` reads standard input; bytes: what was sent.
        clips: of a manifest, labelled; each must have an answer.
        group: the column (or the clips') that names a sample's group.

    Raises:
        MissingFileError: there is no such file.
        ProblemsError: wrong lines, all of them, with their numbers; or no prediction.
        InputError: clips of the manifest have no answer, or the file is a table.
    """
    truth = {clip.id: clip for clip in clips}
    lines: dict[tuple[object, ...], int] = {}
    strange: list[str] = []

    def joined(line: int, row: Mapping[str, Any]) -> AnswerRow | None:
        found = _row(row, group, not truth)
        if truth:
            if found.id not in truth:
                strange.append(found.id)
                return None
            clip = truth[found.id]
            own = found.group if found.group != found.id else clip.group or found.id
            if group != "group" and not clip.group and row.get(group) in (None, ""):
                raise ValueError(f"no {group!r} to group by, and the manifest has none either")
            dataset = found.dataset or clip.dataset
            found = replace(found, labels=clip.truth, group=own, dataset=dataset)
        if (first := lines.setdefault((found.id, found.dataset, found.checkpoint), line)) != line:
            raise ValueError(f"id {found.id!r} stands on line {first} already")
        if found.labels is None:
            raise ValueError(f"{found.id!r} has no labels: add `labels` or --labels MANIFEST")
        return found

    if isinstance(path, Path) and path.suffix.lower() == ".csv":
        lines_at = path.with_suffix(".jsonl")
        raise InputError(f"{path} is a table, and answers are JSON Lines: name {lines_at}")
    rows = read_rows(path, joined, "no prediction to score is in it")
    if strange:
        _log.warning("%d predictions are left out: the manifest has no such ids", len(strange))
    if len(rows) < len(truth):
        lacking = sorted(truth.keys() - {row.id for row in rows})
        raise InputError(
            f"{path!s} has no prediction for {len(lacking)} of {len(truth)} clips of the "
            f"manifest (first: {lacking[0]!r}): a score over the rest would be another's"
        )
    return rows


def _row(row: Mapping[str, Any], group: str, must_have_group: bool) -> AnswerRow:
    name = row.get("name") if row.get("id") is None else row["id"]
    if name is None:
        raise ValueError("no 'id'")
    labels = row.get("label") if row.get("labels") is None else row["labels"]
    if not (labels is None or isinstance(labels, str) or _is_number(labels) or is_texts(labels)):
        raise ValueError("the labels are neither words nor a number")
    sentiment = row.get("sentiment")
    if not isinstance(sentiment, str | None):
        raise ValueError("the sentiment is no text")
    grouped = row.get(group) not in (None, "")
    if must_have_group and group != "group" and not grouped:
        raise ValueError(f"no {group!r} to group by")
    own = str(row[group] if grouped else name)
    dataset, checkpoint = _name(row.get("dataset")), _name(row.get("checkpoint"))
    prediction, prose = _prediction(row)
    said = labels, prediction, own, sentiment, dataset, checkpoint
    return AnswerRow(_name(name) or "", *said, prose=prose, given=row)


def _name(value: object) -> str | None:
    """A name as a text that can be printed; half a character raises ValueError."""
    return None if value is None else str(value).encode().decode()


def _prediction(row: Mapping[str, object]) -> tuple[Answer, str | None]:
    """The answer of a row, and what an extractor reads of a completion."""
    given = [(key, row[key]) for key in _ANSWERS if key in row]
    if not given and row.get("sentiment") is None:
        raise ValueError(f"none of {', '.join(map(repr, _ANSWERS))}")
    key, value = next((one for one in given if one[1] is not None), ("", None))
    if not (isinstance(value, str | None) or is_texts(value)):
        raise ValueError(f"{key!r} is neither a text nor a list of texts")
    if key != "completion" or not isinstance(value, str):
        return value, None
    completion = parse_completion(value)
    return completion.words, completion.think or completion.text


def is_texts(value: object) -> TypeGuard[list[str]]:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    return type(value) in (int, float) and bool(abs(value) <= sys.float_info.max)
