"""A speech-to-text engine whose transcript tells which audio it received, to the sample, and whose speed is scripted.

It decodes on the scheduler, as real engines do, and gives up when it is cancelled. Servers in other processes load it
as a plug-in, through `create`, and take its script from a variable; without one it has no models.
"""

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wyoming_rknn.asr.engine import RATE_HZ, AsrModel, Bias, Piece, Transcript
from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import EngineError, ModelInvalid, ModelNotFound
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.settings import Settings

SCRIPT_VARIABLE = "FAKE_RECOGNISER_SCRIPT"
LARGE = AsrModel("large", ("de", "en", "en-GB", "en-US", "yue", "zh", "zh-TW"), "Hears digests")
SMALL = AsrModel("small", ("en",), "Hears digests of English")
MODELS = (LARGE, SMALL)
WORD_SAMPLES = RATE_HZ // 10
"""Each of these becomes a word of the transcript."""
WORD_S = WORD_SAMPLES / RATE_HZ


@dataclass(frozen=True)
class RecogniserScript:
    """How the engine behaves; durations in seconds."""

    decode_s: float = 0.0
    load_s: float = 0.0
    stubborn: bool = False
    """Whether a decoding goes on though it is cancelled."""
    accept_s: float = 0.0
    """Computing time of what can be done ahead, each time that audio comes."""
    partial_s: float | None = None
    """Computing time of a partial transcript; `None` for an engine too slow to give any."""
    fail: str = ""
    """What cannot be done: "open", "model", "accept", "partial", "finish", "bug"."""
    ending: str = ""
    """What the transcript ends with."""
    chatter: str = ""
    """What the engine prints to standard output, as careless libraries do."""


def digest(samples: Waveform) -> list[str]:
    """Return a word for every tenth of a second of float32 [n] and for the rest: the same ones for the same audio."""
    words = []
    for begin in range(0, samples.size, WORD_SAMPLES):
        block = np.ascontiguousarray(samples[begin : begin + WORD_SAMPLES], "<f4")
        words.append(base64.b32encode(hashlib.sha256(block.tobytes()).digest()[:5]).decode().lower())
    return words


def text_of(samples: Waveform) -> str:
    """Return the transcript of float32 [n] at 16 kHz."""
    return " ".join(digest(samples))


@dataclass
class FakeSession:
    """One utterance."""

    engine: "FakeRecogniser"
    model: str
    language: str | None
    bias: Bias
    received: list[Waveform] = field(default_factory=list)
    finishes: int = 0
    partials: int = 0
    closed: bool = False
    busy: bool = False

    @property
    def samples(self) -> Waveform:
        return np.concatenate([np.zeros(0, np.float32), *self.received])

    def accept(self, samples: Waveform) -> None:
        self._begin()
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        self.received.append(samples.copy())
        time.sleep(self.engine.script.accept_s)
        self._end("accept")

    def partial(self, stream: Stream) -> Transcript:
        self._begin()
        self.partials += 1
        return self._decode(stream, self.engine.script.partial_s or 0.0, "partial")

    def finish(self, stream: Stream) -> Transcript:
        self._begin()
        self.finishes += 1
        return self._decode(stream, self.engine.script.decode_s, "finish")

    def close(self) -> None:
        assert not self.busy, "closed while it works"
        assert not self.closed, "closed twice"
        self.closed = True

    def _decode(self, stream: Stream, seconds: float, step: str) -> Transcript:
        samples = self.samples

        def work() -> Transcript:
            engine = self.engine
            with engine.counting:
                engine.decoding += 1
                if engine.remembers:
                    engine.order.append(self)
            try:
                end = time.monotonic() + seconds
                while (left := end - time.monotonic()) > 0:
                    if not engine.script.stubborn:
                        stream.check()
                    time.sleep(min(left, 0.002))
                pieces = [Piece(" " + word, number * WORD_S) for number, word in enumerate(digest(samples))]
                if engine.script.ending:
                    pieces.append(Piece(engine.script.ending, samples.size / RATE_HZ))
                return Transcript(tuple(pieces), self.language or engine.spoken)
            finally:
                with engine.counting:
                    engine.decoding -= 1
                    engine.decoded += 1

        try:
            transcript = stream.submit(work, at_s=0.0).result()
        finally:
            self.busy = False
        self._end(step)
        return transcript

    def _begin(self) -> None:
        assert not self.busy, "two calls at once"
        assert not self.closed, "used after it was closed"
        self.busy = True

    def _end(self, step: str) -> None:
        self.busy = False
        if self.engine.script.fail == step:
            raise EngineError("the scripted failure")
        if self.engine.script.fail == "bug" and step == "finish":
            raise ZeroDivisionError("a mistake of the engine's")


class FakeRecogniser:
    """See the module."""

    description = "Digests that can be told apart"
    spoken: str | None = "en"
    """What it hears when no language is asked for."""

    def __init__(
        self,
        script: RecogniserScript | None = None,
        models: Sequence[AsrModel] = MODELS,
        name: str = "fake",
        *,
        remembers: bool = True,
    ) -> None:
        self.script = script or RecogniserScript()
        self.installed = list(models)
        self.name = name
        self.remembers = remembers
        """Whether it keeps the sessions, with all their audio, for a test to look at."""
        self.sessions: list[FakeSession] = []
        self.prepared: list[str] = []
        self.order: list[FakeSession] = []
        """Whose decodings began, in this order."""
        self.decoding = 0
        """Decodings that run."""
        self.decoded = 0
        """Decodings that have ended, one way or the other."""
        self.counting = threading.Lock()

    @property
    def partials(self) -> bool:
        return self.script.partial_s is not None

    @property
    def finishes(self) -> int:
        return sum(session.finishes for session in self.sessions)

    @property
    def open_sessions(self) -> int:
        return sum(not session.closed for session in self.sessions)

    def models(self) -> Sequence[AsrModel]:
        return tuple(self.installed)

    def prepare(self, model: str) -> None:
        self._find(model)
        time.sleep(self.script.load_s)
        self.prepared.append(model)

    def open(self, model: str, language: str | None, bias: Bias) -> FakeSession:
        found = self._find(model)
        assert language is None or language in found.languages
        time.sleep(self.script.load_s)
        if self.script.chatter:
            print(self.script.chatter, flush=True)  # noqa: T201
            os.write(1, self.script.chatter.encode())
        if self.script.fail == "open":
            raise EngineError("the scripted failure")
        if self.script.fail == "model":
            raise ModelInvalid("the scripted failure; install the model again")
        session = FakeSession(self, model, language, bias)
        if self.remembers:
            self.sessions.append(session)
        return session

    def close(self) -> None:
        self.installed.clear()

    def _find(self, name: str) -> AsrModel:
        for model in self.installed:
            if model.name == name:
                return model
        raise ModelNotFound(name, (model.name for model in self.installed))


def create(settings: Settings, runtimes: Runtimes) -> FakeRecogniser:
    """Make the engine as a plug-in."""
    del settings, runtimes
    script = os.environ.get(SCRIPT_VARIABLE)
    if script is None:
        return FakeRecogniser(models=())
    return FakeRecogniser(RecogniserScript(**json.loads(script)), remembers=False)
