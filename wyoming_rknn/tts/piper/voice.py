"""A loaded Piper voice: phoneme ids to latents, latents to sound, window by window."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import EngineError, ModelInvalid
from wyoming_rknn.runtime.graph import Graph, Tensor, TensorSpec
from wyoming_rknn.runtime.scheduler import CPU, NPU
from wyoming_rknn.tts.piper.npu import NpuStage, Reference
from wyoming_rknn.tts.piper.parts import Source, Stage, VoiceParts
from wyoming_rknn.tts.piper.windows import Growth, Window, anchored, around, plan

_FLOW_LARGEST = 512
"""Most frames of flow in one run: as long as a window's, since a frame of it costs a third of a decoder's at most."""

Loader = Callable[[Source], Graph]
NpuOpener = Callable[[Reference | None], NpuStage | None]
"""Opens what a voice has for the NPU; given what proves it."""


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
    device: str = CPU
    prepare: Callable[[], None] | None = None
    """What the CPU computes first."""
    spare: Callable[[], Waveform] | None = None
    """Gives the same on the CPU, should the device fail."""


class PiperVoice(Protocol):
    """What the engine needs of a voice, cut or whole."""

    def encode(self, ids: Sequence[int], scales: Scales, speaker_id: int) -> Utterance:
        """Run what precedes the first window. Raises `EngineError`."""

    def close(self) -> None:
        """Free the graphs."""


class CutVoice:
    """A voice whose decoder, and flow where it is apart, run in windows."""

    def __init__(
        self,
        parts: VoiceParts,
        hop: int,
        rate_hz: int,
        load: Loader,
        open_npu: NpuOpener = lambda _reference: None,
    ) -> None:
        """Load a voice. Raises `ModelError`, also where the only decoder is for an NPU that cannot be used."""
        self._parts = parts
        self._hop = hop
        self._rate_hz = rate_hz
        stages = [stage for stage in (parts.decoder, parts.flow) if stage is not None]
        # ONNX Runtime optimises a graph on one core while it loads.
        with ThreadPoolExecutor(1 + len(stages)) as pool:
            self._graphs = list(pool.map(load, [parts.encoder, *(stage.graph for stage in stages)]))
        self._encoder = self._graphs[0]
        loaded = dict(zip(stages, self._graphs[1:], strict=True))
        self._decoder = None if parts.decoder is None else loaded[parts.decoder]
        self._flow = None if parts.flow is None else loaded[parts.flow]
        self._npu = None
        # What a CPU can decode in one go only is not understood well enough for windows of another's making.
        if parts.decoder is None or parts.decoder.context_frames is not None:
            self._npu = open_npu(None if self._decoder is None else self._reference)
        if self._decoder is None and self._npu is None:
            self.close()
            raise ModelInvalid("its decoder is for an NPU, which cannot be used here; put its decoder.onnx beside it")
        try:
            if self._npu is not None and self._npu.decoder.hop != hop:
                raise ModelInvalid(
                    f"its config says {hop} samples per frame, its decoder for the NPU makes {self._npu.decoder.hop}; "
                    "take the config that belongs to the voice"
                )
            self._latents = parts.latents or _latents_of(self._encoder.outputs, self._npu)
        except ModelInvalid:
            self.close()
            raise

    def encode(self, ids: Sequence[int], scales: Scales, speaker_id: int) -> "CutUtterance":
        """Return the latents of a sentence. Raises `EngineError`."""
        outputs = self._encoder.run(_encoder_feeds(self._encoder, ids, scales, speaker_id))
        return CutUtterance(self, outputs)

    def close(self) -> None:
        """Free the graphs."""
        for graph in self._graphs:
            graph.close()
        if self._npu is not None:
            self._npu.close()

    def _reference(self, latents: NDArray[np.float32], conditions: Mapping[str, Tensor], has_flow: bool) -> Waveform:
        """Return the audio of latents that is right: on the CPU, in one go."""
        parts = self._parts
        if has_flow and parts.flow is not None and self._flow is not None:
            latents = _run(self._flow, parts.flow, latents, conditions)
        if parts.decoder is None or self._decoder is None:
            raise EngineError("the voice has no decoder for the CPU")
        return _run(self._decoder, parts.decoder, latents, conditions).reshape(-1)


class CutUtterance:
    """A sentence between its encoder and its decoder."""

    def __init__(self, voice: CutVoice, outputs: Mapping[str, Tensor]) -> None:
        self._voice = voice
        self._outputs = outputs
        latents: NDArray[np.float32] = outputs[voice._latents]
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
        """Yield the sentence's windows, for the NPU as long as that can be used.

        What the CPU computes is to be computed in order, since each window continues the flow of the one before.
        """
        npu, decoder = self._voice._npu, self._voice._parts.decoder
        begin = 0
        # A window wider than the sentence would not end where it does, and a CPU decodes so little as quickly.
        if npu is not None and (decoder is None or self._frames >= npu.decoder.frames):
            for piece, end in self._npu_pieces(npu):
                if decoder is not None and not npu.usable:
                    break
                yield piece
                begin = end
        if decoder is not None:
            context = decoder.context_frames
            for window in plan(self._frames - begin, context, growth):
                moved = around(begin + window.begin, begin + window.end, context or self._frames, self._frames)
                yield Piece(moved.begin * self._hop_s, partial(self._decode, moved))

    @property
    def _hop_s(self) -> float:
        return self._voice._hop / self._voice._rate_hz

    def _npu_pieces(self, npu: NpuStage) -> Iterator[tuple[Piece, int]]:
        """Yield windows, each with the frame at which it ends."""
        planned = self._frames if npu.decoder.flow_inside else self._flowed
        for window in anchored(self._frames, npu.decoder.frames, npu.decoder.context_frames):
            prepare = None
            if planned < window.fed_end:
                begin, planned = planned, self._flow_end(planned, window.fed_end)
                prepare = partial(self._extend_flow_by, begin, planned)
            spare = None if self._voice._decoder is None else partial(self._decode, window)
            compute = partial(self._decode_on_npu, npu, window)
            yield Piece(window.begin * self._hop_s, compute, NPU, prepare, spare), window.end

    def _decode(self, window: Window) -> Waveform:
        """Return the audio of a window's kept frames, float32 [frames * hop]."""
        voice = self._voice
        self._extend_flow(window.fed_end)
        if voice._parts.decoder is None or voice._decoder is None:
            raise EngineError("the voice has no decoder for the CPU")
        fed = self._z[:, :, window.fed_begin : window.fed_end]
        return self._kept(_run(voice._decoder, voice._parts.decoder, fed, self._outputs).reshape(-1), window)

    def _decode_on_npu(self, npu: NpuStage, window: Window) -> Waveform:
        source = self._latents if npu.decoder.flow_inside else self._z
        return self._kept(npu.decode(source[:, :, window.fed_begin : window.fed_end], self._outputs), window)

    def _kept(self, samples: Waveform, window: Window) -> Waveform:
        hop, fed_frames = self._voice._hop, window.fed_end - window.fed_begin
        if samples.size != fed_frames * hop:
            raise EngineError(f"the decoder gave {samples.size} samples for {fed_frames} frames of {hop}")
        first = (window.begin - window.fed_begin) * hop
        kept: Waveform = samples[first : first + window.frames * hop]
        return kept

    def _extend_flow(self, end: int) -> None:
        while self._flowed < end:
            self._extend_flow_by(self._flowed, self._flow_end(self._flowed, end))

    def _flow_end(self, begin: int, end: int) -> int:
        """Return how far the flow is computed from `begin` on when it is needed up to `end`."""
        frames: int = self._frames
        stage = self._voice._parts.flow
        # At least as much as is needed, at most three times as far as last time, so that the first sound waits for
        # little and the margins stay small beside what they add. What would be mostly margins comes along.
        stop = begin + max(end - begin, min(3 * begin, _FLOW_LARGEST))
        if stage is None or stage.context_frames is None or frames - stop <= 2 * stage.context_frames:
            return frames
        return stop

    def _extend_flow_by(self, begin: int, end: int) -> None:
        stage, graph = self._voice._parts.flow, self._voice._flow
        if stage is None or graph is None or end <= self._flowed:
            return
        begin = min(begin, self._flowed)
        window = around(begin, end, stage.context_frames or self._frames, self._frames)
        flowed = _run(graph, stage, self._latents[:, :, window.fed_begin : window.fed_end], self._outputs)
        offset = begin - window.fed_begin
        self._z[:, :, begin:end] = flowed[:, :, offset : offset + end - begin]
        self._flowed = end


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


def _run(
    graph: Graph, stage: Stage, latents: NDArray[np.float32], outputs: Mapping[str, Tensor]
) -> NDArray[np.float32]:
    conditions = {name: outputs[name] for name in stage.conditions}
    result: NDArray[np.float32] = graph.run({stage.input: latents, **conditions})[stage.output]
    return result


def _latents_of(outputs: Sequence[TensorSpec], npu: NpuStage | None) -> str:
    """Return which of an encoder's outputs the decoder for the NPU takes: of that name, or else of that shape.

    Raises `ModelInvalid`.
    """
    names = [spec.name for spec in outputs]
    if npu is not None and (lacking := set(npu.decoder.conditions).difference(names)):
        raise ModelInvalid(
            f"its decoder for the NPU takes {', '.join(sorted(lacking))} but encoder.onnx gives {', '.join(names)}; "
            "take both files from the same voice"
        )
    if npu is not None and npu.decoder.input in names:
        return npu.decoder.input
    channels = 0 if npu is None else npu.decoder.channels
    alike = [spec.name for spec in outputs if len(spec.shape) == 3 and spec.shape[1] == channels]
    if len(alike) != 1:
        raise ModelInvalid(
            f"its decoder for the NPU takes latents of {channels} channels but encoder.onnx gives {', '.join(names)}; "
            "take both files from the same voice"
        )
    return alike[0]


def _encoder_feeds(graph: Graph, ids: Sequence[int], scales: Scales, speaker_id: int) -> dict[str, Tensor]:
    feeds: dict[str, Tensor] = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([scales.noise, scales.length, scales.noise_w], np.float32),
        "sid": np.array([speaker_id], np.int64),
    }
    wanted = {spec.name for spec in graph.inputs}
    return {name: tensor for name, tensor in feeds.items() if name in wanted}
