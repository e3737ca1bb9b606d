"""One utterance heard by SenseVoice: features while it is spoken, decoding once it is asked for."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wyoming_rknn.asr.engine import Piece, Transcript
from wyoming_rknn.asr.joining import joined
from wyoming_rknn.asr.segments import FRAME_S, Levels, best_cut
from wyoming_rknn.asr.sensevoice.ctc import Decoded
from wyoming_rknn.asr.sensevoice.model import Model
from wyoming_rknn.audio import Waveform
from wyoming_rknn.features.fbank import Fbank, Features
from wyoming_rknn.runtime.scheduler import Stream

_DB = np.float32(10 / np.log(10))


class SenseVoiceSession:
    """Hear one utterance. What is too long for one decoding is cut, and each part but the last is decoded once."""

    def __init__(self, model: Model, language: str | None) -> None:
        self._model = model
        self._language = language
        self._fbank = Fbank()
        self._parts: list[tuple[int, int]] = []
        """Begin and end, in frames, of what is cut off for good."""
        self._decoded: dict[tuple[int, int], Decoded] = {}

    def accept(self, samples: Waveform) -> None:
        """Compute the features of the audio that follows, float32 [n] at 16 kHz."""
        self._fbank.accept(samples)

    def partial(self, stream: Stream) -> Transcript:
        """Return the transcript of what was said so far."""
        return self.finish(stream)

    def finish(self, stream: Stream) -> Transcript:
        """Return the transcript; costs nothing if no audio came since the last one.

        Raises `EngineError`, `Cancelled`.
        """
        frames = self._fbank.frames()
        begin = self._cut(frames)
        parts = [*self._parts, (begin, len(frames))] if begin < len(frames) else self._parts
        self._decoded = {part: self._decoded[part] for part in parts if part in self._decoded}
        for part in parts:
            if part not in self._decoded:
                self._decoded[part] = self._model.decode(frames[slice(*part)], self._language, stream)
        heard = [(_moved(self._decoded[part], part[0] * FRAME_S), self._decoded[part].language) for part in parts]
        return joined(heard, self._language)

    def close(self) -> None:
        """Forget what was heard."""
        self._fbank = Fbank()
        self._parts, self._decoded = [], {}

    def _cut(self, frames: Features) -> int:
        """Cut off what is too long and return where the rest begins.

        A cut depends on what came before it and on no later audio than fits into one decoding, so it stays.
        """
        longest = self._model.longest_frames
        begin = self._parts[-1][1] if self._parts else 0
        while len(frames) - begin > longest:
            end = begin + best_cut(_levels(frames[begin : begin + longest]), longest // 2)
            self._parts.append((begin, end))
            begin = end
        return begin


def _moved(part: Decoded, begin_s: float) -> Sequence[Piece]:
    """Return the pieces of a part that begins at a second."""
    return [replace(piece, begin_s=round(piece.begin_s + begin_s, 3)) for piece in part.pieces]


def _levels(frames: Features) -> Levels:
    """Return how loud frames are whose filter banks are natural logarithms."""
    levels: Levels = np.logaddexp.reduce(frames, axis=1) * _DB
    return levels
