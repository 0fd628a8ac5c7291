"""Sound: any file or track to 16 kHz mono, and eight two-second windows of it (MODEL.md)."""

from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from affectgpt_r1.errors import MediaError
from affectgpt_r1.media.container import MAX_DURATION_S, opened
from affectgpt_r1.media.values import MediaFlag

RATE_HZ = 16_000
WINDOW_S = 2
_WINDOW = WINDOW_S * RATE_HZ


def read_waveform(path: Path | None) -> tuple[NDArray[np.float32] | None, frozenset[MediaFlag]]:
    """Read a file's sound as 16 kHz mono.

    Two channels are averaged; of more, the first is taken (MODEL.md).

    Returns:
        (n,) float32 in [-1, 1], None where there is no file, no audio track or no sample; flags.

    Raises:
        MissingFileError, MediaError: the file cannot be read.
    """
    if path is None:
        return None, frozenset()
    pieces: list[NDArray[Any]] = []  # (channels, n) float32
    flags: set[MediaFlag] = set()
    read = 0
    with opened(path) as container:
        if not container.streams.audio:
            return None, frozenset()
        resampler = AudioResampler(format="fltp", rate=RATE_HZ)
        try:
            for frame in container.decode(container.streams.audio[0]):
                frame.pts = None  # gaps in the stamps are no silence
                pieces += [out.to_ndarray() for out in resampler.resample(frame)]
                read += frame.samples
                if read > MAX_DURATION_S * frame.sample_rate:  # a header may claim less
                    raise MediaError(f"{path} lasts over {MAX_DURATION_S} s: cut it into clips")
        except av.error.FFmpegError:
            if not pieces:
                raise
            flags.add(MediaFlag.TRUNCATED)
        if pieces:
            pieces += [out.to_ndarray() for out in resampler.resample(None)]
    if not sum(piece.shape[1] for piece in pieces):
        return None, frozenset(flags)
    sound = np.concatenate(pieces, axis=1)  # (channels, n)
    mono = sound.mean(axis=0) if sound.shape[0] == 2 else sound[0]
    return np.clip(mono, -1, 1).astype(np.float32), frozenset(flags)


def cut_windows(waveform: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Cut `count` windows of two seconds, spread over the sound (MODEL.md, "Audio").

    Sound under two seconds is padded with zeros. The last window ends before the end: that tail is
    never heard, as in the authors' code.

    Args:
        waveform: (n,) at 16 kHz.
        count: how many windows.

    Returns:
        (count, 32000).
    """
    padded = np.pad(waveform, (0, max(_WINDOW - len(waveform), 0)))
    starts = [(len(padded) - _WINDOW) * i // count for i in range(count)]
    return np.stack([padded[start : start + _WINDOW] for start in starts])
