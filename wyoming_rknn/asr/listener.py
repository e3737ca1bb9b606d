"""From audio to transcript: listens while the speaker speaks, so that the text is there when it is asked for.

Home Assistant sends `audio-stop` about 0.7 s after the last word. A pause of 150 ms is long enough to begin the final
decoding; if nothing but silence follows, its text is the answer, and it is ready by then. If the speaker goes on, it is
thrown away. While nobody has spoken nothing is decoded, so silence and noise give an empty transcript.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from wyoming_rknn.asr.decoder import Decoder
from wyoming_rknn.asr.endpoint import FRAME_S, Endpointer
from wyoming_rknn.asr.engine import RATE_HZ, AsrSession, Transcript
from wyoming_rknn.asr.feed import AudioFeed
from wyoming_rknn.asr.stable import StablePrefix, without_full_stop
from wyoming_rknn.asr.vad import FRAME_SAMPLES
from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import SpeechServerError
from wyoming_rknn.runtime.scheduler import Scheduler, Stream
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)

KEPT_S = 10.0
"""Audio kept from before the first word; with more silence than that the rest is forgotten."""
_TAIL_FRAMES = 8
_NOBODY_S = 15.0
"""With our own end-pointing, how long somebody may say nothing; as long as Home Assistant waits."""
_LOAD = 4.0
"""One partial transcript is made in so many times its own duration: they use a quarter of a device."""


@dataclass(frozen=True, slots=True)
class Listening:
    """How to listen."""

    threshold: float = 0.5
    endpointing_s: float = 0.0
    """Silence after which the utterance is over though more audio may come; 0 to wait for its end."""
    partial_interval_s: float = 0.0
    """Time between partial transcripts, at least; 0 for none."""
    longest_s: float = 300.0
    full_stop: bool = True

    @classmethod
    def of(cls, settings: Settings, *, partials: bool) -> "Listening":
        """Return what the settings ask for, with partial transcripts if the engine gives any."""
        return cls(
            threshold=settings.vad_threshold,
            endpointing_s=settings.vad_endpointing,
            partial_interval_s=settings.partial_interval if partials else 0.0,
            longest_s=settings.max_utterance,
            full_stop=not settings.no_full_stop,
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of an utterance."""

    transcript: Transcript
    text: str
    """The transcript as it is sent; begins with all that was told before."""
    news: str
    """The part of the text that was not told before."""
    audio_s: float = 0.0
    wait_s: float = 0.0
    """From the end of the audio to the text."""
    decode_s: float = 0.0
    ahead: bool = False
    """Whether the text was there before the audio ended."""


class Detector(Protocol):
    """Tells speech from everything else, frame by frame."""

    def probability(self, frame: Waveform) -> float:
        """Return how likely someone speaks in a frame of `FRAME_SAMPLES`, 0 to 1."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A decoding of all that was said up to `speech_end_s`."""

    stream: Stream
    future: "Future[tuple[Transcript, float]]"
    speech_end_s: float


class Listener:
    """Listen to one utterance. `open_session` is called at once, so that a model loads while the speaker speaks."""

    def __init__(
        self,
        open_session: Callable[[], AsrSession],
        scheduler: Scheduler,
        listening: Listening,
        detector: Detector,
        on_partial: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._listening = listening
        self._detector = detector
        self._on_partial = on_partial if listening.partial_interval_s else None
        self._clock = clock
        self._decoder = Decoder(open_session)
        self._endpointer = Endpointer(listening.threshold)
        self._stable = StablePrefix()
        self._rest: Waveform = np.zeros(0, np.float32)
        self._early: list[Waveform] = []
        self._forgotten_samples = 0
        self._accepted_samples = 0
        self._full = False
        self._attempt: _Attempt | None = None
        self._partial: _Attempt | None = None
        self._partial_due_at = 0.0

    def listen(self, feed: AudioFeed) -> Heard:
        """Return what was said, once the audio has ended or the speaker has, and before that tell what is certain.

        Blocks. Raises `ModelError`, `EngineError`, and `Cancelled` if the feed is cancelled.
        """
        self._decoder.start()
        try:
            with feed.on_cancel(self._give_up):
                self._follow(feed)
                return self._conclude(feed)
        finally:
            self._give_up()
            self._decoder.close()

    def _follow(self, feed: AudioFeed) -> None:
        """Take in all audio up to the end of the utterance, and decode what can be decoded meanwhile."""
        while (samples := feed.take(FRAME_SAMPLES)) is not None:
            # Whether the speaker has stopped must not depend on how much audio comes at once.
            step = FRAME_SAMPLES if self._listening.endpointing_s else samples.size
            for begin in range(0, samples.size, step):
                self._hear(samples[begin : begin + step], feed)
                if self._is_over():
                    return
            if feed.ended_at is None and feed.is_live:
                self._work_ahead()
        self._watch(np.concatenate((self._rest, np.zeros(-self._rest.size % FRAME_SAMPLES, np.float32))), feed)
        if not self._endpointer.heard:
            # A detector that judges a sound by what follows it has not judged the last one yet.
            self._watch(np.zeros(_TAIL_FRAMES * FRAME_SAMPLES, np.float32), feed)

    def _hear(self, samples: Waveform, feed: AudioFeed) -> None:
        if self._full:
            # What follows changes nothing any more.
            return
        self._keep(samples)
        self._watch(np.concatenate((self._rest, samples)), feed)

    def _watch(self, audio: Waveform, feed: AudioFeed) -> None:
        """Look for speech, frame by frame; once the audio has ended, only while that can still change the answer."""
        whole = audio.size - audio.size % FRAME_SAMPLES
        for begin in range(0, whole, FRAME_SAMPLES):
            if self._is_decided(feed):
                break
            self._endpointer.accept(self._detector.probability(audio[begin : begin + FRAME_SAMPLES]))
            if self._early and self._endpointer.heard:
                self._forget()
                early, self._early = np.concatenate(self._early), []
                self._accept(early)
            if self._attempt is not None and self._endpointer.speech_end_s > self._attempt.speech_end_s:
                self._drop(self._attempt)
                self._attempt = None
        self._rest = audio[whole:]
        if not self._endpointer.heard:
            self._forget()

    def _is_decided(self, feed: AudioFeed) -> bool:
        """Tell whether all audio will be decoded, whatever is in the rest of it."""
        if self._listening.endpointing_s or feed.ended_at is None:
            return False
        return self._endpointer.heard and self._attempt is None

    def _forget(self) -> None:
        """Forget what is older than `KEPT_S` at the last frame, so that silence does not pile up."""
        excess = self._endpointer.frames * FRAME_SAMPLES - round(KEPT_S * RATE_HZ) - self._forgotten_samples
        while excess > 0:
            samples = self._early.pop(0)
            if samples.size > excess:
                self._early.insert(0, samples[excess:])
            dropped = min(excess, samples.size)
            self._forgotten_samples += dropped
            excess -= dropped

    def _keep(self, samples: Waveform) -> None:
        if self._endpointer.heard:
            self._accept(samples)
            return
        self._early.append(samples)

    def _accept(self, samples: Waveform) -> None:
        room = round(self._listening.longest_s * RATE_HZ) - self._accepted_samples
        if samples.size > room:
            self._full = True
            samples = samples[:room]
            _LOGGER.warning(
                "an utterance is longer than %g s; the text of what fits is returned; --max-utterance allows for more",
                self._listening.longest_s,
            )
        if samples.size:
            self._accepted_samples += samples.size
            self._decoder.post(lambda session: session.accept(samples))

    def _is_over(self) -> bool:
        if not self._listening.endpointing_s:
            return False
        endpointer = self._endpointer
        if not endpointer.heard:
            return endpointer.frames * FRAME_S >= _NOBODY_S
        return self._full or endpointer.silence_s >= self._listening.endpointing_s

    def _work_ahead(self) -> None:
        if self._full or self._endpointer.paused:
            if self._attempt is None:
                self._drop(self._partial)
                self._attempt = self._finish()
        elif self._endpointer.heard and self._on_partial is not None:
            self._ask_for_partial(self._on_partial)

    def _finish(self) -> _Attempt:
        stream = self._scheduler.stream()
        future = self._decoder.call(lambda session: self._timed(session.finish, stream))
        return _Attempt(stream, future, self._endpointer.speech_end_s)

    def _ask_for_partial(self, tell: Callable[[str], None]) -> None:
        now = self._clock()
        if now < self._partial_due_at or (self._partial is not None and not self._partial.future.done()):
            return
        stream = self._scheduler.stream(background=True)
        heard_s = self._accepted_samples / RATE_HZ

        def work(session: AsrSession) -> tuple[Transcript, float]:
            transcript, took_s = self._timed(session.partial, stream)
            self._partial_due_at = max(self._partial_due_at, self._clock() + (_LOAD - 1) * took_s)
            if news := self._stable.offer(transcript, heard_s):
                tell(news)
            return transcript, took_s

        self._partial_due_at = now + self._listening.partial_interval_s
        self._partial = _Attempt(stream, self._decoder.call(work), self._endpointer.speech_end_s)

    def _conclude(self, feed: AudioFeed) -> Heard:
        early_samples = sum(samples.size for samples in self._early)
        audio_s = (self._forgotten_samples + early_samples + self._accepted_samples) / RATE_HZ
        ended_at = feed.ended_at or self._clock()
        if not self._endpointer.heard:
            return Heard(Transcript(), "", "", audio_s, self._clock() - ended_at)
        self._drop(self._partial)
        ahead, result = False, None
        if self._attempt is not None:
            ahead = self._attempt.future.done()
            try:
                result = self._attempt.future.result()
            except SpeechServerError as error:
                _LOGGER.debug("decoding ahead failed: %s", error)
                ahead = False
        if result is None:
            feed.check()
            self._attempt = self._finish()
            result = self._attempt.future.result()
        transcript, decode_s = self._placed(result[0]), result[1]
        text = transcript.text if self._listening.full_stop else without_full_stop(transcript.text)
        text, news = self._stable.conclude(text)
        return Heard(transcript, text, news, audio_s, self._clock() - ended_at, decode_s, ahead)

    def _placed(self, transcript: Transcript) -> Transcript:
        """Return the transcript with its times counted from the beginning of the audio."""
        if not self._forgotten_samples:
            return transcript
        begin_s = self._forgotten_samples / RATE_HZ
        pieces = tuple(replace(piece, begin_s=piece.begin_s + begin_s) for piece in transcript.pieces)
        return replace(transcript, pieces=pieces)

    def _timed(self, decode: Callable[[Stream], Transcript], stream: Stream) -> tuple[Transcript, float]:
        begin = self._clock()
        return decode(stream), self._clock() - begin

    def _give_up(self) -> None:
        self._drop(self._attempt)
        self._drop(self._partial)

    @staticmethod
    def _drop(attempt: _Attempt | None) -> None:
        if attempt is not None:
            attempt.stream.cancel()
