"""What a clip is, and the manifests that list clips.

A manifest is JSON Lines (one clip a line) or CSV with the same columns; paths in it are relative to
the manifest's folder. This module checks names and types, and that every file exists; it opens no
media.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.errors import ManifestError, MissingFileError
from affectgpt_r1.files import write_whole
from affectgpt_r1.rows import Line, json_lines, read_rows


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of one speaking person.

    Attributes:
        id: unique within a manifest.
        video: a file with pictures, and with sound unless `audio` is given; None: no pictures.
        audio: a sound file that replaces the video's own track.
        faces: face crops given by the user, npy (n, H, W, 3) uint8; they win over detection.
        subtitle: what is said, "" where unknown.
        labels: open-vocabulary emotion words; None: unlabelled, () is not allowed.
        description: the reasoning that leads to the labels, the target of the think block.
        group: clips with one group are not independent (renderings of one line, one speaker): the
            bootstrap draws groups. None: the clip stands for itself.
        dataset: the data set that the clip is of, by the name that `prepare` and `unibench` use.
        valence: signed intensity of the sentiment (above 0: pleasant), where that is what answers
            are scored against (CMU-MOSI, CMU-MOSEI, CH-SIMS); then `labels` hold its sign as a
            word: positive, negative or neutral.
    """

    id: str
    video: Path | None = None
    audio: Path | None = None
    faces: Path | None = None
    subtitle: str = ""
    labels: tuple[str, ...] | None = None
    description: str | None = None
    group: str | None = None
    dataset: str | None = None
    valence: float | None = None

    @property
    def truth(self) -> tuple[str, ...] | float | None:
        """What an answer is scored against: the intensity where it is given, else the labels."""
        return self.labels if self.valence is None else self.valence


_PATHS = ("video", "audio", "faces")
_TEXTS = ("subtitle", "description", "group", "dataset")
#: What is taken of a folder.
_MEDIA = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".wav", ".mp3", ".flac", ".m4a", ".ogg")
_NUMBER = re.compile(r"[-+]?\d{1,15}(\.\d+)?(e(-\d{1,3}|\+?\d\d?))?")  # CSV holds numbers as texts
_COLUMNS = tuple(column.name for column in fields(Clip))


def read_manifest(path: Path) -> tuple[Clip, ...]:
    """Read a manifest; every fault of the file is reported in one error, with its line.

    Args:
        path: `.jsonl` (also `.json`) or `.csv`, UTF-8.

    Raises:
        MissingFileError: there is no such manifest.
        ManifestError: wrong lines, unknown columns, repeated ids, missing media files, no clip.
    """
    known: dict[str, int] = {}

    def read(line: int, row: Mapping[str, Any]) -> Clip:
        if faults := _faults(row, path.parent):
            raise ValueError("; ".join(faults))
        clip = _clip(row, path.parent)
        if (first := known.setdefault(clip.id, line)) != line:
            raise ValueError(f"id {clip.id!r} stands on line {first} already")
        return clip

    lines = _csv_lines if path.suffix.lower() == ".csv" else json_lines
    return tuple(read_rows(path, read, "no clip is in it", lines=lines, fault=ManifestError))


def clips_in(files: Sequence[Path], subtitle: str = "") -> Sequence[Clip]:
    """The clips of a manifest, or of media files and of all media in folders.

    Args:
        files: one manifest (by its suffix), or media files and folders.
        subtitle: what is said in the files.

    Returns:
        Clips; the id of a file is its name, or its path where two have one name.

    Raises:
        MissingFileError: there is no such file, or no media in the folders.
        ManifestError: as `read_manifest`.
    """
    if len(files) == 1 and files[0].suffix.lower() in (".jsonl", ".csv"):
        return read_manifest(files[0])
    found: list[Path] = []
    for path in files:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _MEDIA)
        found += inside if path.is_dir() else [path]
    if not found:
        raise MissingFileError(f"{files[0]} holds no media files ({', '.join(_MEDIA)})")
    plain = len({path.stem for path in found}) == len(found)
    ids = [path.stem if plain else path.as_posix() for path in found]
    return [Clip(id=i, video=p, subtitle=subtitle) for i, p in zip(ids, found, strict=True)]


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as JSON Lines with paths relative to the manifest; the file appears whole."""
    rows = (json.dumps(_row(clip, path.parent), ensure_ascii=False) for clip in clips)
    write_whole(path, "".join(f"{row}\n" for row in rows))


def _row(clip: Clip, folder: Path) -> dict[str, object]:
    row = {c.name: value for c in fields(clip) if (value := getattr(clip, c.name)) != c.default}
    for name in row.keys() & _PATHS:
        row[name] = Path(os.path.relpath(row[name], folder)).as_posix()
    return row


def _csv_lines(text: str) -> Iterator[Line]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="more", strict=True)
    try:
        for row in reader:
            if "more" in row:
                yield reader.line_num, "more fields than columns: quote fields that hold commas"
            else:
                yield reader.line_num, {k: v for k, v in row.items() if v not in (None, "")}
    except csv.Error as error:
        yield reader.line_num, f"not CSV ({error})"


def _faults(row: Mapping[str, object], folder: Path) -> list[str]:
    faults = []
    for name in row:
        if name not in _COLUMNS:
            near = get_close_matches(str(name), _COLUMNS, 1)
            faults.append(f"unknown column {name!r}" + (f", {near[0]!r} is meant?" if near else ""))
    clip_id = row.get("id")
    if not isinstance(clip_id, str) or not clip_id.strip():
        faults.append("'id' is missing: give each clip a text of its own")
    for name in (*_PATHS, *_TEXTS):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            faults.append(f"{name!r} must be text, not {type(value).__name__}")
        elif name in _PATHS and isinstance(value, str) and not os.path.isfile(folder / value):
            faults.append(f"no {name} file at {value!r}")
    labels = row.get("labels")
    if isinstance(labels, list) and not all(isinstance(word, str) for word in labels):
        faults.append("'labels' must hold texts only")
    elif labels is not None and not isinstance(labels, list | str):
        faults.append(f"'labels' must be a list or a text, not {type(labels).__name__}")
    elif labels is not None and not parse_labels(labels):
        faults.append("'labels' names no word: leave the column out where labels are unknown")
    if (valence := row.get("valence")) is not None and not _NUMBER.fullmatch(str(valence)):
        faults.append(f"'valence' must be a finite number, not {valence!r:.40}")
    return faults


def _clip(row: Mapping[str, object], folder: Path) -> Clip:
    given: dict[str, Any] = {name: value for name, value in row.items() if value is not None}
    for name in given.keys() & _PATHS:
        given[name] = folder / given[name]
    if "labels" in given:
        given["labels"] = tuple(parse_labels(given["labels"]))
    if "valence" in given:
        given["valence"] = float(given["valence"])
    return Clip(**given)
