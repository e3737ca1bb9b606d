"""A text-to-speech engine whose audio tells voice and text apart, sample by sample, and whose speed is scripted.

It does its work on the scheduler, as real engines do. Servers in other processes load it as a plug-in, through
`create`, and take its script from a variable.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import EngineError, VoiceNotFound
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest, Voice

SCRIPT_VARIABLE = "FAKE_ENGINE_SCRIPT"
RATE_HZ = 22050
ALTO = Voice("en_US-alto-medium", ("en-US", "en"), "Alto", RATE_HZ)
BASS = Voice("de_DE-bass-low", ("de-DE", "de"), "Bass", 16000)
DUO = Voice("en_GB-duo-medium", ("en-GB", "en"), "Duo", RATE_HZ, speakers=("ann", "bob"))
VOICES = (BASS, DUO, ALTO)


@dataclass(frozen=True)
class Script:
    """How the engine behaves; durations in seconds."""

    encode_s: float = 0.0
    window_s: float = 0.0
    """Computing time of a window."""
    window_samples: int = 4096
    character_s: float = 0.02
    """Duration of a character's audio."""
    load_s: float = 0.0
    fail: str = ""
    """A text with this in it cannot be spoken."""
    chatter: str = ""
    """What the engine prints to standard output, as careless libraries do."""


def audio(
    text: str, voice: Voice, speaker: str | None = None, length: float = 1.0, script: Script | None = None
) -> np.ndarray:
    """Return the int16 samples for a sentence: noise that follows from what is said and by whom."""
    identity = json.dumps([text, voice.name, speaker, length]).encode("utf-8", "replace")
    seed = int.from_bytes(hashlib.sha256(identity).digest()[:8], "big")
    count = round(len(text) * (script or Script()).character_s * length * voice.rate_hz)
    return np.random.default_rng(seed).integers(-20000, 20000, count, dtype=np.int16)


def pause(seconds: float, voice: Voice) -> np.ndarray:
    return np.zeros(round(seconds * voice.rate_hz), np.int16)


class FakeEngine:
    """See the module."""

    name = "fake"
    description = "Noise that can be told apart"

    def __init__(self, script: Script | None = None, voices: Sequence[Voice] = VOICES, name: str = "fake") -> None:
        self.script = script or Script()
        self.installed = list(voices)
        self.name = name
        self.requests: list[SpeechRequest] = []
        self.encoded: list[str] = []
        """Texts whose computation began."""
        self.windows = 0
        """Windows computed so far."""

    @property
    def texts(self) -> list[str]:
        return [request.text for request in self.requests]

    def voices(self) -> Sequence[Voice]:
        return sorted(self.installed, key=lambda voice: voice.name)

    def prepare(self, voice: str) -> None:
        self._find(voice)
        # As real engines may: a pool's threads are waited for when the interpreter ends in the ordinary way.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(time.sleep, self.script.load_s).result()

    def speak(self, request: SpeechRequest, stream: Stream) -> Iterator[Waveform]:
        voice = self._find(request.voice)
        self.requests.append(request)
        if self.script.chatter:
            print(self.script.chatter, flush=True)  # noqa: T201
            os.write(1, self.script.chatter.encode())
        length = request.prosody.length_scale or 1.0
        samples = audio(request.text, voice, request.speaker, length, self.script)
        encoding = stream.submit(lambda: self._encode(request), at_s=stream.reserved_s)
        return self._decode(encoding, samples, voice.rate_hz, stream)

    def close(self) -> None:
        self.installed.clear()

    def _encode(self, request: SpeechRequest) -> None:
        self.encoded.append(request.text)
        time.sleep(self.script.encode_s)
        if self.script.fail and self.script.fail in request.text:
            raise EngineError("the scripted failure")

    def _decode(
        self, encoding: "Future[None]", samples: np.ndarray, rate_hz: int, stream: Stream
    ) -> Iterator[Waveform]:
        encoding.result()
        begin_s = stream.reserve(samples.size / rate_hz)
        computing: deque[Future[Waveform]] = deque()
        for begin in range(0, samples.size, self.script.window_samples):
            stream.check()
            piece = samples[begin : begin + self.script.window_samples]
            computing.append(stream.submit(lambda piece=piece: self._window(piece), at_s=begin_s + begin / rate_hz))
            if len(computing) > 1:
                yield computing.popleft().result()
        while computing:
            yield computing.popleft().result()

    def _window(self, piece: np.ndarray) -> Waveform:
        time.sleep(self.script.window_s)
        self.windows += 1
        # To int16 by truncation: half a step away from zero survives it exactly.
        return ((piece + 0.5 * np.sign(piece)) / 32767.0).astype(np.float32)

    def _find(self, name: str) -> Voice:
        for voice in self.installed:
            if voice.name == name:
                return voice
        raise VoiceNotFound(name, (voice.name for voice in self.installed))


def create(settings: Settings, runtimes: Runtimes) -> FakeEngine:
    """Make the engine as a plug-in."""
    del settings, runtimes
    return FakeEngine(Script(**json.loads(os.environ.get(SCRIPT_VARIABLE, "{}"))))
