"""Opening media files with PyAV, and its errors as ours: one line, with the file's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.logging
from av.container import InputContainer

from affectgpt_r1.errors import MediaError, MissingFileError


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a media file for reading.

    Raises:
        MissingFileError: there is no such file.
        MediaError: it is a folder, empty, or nothing that ffmpeg's libraries read.
    """
    if not path.exists():
        raise MissingFileError(f"no file at {path}: check the path")
    if not path.is_file():
        raise MediaError(f"{path} is a folder, not a media file: name a file in it")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty: copy or record it again")
    av.logging.set_level(None)  # libav's own notes would land on stderr, outside any handler
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path} cannot be read as video or sound ({error.strerror}): "
            "play it to check, or convert it to mp4 or wav"
        ) from None
