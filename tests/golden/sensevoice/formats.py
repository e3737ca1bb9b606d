"""The formats of the goldens' model. Needs torch; see make.py."""

import copy
from pathlib import Path
from typing import Any

import funasr
import onnx
import torch
from model import LANGUAGES, VOCABULARY, WIDTH, cmvn, numbers
from onnxruntime.quantization import QuantType, quantize_dynamic

BUCKETS = {"rknn-3s.onnx": 50, "rknn-10s.onnx": 167, "rknn-20s.onnx": 333}


class Sherpa(torch.nn.Module):
    """What sherpa-onnx is given: features after CMVN; what it knows otherwise stands in the metadata."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any, x_length: Any, language: Any, text_norm: Any) -> Any:
        embed = self.model.embed
        sound = torch.tensor([[1, 2]]).repeat(x.size(0), 1)
        prompt = torch.cat([embed(language)[:, None], embed(sound), embed(text_norm)[:, None]], dim=1)
        encoded, _ = self.model.encoder(torch.cat([prompt, x], dim=1), x_length + 4)
        return self.model.ctc.ctc_lo(encoded)


class Static(torch.nn.Module):
    """The layout of sherpa-onnx's RKNN packages: a fixed number of raw frames, CMVN and prompt inside, no masks."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.shift, self.scale = (torch.from_numpy(row) for row in cmvn())

    def forward(self, x: Any, prompt: Any) -> Any:
        encoder = self.model.encoder
        x = torch.cat([self.model.embed(prompt)[None], (x + self.shift) * self.scale], dim=1)
        x = encoder.embed(x * WIDTH**0.5)
        for layer in (*encoder.encoders0, *encoder.encoders):
            x = layer(x, None)[0]
        x = encoder.after_norm(x)
        for layer in encoder.tp_encoders:
            x = layer(x, None)[0]
        return self.model.ctc.ctc_lo(encoder.tp_norm(x))


def export(auto: funasr.AutoModel, folder: Path) -> None:
    """Write the graphs."""
    official = auto.model.export(max_seq_len=512, device="cpu").eval()
    names = {"input_names": official.export_input_names(), "output_names": official.export_output_names()}
    inputs, axes = official.export_dummy_inputs(), official.export_dynamic_axes()
    # The exporter of published files, and torch's present one with weights in a file of their own.
    old = {"dynamo": False, "opset_version": 14, "dynamic_axes": axes}
    torch.onnx.export(official, inputs, folder / "model.onnx", **names, **old)
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames")
    shapes = ({0: batch, 1: frames}, {0: batch}, {0: batch}, {0: batch})
    new = {"dynamo": True, "external_data": True, "dynamic_shapes": shapes}
    torch.onnx.export(official, inputs, folder / "model_dynamo.onnx", **names, **new)
    strip(folder / "model_dynamo.onnx")
    nodes = [node.name for node in onnx.load(folder / "model.onnx").graph.node]
    quantise(folder / "model.onnx", folder / "model_quant.onnx", True, [name for name in nodes if "output" in name])

    feed = (
        torch.randn(1, 30, 560),
        torch.tensor([30], dtype=torch.int32),
        *torch.tensor([[0], [15]], dtype=torch.int32),
    )
    names = {"input_names": ["x", "x_length", "language", "text_norm"], "output_names": ["logits"]}
    free = {name: {0: "N"} for name in names["input_names"]} | {"x": {0: "N", 1: "T"}, "logits": {0: "N", 1: "T"}}
    old = {"dynamo": False, "opset_version": 13}
    module = Sherpa(copy.deepcopy(auto.model)).eval()
    torch.onnx.export(module, feed, folder / "sherpa.onnx", **names, **old, dynamic_axes=free)
    shift, scale = (numbers(row).replace(" ", ",") for row in cmvn())
    describe(folder / "sherpa.onnx", {"neg_mean": shift, "inv_stddev": scale})
    quantise(folder / "sherpa.onnx", folder / "sherpa.int8.onnx", False, [])

    names = {"input_names": ["x", "prompt"], "output_names": ["logits"]}
    for name, frames in BUCKETS.items():
        feed = (torch.randn(1, frames, 560), torch.tensor([0, 1, 2, 15], dtype=torch.int32))
        module = Static(copy.deepcopy(auto.model)).eval()
        torch.onnx.export(module, feed, folder / name, **names, **old)
        describe(folder / name, {"num_input_frames": str(frames)})


def quantise(source: Path, target: Path, per_channel: bool, exclude: list[str]) -> None:
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=per_channel,
        weight_type=QuantType.QUInt8,
        nodes_to_exclude=exclude,
    )


def describe(graph: Path, more: dict[str, str]) -> None:
    """Add the metadata by which sherpa-onnx knows a SenseVoice."""
    ids = {f"lang_{name}": number for name, number in LANGUAGES.items()} | {"lang_nospeech": 13}
    facts = {"lfr_window_size": 7, "lfr_window_shift": 6, "normalize_samples": 0, "model_type": "sense_voice_ctc"}
    facts |= {"version": 2, "vocab_size": VOCABULARY, "comment": "tiny", "with_itn": 14, "without_itn": 15}
    model = onnx.load(graph)
    onnx.helper.set_model_props(model, {key: str(value) for key, value in (facts | ids | more).items()})
    onnx.save(model, graph)


def strip(graph: Path) -> None:
    """Drop where in somebody's Python files each node comes from."""
    model = onnx.load(graph, load_external_data=False)
    model.doc_string = model.graph.doc_string = ""
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, graph)
