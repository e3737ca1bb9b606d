"""Audio on its way from a client to whoever listens to it."""

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from wyoming_rknn.asr.engine import RATE_HZ
from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import Cancelled
from wyoming_rknn.runtime.cancellation import Cancellable

_LIVE_S = 0.3
"""How much of the latest audio tells whether it comes from a microphone or from a file."""


class AudioFeed(Cancellable):
    """Take audio from one thread to another, and know whether it comes as it is spoken. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[Waveform] = []
        self._samples = 0
        self._total = 0
        self._arrivals: deque[tuple[float, int]] = deque()
        self._ended_at: float | None = None

    @property
    def ended_at(self) -> float | None:
        """Return when the audio ended, on the clock; `None` while more may come."""
        return self._ended_at

    @property
    def backlog_s(self) -> float:
        """Return how much audio waits to be taken."""
        return self._samples / RATE_HZ

    @property
    def is_live(self) -> bool:
        """Tell whether audio arrives about as fast as it is spoken, and hardly any of it waits.

        Only then is it worth while to compute ahead of the end: what is read from a file has ended by the time.
        """
        with self._changed:
            if self._samples >= _LIVE_S * RATE_HZ or len(self._arrivals) < 2:
                return False
            (earlier, before), (latest, now) = self._arrivals[0], self._arrivals[-1]
            # Half the time it took to speak allows for a network that delivers in bursts.
            return latest - earlier >= (now - before) / RATE_HZ / 2

    def write(self, samples: Waveform) -> None:
        """Append audio."""
        if not samples.size:
            return
        with self._changed:
            self._waiting.append(samples)
            self._samples += samples.size
            self._total += samples.size
            self._arrivals.append((self._clock(), self._total))
            while len(self._arrivals) > 2 and self._total - self._arrivals[1][1] >= _LIVE_S * RATE_HZ:
                self._arrivals.popleft()
            self._changed.notify()

    def end(self) -> None:
        """Note that no more audio comes; later calls change nothing."""
        with self._changed:
            if self._ended_at is None:
                self._ended_at = self._clock()
            self._changed.notify()

    def cancel(self) -> None:
        """Let `take` raise `Cancelled`: nobody waits for the transcript."""
        super().cancel()
        with self._changed:
            self._waiting.clear()
            self._samples = 0
            self._changed.notify()

    def take(self, at_least: int) -> Waveform | None:
        """Wait for `at_least` samples, or the end, and return all there are; `None` when all are taken and it ended.

        Raises `Cancelled`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._samples >= at_least or self._ended_at is not None or self.cancelled)
            if self.cancelled:
                raise Cancelled
            if not self._waiting:
                return None
            samples = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
            self._waiting.clear()
            self._samples = 0
            return samples
