"""What a clip is, and the manifests that list clips.

A manifest is JSON Lines (one clip a line) or CSV with the same columns; paths in it are relative to
the manifest's folder. This module checks names and types, and that every file exists; of media it
opens the face crops alone, which are arrays.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.emotion.labels import Parser, parse_labels
from affectgpt_r1.errors import InputError, ManifestError, MediaError, MissingFileError
from affectgpt_r1.files import csv_lines, json_lines, read_rows, write_rows, writing


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
#: What is taken of a folder.
_FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".3gp", ".wmv", ".flv", ".mpg", ".mpeg")
_SOUNDS = (".wav", ".mp3", ".flac", ".m4a", ".ogg", ".opus", ".aac", ".amr", ".aiff")
_MEDIA = _FILMS + _SOUNDS
_NUMBER = re.compile(r"[-+]?\d{1,15}(\.\d+)?(e(-\d{1,3}|\+?\d\d?))?")  # CSV holds numbers as texts
# What numpy raises for files that are no npy, or whose header is damaged.
_UNREADABLE = (ValueError, OSError, EOFError, OverflowError, SyntaxError, TypeError, TokenError)
_COLUMNS = tuple(column.name for column in fields(Clip))


def read_manifest(path: Path, parser: Parser = "robust") -> tuple[Clip, ...]:
    """Read a manifest; every fault of the file is reported in one error, with its line.

    Args:
        path: `.jsonl` (also `.json`) or `.csv`, UTF-8.
        parser: reads labels.

    Raises:
        MissingFileError: there is no such manifest.
        ManifestError: wrong lines, unknown columns, repeated ids, missing media files, no clip.
    """
    known: dict[str, int] = {}

    def read(line: int, row: Mapping[str, Any]) -> Clip:
        given, faults = {}, []
        for name, value in row.items():
            try:
                given[name] = _value(name, value, path.parent, parser)
            except ValueError as fault:
                faults.append(str(fault))
        if not str(row.get("id") or "").strip():
            faults.append("'id' is missing: give each clip a text of its own")
        if faults:
            raise ValueError("; ".join(faults))
        clip = Clip(**{name: value for name, value in given.items() if value is not None})
        if (first := known.setdefault(clip.id, line)) != line:
            raise ValueError(f"id {clip.id!r} stands on line {first} already")
        return clip

    lines = csv_lines if path.suffix.lower() == ".csv" else json_lines
    return tuple(read_rows(path, read, "no clip is in it", lines=lines, fault=ManifestError))


def read_labelled(path: Path) -> tuple[Clip, ...]:
    """Read a manifest whose clips all have labels.

    Raises:
        MissingFileError, ManifestError: as `read_manifest`.
        InputError: clips have none.
    """
    clips = read_manifest(path)
    if bare := [clip.id for clip in clips if clip.labels is None]:
        raise InputError(
            f"{path}: {len(bare)} of {len(clips)} clips have no words as labels (first: "
            f"{bare[0]!r}): label them all; `predict` needs no labels"
        )
    return clips


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
        InputError: a manifest, whose clips have subtitles of their own, with a subtitle beside it.
    """
    if len(files) == 1 and files[0].suffix.lower() in (".jsonl", ".csv"):
        if subtitle:
            raise InputError(f"--subtitle is for media files: {files[0]} has a column for them")
        return read_manifest(files[0])
    found: dict[Path, None] = {}  # a file may be named, and lie in a folder that is named
    for path in files:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _MEDIA)
        found |= dict.fromkeys(inside if path.is_dir() else [path])
    if not found:
        raise MissingFileError(f"{files[0]} holds no media files ({', '.join(_MEDIA)})")
    plain = len({path.stem for path in found}) == len(found)
    ids = [path.stem if plain else path.as_posix() for path in found]
    return [Clip(id=i, video=p, subtitle=subtitle) for i, p in zip(ids, found, strict=True)]


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as JSON Lines with paths relative to the manifest; the file appears whole.

    Raises:
        InputError: the file cannot be written.
    """
    rows = []
    folder = path.parent.resolve()  # `..` goes up from where a link leads
    for clip in clips:
        row = {c.name: value for c in fields(clip) if (value := getattr(clip, c.name)) != c.default}
        for name in row.keys() & _PATHS:
            file = row[name].parent.resolve() / row[name].name
            row[name] = Path(os.path.relpath(file, folder)).as_posix()
        rows.append(row)
    with writing(path):
        write_rows(path, rows)


def open_crops(path: Path) -> NDArray[Any]:
    """Face crops as `Clip.faces` names them, not read yet; nothing is ever unpickled.

    Returns:
        (n, H, W, 3) uint8 in OpenFace's order, BGR; or an array of size 0, whatever its form, where
        no face was found.

    Raises:
        MissingFileError: there is no such file.
        MediaError: it is no npy file, holds objects, or an array of another shape or type.
    """
    if not path.is_file():
        raise MissingFileError(f"no face crops at {path}: check the path")
    try:
        crops = np.lib.format.open_memmap(path, mode="r")
        if crops.size and (crops.dtype != np.uint8 or crops.shape[3:] != (3,)):
            raise ValueError(f"it holds {crops.dtype} {crops.shape}")
    except _UNREADABLE as error:
        raise MediaError(
            f"{path} is no plain npy file of uint8 (n, height, width, 3): save the crops with "
            f"numpy.save ({' '.join(str(error).split())})"
        ) from None
    return crops


def _value(name: str, value: Any, folder: Path, parser: Parser) -> Any:
    """A column's value as `Clip` holds it, None where it is not given.

    Raises:
        ValueError: why it cannot be.
    """
    if name not in _COLUMNS:
        near = get_close_matches(str(name), _COLUMNS, 1)
        raise ValueError(f"unknown column {name!r}" + (f", {near[0]!r} is meant?" if near else ""))
    if value is None:
        return None
    if name == "valence":
        if not _NUMBER.fullmatch(str(value)):
            raise ValueError(f"'valence' must be a finite number, not {value!r:.40}")
        return float(value)
    if name == "labels":
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("'labels' must be a text or a list of texts")
        if words := parse_labels(value, parser):
            return tuple(words)
        raise ValueError("'labels' names no word: leave the column out where labels are unknown")
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be text, not {type(value).__name__}")
    if name not in _PATHS:
        return value
    if not os.path.isfile(folder / value):
        raise ValueError(f"no {name} file at {value!r}")
    return folder / value
