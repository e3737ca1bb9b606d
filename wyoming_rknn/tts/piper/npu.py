"""A voice's decoder on the NPU: windows of a fixed width."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import AcceleratorError, EngineError, ModelError, ModelInvalid, RuntimeUnavailable
from wyoming_rknn.models.formats.piper_npu import NpuDecoder, npu_decoder
from wyoming_rknn.npu.load import WatchedGraph, load_proven
from wyoming_rknn.npu.selftest import Golden
from wyoming_rknn.runtime.accelerator import NpuGraph
from wyoming_rknn.runtime.graph import Tensor
from wyoming_rknn.runtime.runtimes import Runtimes

_LOGGER = logging.getLogger(__name__)

_FLOOR_DB = 40.0
"""For decoders that came without a golden output: what 16-bit floats lose is 50 dB and more below the speech."""
_SEED = 20_241

Reference: TypeAlias = Callable[[NDArray[np.float32], Mapping[str, Tensor], bool], Waveform]
"""Decodes latents, with conditions, on the CPU; told whether they have the flow before them."""


@dataclass(frozen=True, slots=True)
class NpuStage:
    """A decoder that is loaded on the NPU. Thread-safe."""

    graph: WatchedGraph
    decoder: NpuDecoder

    @property
    def usable(self) -> bool:
        """Tell whether it is worth while to run it."""
        return self.graph.usable

    def decode(self, latents: NDArray[np.float32], conditions: Mapping[str, Tensor]) -> Waveform:
        """Return the audio of latents [1, channels, n], n at most the decoder's width, float32 [n * hop].

        Raises `AcceleratorError`.
        """
        samples: Waveform = self.graph.run(self._feeds(latents, conditions))[self.decoder.output].reshape(-1)
        return samples[: latents.shape[-1] * self.decoder.hop]

    def _feeds(self, latents: NDArray[np.float32], conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        padding = self.decoder.frames - latents.shape[-1]
        # What follows the end of a sentence resembles its last frame more than it resembles nothing; where there is a
        # mask the network sees to it itself.
        mode: Literal["edge", "constant"] = "edge" if self.decoder.mask is None else "constant"
        feeds: dict[str, Tensor] = {self.decoder.input: np.pad(latents, ((0, 0), (0, 0), (0, padding)), mode)}
        if self.decoder.mask is not None:
            mask = np.zeros((1, 1, self.decoder.frames), np.float32)
            mask[..., : latents.shape[-1]] = 1.0
            feeds[self.decoder.mask] = mask
        shapes = self.decoder.condition_shapes
        return feeds | {name: conditions[name].reshape(shapes[name]) for name in self.decoder.conditions}

    def rtf(self, rate_hz: int, cores: int) -> float:
        """Return how long the NPU computes per second of speech on all its cores; 0 where it was not measured."""
        kept_s = (self.decoder.frames - 2 * self.decoder.context_frames) * self.decoder.hop / rate_hz
        return 0.0 if self.graph.run_ms is None else self.graph.run_ms / 1000 / cores / kept_s

    def close(self) -> None:
        """Free the NPU's memory."""
        self.graph.close()


def open_stage(
    name: str, files: Mapping[str, Path], rate_hz: int, runtimes: Runtimes, cache_dir: Path, reference: Reference | None
) -> NpuStage | None:
    """Load a voice's decoder for the NPU and prove it; `None` if there is none, or it cannot be used.

    Why it cannot be used is one line in the log. `reference` proves a decoder that came without a golden output.
    """
    path = files.get("npu-decoder")
    if path is None or runtimes.accelerator is None:
        return None
    try:
        decoder = npu_decoder(path, files.get("manifest"), files.get("golden"))
        if decoder.margin_is_short and reference is not None:
            raise ModelInvalid(
                f"{path} takes {decoder.frames} frames at once, too few for the flow that is inside; "
                "`wyoming-rknn models convert` makes a better one of the original voice"
            )
        graph = load_proven(path, runtimes, cache_dir, lambda graph: _golden(decoder, graph, reference))
    except (ModelError, AcceleratorError, RuntimeUnavailable) as error:
        _LOGGER.warning("voice %s is decoded on the CPU: %s", name, error)
        return None
    if decoder.margin_is_short:
        _LOGGER.warning(
            "voice %s: its %d frames on the NPU are too few for the flow that is inside, so there may be faint clicks; "
            "`wyoming-rknn models convert` makes a better one of the original voice",
            name,
            decoder.frames,
        )
    stage = NpuStage(graph, decoder)
    if reference is not None and stage.rtf(rate_hz, runtimes.accelerator.cores) > 1.0:
        stage.close()
        _LOGGER.warning(
            "voice %s is decoded on the CPU: the NPU takes %.0f ms for %d frames, longer than they last; a voice of "
            "lower quality suits it",
            name,
            graph.run_ms,
            decoder.frames - 2 * decoder.context_frames,
        )
        return None
    return stage


def _golden(decoder: NpuDecoder, graph: NpuGraph, reference: Reference | None) -> Golden | None:
    if decoder.golden is not None:
        return Golden.read(decoder.golden)
    if reference is None:
        return None
    random = np.random.default_rng(_SEED)
    latents = random.standard_normal((1, decoder.channels, decoder.frames)).astype(np.float32)
    conditions = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in decoder.condition_shapes.items()
    }
    mask = {} if decoder.mask is None else {decoder.mask: np.ones((1, 1, decoder.frames), np.float32)}
    (shape,) = (spec.shape for spec in graph.outputs if spec.name == decoder.output)
    try:
        samples = reference(latents, conditions, decoder.flow_inside).reshape([axis or 1 for axis in shape])
    except (KeyError, ValueError, EngineError) as error:
        raise ModelInvalid(
            f"{decoder.file} does not fit the decoder.onnx beside it ({error}); take both from the same voice"
        ) from error
    return Golden({decoder.input: latents, **mask, **conditions}, {decoder.output: samples}, _FLOOR_DB)
