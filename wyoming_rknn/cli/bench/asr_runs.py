"""One model hears one sound, at once and as it is spoken."""

import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from wyoming_rknn.asr.engine import RATE_HZ, Bias
from wyoming_rknn.asr.feed import AudioFeed
from wyoming_rknn.asr.listener import Listener, Listening
from wyoming_rknn.asr.programs import AsrChoice
from wyoming_rknn.asr.vad import FRAME_SAMPLES, SpeechDetector
from wyoming_rknn.audio import Waveform, resample, silence
from wyoming_rknn.cli import sound
from wyoming_rknn.errors import SpeechServerError
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import NPU, Scheduler
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts import programs
from wyoming_rknn.tts.engine import SpeechRequest
from wyoming_rknn.tts.programs import Wanted

TEXTS = {
    "short": "Turn on the light.",
    "long": "Turn on the light in the living room, and set the heating to twenty degrees.",
}
SILENCE_S = 0.7
"""What Home Assistant waits for after the last word."""
_CHUNK_S = 0.02
_SPEAKER = "espeak-ng"
"""Speaks without a voice being installed."""


@dataclass(frozen=True, slots=True)
class Sound:
    """What is heard."""

    name: str
    samples: Waveform
    """float32 [n] at `RATE_HZ`."""
    vad_s: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model and one sound; times in seconds, medians over the repetitions."""

    engine: str
    model: str
    sound: str
    load_s: float
    audio_s: float
    total_s: float
    """Features, graph and text, with all audio there from the beginning."""
    decode_s: float
    """The part of it that follows the features."""
    latency_s: float | None
    """From the end of the audio, played in real time, to the text; `None` if nobody seems to speak."""
    vad_s: float
    """Telling speech from silence, per second of audio."""
    on_npu: bool
    """Whether an NPU computed a part of it."""

    @property
    def rtf(self) -> float:
        """Return computing time per audio time."""
        return self.total_s / self.audio_s


class Runs:
    """Measurements that are repeated."""

    def __init__(self, runtimes: Runtimes, scheduler: Scheduler, settings: Settings, repeat: int) -> None:
        self._runtimes = runtimes
        self._scheduler = scheduler
        self._settings = settings
        self._repeat = repeat

    def sounds(self, files: Iterable[str]) -> list[Sound]:
        """Return what files hold, or speech. Raises `SpeechServerError` for a file without a sample in it."""
        waveforms = {name: _joined(sound.read(name)) for name in files} or self._spoken()
        for name, samples in waveforms.items():
            if not samples.size:
                raise SpeechServerError(f"{name} is empty; name a file with speech in it")
        return [Sound(name, samples, self._vad(samples)) for name, samples in waveforms.items()]

    def measure(self, choice: AsrChoice, sounds: Sequence[Sound]) -> list[Measurement]:
        """Load a model and let it hear. Raises `SpeechServerError` if it cannot be used."""
        begin = time.perf_counter()
        choice.engine.prepare(choice.model.name)
        load_s = time.perf_counter() - begin
        return [self._measure(choice, heard, load_s) for heard in sounds]

    def _measure(self, choice: AsrChoice, heard: Sound, load_s: float) -> Measurement:
        before = self._scheduler.jobs(NPU)
        self._decode(choice, heard.samples)  # the first run of this length allocates
        decodes = [self._decode(choice, heard.samples) for _ in range(self._repeat)]
        latencies = [self._play(choice, heard.samples) for _ in range(self._repeat)]
        known = [latency_s for latency_s in latencies if latency_s is not None]
        return Measurement(
            engine=choice.engine.name,
            model=choice.model.name,
            sound=heard.name,
            load_s=load_s,
            audio_s=heard.samples.size / RATE_HZ,
            total_s=statistics.median(total_s for total_s, _ in decodes),
            decode_s=statistics.median(decode_s for _, decode_s in decodes),
            latency_s=statistics.median(known) if known else None,
            vad_s=heard.vad_s,
            on_npu=self._scheduler.jobs(NPU) > before,
        )

    def _decode(self, choice: AsrChoice, samples: Waveform) -> tuple[float, float]:
        """Return the seconds from the audio to the text, and from the features to the text."""
        session = choice.open(Bias())
        stream = self._scheduler.stream()
        try:
            begin = time.perf_counter()
            session.accept(samples)
            accepted = time.perf_counter()
            session.finish(stream)
            end = time.perf_counter()
        finally:
            stream.cancel()
            session.close()
        return end - begin, end - accepted

    def _play(self, choice: AsrChoice, samples: Waveform) -> float | None:
        """Play a sound to what listens in the server, and return how long its text takes; `None` if there is none."""
        listening = replace(Listening.of(self._settings, partials=choice.engine.partials), endpointing_s=0.0)
        session = partial(choice.open, Bias())
        listener = Listener(session, self._scheduler, listening, SpeechDetector(), on_partial=lambda _: None)
        feed = AudioFeed()
        audio = np.concatenate((samples, silence(SILENCE_S, RATE_HZ)))
        size = round(_CHUNK_S * RATE_HZ)
        with ThreadPoolExecutor(1) as listeners:
            listened = listeners.submit(listener.listen, feed)
            try:
                begin = time.perf_counter()
                for place in range(0, audio.size, size):
                    # A chunk arrives when its last sample has been spoken.
                    time.sleep(max(0.0, begin + (place + size) / RATE_HZ - time.perf_counter()))
                    feed.write(audio[place : place + size])
                feed.end()
                ended = time.perf_counter()
                heard = listened.result()
                latency_s = time.perf_counter() - ended
            finally:
                feed.cancel()
        # Where nobody speaks nothing is decoded.
        return latency_s if heard.decode_s else None

    def _vad(self, samples: Waveform) -> float:
        """Return what it costs to tell speech from silence, per second of audio."""
        seconds = []
        for _ in range(self._repeat):
            detector = SpeechDetector()
            begin = time.perf_counter()
            for place in range(0, samples.size - FRAME_SAMPLES + 1, FRAME_SAMPLES):
                detector.probability(samples[place : place + FRAME_SAMPLES])
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds) * RATE_HZ / samples.size

    def _spoken(self) -> dict[str, Waveform]:
        found = programs.load(replace(self._settings, tts_engine=_SPEAKER, voice=None), self._runtimes)
        try:
            choice = found.choose(Wanted(language="en-US"), _SPEAKER)
            spoken = {}
            for name, text in TEXTS.items():
                pieces = choice.engine.speak(SpeechRequest(text, choice.voice.name), self._scheduler.stream())
                spoken[name] = resample(_joined(pieces), choice.voice.rate_hz, RATE_HZ)
            return spoken
        finally:
            found.close()


def _joined(pieces: Iterable[Waveform]) -> Waveform:
    return np.concatenate((np.zeros(0, np.float32), *pieces))
