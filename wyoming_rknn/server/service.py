"""What all connections share: programs, scheduler, limits, and the clock of requests."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from wyoming_rknn.asr.listener import Detector
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.asr.vad import SpeechDetectors
from wyoming_rknn.errors import Busy
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.server.info import InfoCache
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.programs import Programs


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
    is_closing: bool = False
    """Whether engines are being closed: what fails for that is no news."""
    _active: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

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
