"""Speech-to-text events: `transcribe`, and `audio-start`, `-chunk`, `-stop`."""

import logging
from dataclasses import replace

from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.programs import AsrPort
from wyoming_rknn.audio import PcmFormat
from wyoming_rknn.errors import RequestError
from wyoming_rknn.server.connection import Connection, Refusal
from wyoming_rknn.server.service import Service
from wyoming_rknn.server.utterance import Asked, Utterance

_LOGGER = logging.getLogger(__name__)

_USUAL = PcmFormat(16_000, 2, 1)
"""What Home Assistant sends; taken for granted where nothing else is said."""


class AsrEvents:
    """The speech-to-text side of one connection.

    An utterance is one `transcribe`, one `audio-start`, chunks, and `audio-stop`, of which all but the last may be
    missing. A `transcribe` that comes after the audio has begun is too late to choose the model and the language. A
    second `transcribe` or `audio-start` begins anew.
    """

    def __init__(self, connection: Connection, service: Service, port: AsrPort) -> None:
        self._connection = connection
        self._service = service
        self._port = port
        self._open: Utterance | None = None
        self._asked = False
        self._started: PcmFormat | None = None
        self._draining = False

    def select_program(self, name: str) -> None:
        """Use this program for the connection's requests."""
        self._port = AsrPort(program=name)

    async def handle(self, event: Event) -> bool:
        """Take a speech-to-text event in."""
        try:
            if AudioChunk.is_type(event.type):
                await self._take(event)
            elif AudioStart.is_type(event.type):
                self._start(_format(event, _USUAL))
            elif AudioStop.is_type(event.type):
                self._stop()
            elif Transcribe.is_type(event.type):
                self._ask(_asked(event))
            else:
                return False
        except RequestError as error:
            # Whoever sent this waits for a transcript, and may not understand `error`: the connection ends.
            self.cancel(error)
            self._connection.request(Refusal(self._connection, error, closes=True))
        return True

    def starved(self) -> bool:
        """Tell whether somebody is listened to who neither speaks nor ends."""
        return self._open is not None and self._open.has_audio

    def cancel(self, reason: RequestError | None = None) -> None:
        """Give up an utterance that has not ended."""
        if self._open is not None:
            self._open.cancel(reason)
        self._reset()

    def _ask(self, asked: Asked) -> None:
        if self._open is None or self._asked:
            self._begin(asked)
        elif not self._open.has_audio:
            self._open.asked = asked
        else:
            _LOGGER.debug("'transcribe' came after the audio began: its model and language are not used")
            self._open.asked = replace(self._open.asked, context=asked.context)
        self._asked = True

    def _start(self, pcm_format: PcmFormat) -> None:
        if self._open is None:
            self._begin(Asked())
        elif self._started is not None:
            asked, was_asked = self._open.asked, self._asked
            self._begin(asked)
            self._asked = was_asked
        self._started = pcm_format

    async def _take(self, event: Event) -> None:
        if self._draining:
            return
        pcm_format = _format(event, self._started or _USUAL)
        if self._open is None:
            self._begin(Asked())
        assert self._open is not None
        await self._open.write(event.payload or b"", pcm_format)

    def _stop(self) -> None:
        if self._draining:
            self._reset()
            return
        if self._open is None:
            self._begin(Asked())
        assert self._open is not None
        utterance = self._open
        self._reset()
        utterance.end()

    def _begin(self, asked: Asked) -> None:
        if self._open is not None:
            self._open.withdraw()
        self._reset()
        self._open = Utterance(self._connection, self._service, asked, self._port, self._drain)

    def _drain(self, answered: Utterance) -> None:
        """Take in the rest of an utterance that is answered already, for nothing."""
        if self._open is answered:
            self._reset()
            self._draining = True

    def _reset(self) -> None:
        self._open, self._asked, self._started, self._draining = None, False, None, False


def _format(event: Event, default: PcmFormat) -> PcmFormat:
    usual = {"rate": default.rate_hz, "width": default.width, "channels": default.channels}
    given = {key: event.data.get(key) for key in usual}
    return PcmFormat(*(usual[key] if value is None else value for key, value in given.items()))


def _asked(event: Event) -> Asked:
    context = event.data.get("context")
    return Asked(
        model=_text(event, "name"),
        language=_text(event, "language"),
        bias=Bias(_words(event, "transcript_names"), _words(event, "transcript_terms")),
        vad_sensitivity=_text(event, "vad_sensitivity") or "",
        context=context if isinstance(context, dict) else None,
    )


def _text(event: Event, key: str) -> str | None:
    """Return a field that chooses among things: what cannot be understood leaves the choice to us."""
    value = event.data.get(key)
    return value if isinstance(value, str) and value else None


def _words(event: Event, key: str) -> tuple[str, ...]:
    values = event.data.get(key)
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
