"""The audio encoder of Qwen3-ASR through the vendor's own toolkit and its simulator."""

import json

import tiny_qwen3
from npu.toolkit_env import toolkit_cache, vendor_toolkit  # noqa: F401 - fixtures

from wyoming_rknn.convert.qwen3 import convert_qwen3
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.npu.selftest import Golden, golden_path

BUCKETS = (26, 52, 104)


def test_an_encoder_for_an_npu(vendor_toolkit, tmp_path):  # noqa: F811
    source = tiny_qwen3.write_checkpoint(tmp_path / "tiny", tiny_qwen3.random_weights())
    report = convert_qwen3(source, "rk3588", tmp_path / "out", ConvertOptions(), vendor_toolkit, tmp_path)

    assert [graph.file for graph in report.graphs] == [
        "audio_conv.rknn",
        *(f"audio_encoder.{rows}.rknn" for rows in BUCKETS),
    ]
    assert report.snr_db > 45
    assert report.regtask_lines == 0
    # All of it on the NPU.
    assert report.cpu_layers == ()
    convolutions = RknnFile.read(report.out / "audio_conv.rknn")
    assert convolutions.targets == ("rk3588",)
    assert [(tensor.name, tensor.shape) for tensor in convolutions.inputs] == [("mel", (1, 128, 100))]
    for rows in BUCKETS:
        path = report.out / f"audio_encoder.{rows}.rknn"
        shapes = {tensor.name: tensor.shape for tensor in RknnFile.read(path).inputs}
        assert shapes == {"features": (1, rows, tiny_qwen3.WIDTH), "mask": (1, 1, rows, rows)}
        golden = Golden.read(golden_path(path))
        assert golden.inputs["mask"].min() == -1e4
        assert golden.outputs["embeddings"].shape == (1, rows, tiny_qwen3.HIDDEN)
    manifest = json.loads((report.out / "manifest.json").read_text())
    assert (manifest["target"], len(manifest["graphs"])) == ("rk3588", 4)
    # The CPU can take over, and the language model is there.
    assert {"audio_conv.onnx", "audio_encoder.onnx", "decoder.int8.onnx"} <= manifest["files"].keys()
