"""The signals of which mel.npz has what transformers makes of them; made anew, so that none is stored."""

import numpy as np

RATE_HZ = 16_000
SIGNALS = {
    "speech-0025ms": ("speech", 400),
    "speech-0200": ("speech", 200),
    "speech-0201": ("speech", 201),
    "speech-0499ms": ("speech", 7_984),
    "speech-0500ms": ("speech", 8_000),
    "speech-8041": ("speech", 8_041),
    "speech-1s": ("speech", 16_000),
    "speech-3.7s": ("speech", 59_217),
    "speech-20s": ("speech", 320_000),
    "noise-2.5s": ("noise", 40_119),
    "silence-1s": ("silence", 16_000),
    "hum-1.2s": ("hum", 19_333),
    "click-1s": ("click", 16_159),
    "quiet-then-loud-6s": ("quiet_then_loud", 96_077),
    "loud-then-quiet-6s": ("loud_then_quiet", 96_000),
    "clipped-2s": ("clipped", 32_039),
}
"""Kind and number of samples of each."""


def speech(count, seed=1):
    """Return harmonics of a gliding voice in syllables, over faint noise, float32 [count]."""
    time_s = np.arange(count) / RATE_HZ
    pitch_hz = 140 + 30 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    formant_hz = 600 + 900 * np.sin(2 * np.pi * 1.3 * time_s) ** 2
    voice = sum(
        np.cos(number * phase + number) * np.exp(-(((number * pitch_hz - formant_hz) / 700) ** 2))
        for number in range(1, 25)
    )
    syllables = np.clip(np.sin(2 * np.pi * 2.1 * time_s + 0.5), 0, 1) ** 0.5
    return (0.2 * voice * syllables).astype(np.float32) + noise(count, seed) * np.float32(0.01)


def noise(count, seed=2):
    return (0.3 * (np.random.default_rng(seed).random(count) - 0.5)).astype(np.float32)


def silence(count):
    return np.zeros(count, np.float32)


def hum(count):
    return (0.5 * np.sin(2 * np.pi * 50 * np.arange(count) / RATE_HZ)).astype(np.float32)


def click(count):
    samples = silence(count)
    samples[count // 3] = 0.9
    return samples


def quiet_then_loud(count):
    return speech(count) * np.where(np.arange(count) < 0.7 * count, 1e-4, 1.0).astype(np.float32)


def loud_then_quiet(count):
    return quiet_then_loud(count)[::-1].copy()


def clipped(count):
    return np.clip(speech(count) * np.float32(40), -3.7, 3.7)


def signal(name):
    """Return the samples of one of `SIGNALS`, float32 [n] at 16 kHz."""
    kind, count = SIGNALS[name]
    return globals()[kind](count)


def stored_frames(count):
    """Return which of `count` frames are stored whole: some at either end and in the middle."""
    return np.unique(np.clip([0, 1, 2, 49, count // 2, count // 2 + 1, count - 3, count - 2, count - 1], 0, count - 1))
