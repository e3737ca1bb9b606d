"""Qwen3-ASR from a checkpoint: graphs for the CPU in the precisions asked for, and its audio encoder for an NPU.

The folder holds `audio_conv.onnx`, `audio_encoder.onnx`, `decoder.onnx`, `decoder.int8.onnx` or `decoder.int4.onnx`,
`embeddings.npy`, the tokenizer as the checkpoint has it and `manifest.json`; for an NPU `audio_conv.rknn` and
`audio_encoder.26.rknn` and so on, too. The language model for an NPU is made by another toolkit of the vendor's.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wyoming_rknn.convert import output, qwen3_decoder, qwen3_encoder, qwen3_npu
from wyoming_rknn.convert.qwen3_checkpoint import CONFIG, EMBEDDING, TEXT_FILES, Checkpoint, Size, Weights
from wyoming_rknn.convert.qwen3_graph import INT8, PRECISIONS, GraphBuilder
from wyoming_rknn.convert.report import ConversionReport, ConvertOptions
from wyoming_rknn.convert.toolkit import Toolkit, check_target
from wyoming_rknn.errors import ModelFileMissing, UsageError, did_you_mean

KIND, LAYOUT, ONNX = "asr", "qwen3-onnx", "onnx"
CONVOLUTIONS, ENCODER, EMBEDDINGS = "audio_conv.onnx", "audio_encoder.onnx", "embeddings.npy"

_LOGGER = logging.getLogger(__name__)


def decoder_name(precision: str) -> str:
    """Return what the language model's graph is called."""
    return "decoder.onnx" if precision == PRECISIONS[0] else f"decoder.{precision}.onnx"


def check_qwen3(source: Path, target: str, out: Path, options: ConvertOptions) -> None:
    """Raise what a conversion would raise, as far as can be told at once. The target is a SoC or "onnx"."""
    if target != ONNX:
        check_target(target)
    for value, name in ((options.frames, "--frames"), (options.seconds, "--seconds")):
        if value is not None:
            raise UsageError(f"{name} is not for Qwen3-ASR, whose encoder always takes 2, 4 and 8 s; leave it out")
    for precision in options.precisions or ():
        if precision not in PRECISIONS:
            raise UsageError(f"--precision {precision} is not known{did_you_mean(precision, PRECISIONS)}")
    output.check(out)
    Checkpoint.open(source)
    _text_files(source)


def export_qwen3(source: Path, out: Path, options: ConvertOptions) -> ConversionReport:
    """Write the graphs for the CPU of the checkpoint in the folder `source` into the folder `out`.

    Blocks, for a minute at full size, with the largest weight in memory. Raises `UsageError` for a wrong precision or
    `out`, `ModelError` for a checkpoint that is not whole, `ConversionError` if `out` cannot be written.
    """
    return _made(source, ONNX, out, options, None)


def convert_qwen3(
    source: Path, target: str, out: Path, options: ConvertOptions, toolkit: Toolkit, cache_dir: Path
) -> ConversionReport:
    """Write the same as `export_qwen3`, and the encoder for an NPU.

    Blocks for minutes. `cache_dir` is not used. Raises the same, and `ConversionError` if the toolkit fails or its
    result cannot be trusted, `EngineError` if espeak-ng cannot say what the encoder is tried with.
    """
    del cache_dir
    return _made(source, target, out, options, toolkit)


def _made(source: Path, target: str, out: Path, options: ConvertOptions, toolkit: Toolkit | None) -> ConversionReport:
    check_qwen3(source, target, out, options)
    checkpoint = Checkpoint.open(source)
    precisions = options.precisions or (INT8,)
    name = source.absolute().name
    with output.workspace(out) as folder:
        for text in _text_files(source):
            shutil.copyfile(text, folder / text.name)
        write_graphs(folder, checkpoint.size, checkpoint, precisions)
        graphs = qwen3_npu.build(folder, name, checkpoint.size.encoder, target, options, toolkit) if toolkit else ()
        version = toolkit.version if toolkit else ""
        output.write_manifest(
            folder,
            kind=KIND,
            layout=LAYOUT,
            name=name,
            source=(CONFIG, _sha256(checkpoint)),
            target=target,
            toolkit=version,
            graphs=graphs,
            more={"model": {**_facts(checkpoint.size), "quality": list(precisions)}},
            made_of=source,
        )
    return ConversionReport(out, target, version, graphs)


def write_graphs(folder: Path, size: Size, weights: Weights, precisions: Sequence[str]) -> None:
    """Write the graphs and the embeddings. Raises `ModelError` for a weight that is missing, `OSError`."""
    with GraphBuilder(folder / CONVOLUTIONS) as graph:
        qwen3_encoder.write_convolutions(graph, size.encoder, weights)
    with GraphBuilder(folder / ENCODER) as graph:
        qwen3_encoder.write_transformer(graph, size, weights)
    decoder = size.decoder
    np.save(folder / EMBEDDINGS, weights.read(EMBEDDING, decoder.vocabulary, decoder.hidden).astype(np.float16))
    for precision in precisions:
        _LOGGER.info("writing the language model in %s", precision)
        with GraphBuilder(folder / decoder_name(precision), precision) as graph:
            qwen3_decoder.write_decoder(graph, decoder, weights)


def _text_files(source: Path) -> list[Path]:
    """Return the tokenizer's files: the one that says all, or those that it is made of."""
    present = [source / name for name in TEXT_FILES if (source / name).is_file()]
    names = {path.name for path in present}
    if TEXT_FILES[0] not in names and not set(TEXT_FILES[1:3]) <= names:
        raise ModelFileMissing(
            f"{source} has no tokenizer: download vocab.json and merges.txt, or tokenizer.json, into it, too"
        )
    return present


def _facts(size: Size) -> dict[str, Any]:
    decoder = size.decoder
    return {
        "width": size.encoder.width,
        "window_rows": size.encoder.chunk_rows * size.encoder.window_chunks,
        "hidden": decoder.hidden,
        "layers": decoder.layers,
        "kv_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "vocabulary": decoder.vocabulary,
    }


def _sha256(checkpoint: Checkpoint) -> str:
    """Return the hash of what makes the model: its config's and the names and hashes of its weights' files."""
    facts = {}
    for path in (checkpoint.folder / CONFIG, *checkpoint.files):
        with path.open("rb") as file:
            facts[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
