"""`wyoming-rknn serve`: run the server."""

import argparse
import asyncio
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from

if TYPE_CHECKING:
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.server.service import Service

_LOGGER = logging.getLogger(__name__)

HELP = "serve text-to-speech and speech-to-text to Home Assistant"
_SWITCH_S = 0.001
_BUSY_DEVICES_S = 0.3
"""How long running computations may take to finish once the server has stopped."""
_FAREWELL_S = 5.0
"""How long it may take to let go of models and of the NPU; next to nothing unless a driver hangs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every setting."""
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    # Here and not at the top: `health` and `--help` must not wait for the server's libraries.
    from wyoming_rknn.asr import programs as asr_programs
    from wyoming_rknn.runtime.memory import keep_heap_together
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.server.app import Server
    from wyoming_rknn.server.service import Service
    from wyoming_rknn.server.warmup import preload
    from wyoming_rknn.tts import programs as tts_programs

    # A device's result must not wait 5 ms, Python's default, for a thread that is busy with text or JSON.
    sys.setswitchinterval(_SWITCH_S)
    keep_heap_together()
    runtimes = Runtimes.of(settings)
    scheduler = runtimes.scheduler()
    tts, asr = tts_programs.load(settings, runtimes), asr_programs.load(settings, runtimes)
    service = Service(settings, scheduler, tts, asr, memory=runtimes.memory)

    def ready() -> None:
        runtimes.report()
        threading.Thread(target=preload, args=(service,), name="preload", daemon=True).start()

    runner = asyncio.Runner()
    try:
        runner.run(Server(service).run(ready=ready))
    except BaseException:
        runner.close()
        raise
    scheduler.close(_BUSY_DEVICES_S)
    # An NPU whose user leaves its memory behind may hang until the next boot; and what is being cut, or decoded by a
    # child process, is given up cleanly.
    farewell = threading.Thread(target=_close, args=(service, runtimes), name="farewell", daemon=True)
    farewell.start()
    farewell.join(_FAREWELL_S)
    for device, counts in scheduler.counts().items():
        for priority, count in counts.items():
            _LOGGER.debug("%s, %s: %s", device, priority, count)
    # Threads that compute or load a voice cannot be interrupted. Waiting for them would hold up the exit, taking the
    # interpreter away under them would crash: so neither the event loop's threads nor the interpreter are wound up.
    logging.shutdown()
    os._exit(0)


def _close(service: "Service", runtimes: "Runtimes") -> None:
    service.close()
    runtimes.close()
