"""espeak-ng: a robot's voice in some 140 languages that needs nothing downloaded."""

import logging
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue

import numpy as np

from wyoming_rknn.audio import Waveform, apply_gain, from_int16
from wyoming_rknn.errors import EngineError, VoiceNotFound
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest, TtsEngine, Voice
from wyoming_rknn.tts.espeak_library import FASTEST_WPM, NORMAL_WPM, SLOWEST_WPM, Language, Library, library

_LOGGER = logging.getLogger(__name__)

_PREFIX = "espeak-"
_SHORTEST_S_PER_CHARACTER = 0.05
"""Of alphabetic text at normal speed. What comes next is due too early rather than too late."""

# BCP-47 for what espeak-ng spells in a way of its own. The bare language is listed where the voice is a standard of it.
_TAGS = {
    "ca-ba": ("ca-ES-x-balear",),
    "ca-nw": ("ca-ES-x-nordocc",),
    "ca-va": ("ca-ES-valencia",),
    "chr-us-qaaa-x-west": ("chr-Qaaa-US-x-west", "chr"),
    "cmn": ("zh-CN", "zh", "cmn"),
    "cmn-latn-pinyin": ("cmn-Latn-pinyin",),
    "en-gb": ("en-GB", "en"),
    "en-us": ("en-US", "en"),
    "en-us-nyc": ("en-US-x-nyc",),
    "es": ("es-ES", "es"),
    "es-419": ("es-419", "es-MX"),
    "fr-fr": ("fr-FR", "fr"),
    "nb": ("nb", "no"),
    "piqd": ("tlh-Piqd", "tlh"),
    "pt": ("pt-PT", "pt"),
    "pt-br": ("pt-BR", "pt"),
    "py": ("art-x-pyash",),
    "ru-cl": ("ru-x-classic",),
    "yue": ("yue", "zh-HK"),
    "yue-latn-jyutping": ("yue-Latn-jyutping",),
}


def create(settings: Settings, _runtimes: Runtimes) -> TtsEngine:
    """Make the engine."""
    return EspeakEngine(volume=settings.volume, length_scale=settings.length_scale)


class EspeakEngine:
    """Text-to-speech by espeak-ng, one voice per language. The library is loaded on first use."""

    name = "espeak-ng"
    description = "Built-in robotic voices in many languages (espeak-ng)"

    def __init__(self, *, volume: float = 1.0, length_scale: float = 1.0) -> None:
        self._volume = volume
        self._length_scale = length_scale
        self._lock = threading.Lock()
        self._library: Library | None = None
        self._closed = False
        self._warned = False
        self._voices: tuple[Voice, ...] = ()
        self._identifiers: dict[str, str] = {}

    def voices(self) -> Sequence[Voice]:
        """Return one voice per language, sorted by name; none, and one warning, if espeak-ng cannot be loaded."""
        try:
            self._open()
        except EngineError as error:
            if not self._warned:
                self._warned = True
                _LOGGER.warning("no built-in voices: %s", error)
            return ()
        return self._voices

    def prepare(self, voice: str) -> None:
        """Load the library. Raises `EngineError`, `VoiceNotFound`."""
        self._find(voice)

    def speak(self, request: SpeechRequest, stream: Stream) -> Iterator[Waveform]:
        """Return the audio of `request`, float32 at the voice's rate, in pieces of about 100 ms.

        The synthesis is one job that begins with the call and does not wait for its pieces to be taken; it ends early
        when the stream is cancelled or the iterator closed. espeak-ng varies the pitch a little from call to call.
        Raises `EngineError`, `VoiceNotFound`, `Cancelled`.
        """
        speech, identifier = self._find(request.voice)
        text = _readable(request.text)
        if not text:
            return iter(())
        rate_wpm = _words_per_minute(self._length_scale * (request.prosody.length_scale or 1.0))
        pieces: SimpleQueue[bytes | Future[None]] = SimpleQueue()
        abandoned = threading.Event()

        def take(pcm: bytes) -> bool:
            pieces.put(pcm)
            return not (stream.cancelled or abandoned.is_set())

        def work() -> None:
            if not abandoned.is_set():
                speech.synthesize(text, identifier, rate_wpm, take)
            stream.check()

        begin_s = stream.reserve(len(text) * _SHORTEST_S_PER_CHARACTER * NORMAL_WPM / rate_wpm)
        # The future follows the last piece, so it ends the pieces and carries what went wrong.
        stream.submit(work, at_s=begin_s).add_done_callback(pieces.put)
        return self._play(pieces, abandoned)

    def close(self) -> None:
        """Stop the library once nothing runs; the engine cannot be used afterwards."""
        with self._lock:
            self._closed = True
            opened, self._library = self._library, None
        if opened is not None:
            opened.release()

    def _play(self, pieces: "SimpleQueue[bytes | Future[None]]", abandoned: threading.Event) -> Iterator[Waveform]:
        try:
            while not isinstance(piece := pieces.get(), Future):
                yield apply_gain(from_int16(np.frombuffer(piece, "<i2")), self._volume)
            piece.result()
        finally:
            abandoned.set()

    def _find(self, voice: str) -> tuple[Library, str]:
        speech = self._open()
        identifier = self._identifiers.get(voice)
        if identifier is None:
            raise VoiceNotFound(voice, self._identifiers)
        return speech, identifier

    def _open(self) -> Library:
        with self._lock:
            if self._closed:
                raise EngineError("espeak-ng was stopped; the request came too late")
            if self._library is None:
                opened = library()
                opened.open()
                self._library = opened
                self._voices = tuple(_voice(language, opened.rate_hz) for language in opened.languages)
                self._identifiers = {_PREFIX + language.tag: language.identifier for language in opened.languages}
            return self._library


def _voice(language: Language, rate_hz: int) -> Voice:
    tags = _TAGS.get(language.tag) or (_bcp47(language.tag),)
    return Voice(_PREFIX + language.tag, tags, language.title, rate_hz)


def _bcp47(tag: str) -> str:
    """Return a tag with the letter cases that RFC 5646 recommends: language, Script, REGION, the rest small."""
    language, *rest = tag.lower().split("-")
    subtags = [language]
    for subtag in rest:
        if "x" in subtags:
            subtags.append(subtag)
        elif len(subtag) == 4 and subtag.isalpha():
            subtags.append(subtag.title())
        elif len(subtag) == 2:
            subtags.append(subtag.upper())
        else:
            subtags.append(subtag)
    return "-".join(subtags)


def _words_per_minute(length_scale: float) -> int:
    return round(min(max(NORMAL_WPM / length_scale, SLOWEST_WPM), FASTEST_WPM))


def _readable(text: str) -> str:
    # espeak-ng takes control characters for commands; NUL ends a C string; lone surrogates have no UTF-8.
    cleaned = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text).strip()
    # It reads a lone mark by its name.
    return cleaned if any(unicodedata.category(char)[0] in "LNS" for char in cleaned) else ""
