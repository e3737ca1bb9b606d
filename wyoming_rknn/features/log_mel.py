"""What Whisper and Qwen3-ASR hear: the logarithm of mel bands, normalised over the whole clip."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.audio import Waveform

Features: TypeAlias = NDArray[np.float32]
"""Feature vectors, float32 [frames, dimensions]."""

RATE_HZ = 16_000
BINS = 128
HOP = 160
"""Samples from one frame to the next."""
LEAST = 8_000
"""Samples that a clip has at least; zeros follow what is shorter."""
_WINDOW = 400
_REFLECTED = _WINDOW // 2
"""Samples mirrored at either end, so that a frame has its middle at a multiple of the hop."""
_BATCH = 256
"""Frames computed at once; bounds what a long clip takes besides its result."""
_FIRST_CAPACITY = 512
_LEAST_POWER = 1e-30
"""So that silence has a logarithm; far below `_FLOOR`, which holds only once the gain is known."""
_FLOOR = np.float32(-10.0)
_RANGE = np.float32(8.0)
"""How far below the loudest bin of a clip a bin may lie, in powers of ten."""


class LogMel:
    """Compute normalised log-mel frames while audio arrives, the same however it is cut up. One call at a time.

    A periodic Hann window of 25 ms every 10 ms, mirrored at both ends, 128 Slaney mel bands of the power up to 8 kHz,
    log10, nothing further below the loudest bin of the clip than 8, (x + 4) / 4: `Qwen3ASRFeatureExtractor` of
    transformers 5.13, with the gain of the qwen-asr package, which divides a clip by its peak if that is above 1.
    A clip below 0.5 s is heard as if zeros filled it up to 0.5 s.
    """

    def __init__(self) -> None:
        self._window = np.hanning(_WINDOW + 1)[:_WINDOW]
        self._bands = _Bands()
        self._count = 0
        self._peak = np.float32(0.0)
        # The samples from the beginning of the window of the first frame that is not settled.
        self._pending: Waveform = np.empty(0, np.float32)
        self._logs: Features = np.empty((_FIRST_CAPACITY, BINS), np.float32)
        self._settled = 0
        self._loudest = np.float32(-np.inf)
        self._last: Features | None = None

    @property
    def frames(self) -> int:
        """Return how many frames there are: a 160th of the samples, not fewer than 50 once there is a sample."""
        return max(self._count, LEAST) // HOP if self._count else 0

    @property
    def settled(self) -> int:
        """Return how many frames hear nothing but what was accepted; they change only if `scale` does."""
        return self._settled

    @property
    def scale(self) -> tuple[float, float]:
        """Return what depends on the whole clip: what its peak subtracts, and where bins are cut off, in log10."""
        gain = self._gain()
        loudest = max(self._loudest, np.max(self._unsettled(), initial=-np.inf))
        return float(gain), float(max(loudest - gain - _RANGE, _FLOOR))

    def accept(self, samples: Waveform) -> None:
        """Take in the audio that follows, float32 [n] at 16 kHz, any n."""
        if not samples.size:
            return
        self._last = None
        mirrored = self._count > _REFLECTED
        self._count += samples.size
        self._peak = max(self._peak, np.abs(samples).max())
        self._pending = np.concatenate([self._pending, samples])
        if self._count <= _REFLECTED:
            return
        if not mirrored:
            self._pending = np.concatenate([self._pending[_REFLECTED:0:-1], self._pending])
        ready = max(0, (self._pending.size - _WINDOW) // HOP + 1)
        self._reserve(self._settled + ready)
        for begin in range(0, ready, _BATCH):
            logs = self._compute(self._pending[begin * HOP :], min(_BATCH, ready - begin))
            self._logs[self._settled : self._settled + len(logs)] = logs
            self._settled += len(logs)
            self._loudest = max(self._loudest, logs.max())
        self._pending = self._pending[ready * HOP :].copy()

    def mel(self, begin: int, end: int) -> Features:
        """Return frames `begin` to `end` of the clip so far, float32 [end - begin, 128], for the caller to keep.

        `end` is at most `frames`. Costs little: only frames that reach beyond what was accepted are computed anew.
        """
        gain, floor = (np.float32(value) for value in self.scale)
        settled = self._logs[begin : min(end, self._settled)]
        rest = self._unsettled()[max(0, begin - self._settled) : max(0, end - self._settled)]
        logs = np.concatenate([settled, rest])
        logs -= gain
        np.maximum(logs, floor, out=logs)
        logs += np.float32(4.0)
        logs /= np.float32(4.0)
        return logs

    def _gain(self) -> np.float32:
        return np.float32(2.0 * np.log10(max(float(self._peak), 1.0)))

    def _unsettled(self) -> Features:
        """Return the frames that reach beyond the end, as they are if nothing follows: rarely more than one."""
        if self._last is None:
            count = self.frames - self._settled
            samples = self._pending
            if self._count < LEAST:
                samples = np.concatenate([samples, np.zeros(LEAST - self._count, np.float32)])
            if 0 < self._count <= _REFLECTED:
                samples = np.concatenate([samples[_REFLECTED:0:-1], samples])
            samples = np.concatenate([samples, samples[-2 : -2 - _REFLECTED : -1]])
            self._last = self._compute(samples, count) if count else np.empty((0, BINS), np.float32)
        return self._last

    def _compute(self, samples: Waveform, count: int) -> Features:
        """Return log10 of the power in each band, float32 [count, 128], of the frames that begin with `samples`."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[: count * HOP : HOP]
        spectrum = np.fft.rfft(windows * self._window)
        power = spectrum.real**2 + spectrum.imag**2
        return np.log10(np.maximum(self._bands.sums(power), _LEAST_POWER)).astype(np.float32)

    def _reserve(self, frames: int) -> None:
        if frames > len(self._logs):
            grown: Features = np.empty((max(frames, 2 * len(self._logs)), BINS), np.float32)
            grown[: self._settled] = self._logs[: self._settled]
            self._logs = grown


def log_mel(samples: Waveform) -> Features:
    """Return the frames of a whole clip, float32 [max(n, 8000) // 160, 128]; none if there are no samples."""
    features = LogMel()
    features.accept(samples)
    return features.mel(0, features.frames)


class _Bands:
    """The Slaney mel filters, each of which spans a few bins of the spectrum.

    They are added up bin by bin, not by a matrix product: what BLAS gives for a row depends on how many there are.
    """

    def __init__(self) -> None:
        filters = _filters()
        width = int((filters > 0).sum(axis=0).max())
        first = np.minimum(np.argmax(filters > 0, axis=0), len(filters) - width)
        self._indices = first + np.arange(width)[:, None]
        self._weights = np.take_along_axis(filters, self._indices, axis=0)

    def sums(self, power: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sums of bins [frames, 201] in each band, [frames, 128]."""
        total = np.zeros((len(power), BINS))
        for indices, weights in zip(self._indices, self._weights, strict=True):
            total += power[:, indices] * weights
        return total


def _filters() -> NDArray[np.float64]:
    """Return triangles of equal area over 201 bins of 40 Hz, float64 [201, 128], as Slaney's Auditory Toolbox has them.

    The mel scale is linear up to 1 kHz, with 3 mel per 200 Hz, and logarithmic above, with 27 mel for a factor of 6.4.
    """
    highest = 15.0 + 27.0 * np.log(8.0) / np.log(6.4)
    mel = np.linspace(0.0, highest, BINS + 2)
    edges = np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))
    lower, middle, upper = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.linspace(0.0, RATE_HZ / 2, _WINDOW // 2 + 1)[:, None]
    rising, falling = (hertz - lower) / (middle - lower), (upper - hertz) / (upper - middle)
    triangles: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (upper - lower)
    return triangles
