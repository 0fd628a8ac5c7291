"""The features of very many clips: read in guarded processes, encoded here, kept in the cache.

Nothing is done twice: what the cache holds is found by content, also what another process put
there meanwhile. A clip that cannot be read is listed with its reason and left out until asked for.

Over the machines of a Ray cluster it is the same work, each actor beside its own encoders.
Manifest, media and cache lie where all machines find them under one path. Actors share nothing but
the cache, so one that is lost costs what it had in flight.
"""

import random
from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import InputError, MediaError, MissingFileError
from affectgpt_r1.files import append_row, make_folder, own_rows, write_rows, writing
from affectgpt_r1.media import ClipMedia, MediaFlag
from affectgpt_r1.media.faces import write_faces
from affectgpt_r1.media.worker import Guard, guarded
from affectgpt_r1.perception.cache import SHARD_CLIPS, FeatureCache
from affectgpt_r1.perception.features import EncoderSource, encoded
from affectgpt_r1.progress import Progress, counted

#: What became of a clip: encoded, found in the cache, or failed.
Fate = Literal["encoded", "cached", "failed"]

# Clips that an actor takes at a time: its reading processes start anew with each.
_TAKE = 256


def to_encode(clips: Sequence[Clip], cache: FeatureCache, *, retry: bool) -> list[Clip]:
    """The clips that are to be tried: what failed before is left out, or with `retry` the rest."""
    before = _failures(cache)
    return [clip for clip in clips if (_name(clip) in before) == retry]


def failures(clips: Sequence[Clip], cache: FeatureCache) -> dict[str, str]:
    """Why clips could not be read, by id, as far as they are on the cache's list."""
    listed = _failures(cache)
    return {c.id: listed[name]["reason"] for c in clips if (name := _name(c)) in listed}


def encode_clips(
    clips: Sequence[Clip],
    source: EncoderSource,
    cache: FeatureCache,
    guard: Guard,
    *,
    batch_clips: int = 1,
    crops: Path | None = None,
    progress: Progress | None = None,
) -> Counter[Fate]:
    """Put the features of all clips into the cache; interrupted, it is simply called again.

    Args:
        clips: several processes may be given the same ones, and then share the work.
        source: the encoders.
        cache: its `failures.jsonl` lists what could not be read, with reasons.
        guard: limits of reading.
        batch_clips: so many are encoded at once, by encoders that can.
        crops: a folder that gets the face crops of each video, `ID.npy`, as data sets come with
            them; an empty array where no face was found.
        progress: told how many of how many clips are done.

    Returns:
        How many clips had which fate.

    Raises:
        InputError: the cache cannot be written.
    """
    make_folder(cache.folder)
    solved: set[str] = set()
    # An order of one's own: two processes on one manifest do not run after each other's clips.
    wanted = random.SystemRandom().sample(clips, len(clips))
    fates: Counter[Fate] = Counter()
    mine: set[str] = set()  # keys that were put and are not packed yet
    waiting: list[tuple[Clip, str, ClipMedia]] = []

    def note(clip: Clip, fate: Fate, reason: str | None = None) -> None:
        fates["failed" if reason else fate] += 1
        if reason:
            row = {"id": clip.id, "media": _name(clip), "reason": reason}
            with writing(cache.folder):
                append_row(cache.folder / "failures.jsonl", row)
        else:
            solved.add(_name(clip))

    read = partial(read_unless_cached, source.eyes(), cache.folder, crops)
    try:
        fresh = counted(guarded(read, wanted, guard), len(wanted), progress)
        for done, (clip, found, reason) in enumerate(fresh, 1):
            if found is None:
                note(clip, "failed", reason)
            elif found[1] is None or found[0] in mine:
                note(clip, "cached")
            else:
                waiting.append((clip, found[0], found[1]))
            if len(waiting) >= batch_clips or (waiting and done == len(wanted)):
                faults = _encode({key: media for _, key, media in waiting}, source, cache)
                for clip, key, _ in waiting:
                    # Two files of one content may wait together.
                    note(clip, "cached" if key in mine else "encoded", faults.get(key))
                    mine |= {key} - faults.keys()
                waiting = []
            if len(mine) >= SHARD_CLIPS or (done == len(wanted) and len(mine) >= SHARD_CLIPS // 8):
                cache.pack([*map(cache.path, mine)])
                mine = set()
    finally:
        _strike(cache, solved)
    return fates


def encode_on_ray(
    clips: Sequence[Clip],
    load: Callable[[], EncoderSource],
    cache: FeatureCache,
    guard: Guard,
    *,
    gpus: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Counter[Fate]:
    """As `encode_clips`, on the cluster that Ray is connected to, or on this machine's cores.

    Args:
        clips: paths are the same on all machines.
        load: gives the encoders, in each actor.
        cache: in a folder that all machines share.
        guard: limits of reading; its `workers` are the actors, each reading with one process.
        gpus: of each actor.
        progress: told how many of how many clips are done.
        **settings: others of `encode_clips`.

    Raises:
        MissingFileError: Ray is not installed.
        InputError: the cache cannot be written.
    """
    try:
        import ray
    except ImportError:
        raise MissingFileError("Ray is not installed: pip install 'affectgpt-r1[scale]'") from None
    fates: Counter[Fate] = Counter()
    if not clips:
        return fates
    load()  # what is at fault with encoders is told here, and not by an actor
    settings["guard"] = replace(guard, workers=1)
    settings["cache"] = FeatureCache(cache.folder.resolve())
    # Not `range`: reading that is a task, and waits for ever where the actors hold all cores.
    places = [{"id": i} for i in range(len(clips))]
    blocks = min(len(clips), max(len(clips) // _TAKE, guard.workers))
    takes = ray.data.from_items(places, override_num_blocks=blocks)
    done = takes.map_batches(
        _Encoding,
        fn_constructor_args=(clips, load),
        fn_constructor_kwargs=settings,
        batch_size=_TAKE,
        concurrency=guard.workers,
        num_gpus=gpus,
    )
    for row in done.iter_rows():
        fates[row["fate"]] += int(row["count"])
        if progress:
            progress(fates.total(), len(clips))
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


class _Encoding:
    """What an actor does with a take of clips, given by their places in the manifest."""

    def __init__(
        self, clips: Sequence[Clip], load: Callable[[], EncoderSource], **settings: Any
    ) -> None:
        self._clips, self._settings = clips, {"source": load(), **settings}

    def __call__(self, take: dict[str, Any]) -> dict[str, list[Any]]:
        fates = encode_clips([self._clips[i] for i in take["id"]], **self._settings)
        return {"fate": list(fates), "count": list(fates.values())}


def _encode(
    batch: Mapping[str, ClipMedia], source: EncoderSource, cache: FeatureCache
) -> dict[str, str]:
    """Encode and keep what was read, by key; the reasons of what could not be."""
    source.load()  # what is wrong with the encoders is no fault of the clips
    try:
        done = encoded(batch, source)
    except InputError as error:
        if len(batch) == 1:
            return dict.fromkeys(batch, str(error))
        # One of them is at fault: which, shows when each is alone.
        alone = [_encode({key: media}, source, cache) for key, media in batch.items()]
        return dict(ChainMap(*alone))
    for features in done:
        cache.put(features)
    return {}


def read_unless_cached(
    source: EncoderSource, folder: Path, crops: Path | None, clip: Clip
) -> tuple[str, ClipMedia | None]:
    """A clip's key, and its media unless the cache holds its features; run in another process.

    Raises:
        MediaError: as `read_media`, or the clip's id is no file name for its crops.
    """
    key = source.key(clip)
    known = _cache_in(folder).holds(key)
    place = crops / f"{clip.id}.npy" if crops and clip.video and not clip.faces else None
    if place and place.parent != crops:
        raise MediaError(f"id {clip.id!r} is no file name for its face crops: rename it")
    if known and (place is None or place.is_file()):
        return key, None
    media = source.read(clip)
    if place:
        write_faces(place, media.faces[:0] if MediaFlag.NO_FACE in media.flags else media.faces)
    return key, None if known else source.seen(media)


# Once a process: the shards' indices are read once.
_cache_in = lru_cache(FeatureCache)


def _name(clip: Clip) -> str:
    places = [str(p.resolve()) for p in (clip.video, clip.audio, clip.faces) if p]
    return " ".join(places) or f"{clip.id}, text alone"


def _strike(cache: FeatureCache, solved: set[str]) -> None:
    """Take what could be encoded after all off the cache's list."""
    if solved & (listed := _failures(cache)).keys():
        left = [row for name, row in listed.items() if name not in solved]
        with writing(cache.folder):
            write_rows(cache.folder / "failures.jsonl", left)


def _failures(cache: FeatureCache) -> dict[str, dict[str, Any]]:
    """What is listed, by media."""
    return {row["media"]: row for row in own_rows(cache.folder / "failures.jsonl")}
