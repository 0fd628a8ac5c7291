"""Sound: any file or track to 16 kHz mono, and eight two-second windows of it (MODEL.md)."""

from pathlib import Path
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from affectgpt_r1.errors import MediaError
from affectgpt_r1.media.container import MAX_DURATION_S, decoded, opened, track
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
    pieces: list[NDArray[Any]] = []  # (n,) float32
    flags: set[MediaFlag] = set()
    read = 0
    with opened(path) as container:
        if (stream := track(container.streams.audio)) is None:
            return None, frozenset()
        resampler = AudioResampler(format="fltp", rate=RATE_HZ)
        for frame in decoded(container, stream, flags):
            frame.pts = None  # gaps in the stamps are no silence
            try:
                pieces += map(_mono, resampler.resample(frame))
            except ValueError:  # its channels, format or rate have changed
                pieces += map(_mono, resampler.resample(None))
                resampler = AudioResampler(format="fltp", rate=RATE_HZ)
                pieces += map(_mono, resampler.resample(frame))
            read += frame.samples
            if read > MAX_DURATION_S * frame.sample_rate:  # a header may claim less
                raise MediaError(f"{path} lasts over {MAX_DURATION_S} s: cut it into clips")
        if pieces:
            pieces += map(_mono, resampler.resample(None))
    if not sum(map(len, pieces)):
        return None, frozenset(flags)
    return np.clip(np.concatenate(pieces), -1, 1).astype(np.float32), frozenset(flags)


def _mono(sound: AudioFrame) -> NDArray[Any]:
    channels = sound.to_ndarray()
    return np.asarray(channels.mean(axis=0) if len(channels) == 2 else channels[0])


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
