"""What is loaded before anybody asks for it, so that the first request is as quick as all others."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from wyoming_rknn.asr.programs import AsrPort
from wyoming_rknn.errors import Cancelled, SpeechServerError, VoiceNotFound, did_you_mean
from wyoming_rknn.names import folded
from wyoming_rknn.server.ports import ports
from wyoming_rknn.server.service import Service
from wyoming_rknn.tts.engine import speaker_readings
from wyoming_rknn.tts.narrator import Manner, Narrator, TextFeed
from wyoming_rknn.tts.programs import Choice, Wanted

_LOGGER = logging.getLogger(__name__)

DEFAULT, ALL, NONE = "default", "all", "none"
"""Words that `--preload` knows beside names."""
_WARM_UP = "1 2 3 4 5 6 7 8 9 10."
"""Speakable in every language, and a few seconds long."""


def preload(service: Service) -> None:
    """Load what `--preload` names. Blocks.

    What goes wrong is logged: requests will report it again, and others may still be served.
    """
    wanted = dict.fromkeys(service.settings.preload or (DEFAULT,))
    if DEFAULT in wanted or ALL in wanted:
        prepare_defaults(service)
    if ALL in wanted:
        _prepare_all(service)
        # Once more, so that they are the last to give way to others.
        prepare_defaults(service)
    if named := [word for word in wanted if word not in (DEFAULT, ALL, NONE)]:
        _prepare_named(service, named)


def prepare_defaults(service: Service) -> None:
    """Load what speaks and what listens when a request names nothing. Blocks. What goes wrong is logged."""
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
                _warn(service, "the default model cannot be loaded: %s", error)
    except Cancelled:
        _LOGGER.debug("warm-up given up")
    except SpeechServerError as error:
        _warn(service, "nothing listens: %s", error)
    except Exception as error:
        _warn(service, "no default model could be loaded: %s: %s", type(error).__name__, error)


def prepare_default_voice(service: Service) -> None:
    """Load and warm up the voice that speaks when none is named. Blocks."""
    tried: set[str] = set()
    try:
        # A voice that turns out to be broken is no longer offered, so the next one is the default.
        while (choice := service.tts.choose(Wanted())).voice.name not in tried:
            tried.add(choice.voice.name)
            try:
                choice.engine.prepare(choice.voice.name)
                _LOGGER.info("%s speaks by default (%s)", choice.voice.name, choice.engine.name)
                _speak(service, choice)
                return
            except SpeechServerError as error:
                _warn(service, "the default voice cannot be loaded: %s", error)
    except Cancelled:
        _LOGGER.debug("warm-up given up")
    except Exception as error:
        _warn(service, "no default voice could be loaded: %s: %s", type(error).__name__, error)


def _prepare_all(service: Service) -> None:
    known = dict(_known(service))
    # Voices of the same files are loaded once.
    names = [name for name in known if not any(base in known for base, _ in speaker_readings(name))]
    count = sum(_prepared(service, name, known[name].load) for name in names)
    _LOGGER.info("%d voices and models are loaded", count)


def _prepare_named(service: Service, words: list[str]) -> None:
    known = dict(_known(service))
    names = {folded(name): name for name in reversed(known)}
    for word in words:
        if (name := names.get(folded(word))) is None:
            _LOGGER.warning("--preload %r: %s", word, _obstacle(service, word) or _unknown(word, known))
        elif _prepared(service, name, known[name].load) and _prepared(service, name, known[name].warm_up):
            _LOGGER.info("%s is loaded", name)


def _prepared(service: Service, name: str, load: Callable[[], None]) -> bool:
    try:
        load()
    except Cancelled:
        _LOGGER.debug("warm-up given up")
    except SpeechServerError as error:
        _warn(service, "%s cannot be loaded: %s", name, error)
    except Exception as error:
        _warn(service, "%s cannot be loaded: %s: %s", name, type(error).__name__, error)
    else:
        return True
    return False


def _warn(service: Service, message: str, *arguments: object) -> None:
    # What cannot be loaded because the server ends is nobody's fault.
    _LOGGER.log(logging.DEBUG if service.is_closing else logging.WARNING, message, *arguments)


@dataclass(frozen=True, slots=True)
class _Loading:
    """How a voice or a model is made ready."""

    load: Callable[[], None]
    warm_up: Callable[[], None] = lambda: None


def _known(service: Service) -> Iterator[tuple[str, _Loading]]:
    """Yield what can be loaded at the ports that are served."""
    kinds = {port.kind for port in ports(service.settings)}
    if kinds - {"asr"}:
        for engine, voices in service.tts.offered():
            for voice in voices:
                if voice.is_here:
                    warm_up = partial(_speak, service, Choice(engine, voice, None))
                    yield voice.name, _Loading(partial(engine.prepare, voice.name), warm_up)
    if kinds - {"tts"}:
        for recogniser, models in service.asr.offered():
            for model in models:
                yield model.name, _Loading(partial(recogniser.prepare, model.name))


def _speak(service: Service, choice: Choice) -> None:
    """Warm a voice up: the first run of a graph allocates, the first sentence of a language loads its tables."""
    stream = service.scheduler.stream(background=True)
    try:
        feed = TextFeed(choice.voice.language)
        feed.write(_WARM_UP)
        feed.end()
        for _ in Narrator(choice.engine, choice.voice, Manner(), stream).narrate(feed):
            pass
    finally:
        stream.cancel()


def _obstacle(service: Service, name: str) -> SpeechServerError | None:
    """Return what is wrong with a voice or model that is there."""
    if (problem := service.asr.problem(name)) is not None:
        return problem
    try:
        service.tts.choose(Wanted(name))
    except VoiceNotFound:
        return None
    except SpeechServerError as error:
        return error
    return None


def _unknown(name: str, known: Mapping[str, object]) -> str:
    return f"no voice or model of that name is installed{did_you_mean(name, known)}"
