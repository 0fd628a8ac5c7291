"""A clip's features: what encoders are, how one clip is perceived, and the key it is kept under.

Encoders are frozen, run in eval mode and see one clip at a time, so that no feature depends on a
batch (MODEL.md, "Ours"). Nothing here knows a particular encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import View
from affectgpt_r1.errors import InputError
from affectgpt_r1.media import ClipMedia, content_hash, read_media

if TYPE_CHECKING:
    from affectgpt_r1.perception.cache import FeatureCache

#: Frames and windows a clip, and the rows of an absent modality.
STEPS = 8

#: To be raised when the same media and encoders would give other features: old entries of a cache
#: are then never found again.
_VERSION = 1

_Values = TypeVar("_Values", bound=np.generic, contravariant=True)


class Encoder(Protocol[_Values]):
    """Turns each picture, or each window of sound, into one vector."""

    @property
    def name(self) -> str:
        """What kind of encoder it is."""
        ...

    @property
    def width(self) -> int:
        """D, the length of its vectors."""
        ...

    @property
    def settings(self) -> Mapping[str, str | int | float | bool]:
        """All that its output depends on, the revision of its weights among it."""
        ...

    def encode(self, steps: NDArray[_Values], /) -> NDArray[np.float32]:
        """Encode steps (t, ...) to (t, width)."""
        ...


#: Encodes RGB pictures (t, H, W, 3).
VisualEncoder = Encoder[np.uint8]
#: Encodes raw two-second windows (t, 32000) at 16 kHz, in [-1, 1].
AudioEncoder = Encoder[np.float32]


# Arrays have no single truth value, so the generated comparison would raise.
@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the model is given of a clip besides its words.

    Attributes:
        visual: (t, D_v) float32; zeros (8, D_v) where the clip has no picture.
        audio: (t, D_a) float32; zeros (8, D_a) where the clip has no sound.
        has_visual: whether there was a picture.
        has_audio: whether there was sound.
        flags: what was odd about the media (`affectgpt_r1.media.MediaFlag`).
        key: 64 hex digits that name media, encoders and view.
    """

    visual: NDArray[np.float32]
    audio: NDArray[np.float32]
    has_visual: bool
    has_audio: bool
    flags: frozenset[str]
    key: str


def encoder_identity(encoder: Encoder[Any]) -> str:
    """An encoder's name with 16 hex digits over its width and settings, `name#0123456789abcdef`.

    Two encoders of one identity give the same features for the same media.
    """
    return f"{encoder.name}#{_digest([encoder.width, dict(encoder.settings)])[:16]}"


@dataclass(frozen=True, slots=True)
class Encoders:
    """Two frozen encoders, and what the visual one is fed: faces or whole frames."""

    visual: VisualEncoder
    audio: AudioEncoder
    view: View = "face"


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """Encoders by their identities: loaded once a clip is not in the cache, and not before.

    Attributes:
        visual, audio: as `encoder_identity` writes them.
        view: what the visual encoder is fed.
        load: gives the encoders.
    """

    visual: str
    audio: str
    view: View
    load: Callable[[], Encoders]

    @classmethod
    def of(cls, encoders: Encoders) -> EncoderSource:
        """Encoders that are loaded."""
        identities = encoder_identity(encoders.visual), encoder_identity(encoders.audio)
        return cls(*identities, encoders.view, lambda: encoders)

    def key(self, clip: Clip) -> str:
        """The 64 hex digits under which a clip's features are kept: media, encoders and view.

        The clip's id, words and the media files' names and places do not enter.

        Raises:
            MissingFileError: a media file does not exist.
        """
        return _digest([_VERSION, content_hash(clip), self.visual, self.audio, self.view])


def perceive(clip: Clip, source: EncoderSource, cache: FeatureCache | None = None) -> Features:
    """A clip's features, from the cache where it holds them; else read, encoded and put there.

    Args:
        clip: names the media.
        source: encoders; asked for only where the cache lacks the clip.
        cache: None: nothing is kept.

    Raises:
        MissingFileError: a media file does not exist, or the encoders are not on this machine.
        MediaError: the clip cannot be read.
        InputError: as `encoded`.
    """
    key = source.key(clip)
    kept = cache.get(key) if cache is not None else None
    if kept is None:
        kept = encoded(read_media(clip, frames=STEPS, windows=STEPS), source.load(), key)
        if cache is not None:
            cache.put(kept)
    return kept


def encoded(media: ClipMedia, encoders: Encoders, key: str) -> Features:
    """The features of a clip that was read (`STEPS` frames and windows).

    Raises:
        InputError: an encoder gave values that are not finite or of another shape than it says.
    """
    images = media.faces if encoders.view == "face" else media.frames
    return Features(
        visual=_encoded(encoders.visual, images),
        audio=_encoded(encoders.audio, media.windows),
        has_visual=len(images) > 0,
        has_audio=len(media.windows) > 0,
        flags=frozenset(str(flag) for flag in media.flags),
        key=key,
    )


def _encoded(encoder: Encoder[_Values], steps: NDArray[_Values]) -> NDArray[np.float32]:
    """Encode and check: a wrong value kept in a cache would be found weeks later."""
    if not len(steps):
        return np.zeros((STEPS, encoder.width), dtype=np.float32)
    values = encoder.encode(steps)
    if values.shape != (len(steps), encoder.width):
        raise InputError(
            f"encoder {encoder.name!r} gave shape {values.shape}, not "
            f"{(len(steps), encoder.width)}: mend its width or its encode()"
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"encoder {encoder.name!r} gave values that are not finite: try another dtype"
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
