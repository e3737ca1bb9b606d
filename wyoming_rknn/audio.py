"""Waveforms: conversion between int16 and float32, silence, gain."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Waveform: TypeAlias = NDArray[np.float32]
"""Mono audio, float32 [samples], nominally within ±1."""

_INT16_PEAK = 32767.0


def to_int16(samples: Waveform) -> NDArray[np.int16]:
    """Convert float32 [n] within ±1 to int16 [n]; what lies outside is clipped.

    Scaled by 32767 and truncated toward zero, as piper does it, so the same model gives the same samples.
    """
    scaled = np.clip(samples, -1.0, 1.0) * np.float32(_INT16_PEAK)
    return scaled.astype(np.int16)


def to_bytes(samples: Waveform) -> bytes:
    """Convert float32 [n] to little-endian signed 16-bit PCM."""
    return to_int16(samples).astype("<i2", copy=False).tobytes()


def from_int16(pcm: NDArray[np.int16]) -> Waveform:
    """Convert int16 [n] to float32 [n] within ±1."""
    return pcm.astype(np.float32) / np.float32(_INT16_PEAK + 1.0)


def silence(seconds: float, rate_hz: int) -> Waveform:
    """Return digital silence, rounded to the nearest sample."""
    return np.zeros(max(0, round(seconds * rate_hz)), np.float32)


def apply_gain(samples: Waveform, gain: float) -> Waveform:
    """Scale by a fixed gain; peaks above 0.8 are bent smoothly so that nothing reaches full scale.

    The knee is tanh-shaped with slope 1 at 0.8, hence free of clicks; a gain of 1 leaves the samples untouched.
    """
    if gain == 1.0:
        return samples
    knee = np.float32(0.8)
    # A tanh in float32 does reach 1.
    room = np.float32(0.999) - knee
    louder = samples * np.float32(gain)
    magnitude = np.abs(louder)
    if not bool((magnitude > knee).any()):
        return louder
    bent = knee + room * np.tanh((magnitude - knee) / room)
    limited: Waveform = np.where(magnitude > knee, np.copysign(bent, louder), louder).astype(np.float32)
    return limited
