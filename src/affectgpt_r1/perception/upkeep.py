"""Keeping a feature cache small, whole and quick: what it holds, packing, and throwing out.

All of it may run while others read and write; what they put meanwhile is kept, except by a throwing
out that was not told of it.
"""

import hashlib
import time
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from affectgpt_r1.perception.cache import DAMAGE, EntryFile, FeatureCache
from affectgpt_r1.perception.features import Features
from affectgpt_r1.progress import Progress, counted

#: Clips in a full shard: some 120 MB at the full profile.
SHARD_CLIPS = 2048

# What is unfinished for longer was left by a process that died.
_ABANDONED_S = 3600


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache holds.

    Attributes:
        clips: keys, each once.
        shards, loose: files.
        size_bytes: of all files.
        damaged: entries that are not what was written.
        dropped: entries thrown out, since nobody asked to keep them.
    """

    clips: int
    shards: int
    loose: int
    size_bytes: int
    damaged: int = 0
    dropped: int = 0


def contents(cache: FeatureCache) -> Contents:
    """What a cache holds, by its indices alone; files that are not whole go."""
    shards, loose = cache.shards(), cache.loose()
    keys = {key for path in shards if (file := cache.opened(path)) for key in file.keys}
    keys |= {path.stem for path in loose}
    size_bytes = 0
    for path in (*shards, *loose):
        with suppress(FileNotFoundError):  # packed meanwhile
            size_bytes += path.stat().st_size
    return Contents(len(keys), len(shards), len(loose), size_bytes, cache.damaged)


def verify(cache: FeatureCache, progress: Progress | None = None) -> Contents:
    """Read everything and check it; nothing is changed but that files that are not whole go."""
    files = [*cache.shards(), *cache.loose()]
    for path in counted(files, len(files), progress):
        if file := cache.opened(path):
            _sound(cache, file, file.keys)
    return contents(cache)


def compact(
    cache: FeatureCache,
    keep: Container[str] | None = None,
    progress: Progress | None = None,
) -> Contents:
    """Read everything; pack loose files and small shards, leave out what is damaged or doubled.

    Args:
        cache: the cache.
        keep: keys; others are thrown out. None: all stay.
        progress: told how many of how many files are read.
    """
    folder = cache.folder
    for path in (*folder.glob("loose/*/*.tmp"), *folder.glob("shards/*.tmp")):
        with suppress(FileNotFoundError):  # its writer is done with it
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()
    dropped = pack(cache, [*cache.shards(), *cache.loose()], keep, progress)
    return replace(contents(cache), dropped=dropped)


def pack(
    cache: FeatureCache,
    files: Sequence[Path],
    keep: Container[str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the entries of files into shards, and remove each file once its entries are on disk.

    A full shard that has nothing to leave out stays.

    Returns:
        How many entries were thrown out.

    Raises:
        InputError: the folder cannot be written.
    """
    dropped, seen = 0, set[str]()
    batch: list[Features] = []
    spent: list[Path] = []
    for path in counted(files, len(files), progress):
        if file := cache.opened(path):
            new = [key for key in file.keys if key not in seen]
            wanted = [key for key in new if keep is None or key in keep]
            dropped += len(new) - len(wanted)
            sound = _sound(cache, file, wanted)
            seen |= {features.key for features in sound}
            if not len(sound) == len(file.keys) >= SHARD_CLIPS:
                batch += sound
                spent.append(path)
        if len(batch) >= SHARD_CLIPS:
            _replace(cache, spent, batch)
            batch, spent = [], []
    _replace(cache, spent, batch)
    return dropped


def _sound(cache: FeatureCache, file: EntryFile, keys: Sequence[str]) -> list[Features]:
    found = []
    for key in keys:
        try:
            found.append(file.read(key))
        except FileNotFoundError:  # packed meanwhile
            break
        except DAMAGE:
            cache.damaged += 1
    return found


def _replace(cache: FeatureCache, spent: Sequence[Path], batch: Sequence[Features]) -> None:
    names = " ".join(sorted(features.key for features in batch))
    # One name for the same clips: packing twice, or two processes at once, doubles nothing.
    name = hashlib.sha256(names.encode()).hexdigest()[:32]
    shard = cache.folder / "shards" / f"{name}.safetensors"
    if batch and spent != [shard]:
        cache.write(shard, batch, durable=True)
    for path in spent:
        if path != shard:
            path.unlink(missing_ok=True)
