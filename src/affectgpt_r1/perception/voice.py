"""What can be measured of a voice in a window of sound: energy, spectrum, pitch, roughness, rate.

The measures are the usual ones of vocal emotion research (the GeMAPS set, Eyben et al. 2016), taken
over the frames in which something sounds. Each window is first brought to one loudness: of all the
measures only the mean level depends on the gain of the recording. What does not exist in a window
(the pitch of a window without voice) is NaN, not 0. Words are not recognised.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_RATE_HZ = 16_000
_HOP, _FRAME, _PADDED = 160, 400, 512  # 10 ms, 25 ms
_BANDS, _CEPSTRA = 32, 20
_SILENCE_DB = -80.0  # of full scale: a quieter window holds nothing
_ACTIVE_DB, _VOICED_DB = 35.0, 30.0  # below the window's loud frames
_VOICED_STRENGTH = 0.5
_PITCH_REACH = 0.9  # octaves around the window's median; beyond it, an octave error
_JUMP = 0.2  # octaves from frame to frame; more is a new syllable, not roughness
_TINY = 1e-8  # of a window's mean square: what codecs leave or drop below it is not heard

#: Each column of `measure_voice`. dB, log2 Hz ("pitch", "centroid"), octaves, octaves a second
#: ("slope"), per second ("rate"), or a share.
NAMES = (
    *("level", "level std", "level range", "level peak"),
    *(f"cepstrum {i}" for i in range(1, _CEPSTRA)),
    *(f"band {i} std" for i in range(_BANDS)),
    *(f"band {i} change" for i in range(_BANDS)),
    *("pitch", "pitch std", "pitch low", "pitch high", "pitch range", "pitch middle range"),
    *("pitch slope", "jitter", "jitter std", "shimmer", "shimmer std"),
    *("harmonicity", "harmonicity std", "syllable rate", "voice onset rate"),
    *("voiced share", "active share", "alpha ratio", "alpha ratio std"),
    *("Hammarberg index", "Hammarberg index std", "voiced centroid", "voiced centroid std"),
    *("centroid", "centroid std", "treble", "treble std"),
)


def _mel_filters() -> Floats:
    """Triangles evenly spaced in mel from 60 to 7,800 Hz: (bins, bands)."""
    low, high = 2595 * np.log10(1 + np.array([60.0, 7800.0]) / 700)
    edges_hz = 700 * (10 ** (np.linspace(low, high, _BANDS + 2) / 2595) - 1)
    left, peak, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    bins_hz = _BINS_HZ[:, None]
    rising, falling = (bins_hz - left) / (peak - left), (right - bins_hz) / (right - peak)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


_BINS_HZ = np.fft.rfftfreq(_PADDED, 1 / _RATE_HZ).astype(np.float32)
_MEL = _mel_filters()
_TAPER = np.hanning(_FRAME + 1)[:_FRAME].astype(np.float32)
_TAPER /= np.sqrt(_PADDED / 2 * np.sum(_TAPER**2))  # so that a frame's power is its mean square
_COSINES = (  # the cosine transform that makes cepstra of log-mel bands, (bands, cepstra)
    np.cos(np.pi * (np.arange(_BANDS)[:, None] + 0.5) * np.arange(1, _CEPSTRA) / _BANDS)
    * (2 / _BANDS) ** 0.5
).astype(np.float32)
_SMOOTH = np.hanning(13)[1:-1] / np.hanning(13).sum()  # 110 ms, shorter than a syllable

_PITCH_RATE_HZ = 8000  # after halving: pitch needs no more
_PITCH_FRAME = 400  # 50 ms, three periods of the lowest pitch
_LOWEST_HZ, _HIGHEST_HZ = 65.0, 600.0
_OCTAVE_COST = 0.05  # favours the shorter of two lags about equally good
_LAGS = np.arange(int(_PITCH_RATE_HZ / _HIGHEST_HZ), int(np.ceil(_PITCH_RATE_HZ / _LOWEST_HZ)) + 2)
_PITCH_PADDED = 1024  # at least frame + longest lag, so that the product is not circular
_PITCH_TAPER = np.hanning(_PITCH_FRAME + 1)[:_PITCH_FRAME].astype(np.float32)
_PITCH_POWER = np.abs(np.fft.rfft(_PITCH_TAPER, _PITCH_PADDED)) ** 2
_TAPER_CORRELATION = np.fft.irfft(_PITCH_POWER)[: _LAGS[-1] + 2]
_COST = (_OCTAVE_COST * np.log2(_LAGS / _LAGS[0])).astype(np.float32)


def measure_voice(windows: Floats) -> Floats:
    """Measure windows of sound; NaN where a measure does not exist.

    Args:
        windows: (t, n) raw 16 kHz sound in [-1, 1], n even and at least 400 (25 ms).

    Returns:
        (t, 114), columns as in `NAMES`. A window is measured alone: the others change nothing.
    """
    size = windows.std(axis=1, keepdims=True)  # not the mean square: an offset is no sound
    gain_db = 20 * np.log10(size + 1e-12)
    loud = gain_db > _SILENCE_DB
    windows = np.where(loud, windows / np.where(loud, size, 1), 0)
    pieces = sliding_window_view(windows, _FRAME, axis=1)[:, ::_HOP]  # (t, F, 400)
    # A tenth of an LSB of 16 bits: below it there is padding, not the noise of a room.
    sounding = loud & (np.ptp(pieces, axis=-1) * size > 3e-6)  # (t, F), as all masks
    spectrum = np.fft.rfft(pieces * _TAPER, _PADDED, axis=-1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)  # (t, F, bins)
    bands = power @ _MEL  # (t, F, 32)
    level_db = 10 * np.log10(bands.sum(axis=-1) + _TINY)  # (t, F), relative to the window
    (top_db,) = _quantiles(level_db, np.ones_like(sounding), 0.95)
    below_db = top_db[:, None] - level_db
    active = sounding & (below_db < _ACTIVE_DB)  # not a pause
    centres = _FRAME // 2 + _HOP * np.arange(pieces.shape[1])
    frequency_hz, strength = _pitch_track(windows, centres)
    log_pitch = np.log2(frequency_hz)
    voiced = active & (strength > _VOICED_STRENGTH) & (below_db < _VOICED_DB)
    (median,) = _quantiles(log_pitch, voiced, 0.5)
    voiced &= np.abs(log_pitch - np.nan_to_num(median)[:, None]) < _PITCH_REACH
    measures = [
        *_energy(level_db, gain_db[:, 0], active),
        *_spectrum(10 * np.log10(bands + _TINY), active),
        *_pitch(log_pitch, voiced),
        *_roughness(log_pitch, level_db, strength, voiced),
        *_rates(level_db, sounding, active, voiced),
        *_timbre(power, active, voiced),
    ]
    return np.column_stack(measures).astype(np.float32)


def _pitch_track(windows: Floats, centres: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Pitch and strength of periodicity at frames of 16 kHz windows, after Boersma (1993).

    The autocorrelation of a windowed frame divided by the window's own is an estimate of the
    signal's; the height of its best peak tells how periodic the frame is. No path is searched over
    frames, so a frame may be an octave off: who reads the pitch keeps to the neighbourhood of its
    median.

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
    return (_PITCH_RATE_HZ / lag).astype(np.float32), np.clip(strength, 0, 1).astype(np.float32)


def _halved(windows: Floats) -> Floats:
    """Halve the rate by cutting the spectrum: (t, n) -> (t, n / 2)."""
    samples = windows.shape[1]
    spectrum = np.fft.rfft(windows, axis=1)[:, : samples // 4 + 1]
    return (np.fft.irfft(spectrum, samples // 2, axis=1) / 2).astype(np.float32)


def _autocorrelation(signal: Floats, centres: NDArray[np.int64]) -> Floats:
    """Normalised autocorrelation of frames around the centres: (t, F, lags from 0)."""
    padded = np.pad(signal, ((0, 0), (_PITCH_FRAME // 2, _PITCH_FRAME // 2)))
    frames = sliding_window_view(padded, _PITCH_FRAME, axis=1)[:, centres]  # (t, F, 400)
    frames = (frames - frames.mean(axis=-1, keepdims=True)) * _PITCH_TAPER
    spectrum = np.fft.rfft(frames, _PITCH_PADDED, axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    raw = np.fft.irfft(power, _PITCH_PADDED, axis=-1)[..., : len(_TAPER_CORRELATION)]
    energy = raw[..., :1] + 1e-9  # a frame of silence has no periodicity
    unbiased = raw / energy * (_TAPER_CORRELATION[0] / _TAPER_CORRELATION)
    return np.asarray(unbiased, dtype=np.float32)


def _energy(level_db: Floats, gain_db: Floats, active: Mask) -> list[Floats]:
    """Level: mean, std, range from the 5th to the 95th percentile, the latter above the mean."""
    mean, std = _mean_std(level_db, active)
    low, high = _quantiles(level_db, active, 0.05, 0.95)
    return [mean + gain_db, std, high - low, high - mean]


def _spectrum(bands_db: Floats, active: Mask) -> list[Floats]:
    """Shape of the spectrum and how it varies: cepstra, bands' std, std of 20 ms changes."""
    cepstra, _ = _mean_std(bands_db @ _COSINES, active)
    _, std = _mean_std(bands_db, active)
    change = bands_db[:, 2:] - bands_db[:, :-2]
    _, change_std = _mean_std(change, active[:, 2:] & active[:, :-2])
    return [cepstra, std, change_std]


def _pitch(log_pitch: Floats, voiced: Mask) -> list[Floats]:
    """Log pitch of voiced frames: mean, std, percentiles, ranges, slope of the regression line."""
    mean, std = _mean_std(log_pitch, voiced)
    low, lower, upper, high = _quantiles(log_pitch, voiced, 0.05, 0.25, 0.75, 0.95)
    time_s = np.arange(voiced.shape[1], dtype=np.float32) * (_HOP / _RATE_HZ)
    mean_s, std_s = _mean_std(time_s, voiced)
    product = (time_s - mean_s[:, None]) * (log_pitch - mean[:, None])
    covariance, _ = _mean_std(product, voiced)
    slope = np.where(std_s > 0.05, covariance / np.maximum(std_s, 0.05) ** 2, np.nan)
    return [mean, std, low, high, high - low, upper - lower, slope]


def _roughness(log_pitch: Floats, level_db: Floats, strength: Floats, voiced: Mask) -> list[Floats]:
    """Changes of pitch and level between voiced neighbours, and harmonics above noise in dB."""
    pitch_step = np.abs(np.diff(log_pitch, axis=1))
    level_step = np.abs(np.diff(level_db, axis=1))
    steady = voiced[:, 1:] & voiced[:, :-1] & (pitch_step < _JUMP)
    strength = np.clip(strength, 1e-3, 1 - 1e-4)
    harmonicity_db = 10 * np.log10(strength / (1 - strength))
    return [
        *_mean_std(pitch_step, steady),
        *_mean_std(level_step, steady),
        *_mean_std(harmonicity_db, voiced),
    ]


def _rates(level_db: Floats, sounding: Mask, active: Mask, voiced: Mask) -> list[Floats]:
    """Peaks of the energy envelope and onsets of voice per active second; voiced, active share."""
    floor_db = level_db.max(axis=1, keepdims=True) - _ACTIVE_DB
    edge = len(_SMOOTH) // 2
    padded = np.pad(np.maximum(level_db, floor_db), ((0, 0), (edge, edge)), mode="edge")
    envelope = sliding_window_view(padded, len(_SMOOTH), axis=1) @ _SMOOTH  # (t, F)
    middle = envelope[:, 1:-1]
    peaks = (middle > envelope[:, :-2]) & (middle >= envelope[:, 2:]) & active[:, 1:-1]
    onsets = voiced[:, 1:] & ~voiced[:, :-1]
    some = np.where(active.any(axis=1), active.sum(axis=1), np.nan)
    heard = np.where(sounding.any(axis=1), sounding.sum(axis=1), np.nan)
    rates = [marks.sum(axis=1) / (some * (_HOP / _RATE_HZ)) for marks in (peaks, onsets)]
    return [*rates, voiced.sum(axis=1) / some, active.sum(axis=1) / heard]


def _timbre(power: Floats, active: Mask, voiced: Mask) -> list[Floats]:
    """Balance of the spectrum: alpha ratio, Hammarberg index, centroid, treble; mean and std."""

    def between(low_hz: float, high_hz: float) -> Floats:
        return power[..., (low_hz <= _BINS_HZ) & (high_hz > _BINS_HZ)]

    alpha = _decibels(between(50, 1000).sum(axis=-1), between(1000, 5000).sum(axis=-1))
    hammarberg = _decibels(between(0, 2000).max(axis=-1), between(2000, 5000).max(axis=-1))
    treble = _decibels(between(4000, 8000).sum(axis=-1), power.sum(axis=-1))
    centroid = np.log2((power @ _BINS_HZ) / (power.sum(axis=-1) + _TINY) + 50)
    return [
        *_mean_std(alpha, voiced),
        *_mean_std(hammarberg, voiced),
        *_mean_std(centroid, voiced),
        *_mean_std(centroid, active),
        *_mean_std(treble, active),
    ]


def _decibels(power: Floats, reference: Floats) -> Floats:
    return 10 * np.log10((power + _TINY) / (reference + _TINY))


def _mean_std(values: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """Mean and std over the frames of a mask (t, F); NaN where it holds none.

    Args:
        values: (t, F) or (t, F, D).
        mask: (t, F).

    Returns:
        Two arrays (t,) or (t, D).
    """
    weights = mask.astype(np.float32)
    total = weights.sum(axis=1)
    total = np.where(total > 0, total, np.nan)
    if values.ndim == 3:
        weights, total = weights[..., None], total[:, None]
    mean = (values * weights).sum(axis=1) / total
    centred = (values - mean[:, None]) * weights
    return mean, np.sqrt((centred**2).sum(axis=1) / total)


def _quantiles(values: Floats, mask: Mask, *shares: float) -> list[Floats]:
    """Values of given rank among the frames of a mask, (t,) each; NaN where it holds none."""
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    last = mask.sum(axis=1) - 1
    rows = np.arange(len(values))
    ranks = (np.rint(np.maximum(last, 0) * share).astype(np.int64) for share in shares)
    return [np.where(last >= 0, ordered[rows, rank], np.nan) for rank in ranks]
