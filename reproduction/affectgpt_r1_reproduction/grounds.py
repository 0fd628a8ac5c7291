"""Grounds: the clips on which tables are run, as manifests a fold.

`demo` is drawn here and its truth is known. `text` and `speech` are real people's labels, read from
a folder that the user has; nothing of them is part of this project.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.errors import InputError, MissingFileError
from affectgpt_r1.files import make_folder, own_rows
from affectgpt_r1.media.worker import Guard
from affectgpt_r1.model.profiles import PROFILES, encoder_source
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.encode import encode_clips, failures
from affectgpt_r1.progress import Progress
from affectgpt_r1_demo.clips import write_demo
from affectgpt_r1_reproduction.plan import GroundName

#: How many folds a ground has: 1 where training and test clips are apart by themselves.
FOLDS: dict[GroundName, int] = {"demo": 1, "text": 1, "speech": 5}
#: With the test lines' one rendering 2,058 clips.
_RENDERINGS = 5
#: How many rows of the real texts, evenly over the files.
_COLD_START_TEXTS, _GRPO_TEXTS, _TEST_TEXTS = 1500, 2000, 300
_SPOKEN = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
_ACTED = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
Bar = Callable[[str], Progress]
#: The clips of the two phases and of the test.
Parts: TypeAlias = tuple[Sequence[Clip], ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Manifests of the two phases and of the test, and the cache of their features."""

    cold_start: Path
    grpo: Path
    test: Path
    cache: Path


def prepare(name: GroundName, folder: Path, shared: Path | None, bar: Bar) -> tuple[Fold, ...]:
    """Make a ground's manifests, or find them made.

    Args:
        name: which.
        folder: where they lie.
        shared: folder of the real texts and the real speech, as docs/reproduction says.
        bar: makes bars for what takes long.

    Raises:
        InputError: a ground of real labels needs `shared`.
    """
    cache = folder / "features"
    places = [folder / str(fold) for fold in range(FOLDS[name])]
    folds = tuple(
        Fold(place / "cold-start.jsonl", place / "grpo.jsonl", place / "test.jsonl", cache)
        for place in places
    )
    if (folder / "complete").is_file():
        return folds
    parts: list[Parts]
    if name == "demo":
        drawn = folder / "clips"
        made = write_demo(drawn, renderings=_RENDERINGS, progress=bar("drawing clips"))
        manifests = (made.cold_start, made.grpo, made.test)
        parts = [tuple(map(read_manifest, manifests))]
    elif shared is None:
        raise InputError(f"the ground {name!r} is not part of the project: name it with --shared")
    else:
        parts = [_texts(shared / "text")] if name == "text" else _speech(shared / "ravdess_speech")
    for fold, clips in zip(folds, parts, strict=True):
        for path, part in zip((fold.cold_start, fold.grpo, fold.test), clips, strict=True):
            make_folder(path.parent)
            write_manifest(path, part)
    (folder / "complete").touch()
    return folds


def share_of(manifest: Path, share: float) -> Path:
    """A manifest of a share of another's groups; a smaller share is part of a larger one."""
    if share == 1:
        return manifest
    clips = read_manifest(manifest)
    order = sorted({clip.group or clip.id for clip in clips}, key=_order)
    kept = set(order[: round(share * len(order))])
    part = manifest.with_stem(f"{manifest.stem}-{share:g}")
    write_manifest(part, [clip for clip in clips if (clip.group or clip.id) in kept])
    return part


def encode(folds: Sequence[Fold], bar: Bar) -> None:
    """Put the features of a ground's clips into its cache, as far as they are not there.

    Raises:
        InputError: a clip cannot be read.
    """
    paths = [path for fold in folds for path in (fold.cold_start, fold.grpo, fold.test)]
    clips = {clip.id: clip for path in paths for clip in read_manifest(path)}.values()
    store, told = FeatureCache(folds[0].cache), bar("reading clips")
    encode_clips(tuple(clips), encoder_source(PROFILES["nano"]), store, Guard(2), progress=told)
    for name, why in failures(tuple(clips), store).items():
        raise InputError(f"{name} cannot be read ({why}): mend it, or fetch the set again")


def _texts(folder: Path) -> Parts:
    """Cold start on a model's words and on described film clips; GRPO and test on raters' words.

    The end of a description is its inference from what was seen to what is felt: that is taught
    as thinking, the rest speaks of pictures that are not here.
    """
    silver = _spread(_rows(folder / "affectgpt_words.jsonl"), _COLD_START_TEXTS)
    cold = [_text_clip(row, row["words"]) for row in silver]
    cold += [
        replace(_text_clip(row, row["labels"]), description=_last_sentence(row["description"]))
        for row in _rows(folder / "emer_232.jsonl")
    ]
    rated = {
        part: [row for row in _rows(folder / f"goemotions_{part}.jsonl") if _felt(row)]
        for part in ("train", "dev")
    }
    grpo = [_text_clip(row, row["labels"]) for row in _spread(rated["train"], _GRPO_TEXTS)]
    test = [_text_clip(row, row["labels"]) for row in _spread(rated["dev"], _TEST_TEXTS)]
    return cold, grpo, test


def _speech(folder: Path) -> list[Parts]:
    """Folds by actor: of every five one is for the test, the others in turn for the two phases."""
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}: name the folder above it with --shared")
    clips = []
    for path in sorted(folder.glob("Actor_*/*.ogg")):
        _, _, emotion, _, line, _, actor = path.stem.split("-")
        label = _ACTED[int(emotion) - 1]
        clips.append(
            Clip(id=path.stem, audio=path, subtitle=_SPOKEN[line], labels=(label,), group=actor)
        )
    actors = sorted({clip.group for clip in clips if clip.group})

    def of(chosen: Sequence[str]) -> list[Clip]:
        return [clip for clip in clips if clip.group in chosen]

    folds: list[Parts] = []
    for fold in range(FOLDS["speech"]):
        test = actors[fold :: FOLDS["speech"]]
        rest = [actor for actor in actors if actor not in test]
        folds.append((of(rest[::2]), of(rest[1::2]), of(test)))
    return folds


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise MissingFileError(f"no file {path}: name the folder of the data with --shared")
    return own_rows(path)


def _text_clip(row: dict[str, Any], words: Sequence[str]) -> Clip:
    return Clip(id=row["id"], subtitle=row["subtitle"], labels=tuple(words), group=row["id"])


def _felt(row: dict[str, Any]) -> bool:
    return bool(row["labels"] != ["neutral"])


def _last_sentence(text: str) -> str:
    return text.rstrip(" .").rpartition(". ")[2] + "."


def _spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many rows, drawn by the hash of their ids: the same ones everywhere."""
    kept = {row["id"] for row in sorted(rows, key=lambda row: _order(row["id"]))[:count]}
    return [row for row in rows if row["id"] in kept]


def _order(name: str) -> str:
    return hashlib.sha256(json.dumps(name).encode()).hexdigest()
