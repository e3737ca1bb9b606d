"""One spoken request: audio goes in while its transcript comes out."""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop

from wyoming_rknn.asr import engine as asr
from wyoming_rknn.asr.feed import AudioFeed
from wyoming_rknn.asr.listener import Heard, Listener, Listening
from wyoming_rknn.asr.programs import AsrChoice, AsrPort
from wyoming_rknn.audio import PcmFormat, PcmReader
from wyoming_rknn.errors import Busy, Cancelled, RequestError, SpeechServerError
from wyoming_rknn.server.connection import Connection
from wyoming_rknn.server.service import GIVEN_UP, OK, Finished, Service, outcome_of

_LOGGER = logging.getLogger(__name__)

_INLINE_BYTES = 65536
"""Larger chunks are converted off the event loop."""
_BACKLOG_S = 60.0
"""Audio that may wait to be listened to; a client that sends more is read on only when it is taken."""
_BACKLOG_POLL_S = 0.02
_BLOCK_S = 5
"""Audio that is converted at once."""
# Home Assistant ends a command after 0.25, 0.7 or 1.25 s of silence.
_PATIENCE = {"aggressive": 0.25 / 0.7, "relaxed": 1.25 / 0.7}


@dataclass(frozen=True, slots=True)
class Asked:
    """What `transcribe` asks for."""

    model: str | None = None
    language: str | None = None
    bias: asr.Bias = asr.Bias()
    vad_sensitivity: str = ""
    context: dict[str, Any] | None = None


class Utterance:
    """Listen to one utterance and answer it.

    It takes its place among the connection's answers when it has something to say, so that what is asked for meanwhile
    need not wait for the speaker.
    """

    def __init__(
        self,
        connection: Connection,
        service: Service,
        asked: Asked,
        port: AsrPort,
        on_answer: Callable[["Utterance"], None],
    ) -> None:
        self._connection = connection
        self._service = service
        self._port = port
        self._on_answer = on_answer
        self._reader = PcmReader()
        self._feed = AudioFeed()
        self._number: int | None = None
        self._choice: AsrChoice | None = None
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Heard] = self._loop.create_future()
        self._outcome.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())
        self._news: asyncio.Queue[str | None] = asyncio.Queue()
        self._queued = False
        self._begun = False
        self._failure: RequestError | None = None
        self._withdrawn = False
        self.asked = asked

    @property
    def has_audio(self) -> bool:
        """Tell whether someone is being listened to."""
        return self._number is not None

    async def write(self, pcm: bytes, pcm_format: PcmFormat) -> None:
        """Take in audio, waiting while too much of it is not listened to yet. Raises `Busy`."""
        # A chunk of a slow rate becomes a great many samples.
        block = _BLOCK_S * pcm_format.rate_hz * pcm_format.frame_bytes
        for begin in range(0, len(pcm), block):
            await self._write(pcm[begin : begin + block], pcm_format)

    async def _write(self, pcm: bytes, pcm_format: PcmFormat) -> None:
        if len(pcm) > _INLINE_BYTES:
            samples = await asyncio.to_thread(self._reader.read, pcm, pcm_format)
        else:
            samples = self._reader.read(pcm, pcm_format)
        if not samples.size or self._outcome.done():
            return
        if self._number is None:
            self._listen()
        self._feed.write(samples)
        while self._feed.backlog_s > _BACKLOG_S and not self._outcome.done():  # noqa: ASYNC110 - whoever takes it knows nothing of this loop
            await asyncio.sleep(_BACKLOG_POLL_S)

    def end(self) -> None:
        """Note the end of the audio; the answer takes its place."""
        tail = self._reader.end()
        if tail.size and self._number is None and not self._outcome.done():
            # All there is fits into what the resampler holds back.
            self._listen()
        self._feed.write(tail)
        self._feed.end()
        if self._number is None and not self._outcome.done():
            # Nothing was heard, and nobody needs to be asked what it means.
            self._outcome.set_result(Heard(asr.Transcript(), "", ""))
            self._news.put_nowait(None)
        self._queue()

    def cancel(self, reason: RequestError | None = None) -> None:
        """Give up; `run` raises the reason, if any."""
        self._failure = self._failure or reason
        self._feed.cancel()
        if self._number is None:
            self._outcome.cancel()
            self._news.put_nowait(None)

    def withdraw(self) -> None:
        """Give up because the client has begun anew; the connection goes on."""
        self._withdrawn = True
        self.cancel()

    async def run(self) -> None:
        """Tell what is certain while the speaker speaks, then all. Raises `SpeechServerError`, `Cancelled`."""
        outcome = OK
        try:
            await self._answer()
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._count(GIVEN_UP if self._withdrawn else outcome)

    async def _answer(self) -> None:
        while (news := await self._news.get()) is not None:
            await self._tell(news)
        if self._outcome.cancelled():
            if self._failure is not None:
                raise self._failure
            if not self._withdrawn:
                raise Cancelled
            if self._begun:
                await self._connection.send(TranscriptStop().event())
            return
        heard = self._outcome.result()
        await self._tell(heard.news)
        language = self._language(heard)
        answer = Transcript(text=heard.text, language=language, context=self.asked.context)
        await self._connection.send(answer.event())
        await self._connection.send(TranscriptStop().event())
        self._log(heard, language)

    async def _tell(self, news: str) -> None:
        if not self._begun:
            self._begun = True
            await self._connection.send(TranscriptStart(context=self.asked.context).event())
        if news:
            await self._connection.send(TranscriptChunk(text=news).event())

    def _listen(self) -> None:
        self._number = self._service.begin()
        try:
            threading.Thread(target=self._work, name=f"{self._connection.name} listener", daemon=True).start()
        except RuntimeError:
            self._service.end()
            self._number = None
            raise Busy("no thread can be started for this request; raise the limit of processes") from None

    def _work(self) -> None:
        heard: Heard | None = None
        failure: BaseException | None = None
        try:
            heard = self._heard()
        except (SpeechServerError, Cancelled) as error:
            # Nobody reads its traceback, which would hold all audio and the models that have listened to it.
            failure = error.with_traceback(None)
        except BaseException as error:
            failure = error
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, heard, failure)

    def _heard(self) -> Heard:
        asked, service = self.asked, self._service
        # Looking for models reads folders.
        self._choice = choice = service.asr.choose(self._port, asked.model, asked.language)
        listening = Listening.of(service.settings, partials=choice.engine.partials)
        patience = _PATIENCE.get(asked.vad_sensitivity, 1.0)
        listening = replace(listening, endpointing_s=listening.endpointing_s * patience)
        session = partial(choice.open, asked.bias)
        with service.detector() as detector:
            return Listener(session, service.scheduler, listening, detector, self._on_partial).listen(self._feed)

    def _on_partial(self, news: str) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take_partial, news)

    def _take_partial(self, news: str) -> None:
        if not self._outcome.done():
            self._news.put_nowait(news)
            self._queue_early()

    def _settle(self, heard: Heard | None, failure: BaseException | None) -> None:
        """Note how it went: a transcript, an error, or nothing that anybody waits for."""
        self._service.end()
        # Nobody takes what is left of the audio.
        self._feed.cancel()
        if not self._outcome.done():
            if self._withdrawn:
                self._outcome.cancel()
            elif heard is not None:
                self._outcome.set_result(heard)
            elif isinstance(failure, Exception) and not isinstance(failure, Cancelled | StopIteration):
                self._outcome.set_exception(failure)
            else:
                self._outcome.cancel()
        self._news.put_nowait(None)
        if self._outcome.cancelled() and not self._queued:
            # Nobody will ask for the answer.
            self._count(GIVEN_UP if self._failure is None else self._failure.code)
        if self._feed.ended_at is None and not self._outcome.cancelled():
            # The answer comes before the end of the audio: the rest of it is not needed.
            self._queue_early()
            if self._queued:
                self._on_answer(self)

    def _queue(self) -> None:
        if not self._queued:
            self._connection.request(self)
            self._queued = True

    def _queue_early(self) -> None:
        # A client with so many requests waiting hears nothing before its audio has ended.
        if self._connection.has_room:
            self._queue()

    def _language(self, heard: Heard) -> str | None:
        chosen = self._choice.language if self._choice is not None else None
        return heard.transcript.language or chosen or self.asked.language or self._service.settings.language

    def _count(self, outcome: str) -> None:
        done = self._outcome.done() and not self._outcome.cancelled() and self._outcome.exception() is None
        heard = self._outcome.result() if done else None
        engine = "" if self._choice is None else self._choice.engine.name
        request = Finished("asr", engine, outcome)
        if heard is not None and self._choice is not None:
            request = replace(request, audio_s=heard.audio_s, latency_s=heard.wait_s if outcome == OK else None)
        self._service.observer.finished(request)

    def _log(self, heard: Heard, language: str | None) -> None:
        if self._choice is None:
            _LOGGER.info("asr: no audio")
            return
        _LOGGER.info(
            "asr %d %s %s %s: %.1f s audio, %d characters %.0f ms after its end (%s, decoded in %.0f ms)",
            self._number,
            self._choice.engine.name,
            self._choice.model.name,
            language or "-",
            heard.audio_s,
            len(heard.text),
            1000 * heard.wait_s,
            "ready before" if heard.ahead else "nobody spoke" if not heard.transcript.pieces else "decoded then",
            1000 * heard.decode_s,
        )
        _LOGGER.debug("asr %d: %r", self._number, heard.text)
