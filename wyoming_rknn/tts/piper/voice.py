"""A loaded Piper voice: phoneme ids to latents, latents to sound, window by window."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import EngineError
from wyoming_rknn.runtime.graph import Graph, Tensor
from wyoming_rknn.tts.piper.parts import Source, Stage, VoiceParts
from wyoming_rknn.tts.piper.windows import Growth, Window, around, plan

_FLOW_LARGEST = 512
"""Most frames of flow in one run: as long as a window's, since a frame of it costs a third of a decoder's at most."""

Loader = Callable[[Source], Graph]


@dataclass(frozen=True, slots=True)
class Scales:
    """The three knobs of a VITS voice."""

    noise: float
    length: float
    noise_w: float


class Utterance(Protocol):
    """One sentence that has been encoded."""

    @property
    def seconds(self) -> float:
        """Return the sentence's duration."""

    def pieces(self, growth: Growth) -> Iterator["Piece"]:
        """Yield the parts into which the sentence's audio falls; to be computed in order."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sentence's audio, still to be computed."""

    begin_s: float
    compute: Callable[[], Waveform]


class PiperVoice(Protocol):
    """What the engine needs of a voice, cut or whole."""

    def encode(self, ids: Sequence[int], scales: Scales, speaker_id: int) -> Utterance:
        """Run what precedes the first window. Raises `EngineError`."""

    def close(self) -> None:
        """Free the graphs."""


class CutVoice:
    """A voice whose decoder, and flow where it is apart, run in windows."""

    def __init__(self, parts: VoiceParts, hop: int, rate_hz: int, load: Loader) -> None:
        self._parts = parts
        self._hop = hop
        self._rate_hz = rate_hz
        sources = [parts.encoder, parts.decoder.graph, *([parts.flow.graph] if parts.flow else [])]
        # ONNX Runtime optimises a graph on one core while it loads.
        with ThreadPoolExecutor(len(sources)) as pool:
            self._graphs = list(pool.map(load, sources))
        self._encoder, self._decoder = self._graphs[:2]
        self._flow = self._graphs[2] if parts.flow else None

    def encode(self, ids: Sequence[int], scales: Scales, speaker_id: int) -> "CutUtterance":
        """Return the latents of a sentence. Raises `EngineError`."""
        outputs = self._encoder.run(_encoder_feeds(self._encoder, ids, scales, speaker_id))
        return CutUtterance(self, outputs)

    def close(self) -> None:
        """Free the graphs."""
        for graph in self._graphs:
            graph.close()


class CutUtterance:
    """A sentence between its encoder and its decoder."""

    def __init__(self, voice: CutVoice, outputs: Mapping[str, Tensor]) -> None:
        self._voice = voice
        self._outputs = outputs
        latents: NDArray[np.float32] = outputs[voice._parts.latents]
        self._latents = latents
        self._frames = latents.shape[-1]
        # What the decoder reads: the flow's result, filled from the left as far as the windows have come.
        self._z = latents if voice._flow is None else np.empty_like(latents)
        self._flowed = self._frames if voice._flow is None else 0

    @property
    def seconds(self) -> float:
        """Return the sentence's duration."""
        seconds: float = self._frames * self._voice._hop / self._voice._rate_hz
        return seconds

    def pieces(self, growth: Growth) -> Iterator[Piece]:
        """Yield the sentence's windows; to be computed in order, since each continues the flow of the one before."""
        hop_s = self._voice._hop / self._voice._rate_hz
        for window in plan(self._frames, self._voice._parts.decoder.context_frames, growth):
            yield Piece(window.begin * hop_s, lambda window=window: self._decode(window))  # type: ignore[misc]

    def _decode(self, window: Window) -> Waveform:
        """Return the audio of a window's kept frames, float32 [frames * hop]."""
        self._extend_flow(window.fed_end)
        hop = self._voice._hop
        fed = self._z[:, :, window.fed_begin : window.fed_end]
        samples = self._run(self._voice._decoder, self._voice._parts.decoder, fed).reshape(-1)
        if samples.size != fed.shape[-1] * hop:
            raise EngineError(f"the decoder gave {samples.size} samples for {fed.shape[-1]} frames of {hop}")
        first = (window.begin - window.fed_begin) * hop
        kept: Waveform = samples[first : first + window.frames * hop]
        return kept

    def _extend_flow(self, end: int) -> None:
        stage, graph = self._voice._parts.flow, self._voice._flow
        while stage is not None and graph is not None and self._flowed < end:
            begin = self._flowed
            # At least as much as is needed, at most three times as far as last time, so that the first sound waits for
            # little and the margins stay small beside what they add. What would be mostly margins comes along.
            stop = begin + max(end - begin, min(3 * begin, _FLOW_LARGEST))
            if stage.context_frames is None or self._frames - stop <= 2 * stage.context_frames:
                stop = self._frames
            window = around(begin, stop, stage.context_frames or self._frames, self._frames)
            flowed = self._run(graph, stage, self._latents[:, :, window.fed_begin : window.fed_end])
            offset = begin - window.fed_begin
            self._z[:, :, begin:stop] = flowed[:, :, offset : offset + stop - begin]
            self._flowed = stop

    def _run(self, graph: Graph, stage: Stage, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        conditions = {name: self._outputs[name] for name in stage.conditions}
        result: NDArray[np.float32] = graph.run({stage.input: latents, **conditions})[stage.output]
        return result


class WholeVoice:
    """A voice that cannot be cut: a sentence is one computation."""

    def __init__(self, graph: Source, rate_hz: int, load: Loader) -> None:
        self._graph = load(graph)
        self._rate_hz = rate_hz

    def encode(self, ids: Sequence[int], scales: Scales, speaker_id: int) -> "WholeUtterance":
        """Run the whole graph. Raises `EngineError`."""
        outputs = self._graph.run(_encoder_feeds(self._graph, ids, scales, speaker_id))
        samples: Waveform = outputs[self._graph.outputs[0].name].reshape(-1)
        return WholeUtterance(samples, samples.size / self._rate_hz)

    def close(self) -> None:
        """Free the graph."""
        self._graph.close()


@dataclass(frozen=True, slots=True)
class WholeUtterance:
    """A sentence that is finished already."""

    samples: Waveform
    seconds: float

    def pieces(self, growth: Growth) -> Iterator[Piece]:
        """Yield everything as one piece."""
        del growth
        yield Piece(0.0, lambda: self.samples)


def _encoder_feeds(graph: Graph, ids: Sequence[int], scales: Scales, speaker_id: int) -> dict[str, Tensor]:
    feeds: dict[str, Tensor] = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([scales.noise, scales.length, scales.noise_w], np.float32),
        "sid": np.array([speaker_id], np.int64),
    }
    wanted = {spec.name for spec in graph.inputs}
    return {name: tensor for name, tensor in feeds.items() if name in wanted}
