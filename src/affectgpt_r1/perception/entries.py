"""The files of the feature cache: safetensors with three tensors a clip, read memory-mapped.

`KEY/visual`, `KEY/audio` and `KEY/about` (JSON); a file's header is its index. Nothing here knows
folders, or who else reads and writes.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from affectgpt_r1.perception.features import Features

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
        path.open("rb").close()  # safetensors calls whatever goes wrong a missing file
        with safe_open(path, framework="np") as file:
            names: Iterable[str] = file.keys()
            self.keys = sorted({name.partition("/")[0] for name in names})

    @cached_property
    def _file(self) -> Any:
        """Mapped once it is read from, and then kept."""
        return cast(Any, safe_open)(self.path, framework="np")

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
