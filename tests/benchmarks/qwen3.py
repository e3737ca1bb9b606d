"""What a step of Qwen3-ASR's language model costs besides ONNX Runtime's own work, at the size of the 0.6B model.

    python tests/benchmarks/qwen3.py [--precision int8] [--tokens 40] [--threads 2] [FOLDER]

The weights are random: they cost what trained ones cost and say nothing. The export takes 0.5 GB of disk and a minute
and goes when the benchmark ends; a FOLDER is filled if it is empty, and used again. Needs 1 to 2 GB of memory.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wyoming_rknn.asr.qwen3.embeddings import Embeddings
from wyoming_rknn.asr.qwen3.greedy import GreedyGenerator
from wyoming_rknn.asr.qwen3.onnx_decoder import KvShape, OnnxKvDecoder
from wyoming_rknn.convert.qwen3 import EMBEDDINGS, decoder_name
from wyoming_rknn.convert.qwen3_checkpoint import EMBEDDING, DecoderSize
from wyoming_rknn.convert.qwen3_decoder import write_decoder
from wyoming_rknn.convert.qwen3_graph import PRECISIONS, GraphBuilder
from wyoming_rknn.runtime import onnx
from wyoming_rknn.runtime.graph import Cancellation, Graph, Tensor
from wyoming_rknn.runtime.scheduler import Scheduler

SIZE = DecoderSize(
    hidden=1024,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    units=3072,
    vocabulary=151_936,
    norm_epsilon=1e-6,
    rope_theta=1e6,
    is_tied=True,
)
AUDIO_ID = 151_676
PROMPT, AUDIO_ROWS, HOPS = 15, 52, 5
"""Tokens around 4 s of audio; how often that is asked."""


class RandomWeights:
    """Weights that keep numbers as small as those of a trained model."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def read(self, name: str, *shape: int) -> np.ndarray:
        """Return a weight."""
        if "norm" in name:
            return np.ones(shape, np.float32)
        return self._random.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)


class Timed:
    """A graph that counts the seconds it takes."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.seconds = 0.0

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        """Compute."""
        begin = time.perf_counter()
        try:
            return self._graph.run(feeds, cancellation)
        finally:
            self.seconds += time.perf_counter() - begin

    def close(self) -> None:
        """Free the graph."""
        self._graph.close()


def write(folder: Path, precision: str) -> None:
    """Write what is missing."""
    weights = RandomWeights()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / EMBEDDINGS).exists():
        table = weights.read(EMBEDDING, SIZE.vocabulary, SIZE.hidden)
        np.save(folder / EMBEDDINGS, table.astype(np.float16))
    if not (folder / decoder_name(precision)).exists():
        with GraphBuilder(folder / decoder_name(precision), precision) as graph:
            write_decoder(graph, SIZE, weights)


def measure(folder: Path, precision: str, threads: int, tokens: int) -> None:
    """Print the medians."""
    begin = time.perf_counter()
    graph = Timed(onnx.load(folder / decoder_name(precision), threads=threads))
    print(f"loaded in {time.perf_counter() - begin:.1f} s")
    embeddings = Embeddings(folder / EMBEDDINGS)
    decoder = OnnxKvDecoder(graph, embeddings, AUDIO_ID, KvShape(SIZE.layers, SIZE.kv_heads, SIZE.head_dim))
    scheduler = Scheduler()
    random = np.random.default_rng(0)
    audio = random.standard_normal((AUDIO_ROWS, SIZE.hidden), np.float32) * np.float32(0.02)
    prompt = [*random.integers(0, 150_000, 9), *[AUDIO_ID] * AUDIO_ROWS, *random.integers(0, 150_000, PROMPT - 9)]
    prefills, steps, overheads = [], [], []
    for _ in range(HOPS):
        generator = GreedyGenerator(decoder, AUDIO_ID, frozenset())
        generator.close()
        stream = scheduler.stream()
        made = iter(generator.generate(prompt, audio, tokens, stream))
        begin = time.perf_counter()
        next(made)
        prefills.append(time.perf_counter() - begin)
        for _ in range(tokens - 1):
            begin, computed = time.perf_counter(), graph.seconds
            next(made)
            took = time.perf_counter() - begin
            steps.append(took)
            overheads.append(took - (graph.seconds - computed))
    rows = len(prompt)
    print(f"prefill of {rows} rows: {statistics.median(prefills) * 1e3:.0f} ms, the first included")
    median_s = statistics.median(steps)
    overhead_s = statistics.median(overheads)
    print(f"step: {median_s * 1e3:.1f} ms, quickest {min(steps) * 1e3:.1f} ms, {1 / median_s:.1f} tokens/s")
    print(f"besides ONNX Runtime: {overhead_s * 1e3:.2f} ms, {overhead_s / median_s:.1%} of a step")
    scheduler.close()
    graph.close()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qwen3-") as name:
        folder = arguments.folder or Path(name)
        write(folder, arguments.precision)
        measure(folder, arguments.precision, arguments.threads, arguments.tokens)


if __name__ == "__main__":
    main()
