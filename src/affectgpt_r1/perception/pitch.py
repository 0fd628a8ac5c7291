"""Pitch and harmonicity by the autocorrelation of short frames, after Boersma (1993).

The autocorrelation of a windowed frame divided by the window's own is an estimate of the signal's;
the height of its best peak tells how periodic the frame is. No path is searched over frames, so a
frame may be an octave off: who reads the pitch keeps to the neighbourhood of its median.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_RATE_HZ = 8000  # after halving: pitch needs no more
_FRAME = 400  # 50 ms, three periods of the lowest pitch
_LOWEST_HZ, _HIGHEST_HZ = 65.0, 600.0
_OCTAVE_COST = 0.05  # favours the shorter of two lags about equally good

_LAGS = np.arange(int(_RATE_HZ / _HIGHEST_HZ), int(np.ceil(_RATE_HZ / _LOWEST_HZ)) + 2)
_PADDED = 1024  # at least frame + longest lag, so that the product is not circular
_TAPER = np.hanning(_FRAME + 1)[:_FRAME].astype(np.float32)
_TAPER_CORRELATION = np.fft.irfft(np.abs(np.fft.rfft(_TAPER, _PADDED)) ** 2)[: _LAGS[-1] + 2]
_COST = (_OCTAVE_COST * np.log2(_LAGS / _LAGS[0])).astype(np.float32)


def pitch_track(windows: Floats, centres: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Pitch and strength of periodicity at frames of 16 kHz windows.

    Args:
        windows: (t, n), n even.
        centres: (F,) the frames' middle samples, all even.

    Returns:
        Frequency in Hz, 65 to 600, and strength from 0 (noise) to 1 (periodic), each (t, F). The
        frequency means something only where the strength is high.
    """
    correlation = _autocorrelation(_halved(windows), centres // 2)
    left, top, right = (correlation[..., _LAGS + shift] for shift in (-1, 0, 1))
    peaks = (top >= left) & (top > right)
    # The parabola through a peak and its neighbours gives lag and height between samples.
    curvature = np.minimum(left - 2 * top + right, -1e-9)
    offset = np.clip(0.5 * (left - right) / curvature, -0.5, 0.5)
    height = np.where(peaks, top - 0.25 * (left - right) * offset, 0)
    best = (height - _COST).argmax(axis=-1)[..., None]  # (t, F, 1)
    strength = np.take_along_axis(height, best, axis=-1)[..., 0]
    lag = _LAGS[best[..., 0]] + np.take_along_axis(offset, best, axis=-1)[..., 0]
    return (_RATE_HZ / lag).astype(np.float32), np.clip(strength, 0, 1).astype(np.float32)


def _halved(windows: Floats) -> Floats:
    """Halve the rate by cutting the spectrum: (t, n) -> (t, n / 2)."""
    samples = windows.shape[1]
    spectrum = np.fft.rfft(windows, axis=1)[:, : samples // 4 + 1]
    return (np.fft.irfft(spectrum, samples // 2, axis=1) / 2).astype(np.float32)


def _autocorrelation(signal: Floats, centres: NDArray[np.int64]) -> Floats:
    """Normalised autocorrelation of frames around the centres: (t, F, lags from 0)."""
    padded = np.pad(signal, ((0, 0), (_FRAME // 2, _FRAME // 2)))
    frames = sliding_window_view(padded, _FRAME, axis=1)[:, centres]  # (t, F, 400)
    frames = (frames - frames.mean(axis=-1, keepdims=True)) * _TAPER
    spectrum = np.fft.rfft(frames, _PADDED, axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    raw = np.fft.irfft(power, _PADDED, axis=-1)[..., : len(_TAPER_CORRELATION)]
    energy = raw[..., :1] + 1e-9  # a frame of silence has no periodicity
    unbiased = raw / energy * (_TAPER_CORRELATION[0] / _TAPER_CORRELATION)
    return np.asarray(unbiased, dtype=np.float32)
