"""Features kept on disk and found by content: one loose file a clip, packed into shards later.

A file is safetensors with three tensors a clip, `KEY/visual`, `KEY/audio` and `KEY/about` (JSON),
read memory-mapped; its header is its index. Many processes may read, write and pack one folder at
once: a file appears whole, by renaming, and two writers of one key write the same. What is damaged
is found on reading, counted, and made again by the caller. Looking after a cache (`verify`,
`compact`, `pack`) may run while others read and write; what they put meanwhile is kept, except by a
throwing out that was not told of it.
"""

import hashlib
import json
import logging
import time
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole, writing
from affectgpt_r1.perception.features import Features
from affectgpt_r1.progress import Progress, counted

logger = logging.getLogger(__name__)

#: Clips in a full shard: some 120 MB at the full profile.
SHARD_CLIPS = 2048

# What is unfinished for longer was left by a process that died.
_ABANDONED_S = 3600

#: What reading a damaged file or entry raises.
DAMAGE = (SafetensorError, ValueError, KeyError, TypeError)


class EntryFile:
    """A file of features, mapped as long as it is held, with its keys.

    Raises:
        OSError: it cannot be read.
        DAMAGE: it is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.open("rb").close()  # safetensors calls whatever goes wrong a missing file
        self._file = cast(Any, safe_open)(path, framework="np")
        names: Iterable[str] = self._file.keys()
        self.keys = sorted({name.partition("/")[0] for name in names})

    def read(self, key: str) -> Features:
        """The features under a key, checked against their digest.

        Raises:
            DAMAGE: they are not what was written.
        """
        visual, audio, written = (
            self._file.get_tensor(f"{key}/{part}") for part in ("visual", "audio", "about")
        )
        about = json.loads(written.tobytes())
        # safetensors checks lengths, not values: a flipped bit is found by the digest alone.
        if about.pop("digest") != _digest(key, about, visual, audio):
            raise ValueError("its content does not match its digest")
        about["flags"] = frozenset(about["flags"])
        return Features(visual=visual, audio=audio, key=key, **about)


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
    damaged: int
    dropped: int


class FeatureCache:
    """A folder of features, found by key.

    Args:
        folder: made at the first `put`; may be shared by many processes and machines. None: in the
            user's cache directory.

    Attributes:
        damaged: files and entries that were there but could not be trusted.
        dropped: entries that were thrown out.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder else user_cache_path("affectgpt-r1") / "features"
        self.damaged = self.dropped = 0
        self._shard_of: dict[str, Path] = {}
        self._shards: dict[Path, EntryFile | None] = {}  # mapped once they are read from

    def path(self, key: str) -> Path:
        """Where a key's loose file lies: 256 folders by the first two hex digits."""
        return self.folder / "loose" / key[:2] / f"{key}.safetensors"

    def loose(self) -> list[Path]:
        """All loose files."""
        return sorted(self.folder.glob("loose/*/*.safetensors"))

    def shards(self) -> list[Path]:
        """All shards."""
        return sorted(self.folder.glob("shards/*.safetensors"))

    def get(self, key: str) -> Features | None:
        """The features kept under a key; None where there are none or they are damaged.

        Raises:
            InputError: what is there may not be read.
        """
        found = self._in_shard(key) or self._read(self.opened(self.path(key)), key)
        # Between the two looks another process may have packed the loose file.
        if found is None and self._new_shards():
            found = self._in_shard(key)
        return found

    def holds(self, key: str) -> bool:
        """Whether a shard lists the key, or its loose file is whole; no shard is mapped for it."""
        if key in self._shard_of or self._read(self.opened(self.path(key)), key):
            return True
        self._new_shards()
        return key in self._shard_of

    def put(self, features: Features) -> None:
        """Keep features under their key; the file appears whole.

        Raises:
            InputError: the folder cannot be written.
        """
        self.write(self.path(features.key), [features])

    def opened(self, path: Path) -> EntryFile | None:
        """A file of this cache; None where there is none, or none that is whole: it is removed.

        Raises:
            InputError: it may not be read.
        """
        try:
            return EntryFile(path)
        except FileNotFoundError:
            return None
        except DAMAGE as error:
            self._remove(path, error)
            return None
        except OSError as error:
            raise InputError(
                f"cannot read the cache at {path} ({error.strerror or error}): name another folder"
            ) from None

    def write(self, path: Path, entries: Iterable[Features], *, durable: bool = False) -> None:
        """Write a file of this cache, the same for the same entries.

        Raises:
            InputError: the folder cannot be written.
        """
        tensors: dict[str, NDArray[Any]] = {}
        for entry in sorted(entries, key=lambda entry: entry.key):
            visual, audio = np.ascontiguousarray(entry.visual), np.ascontiguousarray(entry.audio)
            about: dict[str, Any] = {"has_visual": entry.has_visual, "has_audio": entry.has_audio}
            about["flags"] = sorted(entry.flags)
            about["digest"] = _digest(entry.key, about, visual, audio)
            written = np.frombuffer(json.dumps(about).encode(), np.uint8)
            for part, array in (("visual", visual), ("audio", audio), ("about", written)):
                tensors[f"{entry.key}/{part}"] = array
        with writing(self.folder):
            write_whole(path, save(tensors), durable=durable)

    def contents(self) -> Contents:
        """What a cache holds, by its indices alone; files that are not whole go."""
        loose = self.loose()
        shards = {path: file.keys for path in self.shards() if (file := self.opened(path))}
        keys = {path.stem for path in loose}.union(*shards.values())
        size_bytes = 0
        for path in (*shards, *loose):
            with suppress(FileNotFoundError):  # packed meanwhile
                size_bytes += path.stat().st_size
        return Contents(len(keys), len(shards), len(loose), size_bytes, self.damaged, self.dropped)

    def verify(self, progress: Progress | None = None) -> Contents:
        """Read everything and check it; nothing is changed but that files not to be used go."""
        files = [*self.shards(), *self.loose()]
        for path in counted(files, len(files), progress):
            if file := self.opened(path):
                for key in file.keys:
                    self._read(file, key)
        return self.contents()

    def compact(
        self, keep: Container[str] | None = None, progress: Progress | None = None
    ) -> Contents:
        """Read everything; pack loose files and small shards, leave out what is damaged or doubled.

        Args:
            keep: keys; others are thrown out. None: all stay.
            progress: told how many of how many files are read.
        """
        for path in (*self.folder.glob("loose/*/*.tmp"), *self.folder.glob("shards/*.tmp")):
            with suppress(FileNotFoundError):  # its writer is done with it
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()
        self.pack([*self.shards(), *self.loose()], keep, progress)
        return self.contents()

    def pack(
        self,
        files: Sequence[Path],
        keep: Container[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write the entries of files into shards; each file goes once its entries are on disk.

        A full shard that has nothing to leave out stays.

        Raises:
            InputError: the folder cannot be written.
        """
        seen: set[str] = set()
        batch: list[Features] = []
        spent: list[Path] = []
        for path in counted(files, len(files), progress):
            if file := self.opened(path):
                new = [key for key in file.keys if key not in seen]
                wanted = [key for key in new if keep is None or key in keep]
                self.dropped += len(new) - len(wanted)
                sound = [found for key in wanted if (found := self._read(file, key))]
                seen |= {features.key for features in sound}
                if not len(sound) == len(file.keys) >= SHARD_CLIPS:
                    batch += sound
                    spent.append(path)
            if len(batch) >= SHARD_CLIPS:
                self._repack(spent, batch)
                batch, spent = [], []
        self._repack(spent, batch)

    def _repack(self, spent: Sequence[Path], batch: Sequence[Features]) -> None:
        names = " ".join(sorted(features.key for features in batch))
        # One name for the same clips: packing twice, or two processes at once, doubles nothing.
        name = hashlib.sha256(names.encode()).hexdigest()[:32]
        shard = self.folder / "shards" / f"{name}.safetensors"
        if batch and spent != [shard]:
            self.write(shard, batch, durable=True)
        for path in spent:
            if path != shard:
                path.unlink(missing_ok=True)

    def _in_shard(self, key: str) -> Features | None:
        if not (path := self._shard_of.get(key)):
            return None
        self._shards[path] = file = self._shards[path] or self.opened(path)
        return self._read(file, key)

    def _read(self, file: EntryFile | None, key: str) -> Features | None:
        if file:
            try:
                return file.read(key)
            except DAMAGE as error:
                if file.path == self.path(key):
                    self._remove(file.path, error)
                else:
                    logger.warning("a damaged entry in %s: %s (%s)", file.path, key, error)
                    self.damaged += 1
        self._shard_of.pop(key, None)
        return None

    def _new_shards(self) -> bool:
        """List what has appeared among the shards since the last look; whether anything has."""
        new = [path for path in self.shards() if path not in self._shards]
        for path in new:
            shard = self.opened(path)
            self._shard_of |= dict.fromkeys(shard.keys, path) if shard else {}
            self._shards[path] = None
        return bool(new)

    def _remove(self, path: Path, error: Exception) -> None:
        logger.warning("removed the damaged feature file %s (%s)", path, error)
        with suppress(OSError):  # in a folder that may only be read it stays, and counts
            path.unlink()
        self.damaged += 1


def _digest(key: str, about: dict[str, object], *arrays: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(json.dumps([key, about], sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
