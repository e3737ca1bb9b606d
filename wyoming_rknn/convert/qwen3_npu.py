"""The audio encoder of Qwen3-ASR for an NPU: the convolutions of a second, and a transformer for 2, 4 and 8 s."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from wyoming_rknn.convert import static
from wyoming_rknn.convert.agreement import compare
from wyoming_rknn.convert.overflow import peaks, rescale
from wyoming_rknn.convert.probe import Probe
from wyoming_rknn.convert.qwen3_checkpoint import EncoderSize
from wyoming_rknn.convert.qwen3_encoder import EMBEDDINGS, FEATURES, MASK, MEL
from wyoming_rknn.convert.report import ConvertOptions, GraphReport
from wyoming_rknn.convert.toolkit import BuildRequest, Toolkit
from wyoming_rknn.features.log_mel import RATE_HZ, log_mel
from wyoming_rknn.npu.selftest import Golden, golden_path
from wyoming_rknn.runtime import onnx as cpu
from wyoming_rknn.runtime.graph import Tensor

SECONDS = (2, 4, 8)
"""Lengths of the transformer; the last is a window, beyond which rows do not see each other."""
MASKED = np.float32(-1e4)
"""Added to the scores of padding; what 16-bit floats do not hold would become NaN."""

_THREADS = 2
_TIMEOUT_S = 3600.0
_PADDING = 5
"""Rows at the end of what a transformer is tried with that the others must not see."""


@dataclass(frozen=True, slots=True)
class _Pieces:
    folder: Path
    name: str
    target: str
    options: ConvertOptions
    toolkit: Toolkit

    def build(
        self, source: str, stem: str, frames: int, feeds: Mapping[str, Tensor], outputs: Mapping[str, tuple[int, ...]]
    ) -> tuple[GraphReport, Mapping[str, Tensor]]:
        """Convert one graph with the shapes of what it is tried with; returns what the CPU computes of it, too."""
        model = static.fix(
            static.read(self.folder / source), {name: each.shape for name, each in feeds.items()}, outputs
        )
        graph = self.folder / f".{stem}.onnx"
        onnx.save(model, graph)
        with contextlib.closing(cpu.load(graph, threads=_THREADS)) as loaded:
            golden = Golden(dict(feeds), loaded.run(feeds), self.options.floor_db)
        rescale(model, peaks(model, [feeds], _THREADS))
        onnx.save(model, graph)
        del model
        built = self.toolkit.build(
            BuildRequest(
                name=f"{self.name} {stem}",
                graph=graph,
                target=self.target,
                inputs=feeds,
                out=self.folder / f"{stem}.rknn",
                timeout_s=self.options.timeout_s or _TIMEOUT_S,
                allow_regtask=self.options.allow_regtask,
                smaller="leave the encoder to the CPU",
            )
        )
        graph.unlink()
        closeness = compare(f"{self.name} {stem} for {self.target}", golden, built.simulated)
        path = golden_path(built.rknn)
        golden.write(path)
        return GraphReport.of(built, closeness, path, frames), golden.outputs


def build(
    folder: Path, name: str, size: EncoderSize, target: str, options: ConvertOptions, toolkit: Toolkit
) -> tuple[GraphReport, ...]:
    """Convert the graphs in `folder` and leave what is made beside them, with goldens; blocks for minutes.

    Raises `ConversionError` if the toolkit fails or its result is not what ONNX Runtime computes, `EngineError` if
    espeak-ng cannot say what the graphs are tried with.
    """
    pieces = _Pieces(folder, name, target, options, toolkit)
    speech = Probe().speech(RATE_HZ * SECONDS[-1], "en")
    mel = log_mel(speech).T.reshape(size.mels, -1, size.chunk_frames).transpose(1, 0, 2)
    shape = (1, size.chunk_rows, size.width)
    feeds: dict[str, Tensor] = {MEL: np.ascontiguousarray(mel[:1])}
    report, _ = pieces.build("audio_conv.onnx", "audio_conv", size.chunk_frames, feeds, {FEATURES: shape})
    reports = [report]
    with contextlib.closing(cpu.load(folder / "audio_conv.onnx", threads=_THREADS)) as convolutions:
        features = convolutions.run({MEL: np.ascontiguousarray(mel)})[FEATURES].reshape(1, -1, size.width)
    hidden = _hidden(folder / "audio_encoder.onnx")
    for seconds in SECONDS:
        rows = seconds * size.chunk_rows
        mask = np.zeros((1, 1, rows, rows), np.float32)
        mask[..., rows - _PADDING :] = MASKED
        feeds = {FEATURES: np.ascontiguousarray(features[:, :rows]), MASK: mask}
        stem = f"audio_encoder.{rows}"
        reports.append(pieces.build("audio_encoder.onnx", stem, rows, feeds, {EMBEDDINGS: (1, rows, hidden)})[0])
    return tuple(reports)


def _hidden(path: Path) -> int:
    graph = onnx.load(path, load_external_data=False).graph
    return int(graph.output[0].type.tensor_type.shape.dim[2].dim_value)
