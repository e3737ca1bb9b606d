"""Make a Qwen3-ASR model of its files, whatever their layout."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from wyoming_rknn.asr.qwen3.audio_encoder import AudioEncoder
from wyoming_rknn.asr.qwen3.decoder import Generator, KvDecoder, Rows
from wyoming_rknn.asr.qwen3.embeddings import Embeddings
from wyoming_rknn.asr.qwen3.encoder_graphs import SherpaEncoder, SparedEncoder, SplitEncoder, Stage, WholeEncoder
from wyoming_rknn.asr.qwen3.greedy import GreedyGenerator
from wyoming_rknn.asr.qwen3.model import Qwen3Model
from wyoming_rknn.asr.qwen3.onnx_decoder import KvShape, OnnxKvDecoder, SherpaKvDecoder
from wyoming_rknn.asr.qwen3.prompt import Context
from wyoming_rknn.asr.qwen3.rkllm_decoder import RkllmGenerator
from wyoming_rknn.asr.qwen3.tokenizer import AUDIO_PAD, Tokenizer, read
from wyoming_rknn.errors import AcceleratorError, EngineError, ModelError, ModelInvalid, RuntimeUnavailable
from wyoming_rknn.models.formats import qwen3
from wyoming_rknn.models.formats.rknn_file import runs_on
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.npu.load import load_proven
from wyoming_rknn.npu.selftest import Golden
from wyoming_rknn.runtime.graph import Graph
from wyoming_rknn.runtime.rkllm import RkllmProcess, computing_cpus
from wyoming_rknn.runtime.rkllm_library import find_library
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import NPU
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)

_TAKEN = frozenset(("inputs_embeds", "position_ids", "mask", "past_k", "past_v"))
_RKLLM_TOKENS = 512
"""Rows and tokens of a run: what the published builds are made for, and enough for 30 s."""


def open_model(manifest: Manifest, settings: Settings, runtimes: Runtimes) -> Qwen3Model:
    """Load a model's files and run its encoder once. Blocks. Raises `ModelError`."""
    with ExitStack() as opened:
        loader = _Loader(manifest, settings, runtimes, opened)
        tokenizer = read(next(iter(qwen3.tokenizer_files(manifest.files).values())).parent)
        parts = _LAYOUTS[manifest.format](loader, tokenizer)
        kept = ExitStack()
        model = Qwen3Model(
            manifest.name, parts.encoder, tokenizer, parts.open_generator, kept.close, parts.context_tokens
        )
        rows = model.warm_up()
        if parts.decoder is not None:
            _read_once(manifest, parts.decoder, model.prompt(Context(), len(rows), None, ()), rows, len(tokenizer))
        kept.push(opened.pop_all())
        return model


def _read_once(manifest: Manifest, decoder: KvDecoder, ids: Sequence[int], rows: Rows, tokens: int) -> None:
    """Raise `ModelInvalid` if a language model cannot read a prompt, or does not go with its tokenizer."""
    path = manifest.files[qwen3.DECODER_ROLE]
    try:
        decoder.prefill(np.array(ids), rows)
    except (EngineError, KeyError, IndexError, ValueError) as error:
        raise ModelInvalid(f"{path} cannot be run ({error}); take all files from the same model") from error
    logits = decoder.logits
    if logits.size < tokens:
        raise ModelInvalid(
            f"{path} knows {logits.size} tokens and its tokenizer {tokens}; take both from the same model"
        )
    if not np.isfinite(logits.max()):
        raise ModelInvalid(f"{path} computes no numbers but NaN or infinity; take another build of it")


class _Loader:
    """Loads a model's graphs; what was loaded is closed if the rest cannot be."""

    def __init__(self, manifest: Manifest, settings: Settings, runtimes: Runtimes, opened: ExitStack) -> None:
        self.files = manifest.files
        self.targets = manifest.targets
        self.settings = settings
        self.runtimes = runtimes
        self.opened = opened

    def graph(self, role: str) -> Graph:
        """Load a graph for the CPU. Raises `ModelError`."""
        graph = self.runtimes.load(self.files[role])
        self.opened.callback(graph.close)
        return graph

    def npu_stage(self, path: Path) -> Stage:
        """Load a graph for the NPU. Raises `ModelError`, `AcceleratorError`, `RuntimeUnavailable`."""
        graph = load_proven(
            path, self.runtimes, self.settings.cache, lambda _graph: Golden.beside(path), spare_memory=True
        )
        self.opened.callback(graph.close)
        return Stage(graph, NPU)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a model consists of."""

    encoder: AudioEncoder
    open_generator: Callable[[], Generator]
    decoder: KvDecoder | None = None
    """A language model to try, where it can be tried within this process."""
    context_tokens: int | None = None


def _of_ours(loader: _Loader, tokenizer: Tokenizer) -> _Parts:
    embeddings = Embeddings(loader.files[qwen3.EMBEDDINGS_ROLE])
    graph = loader.graph(qwen3.DECODER_ROLE)
    shapes = {spec.name: spec.shape for spec in graph.inputs}
    path, rows = loader.files[qwen3.DECODER_ROLE], shapes.get("past_k", ())
    if shapes.keys() != _TAKEN or len(rows) != 4 or None in rows[1:]:
        raise ModelInvalid(f"{path} is no language model of this layout; convert the model again")
    if (hidden := shapes["inputs_embeds"][-1]) != embeddings.hidden:
        raise ModelInvalid(
            f"{path} reads rows of {hidden} numbers and {loader.files[qwen3.EMBEDDINGS_ROLE]} has rows of "
            f"{embeddings.hidden}; take both from the same model"
        )
    _check_words(loader, embeddings, tokenizer)
    _, layers, heads, size = rows
    assert layers is not None and heads is not None and size is not None
    audio_id = tokenizer.special(AUDIO_PAD)

    def open_decoder() -> KvDecoder:
        return OnnxKvDecoder(graph, embeddings, audio_id, KvShape(layers, heads, size))

    encoder = _our_encoder(loader, embeddings.hidden)
    return _Parts(encoder, lambda: GreedyGenerator(open_decoder(), audio_id, tokenizer.end_ids), open_decoder())


def _check_words(loader: _Loader, embeddings: Embeddings, tokenizer: Tokenizer) -> None:
    if len(embeddings) < len(tokenizer):
        raise ModelInvalid(
            f"{loader.files[qwen3.EMBEDDINGS_ROLE]} has {len(embeddings)} rows, and the tokenizer {len(tokenizer)} "
            "tokens; take both from the same model"
        )


def _our_encoder(loader: _Loader, hidden: int) -> AudioEncoder:
    """Return the encoder, with its graphs for the NPU where they can be used."""
    convolution, attention = Stage(loader.graph(qwen3.CONVOLUTION_ROLE)), Stage(loader.graph(qwen3.ATTENTION_ROLE))
    spare = SplitEncoder(convolution, (attention,), hidden)
    paths = qwen3.numbered(loader.files, f"{qwen3.NPU_ROLE}-{qwen3.ATTENTION_ROLE}")
    soc = loader.runtimes.npu_soc
    if not paths or soc is None or not runs_on(loader.targets, soc):
        return spare
    try:
        first = loader.files.get(f"{qwen3.NPU_ROLE}-{qwen3.CONVOLUTION_ROLE}")
        stages = tuple(loader.npu_stage(path) for path in paths)
        npu = SplitEncoder(convolution if first is None else loader.npu_stage(first), stages, spare.hidden)
    except (ModelError, AcceleratorError, RuntimeUnavailable) as error:
        _LOGGER.warning("%s; the CPU encodes audio instead", error)
        return spare
    return SparedEncoder(npu, spare)


def _of_sherpa(loader: _Loader, tokenizer: Tokenizer) -> _Parts:
    graph = loader.graph(qwen3.DECODER_ROLE)
    caches = [spec.shape for spec in graph.inputs if spec.name.startswith("cache_key_")]
    hidden = next((spec.shape[-1] for spec in graph.inputs if spec.name == "audio_features"), None)
    if not caches or len(caches[0]) != 4 or None in caches[0][2:] or hidden is None:
        path = loader.files[qwen3.DECODER_ROLE]
        raise ModelInvalid(f"{path} is no decoder of sherpa-onnx's layout; take the files of one package")
    _, _, heads, size = caches[0]
    assert heads is not None and size is not None
    shape = KvShape(len(caches), heads, size)
    audio_id = tokenizer.special(AUDIO_PAD)
    convolution, attention = Stage(loader.graph(qwen3.CONVOLUTION_ROLE)), Stage(loader.graph(qwen3.ATTENTION_ROLE))

    def open_decoder() -> KvDecoder:
        return SherpaKvDecoder(graph, hidden, shape)

    encoder = SherpaEncoder(convolution, attention, hidden)
    return _Parts(encoder, lambda: GreedyGenerator(open_decoder(), audio_id, tokenizer.end_ids), open_decoder())


def _of_rkllm(loader: _Loader, tokenizer: Tokenizer) -> _Parts:
    embeddings = Embeddings(loader.files[qwen3.EMBEDDINGS_ROLE])
    _check_words(loader, embeddings, tokenizer)
    try:
        encoder: AudioEncoder
        if qwen3.ATTENTION_ROLE in loader.files:
            encoder = _our_encoder(loader, embeddings.hidden)
        else:
            stages = [loader.npu_stage(path) for path in qwen3.numbered(loader.files, qwen3.ENCODER_ROLE)]
            encoder = WholeEncoder(_buckets(stages), embeddings.hidden)
        library = find_library(loader.settings.rkllm_library, loader.settings.rkllm_version)
        process = RkllmProcess(
            loader.files[qwen3.DECODER_ROLE],
            library,
            context_tokens=_RKLLM_TOKENS,
            stop_ids=tuple(tokenizer.end_ids),
            cpus=computing_cpus(loader.runtimes.board),
        )
        loader.opened.callback(process.close)
        process.start()
    except (AcceleratorError, RuntimeUnavailable) as error:
        raise ModelInvalid(str(error)) from error
    audio_id = tokenizer.special(AUDIO_PAD)
    open_generator = partial(RkllmGenerator, process, embeddings, audio_id, tokenizer.end_ids)
    return _Parts(encoder, open_generator, context_tokens=_RKLLM_TOKENS)


def _buckets(stages: list[Stage]) -> tuple[tuple[Stage, ...], ...]:
    """Return graphs that follow one another together: what takes no mel goes on from the one before."""
    buckets: list[tuple[Stage, ...]] = []
    for stage in stages:
        takes_mel = 128 in stage.graph.inputs[0].shape[1:]
        if takes_mel or not buckets:
            buckets.append((stage,))
        else:
            buckets[-1] = (*buckets[-1], stage)
    return tuple(buckets)


_LAYOUTS: dict[str, Callable[[_Loader, Tokenizer], _Parts]] = {
    qwen3.ONNX: _of_ours,
    qwen3.SHERPA: _of_sherpa,
    qwen3.RKLLM: _of_rkllm,
}
