"""A clip's features: what encoders are, how one clip is perceived, and the key it is kept under.

Encoders are frozen, run in eval mode and see one clip at a time, so that no feature depends on a
batch (MODEL.md, "Ours"). Nothing here knows a particular encoder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import View
from affectgpt_r1.errors import InputError, MediaError
from affectgpt_r1.files import digest_of, sha256_of
from affectgpt_r1.media import STEPS, ClipMedia, content_hash, read_media
from affectgpt_r1.media.attach import portrait
from affectgpt_r1.media.audio import read_waveform
from affectgpt_r1.media.container import opened
from affectgpt_r1.media.faces import detect_with_cascade, yunet_detector

if TYPE_CHECKING:
    from affectgpt_r1.perception.cache import FeatureCache

#: To be raised when the same media and encoders would give other features: old entries of a cache
#: are then never found again.
_VERSION = 1


class Encoder(Protocol):
    """Turns each picture, or each window of sound, into one vector.

    A visual one takes RGB pictures (t, H, W, 3) uint8, an audio one raw two-second windows
    (t, 32000) float32 at 16 kHz, in [-1, 1]. One that takes several clips at once, as a GPU likes
    it, has also `encode_batch`: from each clip's steps to its vectors, and no clip changes
    another's.

    Attributes:
        name: what kind of encoder it is.
        width: D, the length of its vectors.
        settings: all that its output depends on, the revision of its weights among it.
    """

    name: str
    width: int
    settings: Mapping[str, str | int | float | bool]

    def encode(self, steps: NDArray[Any], /) -> NDArray[np.float32]:
        """Encode steps (t, ...) to (t, width)."""
        ...


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


def encoder_identity(encoder: Encoder) -> str:
    """An encoder's name with 16 hex digits over its width and settings, `name#0123456789abcdef`.

    Two encoders of one identity give the same features for the same media.
    """
    return f"{encoder.name}#{digest_of([encoder.width, dict(encoder.settings)])[:16]}"


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """Two encoders by their identities: loaded once a clip is not in the cache, and not before.

    Attributes:
        visual, audio: as `encoder_identity` writes them.
        view: what the visual encoder is fed.
        load: gives the two encoders.
        face_model: a detector's file (`media.faces.yunet_detector`); None: the bundled detector.
        face_digest: 16 hex digits over that file; "" where there is none.
    """

    visual: str
    audio: str
    view: View
    load: Callable[[], tuple[Encoder, Encoder]]
    face_model: Path | None = None
    face_digest: str = ""

    @classmethod
    def of(
        cls, visual: Encoder, audio: Encoder, view: View = "face", face_model: Path | None = None
    ) -> Self:
        """Encoders that are loaded.

        Raises:
            MissingFileError, ModelFolderError: as `yunet_detector`.
        """
        if face_model:
            yunet_detector(face_model)  # a file that is none is told here
        digest = sha256_of(face_model)[:16] if face_model else ""
        identities = encoder_identity(visual), encoder_identity(audio)
        return cls(*identities, view, lambda: (visual, audio), face_model, digest)

    def key(self, clip: Clip) -> str:
        """The 64 hex digits under which a clip's features are kept: media, encoders and view.

        The clip's id, words and the media files' names and places do not enter.

        Raises:
            MissingFileError: a media file does not exist.
        """
        parts = [_VERSION, content_hash(clip), self.visual, self.audio, self.view]
        finder = [self.face_digest] if self.face_digest and self.view == "face" else []
        return digest_of(parts + finder)

    def read(self, clip: Clip) -> ClipMedia:
        """Read of a clip what the encoders look at.

        Raises:
            MissingFileError, MediaError: as `read_media`.
        """
        detector = yunet_detector(self.face_model) if self.face_model else detect_with_cascade
        return read_media(clip, detector=detector)

    def seen(self, media: ClipMedia) -> ClipMedia:
        """Without what no encoder looks at: it need not travel between processes."""
        if self.view == "face":
            return replace(media, frames=media.frames[:0])
        return replace(media, faces=media.faces[:0])

    def eyes(self) -> Self:
        """Without the encoders: what another process needs to read clips."""
        return replace(self, load=_unloaded)


def perceive(clip: Clip, source: EncoderSource, cache: "FeatureCache | None" = None) -> Features:
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
        (kept,) = encoded({key: source.read(clip)}, source)
        if cache is not None:
            cache.put(kept)
    return kept


def look(
    source: EncoderSource, max_duration_s: float, clip: Clip, portrayed: bool
) -> tuple[str, ClipMedia, dict[str, Any]]:
    """Read a clip's video file for the encoders, and portrayed for people; run in another process.

    Returns:
        Its key, what the encoders look at, and its portrait.

    Raises:
        MissingFileError, MediaError: as `read_media`, or it is longer than that.
    """
    path = clip.video or Path()
    with opened(path, max_duration_s):  # by what it claims, before anything is decoded
        media = source.read(clip)
    if media.duration_s > max_duration_s:
        raise MediaError(f"{path} lasts over {max_duration_s:g} s: cut it into clips")
    pictures = media.faces if source.view == "face" else media.frames
    shown = portrait(pictures, read_waveform(path)[0]) if portrayed else {}
    return source.key(clip), source.seen(media), shown


def encoded(media: Mapping[str, ClipMedia], source: EncoderSource) -> list[Features]:
    """The features of clips that were read, by key (`STEPS` frames and windows each).

    Raises:
        InputError: an encoder gave values that are not finite or of another shape than it says.
    """
    face = source.view == "face"
    visual_encoder, audio_encoder = source.load()
    images = [clip.faces if face else clip.frames for clip in media.values()]
    visual = _encoded(visual_encoder, images)
    audio = _encoded(audio_encoder, [clip.windows for clip in media.values()])
    found = []
    for (key, clip), shown, seen, heard in zip(media.items(), images, visual, audio, strict=True):
        present, flags = (len(shown) > 0, len(clip.windows) > 0), frozenset(map(str, clip.flags))
        found.append(Features(seen, heard, *present, flags, key))
    return found


def _encoded(encoder: Encoder, clips: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    present = [clip for clip in clips if len(clip)]
    at_once = getattr(encoder, "encode_batch", None) if len(present) > 1 else None
    values = iter(at_once(present) if at_once else map(encoder.encode, present))
    absent = np.zeros((STEPS, encoder.width), dtype=np.float32)
    return [_checked(encoder, next(values), len(c)) if len(c) else absent for c in clips]


def _checked(encoder: Encoder, values: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Checked at once: a wrong value kept in a cache would be found weeks later."""
    if values.shape != (steps, encoder.width):
        raise InputError(
            f"encoder {encoder.name!r} gave {values.shape}, not {(steps, encoder.width)}: mend it"
        )
    if not np.isfinite(values).all():
        raise InputError(f"encoder {encoder.name!r} gave no finite values: try another dtype")
    return np.ascontiguousarray(values, dtype=np.float32)


def _unloaded() -> NoReturn:
    raise NotImplementedError("this process reads clips, and encodes none")
