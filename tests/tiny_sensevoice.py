"""Graphs with SenseVoice's inputs and outputs, made on the spot: one matrix turns features into logits."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURE_SIZE, PROMPT_ROWS = 560, 4
PIECES = ("<unk>", "<s>", "</s>", "<|zh|>", "<|en|>", "<|ja|>", "<|nospeech|>", "▁one", "▁two", "s", "你", "好")
VOCABULARY = len(PIECES)
INPUTS = {
    "funasr": ("speech", "speech_lengths", "language", "textnorm"),
    "sherpa": ("x", "x_length", "language", "text_norm"),
    "npu": ("x", "prompt"),
    "happyme531": ("speech",),
    "rkvoice": ("speech",),
}


def build_graph(
    layout: str = "funasr",
    *,
    frames: int | None = None,
    vocabulary: int = VOCABULARY,
    metadata: Mapping[str, str] | None = None,
    int8: bool = False,
) -> onnx.ModelProto:
    """Build a graph of a layout; `frames` is needed for those of fixed length. The tags' frames come out blank."""
    features, *rest = INPUTS[layout]
    weights = np.random.default_rng(1).normal(size=(FEATURE_SIZE, vocabulary)).astype(np.float32)
    # Tags would make text of noise disappear.
    weights[:, [number for number, piece in enumerate(PIECES[:vocabulary]) if piece.startswith("<|")]] = 0
    initializers = [numpy_helper.from_array(weights, "weights")]
    nodes = []
    rows = features
    if rest:
        initializers.append(numpy_helper.from_array(np.zeros((1, PROMPT_ROWS, FEATURE_SIZE), np.float32), "tags"))
        nodes.append(helper.make_node("Concat", ["tags", features], ["rows"], axis=1))
        rows = "rows"
    nodes.append(helper.make_node("MatMul", [rows, "weights"], ["logits"]))
    length = None if frames is None else frames + PROMPT_ROWS * bool(rest)
    name, shape = "logits", [1, length, vocabulary]
    if layout == "happyme531":
        nodes.append(helper.make_node("Transpose", ["logits"], ["turned"], perm=[0, 2, 1]))
        name, shape = "turned", [1, vocabulary, length]
    if int8:
        initializers.append(numpy_helper.from_array(np.zeros((2, 2), np.uint8), "quantized"))
        nodes.append(helper.make_node("Identity", ["quantized"], ["kept"]))
    if layout == "sherpa":
        ones = ",".join(["1.0"] * FEATURE_SIZE)
        metadata = {"model_type": "sense_voice_ctc", "neg_mean": ones, "inv_stddev": ones, **(metadata or {})}
    sizes = [PROMPT_ROWS] if layout == "npu" else ["batch"]
    graph = helper.make_graph(
        nodes,
        layout,
        [
            helper.make_tensor_value_info(features, TensorProto.FLOAT, [1, frames or "frames", FEATURE_SIZE]),
            *(helper.make_tensor_value_info(given, TensorProto.INT32, sizes) for given in rest),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis or "rows" for axis in shape])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    return model


def install(folder: Path, **graphs: onnx.ModelProto) -> Path:
    """Put graphs, by stem, and all that can lie beside them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, graph in graphs.items():
        onnx.save(graph, folder / f"{stem}.onnx")
    (folder / "tokens.txt").write_text(
        "".join(f"{piece} {number}\n" for number, piece in enumerate(PIECES)), encoding="utf-8"
    )
    (folder / "tokens.json").write_text(json.dumps(PIECES), encoding="utf-8")
    (folder / "am.mvn").write_text(kaldi_cmvn(np.zeros(FEATURE_SIZE), np.ones(FEATURE_SIZE)))
    np.save(folder / "embedding.npy", np.zeros((16, FEATURE_SIZE), np.float32))
    return folder


def kaldi_cmvn(shift: np.ndarray, scale: np.ndarray) -> str:
    """Return the text of an am.mvn."""
    parts = (
        f"<{name}> {FEATURE_SIZE} {FEATURE_SIZE}\n<LearnRateCoef> 0 [ {' '.join(f'{value:g}' for value in values)} ]\n"
        for name, values in (("AddShift", shift), ("Rescale", scale))
    )
    return f"<Nnet>\n<Splice> {FEATURE_SIZE} {FEATURE_SIZE}\n[ 0 ]\n{''.join(parts)}</Nnet>\n"
