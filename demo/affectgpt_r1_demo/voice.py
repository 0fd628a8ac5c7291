"""Voice-like sound: eight tones of voice by pitch, loudness, tempo, roughness and breath.

A sum of harmonics under moving resonances, syllable by syllable, with noise: it sounds like a voice
saying nothing. What a model learns from it says nothing of real voices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
_HARMONICS = 28

Sound = NDArray[np.float32]  # (n,) in [-1, 1] at 16 kHz
_Track = NDArray[np.float64]  # (n,) a value a sample


@dataclass(frozen=True, slots=True)
class Tone:
    """A tone of voice; pitch in semitones against the speaker's own.

    Attributes:
        heard: what one says of such a voice.
        pitch, pitch_range: middle, and how far syllables stray from it.
        slope: pitch change over the utterance.
        loudness: about 0.2 to 1.
        syllables_per_s: tempo.
        roughness: 0 smooth to 1 harsh: irregular pulses and their modulation.
        breath: share of noise.
        tremor: of the pitch, at 6.5 Hz.
        swing: slow swings of the pitch, at 0.9 Hz.
        onset: a sudden rise at the beginning.
    """

    heard: str
    pitch: float
    pitch_range: float
    slope: float
    loudness: float
    syllables_per_s: float
    roughness: float = 0.05
    breath: float = 0.03
    tremor: float = 0.0
    swing: float = 0.0
    onset: float = 0.0


TONES = {
    "bright": Tone("is high and quick", 4.5, 3.0, 1.0, 0.75, 5.4),
    "warm": Tone("is low and soft", -1.5, 1.5, -1.0, 0.4, 3.8, breath=0.1),
    "flat": Tone("is flat and even", 0.0, 0.2, 0.0, 0.5, 4.3),
    "heavy": Tone("is slow and quiet", -3.5, 0.8, -3.0, 0.25, 2.7, breath=0.14),
    "harsh": Tone("is loud and rough", 2.5, 2.0, -0.5, 1.0, 4.9, roughness=0.9),
    "trembling": Tone("is high and shakes", 4.0, 0.8, 0.5, 0.35, 4.9, breath=0.12, tremor=1.3),
    "gasping": Tone("starts with a sudden rise", 5.5, 2.0, -4.0, 0.8, 4.2, breath=0.16, onset=9.0),
    "drawling": Tone("is slow and swings up and down", -1.0, 0.8, 0.0, 0.55, 2.6, swing=4.5),
}

#: The first three resonances of five vowels, in Hz.
_VOWELS = np.array(
    [[750, 1250, 2600], [500, 1850, 2550], [310, 2200, 2950], [480, 900, 2500], [340, 800, 2400]]
)


def syllable_count(text: str) -> int:
    """How many syllables a line has, by its groups of vowels; at least 2.

    >>> syllable_count("Oh, wonderful.")
    4
    """
    return max(len(re.findall("[aeiouy]+", text.lower())), 2)


def synthesise(tone: Tone, syllables: int, rng: np.random.Generator) -> Sound:
    """Speak `syllables` in a tone, as a speaker drawn from `rng`.

    Returns:
        (n,) float32 in [-1, 1] at 16 kHz, 1.2 to 4.5 s.
    """
    base_hz = float(np.exp(rng.uniform(np.log(100), np.log(215))))
    tract = float(rng.uniform(0.92, 1.14)) * (1.04 if base_hz > 150 else 0.97)
    rate = tone.syllables_per_s * float(rng.uniform(0.9, 1.1))
    duration_s = float(np.clip(syllables / rate, 1.2, 4.5))
    samples = int(duration_s * RATE_HZ)
    time = np.arange(samples) / RATE_HZ
    place = time / duration_s * syllables  # which syllable, and where in it

    strays = rng.normal(0, tone.pitch_range, syllables + 1)
    pitch = tone.pitch + np.interp(place, np.arange(syllables + 1), strays)
    pitch += tone.slope * (time / duration_s - 0.5)
    pitch += tone.tremor * np.sin(2 * np.pi * 6.5 * time)
    pitch += tone.swing * np.sin(2 * np.pi * 0.9 * time + rng.uniform(0, 2 * np.pi))
    pitch += tone.onset * np.exp(-time / 0.25) * np.sign(time)
    irregular = np.repeat(rng.normal(0, 1, samples // 120 + 1), 120)[:samples]
    pitch += (0.12 + 1.1 * tone.roughness) * irregular
    pitch_hz = base_hz * 2 ** (pitch / 12)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    vowels = _VOWELS[rng.integers(len(_VOWELS), size=syllables + 1)] * tract  # (S + 1, 3)
    resonances = np.stack([np.interp(place, np.arange(syllables + 1), hz) for hz in vowels.T])

    sound = _voiced(phase, pitch_hz, resonances, tone.roughness)
    sound *= 1 + 0.7 * tone.roughness * np.sign(np.sin(phase / 2))
    noise = np.convolve(rng.normal(0, 1, samples), [0.5, -0.4, 0.1], mode="same")
    sound = sound / (np.abs(sound).max() + 1e-9) + tone.breath * noise
    sound *= _envelope(place, tone, time)
    loudness = 0.6 * tone.loudness * float(rng.uniform(0.8, 1.2))
    room = 10 ** (-float(rng.uniform(34, 48)) / 20) * rng.normal(0, 1, samples)
    heard = np.clip(sound / np.abs(sound).max() * loudness + room, -1, 1)
    return np.asarray(heard, dtype=np.float32)


def _voiced(phase: _Track, pitch_hz: _Track, resonances: _Track, roughness: float) -> _Track:
    """Harmonics weighted by spectral tilt and resonances (3, n); a rough voice is less tilted."""
    sound = np.zeros_like(phase)
    tilt = 1.35 - 0.6 * roughness
    widths = np.array([[90.0], [120.0], [180.0]])
    # Amplitudes move slowly: every 80th sample is enough.
    coarse = slice(None, None, 80)
    grid, all_samples = np.arange(len(phase))[coarse], np.arange(len(phase))
    for harmonic in range(1, _HARMONICS + 1):
        frequency = harmonic * pitch_hz[coarse]
        peaks = 1 / (1 + ((frequency - resonances[:, coarse]) / widths) ** 2)  # (3, n / 80)
        gain = peaks.sum(axis=0)
        gain = np.where(frequency < RATE_HZ / 2, gain + 0.04, 0) / harmonic**tilt
        sound += np.interp(all_samples, grid, gain) * np.sin(harmonic * phase)
    return sound


def _envelope(place: _Track, tone: Tone, time: _Track) -> _Track:
    syllable = np.sin(np.pi * (place % 1)) ** 0.6
    attack = np.minimum(time / (0.01 if tone.onset else 0.05), 1)
    release = np.minimum((time[-1] - time) / 0.08, 1)
    return np.asarray((0.12 + 0.88 * syllable) * attack * release, dtype=np.float64)
