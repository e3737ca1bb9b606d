"""SenseVoice through the vendor's own toolkit and its simulator."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from npu.toolkit_env import toolkit_cache, vendor_toolkit  # noqa: F401
from onnx import numpy_helper

from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.convert.sensevoice import convert_sensevoice
from wyoming_rknn.convert.sensevoice_static import fix
from wyoming_rknn.convert.toolkit import BuildRequest
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.npu.selftest import Golden

DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
OVERFIT = DATA / "asr" / "sensevoice-overfit"
GOLDEN = Path(__file__).parents[1] / "golden" / "sensevoice"


@pytest.fixture
def convert(vendor_toolkit, tmp_path):  # noqa: F811
    """Return a function that converts some files of a folder, which must have tokens, for the RK3588."""

    def run(folder, *names, **options):
        if not folder.is_dir():
            pytest.skip(f"no test model {folder.name}: set WYOMING_RKNN_TEST_DATA to the folder with asr/")
        source = tmp_path / "source"
        source.mkdir()
        for name in (*names, "tokens.txt"):
            shutil.copyfile(folder / name, source / name)
        options = ConvertOptions(**options)
        return convert_sensevoice(source, "rk3588", tmp_path / "out", options, vendor_toolkit, tmp_path)

    return run


def test_static_graphs(convert):
    report = convert(OVERFIT, "rknn-3s.onnx", "rknn-5s.onnx", "rknn-10s.onnx")

    assert [graph.frames for graph in report.graphs] == [50, 83, 167]
    assert report.snr_db > 60
    assert report.regtask_lines == 0
    # The look-up of the prompt, which is inside.
    assert [graph.cpu_layers for graph in report.graphs] == [("Gather:/embed/Gather",)] * 3
    manifest = json.loads((report.out / "manifest.json").read_text())
    assert min(manifest["agreement"].values()) >= 0.99
    rknn = RknnFile.read(report.out / "encoder-3s.rknn")
    assert (rknn.targets, rknn.toolkit) == (("rk3588",), "2.3.2")
    assert [(tensor.name, tensor.shape) for tensor in rknn.inputs] == [("x", (1, 50, 560)), ("prompt", (4,))]
    assert rknn.metadata["with_itn"] == "14"


def test_an_export_of_funasr(convert):
    report = convert(OVERFIT, "model.onnx", "am.mvn", seconds=(3, 20))

    assert [(graph.file, graph.frames) for graph in report.graphs] == [
        ("encoder-3s.rknn", 56),
        ("encoder-20s.rknn", 344),
    ]
    assert report.snr_db > 55
    assert report.regtask_lines == 0
    # All of it on the NPU.
    assert report.cpu_layers == ()
    rknn = RknnFile.read(report.out / "encoder-20s.rknn")
    layout = Layout.of(rknn.inputs, rknn.outputs)
    assert layout is not None
    assert (layout.capacity, layout.transposed, layout.vocabulary) == (340, True, 400)


def test_an_export_for_sherpa(convert):
    report = convert(OVERFIT, "sherpa.onnx", seconds=(3,))
    assert report.snr_db > 55
    assert report.cpu_layers == ()
    assert RknnFile.read(report.out / "encoder-3s.rknn").metadata["vocab_size"] == "400"


def test_an_export_by_another_exporter(convert):
    report = convert(GOLDEN, "model_dynamo.onnx", "model_dynamo.onnx.data", "am.mvn", seconds=(1,))
    assert report.snr_db > 55
    assert report.cpu_layers == ()


def test_what_overflows_gives_nan_unless_it_is_rescaled(convert, vendor_toolkit, tmp_path):  # noqa: F811
    model = onnx.load(GOLDEN / "model.onnx")
    weights = {weight.name: weight for weight in model.graph.initializer}
    products = [node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    # Of the encoder the last layer before its norm, w_2, which makes 24 numbers 12.
    weight = next(weights[name] for name in products if list(weights[name].dims) == [24, 12])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(40_000), weight.name))
    inflated = tmp_path / "inflated"
    inflated.mkdir()
    onnx.save(model, inflated / "model.onnx")
    for name in ("am.mvn", "tokens.txt"):
        shutil.copyfile(GOLDEN / name, inflated / name)

    report = convert(inflated, "model.onnx", "am.mvn", seconds=(1,))

    assert report.snr_db > 55
    assert json.loads((report.out / "manifest.json").read_text())["divisors"]["encoder-1s.rknn"] >= 16
    graph = tmp_path / "unscaled.onnx"
    onnx.save(fix(model, 24), graph)
    golden = Golden.read(report.out / "encoder-1s.golden.npz")
    built = vendor_toolkit.build(
        BuildRequest(
            name="unscaled", graph=graph, target="rk3588", inputs=golden.inputs, out=tmp_path / "unscaled.rknn"
        )
    )
    assert np.isnan(next(iter(built.simulated.values()))).any()
