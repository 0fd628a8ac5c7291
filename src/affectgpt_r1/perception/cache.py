"""Features kept on disk and found by content: one loose file a clip, packed into shards later.

A file is safetensors with three tensors a clip, `KEY/visual`, `KEY/audio` and `KEY/about` (JSON),
read memory-mapped; its header is its index. Many processes may read, write and pack one folder at
once: a file appears whole, by renaming, and two writers of one key write the same. What is damaged
is found on reading, counted, and made again by the caller. Nothing is thrown out to save space:
`affectgpt_r1.perception.upkeep` does that.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole
from affectgpt_r1.perception.features import Features

logger = logging.getLogger(__name__)

#: What reading a damaged file or entry raises.
DAMAGE = (SafetensorError, ValueError, KeyError, TypeError)


class EntryFile:
    """A file of features, with its keys.

    Raises:
        OSError: it cannot be read.
        DAMAGE: it is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._mapped() as file:
            names: Iterable[str] = file.keys()
            self.keys = sorted({name.partition("/")[0] for name in names})

    def _mapped(self) -> Any:
        self.path.open("rb").close()  # safetensors calls whatever goes wrong a missing file
        return cast(Any, safe_open)(self.path, framework="np")

    @cached_property
    def _file(self) -> Any:
        """Mapped once it is read from, and then kept."""
        return self._mapped()

    def read(self, key: str) -> Features:
        """The features under a key, checked against their digest.

        Raises:
            OSError: the file cannot be read, or is there no more.
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


class FeatureCache:
    """A folder of features, found by key.

    Args:
        folder: made at the first `put`; may be shared by many processes and machines. None: in the
            user's cache directory.

    Attributes:
        hits: keys found by this object.
        misses: keys not found, the damaged among them.
        damaged: files and entries that were there but could not be trusted.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder else user_cache_path("affectgpt-r1") / "features"
        self.hits = self.misses = self.damaged = 0
        self._seen: set[Path] = set()
        self._shard_of: dict[str, EntryFile] = {}

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
        shard = self._shard_of.get(key)
        found = self._read(shard, key) or self._read(self.opened(self.path(key)), key)
        # Between the two looks another process may have packed the loose file.
        if found is None and self._new_shards():
            found = self._read(self._shard_of.get(key), key)
        self.hits += found is not None
        self.misses += found is None
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
                f"cannot read the feature cache at {path} ({error.strerror or error}): mend its "
                "permissions or name another folder"
            ) from None

    def write(self, path: Path, entries: Iterable[Features], *, durable: bool = False) -> None:
        """Write a file of this cache.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            write_whole(path, entries_bytes(entries), durable=durable)
        except OSError as error:
            raise InputError(
                f"cannot write the feature cache at {self.folder} ({error.strerror or error}): "
                "make room, mend its permissions or name another folder"
            ) from None

    def _read(self, file: EntryFile | None, key: str) -> Features | None:
        if file is None:
            return None
        try:
            return file.read(key)
        except OSError:  # packed meanwhile
            pass
        except DAMAGE as error:
            if file.path == self.path(key):
                self._remove(file.path, error)
            else:
                logger.warning("left out a damaged entry of %s, %s (%s)", self.folder, key, error)
                self.damaged += 1
        self._shard_of.pop(key, None)
        return None

    def _new_shards(self) -> bool:
        """Open what has appeared among the shards since the last look; whether anything has."""
        new = [path for path in self.shards() if path not in self._seen]
        for path in new:
            shard = self.opened(path)
            self._shard_of |= dict.fromkeys(shard.keys, shard) if shard else {}
            self._seen.add(path)
        return bool(new)

    def _remove(self, path: Path, error: Exception) -> None:
        logger.warning("removed the damaged feature file %s (%s)", path, error)
        with suppress(OSError):  # in a folder that may only be read it stays, and counts
            path.unlink()
        self.damaged += 1


def entries_bytes(entries: Iterable[Features]) -> bytes:
    """The content of a file that holds such entries, the same for the same ones."""
    tensors: dict[str, NDArray[Any]] = {}
    for entry in sorted(entries, key=lambda entry: entry.key):
        visual, audio = np.ascontiguousarray(entry.visual), np.ascontiguousarray(entry.audio)
        about = {
            "has_visual": entry.has_visual,
            "has_audio": entry.has_audio,
            "flags": sorted(entry.flags),
        }
        about["digest"] = _digest(entry.key, about, visual, audio)
        written = np.frombuffer(json.dumps(about).encode(), np.uint8)
        for part, array in (("visual", visual), ("audio", audio), ("about", written)):
            tensors[f"{entry.key}/{part}"] = array
    return save(tensors)


def _digest(key: str, about: dict[str, object], *arrays: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(json.dumps([key, about], sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
