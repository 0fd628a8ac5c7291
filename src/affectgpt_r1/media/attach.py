"""A clip as others take it: parts of a message to an omni-modal model, or a portrait on a page.

Messages are those of OpenAI's chat API, as servers extend it.
"""

import base64
import io
import wave
from collections.abc import Iterable
from mimetypes import guess_type
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip
from affectgpt_r1.media import STEPS, read_media
from affectgpt_r1.media.audio import RATE_HZ, read_waveform
from affectgpt_r1.media.container import opened
from affectgpt_r1.media.video import read_frames

Take = Literal["frames", "video"]

_SIZE = 512, 512
_STRIP_HEIGHT, _BEATS = 72, 150  # pixels; loudnesses a portrait


def message_parts(clip: Clip, take: Take = "frames") -> list[dict[str, object]]:
    """A clip's pictures and sound.

    Args:
        clip: whose files are read.
        take: `frames` sends eight pictures (JPEG, at most 512 pixels an edge), which every server
            with vision takes; `video` the file itself as `video_url`, which vLLM and its kind take.
            Given face crops stand for a clip without video. Sound is `input_audio` (wav) in both.

    Raises:
        MissingFileError, MediaError: a file cannot be read.
    """
    pictures: Iterable[NDArray[np.uint8]] = ()
    parts: list[dict[str, object]] = []
    if clip.video is None:
        pictures = read_media(clip).faces if clip.faces is not None else ()
    elif take == "video":
        kind = guess_type(clip.video.name)[0] or "video/mp4"
        with opened(clip.video):  # refuses what is not there, no media, or too large
            parts.append(_linked("video_url", _uri(kind, clip.video.read_bytes())))
    else:
        pictures = read_frames(clip.video, STEPS)[0]
    parts += [_linked("image_url", jpeg_uri(picture, _SIZE)) for picture in pictures]
    waveform, _ = read_waveform(clip.audio or clip.video)
    if waveform is not None:
        sound = {"data": base64.b64encode(_wav(waveform)).decode(), "format": "wav"}
        parts.append({"type": "input_audio", "input_audio": sound})
    return parts


def portrait(pictures: NDArray[np.uint8], waveform: NDArray[np.float32] | None) -> dict[str, Any]:
    """What people are shown of a clip.

    Args:
        pictures: (t, H, W, 3).
        waveform: (n,) at 16 kHz; None: there is no sound.

    Returns:
        `faces`, the pictures side by side as a data URI, "" where there is none; `voice`, the
        loudness of 150 equal parts of the sound, [] where there is none; `voice_s`, its length.
    """
    size = (_STRIP_HEIGHT * len(pictures), _STRIP_HEIGHT)
    strip = jpeg_uri(np.concatenate(list(pictures), axis=1), size) if len(pictures) else ""
    sound = np.zeros(0, np.float32) if waveform is None else waveform
    beats = np.array_split(np.abs(sound), _BEATS) if len(sound) else []
    loud = [float(beat.max(initial=0.0)) for beat in beats]
    return {"faces": strip, "voice": loud, "voice_s": len(sound) / RATE_HZ}


def jpeg_uri(picture: NDArray[np.uint8], size: tuple[int, int]) -> str:
    """A picture (H, W, 3) as a data URI, made to fit into `size` (width, height)."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail(size)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return _uri("image/jpeg", file.getvalue())


def _linked(kind: str, uri: str) -> dict[str, object]:
    return {"type": kind, kind: {"url": uri}}


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _wav(waveform: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE_HZ)
        sound.writeframes((waveform * 32767).astype("<i2").tobytes())
    return file.getvalue()
