"""The published data sets: from their authors' folders, as handed out, to manifests.

What differs between them is data (`published.yaml`); reading is one way for all. Every file that a
clip needs is looked for, and what is missing, broken, left out or left over is counted. No media
are decoded here: what cannot be, `encode` lists.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import TypeAdapter

from affectgpt_r1.clips import Clip, open_crops, read_manifest, write_manifest
from affectgpt_r1.datasets.npz import read_dict
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.errors import InputError, MediaError, MissingFileError
from affectgpt_r1.files import csv_lines, read_rows


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """How a data set is handed out; the acted ones have a `pattern`, the others `labels`.

    Attributes:
        folder: its name.
        labels: csv (`name`, `openset`), or npz with the member `corpus`, {name: {emo, val}}.
        truth: what of it counts: open-vocabulary words, emo (one emotion) or val (an intensity).
        emotions: words of the emotions that are given as codes.
        prefix: of the names that are in the set; others belong to another part.
        subtitles: csv (`name`, `columns`); the first column is what the authors' code reads.
        descriptions: csv (`name`, `reason`) of the cold-start descriptions.
        video, audio: names of the media folders; the first that exists is taken.
        pattern: of a file's name, with the groups take, speaker, emotion and sentence. The first
            field of a name of RAVDESS is 01: picture and sound, 02: picture, 03: sound.
        sentences: what is said, by code.
    """

    folder: str = ""
    labels: str = ""
    corpus: str = ""
    truth: Literal["words", "emo", "val"] = "words"
    emotions: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    subtitles: str = ""
    columns: tuple[str, ...] = ()
    descriptions: str = ""
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    sentences: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """So many clips or names of one kind (there, missing, ...), and the first of them."""

    kind: str
    what: str
    count: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A manifest that was written, and all that was found on the way."""

    dataset: str
    manifest: Path
    clips: int
    findings: tuple[Finding, ...]


_KINDS = ("there", "missing", "broken", "left out", "extra")
_Found = dict[tuple[str, str], list[str]]
_VIDEO, _AUDIO = (".mp4", ".avi"), (".wav", ".flac", ".ogg")


def published_sets() -> dict[str, PublishedSet]:
    """The data sets that can be prepared, by name."""
    text = (files("affectgpt_r1.datasets") / "published.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, PublishedSet]).validate_python(yaml.safe_load(text))


def prepare(
    name: str,
    folder: Path,
    out: Path | None = None,
    *,
    exclude: Sequence[Path] = (),
    language: str | None = None,
) -> Prepared:
    """Write the manifest of a data set; nothing is written where it ends in an error.

    Args:
        name: of `published_sets`.
        folder: the set's own as handed out, or the one that holds it.
        out: the manifest; None: NAME.jsonl in the folder.
        exclude: manifests whose ids are left out.
        language: of the subtitles, where the set has a choice; None: as the authors' code.

    Raises:
        MissingFileError: the folder has no labels.
        InputError: a file of labels or subtitles cannot be read, no clip is left, or the manifest
            cannot be written.
    """
    sets, out = published_sets(), out or folder / f"{name}.jsonl"
    if name not in sets:
        raise InputError(f"no data set is called {name!r}: name demo, {', '.join(sets)}")
    kind = sets[name]
    if language and language not in kind.columns:
        held = " or ".join(kind.columns) or "in fixed sentences"
        raise InputError(f"--language {language}: subtitles of {name} are {held}")
    if language:
        kind = replace(kind, columns=(language,))
    found: _Found = defaultdict(list)
    excluded = {clip.id for path in exclude for clip in read_manifest(path)}
    read = _read_names if kind.pattern else _read_labels
    clips = []
    for clip in read(name, kind, folder, found):
        if clip.id in excluded or clip.labels is None:
            found["left out", "excluded" if clip.id in excluded else "no label"].append(clip.id)
        elif kept := _check(clip, found):
            clips.append(kept)
    for what in ("video", "audio", "faces", "subtitle", "description"):
        found["there", what] = [clip.id for clip in clips if getattr(clip, what)]
    findings = [
        Finding(kind, what, len(names), tuple(names[:3]))
        for (kind, what), names in sorted(found.items(), key=lambda item: _KINDS.index(item[0][0]))
        if names
    ]
    if not clips:
        told = ", ".join(f"{f.what} {f.count}" for f in findings if f.kind in ("left out", "extra"))
        raise InputError(f"{folder}: no clip of {name} is left ({told or 'no media'})")
    write_manifest(out, clips)
    return Prepared(name, out, len(clips), tuple(findings))


def _read_labels(name: str, kind: PublishedSet, folder: Path, found: _Found) -> Iterable[Clip]:
    root = next((p for p in (folder, folder / kind.folder) if (p / kind.labels).is_file()), None)
    if root is None:
        raise MissingFileError(f"no {kind.labels} in {folder} or its {kind.folder}")
    if kind.corpus:
        truths = {str(key): v for key, v in read_dict(root / kind.labels, kind.corpus).items()}
    else:
        truths = _column(root / kind.labels, "openset", found)
    subtitles = _column(root / kind.subtitles, kind.columns[0], found)
    reasons = _column(root / kind.descriptions, "reason", found) if kind.descriptions else {}
    videos, sounds = _files(root, kind.video, _VIDEO), _files(root, kind.audio, _AUDIO)
    places = (root / "openface_face").glob("*")  # a file a clip, or a folder that holds it
    faces = {p.name: p if p.suffix == ".npy" else p / f"{p.name}.npy" for p in places}
    sources = {"media": {*videos, *sounds}, "subtitle": {*subtitles}, "description": {*reasons}}
    for what, names in sources.items():
        found["extra", f"{what} without label"] = sorted(names - truths.keys())
    for key, value in truths.items():
        if not key.startswith(kind.prefix):
            found["left out", "of another part"].append(key)
            continue
        words, valence = _truth(kind, value)
        yield Clip(
            id=key,
            video=videos.get(key),
            audio=sounds.get(key),
            faces=faces.get(key) or faces.get(f"{key}.npy"),
            subtitle=subtitles.get(key, ""),
            labels=tuple(words) if parse_labels(words) else None,
            description=reasons.get(key, "") if kind.descriptions else None,
            dataset=name,
            valence=valence,
        )


def _truth(kind: PublishedSet, value: Any) -> tuple[list[str], float | None]:
    """Label words and intensity; no word where the label is none."""
    if kind.truth == "words":
        return parse_labels(value, "reference") or ["neutral"], None
    value = value.get(kind.truth) if isinstance(value, dict) else None
    if kind.truth == "emo":
        word = kind.emotions.get(str(value), value)
        return [word.lower()] if isinstance(word, str) else [], None
    if type(value) not in (int, float) or not abs(value) < 1e9:  # NaN is not below
        return [], None
    return [("neutral", "positive", "negative")[int(np.sign(value))]], float(value)


def _read_names(name: str, kind: PublishedSet, folder: Path, found: _Found) -> Iterable[Clip]:
    clips: dict[str, Clip] = {}
    media = [p for p in folder.rglob("*") if p.suffix.lower() in _VIDEO + _AUDIO]
    for path in sorted(media, key=lambda p: (p.name, p)):  # of a take, the whole one comes first
        match = kind.pattern and kind.pattern.fullmatch(path.stem)
        if not match:
            found["extra", "media without label"].append(path.name)
            continue
        take, role = match["take"], "video" if path.name.startswith(("01-", "02-")) else "audio"
        clip = clips.get(take) or Clip(
            take,
            subtitle=kind.sentences[match["sentence"]],
            labels=(kind.emotions[match["emotion"]],),
            group=f"{name}-{match['speaker']}",
            dataset=name,
        )
        if getattr(clip, role) or (clip.video and clip.video.name.startswith("01-")):
            found["extra", "other file of a take"].append(path.name)
        else:
            clips[take] = replace(clip, **{role: path})  # type: ignore[arg-type]
    return clips.values()


def _check(clip: Clip, found: _Found) -> Clip | None:
    """The clip with those of its files that can be used; None: it has neither picture nor sound."""
    for role in ("video", "audio", "faces"):
        if fault := _fault(getattr(clip, role), role):
            found[fault].append(clip.id)
            clip = replace(clip, **{role: None})  # type: ignore[arg-type]
    for role in ("subtitle", "description"):
        if getattr(clip, role) == "":
            found["missing", role].append(clip.id)
    if clip.video or clip.audio:
        return replace(clip, description=clip.description or None)
    found["left out", "no media"].append(clip.id)
    return None


def _fault(path: Path | None, role: str) -> tuple[str, str] | None:
    """Why a file cannot be used, by its size and, of face crops, its header."""
    if path is None or not path.is_file():
        return "missing", role
    if not path.stat().st_size:
        return "broken", f"empty {role}"
    if role == "faces":
        try:
            if not open_crops(path).size:
                return "broken", "faces without a face"
        except MediaError:
            return "broken", "wrong faces"
    return None


def _files(root: Path, folders: Sequence[str], suffixes: Sequence[str]) -> dict[str, Path]:
    """Media files of the first folder that exists, by name; mp4 goes before avi."""
    folder = next((root / name for name in folders if (root / name).is_dir()), root / folders[0])
    return {p.stem: p for p in sorted(folder.glob("*")) if p.suffix.lower() in suffixes}


def _column(path: Path, column: str, found: _Found) -> dict[str, str]:
    """A column of a csv by name; a later row of one name counts, as in the authors' code."""
    values: dict[str, str] = {}

    def read(_: int, row: Mapping[str, str]) -> str:
        name = row.get("name", "").strip()
        if name in values:
            found["extra", "name given twice"].append(name)
        values[name] = row.get(column, "").strip()
        return name

    if path.is_file():
        read_rows(path, read, "no row is in it", lines=partial(csv_lines, needed=("name", column)))
    else:
        found["missing", "file"].append(path.name)
    return values
