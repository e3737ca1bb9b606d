"""Text-to-speech events: `synthesize`, and `synthesize-start`, `-chunk`, `-stop`."""

import asyncio
import logging
import threading
import time
from dataclasses import replace
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped

from wyoming_rknn.audio import Waveform, silence, to_bytes
from wyoming_rknn.errors import Cancelled, InvalidRequest, RequestError, UsageError
from wyoming_rknn.server.connection import Connection, Refusal
from wyoming_rknn.server.service import GIVEN_UP, OK, Finished, Service, outcome_of
from wyoming_rknn.settings import Settings
from wyoming_rknn.text.passage import Passage
from wyoming_rknn.tts.engine import Prosody
from wyoming_rknn.tts.narrator import Manner, Narrator, TextFeed
from wyoming_rknn.tts.programs import Choice, Wanted

_LOGGER = logging.getLogger(__name__)

MAX_TEXT_CHARS = 1_000_000
"""Most text of one reply: half a day of speech."""
_NOTHING_S = 0.1
"""Silence that answers a text with nothing to say; without audio Home Assistant's player gets an HTTP 500."""
_SAMPLE_BYTES = 2


class TtsEvents:
    """The text-to-speech side of one connection."""

    def __init__(self, connection: Connection, service: Service) -> None:
        self._connection = connection
        self._service = service
        self._program: str | None = None
        self._open: Reply | None = None

    def select_program(self, name: str) -> None:
        """Use this program for the connection's requests."""
        self._program = name

    async def handle(self, event: Event) -> bool:
        """Take a text-to-speech event in. Raises `InvalidRequest`."""
        if SynthesizeChunk.is_type(event.type):
            self._stream("synthesize-chunk").write(_text(event))
        elif Synthesize.is_type(event.type):
            # Inside a stream Home Assistant repeats the whole text for servers that cannot stream.
            if self._open is None:
                self._synthesize(event)
        elif SynthesizeStart.is_type(event.type):
            if self._open is not None:
                self._open.withdraw()
                self._open = None
            if (reply := self._begin(event, streaming=True)) is not None:
                self._open = reply
        elif SynthesizeStop.is_type(event.type):
            self._stream("synthesize-stop").end()
            self._open = None
        else:
            return False
        return True

    def starved(self) -> bool:
        """Tell whether all there is to do is to wait for a stream's text."""
        return self._open is not None and self._open.starved

    def cancel(self, reason: RequestError | None = None) -> None:
        """Give up a stream whose text has not ended."""
        if self._open is not None:
            self._open.cancel(reason)
            self._open = None

    def _synthesize(self, event: Event) -> None:
        if (reply := self._begin(event, streaming=False)) is not None:
            reply.write(_text(event))
            reply.end()

    def _begin(self, event: Event, streaming: bool) -> "Reply | None":
        """Queue a reply to `event`, or the refusal that ends it and the connection."""
        try:
            if not streaming:
                _text(event)
            wanted, manner = _wanted(event), _manner(event, self._service.settings)
            reply = Reply(self._connection, self._service, wanted, manner, self._program, streaming, _is_ssml(event))
        except InvalidRequest as error:
            self._connection.request(Refusal(self._connection, error, closes=True))
            return None
        self._connection.request(reply)
        return reply

    def _stream(self, event_type: str) -> "Reply":
        if self._open is None:
            raise InvalidRequest(f"'{event_type}' came without a 'synthesize-start' before it")
        return self._open


class Reply:
    """One spoken answer: text goes in while audio comes out."""

    def __init__(
        self,
        connection: Connection,
        service: Service,
        wanted: Wanted,
        manner: Manner,
        program: str | None,
        streaming: bool,
        is_ssml: bool,
    ) -> None:
        self._connection = connection
        self._service = service
        self._wanted = wanted
        self._manner = manner
        self._program = program
        self._streaming = streaming
        self._is_ssml = is_ssml
        self._stream = service.scheduler.stream()
        self._early: list[str | None] = []
        self._feed: _Feed | None = None
        self._has_text = asyncio.Event()
        self._choice: Choice | None = None
        self._chars = 0
        self._samples = 0
        self._asked_at = time.monotonic()
        self._first_audio_s: float | None = None
        self._failure: RequestError | None = None
        self._withdrawn = False

    @property
    def starved(self) -> bool:
        """Tell whether everything is spoken and more text is waited for."""
        return self._feed is not None and (self._feed.starved or not self._has_text.is_set())

    def write(self, text: str) -> None:
        """Append text; a reply that gets too long ends with an error."""
        self._chars += len(text)
        if text:
            self._has_text.set()
        if self._chars > MAX_TEXT_CHARS:
            self.cancel(InvalidRequest(f"more than {MAX_TEXT_CHARS} characters are not spoken; send them in parts"))
        elif self._feed is None:
            self._early.append(text)
        else:
            self._feed.write(text)

    def end(self) -> None:
        """Note the end of the text."""
        self._has_text.set()
        if self._feed is None:
            self._early.append(None)
        else:
            self._feed.end()

    def cancel(self, reason: RequestError | None = None) -> None:
        """Give up: what is not computed yet is dropped, the narrator's thread ends; `run` raises the reason, if any."""
        self._failure = self._failure or reason
        self._stream.cancel()
        self.end()

    def withdraw(self) -> None:
        """Give up because the client has begun anew; the connection goes on."""
        self._withdrawn = True
        self.cancel()

    async def run(self) -> None:
        """Speak. Raises `SpeechServerError`, `Disconnected`, `Cancelled`."""
        outcome = OK
        try:
            await self._speak()
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._count(GIVEN_UP if self._withdrawn else outcome)

    async def _speak(self) -> None:
        try:
            # Looking for voices reads folders.
            choice = await asyncio.to_thread(self._service.tts.choose, self._wanted, self._program)
            self._choice = choice
            self._open_feed(choice)
            # A client that says nothing is no work, and must not keep others from being served.
            await self._has_text.wait()
            self._stream.check()
            number = self._service.begin()
            try:
                await self._narrate(choice)
                self._stream.check()
                await self._conclude(choice)
            finally:
                self._service.end()
        except Cancelled:
            if self._failure is not None:
                raise self._failure from None
            if not self._withdrawn:
                raise
            if self._first_audio_s is not None:
                await self._connection.send(AudioStop().event())
            return
        finally:
            self._stream.cancel()
        self._log(number, choice)

    def _open_feed(self, choice: Choice) -> None:
        feed = _Feed(choice.voice.language, is_ssml=self._is_ssml, reads_phonemes=choice.voice.reads_phonemes)
        for text in self._early:
            feed.end() if text is None else feed.write(text)
        self._early.clear()
        self._feed = feed

    async def _narrate(self, choice: Choice) -> None:
        assert self._feed is not None
        feed = self._feed
        manner = replace(self._manner, speaker=choice.speaker)
        narrator = Narrator(choice.engine, choice.voice, manner, self._stream)
        loop = asyncio.get_running_loop()
        spoken: asyncio.Future[None] = loop.create_future()

        def narrate() -> None:
            failure: BaseException | None = None
            try:
                for waveform in narrator.narrate(feed):
                    self._stream.check()
                    if loop.is_closed():
                        return
                    # Waits while the client is slow; no device is held meanwhile.
                    asyncio.run_coroutine_threadsafe(self._deliver(waveform, choice.voice.rate_hz), loop).result()
            except BaseException as error:
                failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, spoken, failure)

        threading.Thread(target=narrate, name=f"{self._connection.name} narrator", daemon=True).start()
        await spoken

    async def _deliver(self, waveform: Waveform, rate_hz: int) -> None:
        pcm = to_bytes(waveform)
        if self._first_audio_s is None:
            self._first_audio_s = time.monotonic() - self._asked_at
            self._stream.started()
            await self._connection.send(AudioStart(rate_hz, _SAMPLE_BYTES, 1, timestamp=0).event())
        limit = self._service.settings.max_payload // _SAMPLE_BYTES * _SAMPLE_BYTES
        for begin in range(0, len(pcm), limit):
            piece = pcm[begin : begin + limit]
            timestamp_ms = self._samples * 1000 // rate_hz
            self._samples += len(piece) // _SAMPLE_BYTES
            chunk = AudioChunk(rate_hz, _SAMPLE_BYTES, 1, audio=piece, timestamp=timestamp_ms)
            await self._connection.send(chunk.event())

    async def _conclude(self, choice: Choice) -> None:
        rate_hz = choice.voice.rate_hz
        if self._first_audio_s is None:
            await self._deliver(silence(_NOTHING_S, rate_hz), rate_hz)
        await self._connection.send(AudioStop(timestamp=self._samples * 1000 // rate_hz).event())
        if self._streaming:
            await self._connection.send(SynthesizeStopped().event())

    def _count(self, outcome: str) -> None:
        engine = "" if self._choice is None else self._choice.engine.name
        audio_s = 0.0 if self._choice is None else self._samples / self._choice.voice.rate_hz
        self._service.observer.finished(Finished("tts", engine, outcome, audio_s, self._first_audio_s))

    def _log(self, number: int, choice: Choice) -> None:
        audio_s = self._samples / choice.voice.rate_hz
        spent_s = time.monotonic() - self._asked_at
        _LOGGER.info(
            "tts %d %s %s: %d characters, first audio %.0f ms, %.1f s audio in %.2f s (rtf %.3f)",
            number,
            choice.engine.name,
            choice.voice.name,
            self._chars,
            1000 * (self._first_audio_s or 0.0),
            audio_s,
            spent_s,
            spent_s / audio_s if audio_s else 0.0,
        )


class _Feed(TextFeed):
    """A feed that knows whether its narrator waits for it, with all it was given spoken."""

    starved = False

    def next(self) -> Passage | None:
        self.starved = True
        try:
            return super().next()
        finally:
            self.starved = False


def _settle(spoken: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if spoken.done():
        return
    if failure is None:
        spoken.set_result(None)
    elif isinstance(failure, Exception) and not isinstance(failure, StopIteration):
        spoken.set_exception(failure)
    else:
        spoken.set_exception(Cancelled())


def _text(event: Event) -> str:
    text = event.data.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"'{event.type}' has no 'text' that is a string")
    return text


def _is_ssml(event: Event) -> bool:
    return event.data.get("text_format") == "ssml"


def _manner(event: Event, settings: Settings) -> Manner:
    # Piper's programs use either name.
    noise_w, noise_w_scale = _number(event, "noise_w"), _number(event, "noise_w_scale", "noise_w")
    prosody = Prosody(
        length_scale=_number(event, "length_scale"),
        noise_scale=_number(event, "noise_scale"),
        noise_w=noise_w_scale if noise_w is None else noise_w,
    )
    silence_s = _number(event, "sentence_silence")
    return Manner(None, settings.sentence_silence if silence_s is None else silence_s, prosody)


def _number(event: Event, key: str, setting: str = "") -> float | None:
    """Return an optional number that is bound to the range of the setting, by default that of the same name."""
    value: Any = event.data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"'{key}' of '{event.type}' is not a number")
    try:
        bound: dict[str, Any] = {setting or key: float(value)}
        Settings(**bound)
    except (UsageError, OverflowError) as error:
        raise InvalidRequest(f"'{key}' of '{event.type}' is out of range: {error}") from None
    return float(value)


def _wanted(event: Event) -> Wanted:
    voice: Any = event.data.get("voice")
    if voice is None:
        return Wanted()
    if isinstance(voice, str):
        return Wanted(name=voice)
    if not isinstance(voice, dict):
        raise InvalidRequest(f"'voice' of '{event.type}' is not an object such as {{\"name\": \"...\"}}")
    for key in ("name", "language", "speaker"):
        value = voice.get(key)
        if not isinstance(value, str | None) and not (key == "speaker" and isinstance(value, int)):
            raise InvalidRequest(f"'voice.{key}' of '{event.type}' is not a string")
    speaker = voice.get("speaker")
    return Wanted(voice.get("name") or None, voice.get("language") or None, None if speaker is None else str(speaker))
