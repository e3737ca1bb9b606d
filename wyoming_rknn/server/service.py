"""What all connections share: programs, scheduler, limits, who counts, and the clock of requests."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from wyoming_rknn.asr.listener import Detector
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.asr.vad import SpeechDetectors
from wyoming_rknn.errors import Busy, Cancelled, SpeechServerError
from wyoming_rknn.runtime.memory import Memory
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.server.connection import Disconnected
from wyoming_rknn.server.info import InfoCache
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.programs import Programs

OK, GIVEN_UP = "ok", "cancelled"
"""How requests end that end with no error."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that was taken in, as it ended; those that are refused before are told as errors only."""

    kind: Literal["tts", "asr"]
    engine: str
    """Its name; empty if none was chosen."""
    outcome: str
    """`OK`, `GIVEN_UP`, or the code of the error."""
    audio_s: float = 0.0
    """Audio that was spoken, or listened to."""
    latency_s: float | None = None
    """From the request to the first audio, or from the end of the audio to the transcript; `None` if neither came."""


class Observer(Protocol):
    """Hears of what happens, in the event loop's thread. Must be quick and not raise."""

    def finished(self, request: Finished) -> None:
        """Note how a request ended."""

    def reported(self, error: SpeechServerError) -> None:
        """Note an error that a client is told."""


class Unobserved:
    """Nobody counts."""

    def finished(self, request: Finished) -> None:
        """Do nothing."""

    def reported(self, error: SpeechServerError) -> None:
        """Do nothing."""


def outcome_of(error: BaseException) -> str:
    """Return how a request ended that raised `error`."""
    if isinstance(error, SpeechServerError):
        return error.code
    # What nobody waits for any more, and tasks that end with the server.
    is_given_up = isinstance(error, Cancelled | Disconnected) or not isinstance(error, Exception)
    return GIVEN_UP if is_given_up else SpeechServerError.code


@dataclass(slots=True)
class Service:
    """The programs that this process offers, and how many requests it works on."""

    settings: Settings
    scheduler: Scheduler
    tts: Programs
    asr: AsrPrograms
    detector: Callable[[], AbstractContextManager[Detector]] = field(default_factory=lambda: SpeechDetectors().borrow)
    """Lends what tells speech from everything else, for one utterance."""
    info: InfoCache = field(default_factory=InfoCache)
    memory: Memory = field(default_factory=Memory)
    """What the engines' models take."""
    observer: Observer = field(default_factory=Unobserved)
    is_closing: bool = False
    """Whether engines are being closed: what fails for that is no news."""
    _active: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def active(self) -> int:
        """Return how many requests are being worked on."""
        return self._active

    def begin(self) -> int:
        """Count a request in and return its number; raises `Busy` at the limit. Every call needs its `end`."""
        if self._active >= self.settings.max_requests:
            raise Busy(f"{self._active} requests are being worked on, as many as --max-requests allows; try again")
        self._active += 1
        return next(self._numbers)

    def end(self) -> None:
        """Count a request out."""
        self._active -= 1

    def close(self) -> None:
        """Close all engines. Blocks, for seconds where a driver hangs."""
        self.is_closing = True
        self.asr.close()
        self.tts.close()
