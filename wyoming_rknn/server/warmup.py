"""What is loaded before anybody asks for it, so that the first request is as quick as all others."""

import logging

from wyoming_rknn.asr.programs import AsrPort
from wyoming_rknn.errors import Cancelled, SpeechServerError
from wyoming_rknn.server.ports import ports
from wyoming_rknn.server.service import Service
from wyoming_rknn.tts.narrator import Manner, Narrator, TextFeed
from wyoming_rknn.tts.programs import Wanted

_LOGGER = logging.getLogger(__name__)

_WARM_UP = "1 2 3 4 5 6 7 8 9 10."
"""Speakable in every language, and a few seconds long."""


def prepare_defaults(service: Service) -> None:
    """Load what speaks and what listens when a request names nothing. Blocks.

    What goes wrong is logged: requests will report it again, and others may still be served.
    """
    served = ports(service.settings)
    if any(port.kind != "asr" for port in served):
        prepare_default_voice(service)
    for preferred in dict.fromkeys(AsrPort(port.program, port.place) for port in served if port.kind != "tts"):
        prepare_default_model(service, preferred)


def prepare_default_model(service: Service, port: AsrPort) -> None:
    """Load the model that listens at a port when none is named. Blocks."""
    tried: set[str] = set()
    try:
        # A model that turns out to be broken is no longer offered, so the next one is the default.
        while (choice := service.asr.choose(port)).model.name not in tried:
            tried.add(choice.model.name)
            try:
                choice.engine.prepare(choice.model.name)
                _LOGGER.info("%s listens by default (%s)", choice.model.name, choice.engine.name)
                return
            except SpeechServerError as error:
                _LOGGER.warning("the default model cannot be loaded: %s", error)
    except Cancelled:
        _LOGGER.debug("warm-up given up")
    except SpeechServerError as error:
        _LOGGER.warning("nothing listens: %s", error)
    except Exception as error:
        _LOGGER.warning("no default model could be loaded: %s: %s", type(error).__name__, error)


def prepare_default_voice(service: Service) -> None:
    """Load and warm up the voice that speaks when none is named. Blocks."""
    stream = service.scheduler.stream(background=True)
    tried: set[str] = set()
    try:
        # A voice that turns out to be broken is no longer offered, so the next one is the default.
        while (choice := service.tts.choose(Wanted())).voice.name not in tried:
            tried.add(choice.voice.name)
            try:
                choice.engine.prepare(choice.voice.name)
                _LOGGER.info("%s speaks by default (%s)", choice.voice.name, choice.engine.name)
                # The first run of a graph allocates, the first sentence of a language loads its tables.
                feed = TextFeed(choice.voice.language)
                feed.write(_WARM_UP)
                feed.end()
                for _ in Narrator(choice.engine, choice.voice, Manner(), stream).narrate(feed):
                    pass
                return
            except SpeechServerError as error:
                _LOGGER.warning("the default voice cannot be loaded: %s", error)
    except Cancelled:
        _LOGGER.debug("warm-up given up")
    except Exception as error:
        _LOGGER.warning("no default voice could be loaded: %s: %s", type(error).__name__, error)
    finally:
        stream.cancel()
