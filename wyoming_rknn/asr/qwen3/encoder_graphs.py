"""The audio encoder's graphs, whoever exported them, for the CPU or an NPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.asr.qwen3.audio_encoder import (
    SECOND,
    SECOND_ROWS,
    AudioEncoder,
    Convolved,
    MelFrames,
    Seconds,
    rows_of,
)
from wyoming_rknn.asr.qwen3.decoder import MASKED, Rows
from wyoming_rknn.errors import AcceleratorError, EngineError
from wyoming_rknn.features.log_mel import BINS
from wyoming_rknn.runtime.graph import Graph, Tensor
from wyoming_rknn.runtime.scheduler import CPU, Stream


@dataclass(frozen=True, slots=True)
class Stage:
    """A graph and what computes it."""

    graph: Graph
    device: str = CPU

    def run(self, feeds: dict[str, Tensor], stream: Stream | None) -> Tensor:
        """Return its output. Raises `EngineError`, `Cancelled`."""
        if stream is None:
            outputs = self.graph.run(feeds)
        else:
            work = partial(self.graph.run, feeds, stream)
            outputs = stream.submit(work, at_s=stream.elapsed_s, device=self.device).result()
        return next(iter(outputs.values()))


class SparedEncoder:
    """An encoder for an NPU, in whose place one for the CPU computes what fails."""

    def __init__(self, encoder: AudioEncoder, spare: AudioEncoder) -> None:
        self._encoder = encoder
        self._spare = spare
        self.hidden = spare.hidden

    def encode(self, mel: MelFrames, known: Seconds, stream: Stream | None = None) -> Rows:
        """Return the rows of a window; see `AudioEncoder`."""
        try:
            return self._encoder.encode(mel, known, stream)
        except AcceleratorError:
            # Convolved features are the same, whoever computed them.
            return self._spare.encode(mel, known, stream)


@dataclass(frozen=True, slots=True)
class SplitEncoder:
    """Our export: convolutions by the second, and attention over as many rows as there are or as a bucket holds."""

    convolution: Stage
    """mel float32 [seconds, 128, 100] -> float32 [seconds, 13, d]; a fixed number of seconds is 1."""
    attention: tuple[Stage, ...]
    """features float32 [1, T, d], mask float32 [1, 1, T, T] -> float32 [1, T, hidden]; from short to long."""
    hidden: int

    def encode(self, mel: MelFrames, known: Seconds, stream: Stream | None = None) -> Rows:
        """Return the rows of a window; see `AudioEncoder`."""
        return self._attend(known.convolved(mel, lambda seconds: self._convolve(seconds, stream)), stream)

    def _convolve(self, seconds: Sequence[MelFrames], stream: Stream | None) -> list[Convolved]:
        chunks = np.zeros((len(seconds), BINS, SECOND), np.float32)
        for chunk, second in zip(chunks, seconds, strict=True):
            chunk[:, : len(second)] = second.T
        name = self.convolution.graph.inputs[0].name
        at_once = self.convolution.graph.inputs[0].shape[0] or len(seconds)
        computed = [
            self.convolution.run({name: chunks[begin : begin + at_once]}, stream)
            for begin in range(0, len(seconds), at_once)
        ]
        return list(np.concatenate(computed).astype(np.float32, copy=False))

    def _attend(self, features: NDArray[np.float32], stream: Stream | None) -> Rows:
        count = len(features)
        stage = next((one for one in self.attention if (_rows(one.graph) or count) >= count), None)
        if stage is None:
            raise EngineError(f"the audio encoder takes at most {_rows(self.attention[-1].graph)} rows, not {count}")
        size = _rows(stage.graph) or count
        padded = np.zeros((1, size, features.shape[1]), np.float32)
        padded[0, :count] = features
        feeds = {stage.graph.inputs[0].name: padded}
        if len(stage.graph.inputs) > 1:
            feeds[stage.graph.inputs[1].name] = hiding(count, size)
        rows: Rows = stage.run(feeds, stream)[0, :count]
        return rows


@dataclass(frozen=True, slots=True)
class SherpaEncoder:
    """sherpa-onnx's export, fed one window at a time and without padding."""

    convolution: Stage
    """input_features float32 [1, frames, 128] -> float32 [1, 13 * seconds, d]."""
    attention: Stage
    """float32 [1, T, d], mask bool [1, T] -> float32 [1, T, hidden]."""
    hidden: int

    def encode(self, mel: MelFrames, known: Seconds, stream: Stream | None = None) -> Rows:
        """Return the rows of a window; see `AudioEncoder`."""
        features = known.convolved(mel, lambda seconds: self._convolve(seconds, stream))
        names = [spec.name for spec in self.attention.graph.inputs]
        feeds: dict[str, Tensor] = {names[0]: features[np.newaxis]}
        if len(names) > 1:
            feeds[names[1]] = np.ones((1, len(features)), np.bool_)
        rows: Rows = self.attention.run(feeds, stream)[0]
        return rows

    def _convolve(self, seconds: Sequence[MelFrames], stream: Stream | None) -> list[Convolved]:
        mel = np.zeros((len(seconds), SECOND, BINS), np.float32)
        for whole, second in zip(mel, seconds, strict=True):
            whole[: len(second)] = second
        feeds: dict[str, Tensor] = {self.convolution.graph.inputs[0].name: mel.reshape(1, -1, BINS)}
        computed = self.convolution.run(feeds, stream)
        return list(computed[0].reshape(len(seconds), SECOND_ROWS, -1))


@dataclass(frozen=True, slots=True)
class WholeEncoder:
    """rkvoice-stream's layout: mel in, rows out, for a few lengths; in one graph, or cut in two somewhere.

    The first takes float32 [1, 128, 100 N] or [1, 100 N, 128]; whichever takes a mask has it as float32 [1, 1, T, T].
    """

    buckets: tuple[tuple[Stage, ...], ...]
    """Graphs that follow one another, from short to long."""
    hidden: int

    def encode(self, mel: MelFrames, known: Seconds, stream: Stream | None = None) -> Rows:
        """Return the rows of a window; see `AudioEncoder`. Nothing of it is kept before it is finished."""
        del known
        # Where no graph is as long as a window, attention reaches no farther than the longest.
        longest = _frames(self.buckets[-1])
        parts = [self._encode(mel[begin : begin + longest], stream) for begin in range(0, len(mel), longest)]
        return np.concatenate(parts)

    def _encode(self, mel: MelFrames, stream: Stream | None) -> Rows:
        count = rows_of(len(mel))
        fitting = [bucket for bucket in self.buckets if _frames(bucket) >= len(mel)]
        failure: AcceleratorError | None = None
        for bucket in fitting:
            try:
                return self._run(bucket, mel, count, stream)
            except AcceleratorError as error:
                failure = error
        raise failure or EngineError(f"the audio encoder takes at most {_frames(self.buckets[-1])} frames")

    @staticmethod
    def _run(bucket: Sequence[Stage], mel: MelFrames, count: int, stream: Stream | None) -> Rows:
        frames = _frames(bucket)
        padded = np.zeros((frames, mel.shape[1]), np.float32)
        padded[: len(mel)] = mel
        is_transposed = bucket[0].graph.inputs[0].shape[1] == BINS
        value: Tensor = (padded.T if is_transposed else padded)[np.newaxis]
        size = rows_of(frames)
        for stage in bucket:
            feeds: dict[str, Tensor] = {}
            for spec in stage.graph.inputs:
                # The mask alone has as many rows as columns.
                is_mask = spec.shape[-2:] == (size, size)
                feeds[spec.name] = (
                    hiding(count, size)
                    if is_mask
                    else np.ascontiguousarray(value.reshape([axis or -1 for axis in spec.shape]))
                )
            value = stage.run(feeds, stream)
        rows: Rows = value.reshape(size, -1)[:count]
        return rows


def hiding(count: int, size: int) -> NDArray[np.float32]:
    """Return a mask, float32 [1, 1, size, size], that lets all rows look at the first `count` only."""
    mask = np.zeros((1, 1, size, size), np.float32)
    mask[..., count:] = MASKED
    return mask


def _rows(graph: Graph) -> int | None:
    return graph.inputs[0].shape[1]


def _frames(bucket: Sequence[Stage]) -> int:
    _, first, second = bucket[0].graph.inputs[0].shape
    return (second if first == BINS else first) or 0
