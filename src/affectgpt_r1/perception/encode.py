"""The features of very many clips: read in guarded processes, encoded here, kept in the cache.

Nothing is done twice: what the cache holds is found by content, also what another process put
there meanwhile. A clip that cannot be read is listed with its reason and left out until asked for.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole
from affectgpt_r1.media import ClipMedia, read_media
from affectgpt_r1.media.worker import Guard, guarded
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.features import STEPS, Encoders, EncoderSource, encoded

#: What became of a clip: encoded, found in the cache, failed, or left out since it failed before.
Fate = Literal["encoded", "cached", "failed", "skipped"]


def encode_clips(
    clips: Sequence[Clip],
    source: EncoderSource,
    cache: FeatureCache,
    guard: Guard,
    *,
    retry: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Counter[Fate]:
    """Put the features of all clips into the cache; interrupted, it is simply called again.

    Args:
        clips: several processes may be given the same ones, and then share the work.
        source: the encoders.
        cache: its `failures.jsonl` lists what could not be read, with reasons.
        guard: limits of reading.
        retry: only what failed before is tried, again.
        progress: told how many of how many clips are done.

    Returns:
        How many clips had which fate.

    Raises:
        InputError: the cache cannot be written.
    """
    listed = cache.folder / "failures.jsonl"
    before = _failures(listed)
    again = [clip for clip in clips if _name(clip) in before]
    wanted = again if retry else [clip for clip in clips if _name(clip) not in before]
    if retry and again:
        left = [before[name] for name in before.keys() - {_name(clip) for clip in again}]
        write_whole(listed, "".join(f"{json.dumps(row)}\n" for row in left))
    fates: Counter[Fate] = Counter()
    fates["skipped"] = 0 if retry else len(again)
    # An order of one's own: two processes on one manifest do not run after each other's clips.
    random.Random(os.getpid()).shuffle(wanted)
    done_by = _encoded(wanted, source, cache, guard)
    for done, (clip, fate, reason) in enumerate(done_by, 1):
        fates[fate] += 1
        if reason is not None:
            row = {"id": clip.id, "media": _name(clip), "reason": reason}
            listed.parent.mkdir(parents=True, exist_ok=True)
            with listed.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if progress:
            progress(done, len(wanted))
    return fates


def shard_of(clips: Sequence[Clip], part: str) -> Sequence[Clip]:
    """The I-th of N parts, written `I/N`: every N-th clip.

    Raises:
        InputError: it is written otherwise.
    """
    i, _, n = part.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise InputError(f"--shard {part!r}: write I/N, such as 2/4 for the second of four parts")
    return clips[int(i) - 1 :: int(n)]


def _encoded(
    clips: Iterable[Clip], source: EncoderSource, cache: FeatureCache, guard: Guard
) -> Iterator[tuple[Clip, Fate, str | None]]:
    # Without its encoders the source can travel to another process.
    read = partial(read_unless_cached, replace(source, load=_unloaded), cache.folder)
    for clip, found, reason in guarded(read, clips, guard):
        if found is None:
            yield clip, "failed", reason
            continue
        key, media = found
        if media is None:
            yield clip, "cached", None
            continue
        encoders = source.load()
        try:
            features = encoded(media, encoders, key)
        except InputError as error:
            yield clip, "failed", str(error)
            continue
        cache.put(features)
        yield clip, "encoded", None


def read_unless_cached(
    source: EncoderSource, folder: Path, clip: Clip
) -> tuple[str, ClipMedia | None]:
    """A clip's key, and its media unless the cache holds its features; run in another process.

    Raises:
        As `read_media`.
    """
    key = source.key(clip)
    if FeatureCache(folder).get(key) is not None:
        return key, None
    media = read_media(clip, frames=STEPS, windows=STEPS)
    # What no encoder looks at need not travel between processes.
    if source.view == "face":
        return key, replace(media, frames=media.frames[:0])
    return key, replace(media, faces=media.faces[:0])


def _unloaded() -> Encoders:
    raise NotImplementedError("this process reads clips, and encodes none")


def _name(clip: Clip) -> str:
    return " ".join(str(p.resolve()) for p in (clip.video, clip.audio, clip.faces) if p)


def _failures(path: Path) -> dict[str, dict[str, str]]:
    """What is listed, by media; a line that a kill tore counts for nothing."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            found[row["media"]] = row
    return found
