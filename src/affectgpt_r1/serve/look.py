"""Reading a clip that somebody sent; here, because processes that read need no torch."""

from pathlib import Path
from typing import Any

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import MediaError
from affectgpt_r1.media import ClipMedia
from affectgpt_r1.media.attach import portrait
from affectgpt_r1.media.audio import read_waveform
from affectgpt_r1.media.container import opened
from affectgpt_r1.perception.features import EncoderSource


def look(
    source: EncoderSource, max_duration_s: float, clip: Clip
) -> tuple[ClipMedia, dict[str, Any]]:
    """Read a clip's video file for the encoders and for people; run in another process.

    Raises:
        MissingFileError, MediaError: as `read_media`, or it is longer than that.
    """
    path = clip.video or Path()
    with opened(path, max_duration_s):  # by what it claims, before anything is decoded
        media = source.read(clip)
    if media.duration_s > max_duration_s:
        raise MediaError(f"{path} lasts over {max_duration_s:g} s: cut it into clips")
    shown = portrait(media.faces if source.view == "face" else media.frames, read_waveform(path)[0])
    return source.seen(media), shown
