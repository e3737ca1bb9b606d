"""What tests of Qwen3-ASR hear: sounds with the rhythm, the harmonics and the noise of speech, the same everywhere."""

import numpy as np

RATE_HZ = 16_000
_SYLLABLE_S = 0.22


def signal(seed: int, seconds: float, loudest: str = "") -> np.ndarray:
    """Return float32 [round(16000 * seconds)] within ±0.7. It is loudest at its "beginning", its "end", or nowhere."""
    count = round(RATE_HZ * seconds)
    random = np.random.default_rng(seed)
    syllables = int(np.ceil(seconds / _SYLLABLE_S)) + 1
    place = np.arange(count) / RATE_HZ / _SYLLABLE_S
    number = place.astype(int)
    pitch_hz = np.interp(place, np.arange(syllables + 1), random.uniform(90, 240, syllables + 1))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    formants_hz = random.uniform((300, 900, 2200), (800, 2100, 3400), (syllables, 3))
    voice = np.zeros(count)
    for harmonic in range(1, 24):
        distance = harmonic * pitch_hz[:, None] - formants_hz[number]
        voice += np.sin(harmonic * phase) * np.exp(-((distance / 250) ** 2)).sum(1)
    # Every fourth syllable or so is a hiss, every eighth a pause.
    kind = random.random(syllables)[number]
    hiss = random.standard_normal(count)
    sound = np.where(kind < 0.25, 0.4 * hiss, voice) * (kind < 0.88) * np.sin(np.pi * (place % 1)) ** 2
    sound += 0.002 * hiss
    if loudest:
        at = 0.15 if loudest == "beginning" else 0.85
        sound *= 0.05 + np.exp(-(((np.arange(count) / count - at) / 0.08) ** 2))
    return (0.7 * sound / np.abs(sound).max()).astype(np.float32)
