"""Features kept on disk, one safetensors file a clip, named by content.

Many processes may read and write one folder at once: a file appears whole, by renaming, and two
writers of one key write the same. A damaged file is found on reading, removed, counted, and made
again by the caller. Nothing is ever thrown out to save space: delete the folder for that.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from affectgpt_r1.errors import InputError
from affectgpt_r1.perception.features import Features

logger = logging.getLogger(__name__)


class FeatureCache:
    """A folder of features, found by key.

    Args:
        folder: made at the first `put`; may be shared by many processes and machines.

    Attributes:
        hits: keys found by this object.
        misses: keys not found, the damaged among them.
        damaged: files that were there but could not be trusted; each was removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = self.misses = self.damaged = 0

    def path(self, key: str) -> Path:
        """Where a key's file lies: 256 folders by the first two hex digits."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Features | None:
        """The features kept under a key; None where there are none or they are damaged.

        Raises:
            InputError: the file is there but may not be read.
        """
        path = self.path(key)
        try:
            features = _read(path, key)
        except FileNotFoundError:
            self.misses += 1
            return None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            logger.warning("removed the damaged feature file %s (%s)", path, error)
            path.unlink(missing_ok=True)
            self.misses += 1
            self.damaged += 1
            return None
        except OSError as error:
            raise InputError(
                f"cannot read the feature cache at {path} ({error.strerror or error}): mend its "
                "permissions or name another folder"
            ) from None
        self.hits += 1
        return features

    def put(self, features: Features) -> None:
        """Keep features under their key; the file appears whole.

        Raises:
            InputError: the folder cannot be written.
        """
        path = self.path(features.key)
        unfinished = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(_bytes(features))
            unfinished.replace(path)
        except OSError as error:
            raise InputError(
                f"cannot write the feature cache at {self.folder} ({error.strerror or error}): "
                "make room, mend its permissions or name another folder"
            ) from None
        finally:
            # After renaming there is none; where even the folder is a file, there never was one.
            if unfinished.is_file():
                unfinished.unlink()


def feature_cache(folder: str | Path | None) -> FeatureCache:
    """The feature cache in `folder`; None: in the user's cache directory."""
    return FeatureCache(Path(folder) if folder else user_cache_path("affectgpt-r1") / "features")


def _bytes(features: Features) -> bytes:
    metadata = {
        "key": features.key,
        "has_visual": json.dumps(features.has_visual),
        "has_audio": json.dumps(features.has_audio),
        "flags": json.dumps(sorted(features.flags)),
    }
    tensors = {
        "visual": np.ascontiguousarray(features.visual),
        "audio": np.ascontiguousarray(features.audio),
    }
    return save(tensors, {**metadata, "digest": _digest(metadata, **tensors)})


def _read(path: Path, key: str) -> Features:
    """Read and verify one file; a fault of any kind raises."""
    with safe_open(path, framework="np") as file:
        metadata: dict[str, str] = dict(file.metadata() or {})
        visual, audio = file.get_tensor("visual"), file.get_tensor("audio")
    # safetensors checks lengths, not values: a flipped bit is found by the digest alone.
    digest = metadata.pop("digest")
    if metadata["key"] != key or digest != _digest(metadata, visual=visual, audio=audio):
        raise ValueError("its content does not match its key and digest")
    return Features(
        visual=visual,
        audio=audio,
        has_visual=json.loads(metadata["has_visual"]),
        has_audio=json.loads(metadata["has_audio"]),
        flags=frozenset(json.loads(metadata["flags"])),
        key=key,
    )


def _digest(metadata: dict[str, str], **arrays: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
