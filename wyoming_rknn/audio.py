"""PCM formats, conversion between int16 and float32, silence, WAV files."""

import io
import wave
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Waveform: TypeAlias = NDArray[np.float32]
"""Mono audio, float32 [samples], nominally within ±1."""

_INT16_PEAK = 32767.0


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """A raw PCM layout: rate in Hz, width in bytes per sample, channels."""

    rate_hz: int
    width: int = 2
    channels: int = 1

    @property
    def bytes_per_second(self) -> int:
        """Return how many bytes one second takes."""
        return self.rate_hz * self.width * self.channels


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


def wav_bytes(pcm: bytes, pcm_format: PcmFormat) -> bytes:
    """Wrap raw PCM into a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setframerate(pcm_format.rate_hz)
        wav.setsampwidth(pcm_format.width)
        wav.setnchannels(pcm_format.channels)
        wav.writeframes(pcm)
    return buffer.getvalue()
