"""pocketsphinx: understands English, modestly, with nothing downloaded."""

import importlib.util
import logging
from collections.abc import Sequence

import numpy as np

from wyoming_rknn.asr.engine import RATE_HZ, AsrEngine, AsrModel, Bias, Piece, Transcript
from wyoming_rknn.asr.pocketsphinx_process import Recognizer
from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import ModelError, ModelNotFound
from wyoming_rknn.names import folded
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)

MODEL = "pocketsphinx-en-us"
SHORTEST_SAMPLES = 400
"""One frame of the recogniser's features; in less there is no word."""

_MISSING = (
    "the Python package pocketsphinx is not installed; `pip install pocketsphinx` adds it (where there is no wheel, as "
    "for Python 3.12 on Arm, that needs a C compiler)"
)
_FRAME_SAMPLES = RATE_HZ // 100
_LOUDEST_FRAMES = 20
"""0.2 s: less than a word, more than a click."""
_QUIET = 0.05
_MARGIN_SAMPLES = round(0.15 * RATE_HZ)
_SILENCE = 1e-5
"""Less than a third of an int16's step."""
_LEVEL = 400.0


def create(settings: Settings, _runtimes: Runtimes) -> AsrEngine:
    """Make the engine."""
    return PocketsphinxEngine(chosen=folded(settings.asr_model or "") in (PocketsphinxEngine.name, MODEL))


class PocketsphinxEngine:
    """Speech-to-text by pocketsphinx and the one model it brings along, in a child process begun on first use."""

    name = "pocketsphinx"
    description = "Built-in recogniser, English only, of modest accuracy (pocketsphinx)"
    partials = False

    def __init__(self, *, chosen: bool = False) -> None:
        self._model = AsrModel(MODEL, ("en", "en-US"), "English (America), built in, of modest accuracy", chosen)
        self._recognizer = Recognizer()
        self._told = False

    def models(self) -> Sequence[AsrModel]:
        """Return the model; none, and one line in the log, where pocketsphinx is not installed."""
        if _is_installed():
            return (self._model,)
        if not self._told:
            self._told = True
            _LOGGER.info("no built-in speech-to-text: %s", _MISSING)
        return ()

    def prepare(self, model: str) -> None:
        """Start the child process and let it load the model. Blocks.

        Raises `ModelNotFound`, `ModelError`, and `EngineError` when there is no room for a process.
        """
        if model != MODEL:
            raise ModelNotFound(model, [MODEL])
        if not _is_installed():
            raise ModelError(_MISSING)
        self._recognizer.start()

    def open(self, model: str, language: str | None, bias: Bias) -> "PocketsphinxSession":
        """Begin an utterance; the bias is ignored. Blocks and raises as `prepare` does."""
        self.prepare(model)
        return PocketsphinxSession(self._recognizer, language or "en")

    def close(self) -> None:
        """End the child process and what it works on; the engine cannot be used afterwards."""
        self._recognizer.close()


class PocketsphinxSession:
    """One utterance, decoded as a whole. Nothing can be done ahead."""

    def __init__(self, recognizer: Recognizer, language: str) -> None:
        self._recognizer = recognizer
        self._language = language
        self._audio: list[Waveform] = []
        self._transcript: Transcript | None = None

    def accept(self, samples: Waveform) -> None:
        """Keep the audio that follows, float32 [n] at `RATE_HZ`, any n."""
        if samples.size:
            self._audio.append(samples)
            self._transcript = None

    def partial(self, stream: Stream) -> Transcript:
        """Return what `finish` does, as slowly."""
        return self.finish(stream)

    def finish(self, stream: Stream) -> Transcript:
        """Return the transcript, a piece per word; costs nothing when no audio came since the last time.

        Blocks. Raises `ModelError`, `EngineError`, `Cancelled`.
        """
        if self._transcript is None:
            self._transcript = self._decode(stream)
        return self._transcript

    def close(self) -> None:
        """Free the audio."""
        self._audio.clear()

    def _decode(self, stream: Stream) -> Transcript:
        if len(self._audio) > 1:
            self._audio = [np.concatenate(self._audio)]
        begin, pcm = speech(self._audio[0]) if self._audio else (0, b"")
        if not pcm:
            return Transcript()
        words = stream.submit(lambda: self._recognizer.recognize(pcm, stream), at_s=0.0).result()
        pieces = tuple(Piece(f" {word.text}", begin / RATE_HZ + word.begin_s) for word in words)
        return Transcript(pieces, self._language if pieces else None)


def speech(audio: Waveform) -> tuple[int, bytes]:
    """Cut silence off both ends of float32 [n] and bring the rest to a fixed level, without an offset.

    Returns the sample at which the rest begins, and the rest as little-endian int16; empty for silence and for less
    than `SHORTEST_SAMPLES`. The recogniser subtracts the mean cepstrum of what it is given, and leaves frames without
    energy out of that mean, so how much silence there is and how loud the speech is would decide between "one two
    three" and "want to three". With this both matter little: levels of 200 to 800, thresholds of 20 to 32 dB below and
    margins of 0.1 to 0.2 s gave the same words for the clips of the tests.
    """
    if audio.size < SHORTEST_SAMPLES:
        return 0, b""
    audio = np.nan_to_num(audio, nan=0.0, posinf=1.0, neginf=-1.0)
    whole = audio.size - audio.size % _FRAME_SAMPLES
    # The deviation, not the RMS: an offset is no sound.
    loudness = audio[:whole].reshape(-1, _FRAME_SAMPLES).std(axis=1)
    level = float(np.sort(loudness)[-_LOUDEST_FRAMES:][0])
    if level < _SILENCE:
        return 0, b""
    loud = np.flatnonzero(loudness >= level * _QUIET)
    begin = max(0, int(loud[0]) * _FRAME_SAMPLES - _MARGIN_SAMPLES)
    end = min(audio.size, (int(loud[-1]) + 1) * _FRAME_SAMPLES + _MARGIN_SAMPLES)
    cut = audio[begin:end]
    scaled = np.rint((cut - cut.mean()) * (_LEVEL / level))
    return begin, np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


def _is_installed() -> bool:
    return importlib.util.find_spec("pocketsphinx") is not None
