"""Features kept on disk and found by content: one loose file a clip, packed into shards later.

Many processes may read, write and pack one folder at once: a file appears whole, by renaming, and
two writers of one key write the same. What is damaged is found on reading, counted, and made again
by the caller. Nothing is thrown out to save space: `affectgpt_r1.perception.upkeep` does that.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole
from affectgpt_r1.perception.entries import DAMAGE, EntryFile, entries_bytes
from affectgpt_r1.perception.features import Features

logger = logging.getLogger(__name__)


class FeatureCache:
    """A folder of features, found by key.

    Args:
        folder: made at the first `put`; may be shared by many processes and machines.

    Attributes:
        hits: keys found by this object.
        misses: keys not found, the damaged among them.
        damaged: files and entries that were there but could not be trusted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        found = self._packed(key) or self._loose(key)
        # Between the two looks another process may have packed the loose file.
        if found is None and self._new_shards():
            found = self._packed(key)
        self.hits += found is not None
        self.misses += found is None
        return found

    def holds(self, key: str) -> bool:
        """Whether a shard lists the key, or its loose file is whole; no shard is mapped for it."""
        if key not in self._shard_of and not self._loose(key):
            self._new_shards()
            return key in self._shard_of
        return True

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

    def _packed(self, key: str) -> Features | None:
        shard = self._shard_of.get(key)
        try:
            return shard.read(key) if shard else None
        except FileNotFoundError:  # packed anew meanwhile
            del self._shard_of[key]
        except DAMAGE as error:
            logger.warning("left out a damaged entry of %s, %s (%s)", self.folder, key, error)
            del self._shard_of[key]
            self.damaged += 1
        return None

    def _loose(self, key: str) -> Features | None:
        path = self.path(key)
        file = self.opened(path)
        try:
            return file.read(key) if file else None
        except DAMAGE as error:
            self._remove(path, error)
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


def feature_cache(folder: str | Path | None) -> FeatureCache:
    """The feature cache in `folder`; None: in the user's cache directory."""
    return FeatureCache(Path(folder) if folder else user_cache_path("affectgpt-r1") / "features")
