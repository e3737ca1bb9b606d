"""Waveforms: conversion between PCM and float32, resampling, silence, gain."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import soxr
from numpy.typing import NDArray

from wyoming_rknn.errors import InvalidRequest

Waveform: TypeAlias = NDArray[np.float32]
"""Mono audio, float32 [samples], nominally within ±1."""

_INT16_PEAK = 32767.0
_QUALITY = "HQ"
"""Of soxr: what would alias is more than 100 dB down, the pass band ends at 91 % of the lower Nyquist frequency."""


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


def resample(samples: Waveform, from_hz: int, to_hz: int) -> Waveform:
    """Convert a whole float32 [n] to another rate: [round(n * to_hz / from_hz)], without aliases."""
    if from_hz == to_hz:
        return samples
    resampled: Waveform = soxr.resample(samples, from_hz, to_hz, _QUALITY)
    return resampled


class Resampler:
    """Convert a signal that comes in pieces to another rate; the samples are those of `resample` for the whole."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, "float32", _QUALITY)

    def accept(self, samples: Waveform) -> Waveform:
        """Return the samples that are certain by now, float32 [n]."""
        resampled: Waveform = self._stream.resample_chunk(samples)
        return resampled

    def end(self) -> Waveform:
        """Return the samples that were still held back."""
        tail: Waveform = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        return tail


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """The layout of little-endian, interleaved PCM. Raises `InvalidRequest` for what cannot be read."""

    rate_hz: int
    """1000 to 384000."""
    width: int
    """Bytes per sample, 1 to 4. One byte is unsigned, more are signed."""
    channels: int
    """1 to 8."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("rate in Hz", self.rate_hz, 1000, 384_000),
            ("width in bytes", self.width, 1, 4),
            ("number of channels", self.channels, 1, 8),
        ):
            # The fields come from a client's JSON, where anything may stand; True is an int, but no width.
            if type(value) is not int or not low <= value <= high:
                raise InvalidRequest(f"audio {name} must be a whole number from {low} to {high}, not {value!r:.40}")

    @property
    def frame_bytes(self) -> int:
        """Return the size of one sample of all channels."""
        return self.width * self.channels


class PcmReader:
    """Turn PCM that comes in pieces of any size into mono float32 at one rate.

    The samples are the same however the bytes are cut up, and the same as those of `resample` for the whole. One call
    at a time.
    """

    def __init__(self, rate_hz: int = 16_000) -> None:
        self._rate_hz = rate_hz
        self._format: PcmFormat | None = None
        self._torn = b""
        self._resampler: Resampler | None = None

    def read(self, pcm: bytes, format: PcmFormat) -> Waveform:
        """Return the samples that are certain by now, float32 [n] within about ±1.

        The resampler holds back up to 0.12 s of audio at 8 kHz, 0.04 s at 48 kHz, nothing where the rate is right.
        A frame whose end is missing waits for the next call. When the format changes, what it was before is brought to
        its end, such a frame is dropped, and the new format begins; an empty `pcm` changes nothing.
        """
        if not pcm:
            return np.zeros(0, np.float32)
        if format != self._format:
            tail = self.end()
            self._format = format
            samples = self.read(pcm, format)
            return np.concatenate((tail, samples)) if tail.size else samples
        if self._torn:
            pcm = self._torn + pcm
        whole = len(pcm) - len(pcm) % format.frame_bytes
        self._torn = pcm[whole:]
        if not whole:
            return np.zeros(0, np.float32)
        samples = _to_mono(pcm, whole // format.frame_bytes, format)
        if format.rate_hz == self._rate_hz:
            return samples
        if self._resampler is None:
            self._resampler = Resampler(format.rate_hz, self._rate_hz)
        return self._resampler.accept(samples)

    def end(self) -> Waveform:
        """Return the samples that were still held back; the reader begins anew afterwards."""
        resampler, self._resampler = self._resampler, None
        self._format = None
        self._torn = b""
        return np.zeros(0, np.float32) if resampler is None else resampler.end()


def _to_mono(pcm: bytes, frames: int, format: PcmFormat) -> Waveform:
    """Convert the first `frames` frames to float32 [frames], the mean of the channels."""
    count = frames * format.channels
    samples: Waveform
    match format.width:
        case 1:
            samples = (np.frombuffer(pcm, np.uint8, count).astype(np.float32) - np.float32(128)) / np.float32(128)
        case 2:
            samples = from_int16(np.frombuffer(pcm, "<i2", count))
        case 3:
            # As the upper bytes of 32 bits: the sign is in its place, and float32 holds 24 bits exactly.
            widened = np.zeros((count, 4), np.uint8)
            packed = np.frombuffer(pcm, np.uint8, count * 3).reshape(count, 3)
            for byte in range(3):
                widened[:, byte + 1] = packed[:, byte]
            samples = widened.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
        case _:
            samples = np.frombuffer(pcm, "<i4", count).astype(np.float32) / np.float32(2**31)
    if format.channels == 1:
        return samples
    # Channel by channel, which is many times quicker than `mean` along so short an axis.
    channels = samples.reshape(frames, format.channels)
    mixed: Waveform = channels[:, 0] + channels[:, 1]
    for channel in range(2, format.channels):
        mixed += channels[:, channel]
    mixed /= np.float32(format.channels)
    return mixed
