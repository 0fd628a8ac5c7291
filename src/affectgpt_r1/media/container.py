"""Opening media files with PyAV, and its errors as ours: one line, with the file's name."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.stream import Disposition

from affectgpt_r1.errors import MediaError, MissingFileError
from affectgpt_r1.media.values import MediaFlag

#: What is refused before it is decoded: a small file may hold, or claim, very much.
MAX_DURATION_S, MAX_PIXELS = 3 * 3600, 8192 * 4608
#: No playlists, which name other files, and nothing from elsewhere.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,gif,h264,hevc,ivf,m4v,matroska,"
    "webm,mjpeg,mov,mp4,mp3,mpeg,mpegts,mpegvideo,mxf,nut,ogg,opus,rm,w64,wav,wv,yuv4mpegpipe,dv,"
    "nistsphere,eac3,apng,voc,tta,loas,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe",
}


@contextmanager
def opened(path: Path, max_duration_s: float = MAX_DURATION_S) -> Iterator[InputContainer]:
    """Open a media file for reading.

    Args:
        path: the file.
        max_duration_s: what claims to last longer is refused.

    Raises:
        MissingFileError: there is no such file.
        MediaError: it is a folder, empty, too long or too large, or nothing that ffmpeg's
            libraries read.
    """
    if not path.exists():
        raise MissingFileError(f"no file at {path}: check the path")
    if not path.is_file():
        raise MediaError(f"{path} is a folder, not a media file: name a file in it")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty: copy or record it again")
    av.logging.set_level(None)  # libav's own notes would land on stderr, outside any handler
    try:
        name = str(path.absolute())  # to libav `12:30.mp4` would be of a protocol 12
        with av.open(name, options=_OPTIONS, metadata_errors="replace") as container:
            _prepare(container, path, max_duration_s)
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path} cannot be read as video or sound ({error.strerror}): convert it to mp4 or wav"
        ) from None


def track(streams: Iterable[Any]) -> Any:
    """The first track that can be decoded and is no cover picture; None: there is none."""
    cover = Disposition.attached_pic
    return next((s for s in streams if s.codec_context and not s.disposition & cover), None)


def decoded(container: InputContainer, stream: Any, flags: set[MediaFlag]) -> Iterator[Any]:
    """All frames of a track that decode, in order; that some do not is flagged."""
    packets = container.demux(stream)
    while True:
        try:
            for packet in packets:
                yield from packet.decode()
            return
        except av.error.FFmpegError:  # a packet that is damaged; the next may be whole
            flags.add(MediaFlag.TRUNCATED)


def _prepare(container: InputContainer, path: Path, max_duration_s: float) -> None:
    duration_s = (container.duration or 0) / av.time_base
    if duration_s > max_duration_s:
        raise MediaError(f"{path} lasts {duration_s:.0f} s, over {max_duration_s:g}: cut it")
    if (stream := track(container.streams.video)) is not None:
        stream.thread_type = "SLICE"  # frame threads stall on sampled reads
        if stream.width * stream.height > MAX_PIXELS:
            raise MediaError(
                f"{path}: frames of {stream.width} x {stream.height} pixels: make them smaller"
            )
