"""Voices through the vendor's own toolkit and its simulator."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from npu.toolkit_env import toolkit_cache, vendor_toolkit  # noqa: F401

from wyoming_rknn.convert.piper import convert_voice
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.errors import ConversionError
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.npu.selftest import Golden

DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def voice(name):
    if not (DATA / "voices" / name).is_dir():
        pytest.skip(f"no test voice {name}: set WYOMING_RKNN_TEST_DATA to the folder with voices/")
    return DATA / "voices" / name / f"{name}.onnx"


@pytest.fixture(scope="session")
def voices():
    """Skip before an environment is made for nothing."""
    return voice("sano-hfc")


@pytest.fixture(scope="session")
def convert(voices, vendor_toolkit, toolkit_cache, tmp_path_factory):  # noqa: F811
    """Convert a voice into a new folder; parts of a voice are cut once for all tests."""

    def run(name, target, toolkit=vendor_toolkit, **options):
        out = tmp_path_factory.mktemp("converted") / name
        return convert_voice(voice(name), target, out, ConvertOptions(**options), toolkit, toolkit_cache)

    return run


@pytest.mark.parametrize("target", ["rk3588", "rk3576", "rk3568"])
@pytest.mark.parametrize(
    ("name", "floor_db"),
    [("sano-hfc", 57), ("random-tiny", 61), ("random-tiny-2speakers", 51), ("random-medium", 62)],
)
def test_a_voice_is_converted(convert, name, target, floor_db):
    report = convert(name, target)

    assert report.snr_db > floor_db
    assert report.regtask_lines == 0
    # What is left to the CPU is at the edge of the graph, or moves data.
    assert {layer.split(":")[0] for layer in report.cpu_layers} <= {"Reshape", "Pad"}
    frames = 32 if target == "rk3568" else 55
    rknn = RknnFile.read(report.out / "decoder.rknn")
    assert (rknn.targets, rknn.toolkit) == ((target,), "2.3.2")
    assert rknn.inputs[0].name == "z" and rknn.inputs[0].shape[::2] == (1, frames)
    assert [tensor.name for tensor in rknn.inputs[1:]] == (["cond"] if name.endswith("speakers") else [])
    assert f"frames={frames};hop=256;context=11" in rknn.custom_string
    golden = Golden.read(report.out / "decoder.golden.npz")
    assert {name: value.shape for name, value in golden.inputs.items()} == {
        tensor.name: tensor.shape for tensor in rknn.inputs
    }
    assert golden.outputs["output"].size == frames * 256
    assert np.sqrt(np.mean(golden.outputs["output"] ** 2)) > 1e-3
    manifest = json.loads((report.out / "manifest.json").read_text())
    assert manifest["graphs"][0]["snr_db"] == round(report.snr_db, 2)


def test_a_build_that_overflows_registers_fails(convert):
    with pytest.raises(ConversionError, match=r"174 values exceed its registers .*--frames N.*--allow-regtask"):
        convert("random-medium", "rk3566", frames=55)


def test_a_build_that_overflows_registers_is_kept_if_asked_for(convert, caplog):
    report = convert("random-medium", "rk3566", frames=55, allow_regtask=True)

    assert report.regtask_lines == 174
    assert json.loads((report.out / "manifest.json").read_text())["graphs"][0]["regtask_lines"] == 174
    assert "174 values did not fit" in caplog.text


def test_a_build_that_takes_too_long_is_ended(convert, vendor_toolkit):  # noqa: F811
    with pytest.raises(ConversionError, match=r"did not finish within 0\.3 s .*--timeout"):
        convert("random-medium", "rk3588", timeout_s=0.3)


def test_a_graph_that_the_toolkit_cannot_take_is_named(convert, vendor_toolkit, tmp_path):  # noqa: F811
    class Meddling:
        version = vendor_toolkit.version

        def build(self, request):
            broken = tmp_path / "broken.onnx"
            broken.write_bytes(request.graph.read_bytes()[:5000])
            return vendor_toolkit.build(dataclasses.replace(request, graph=broken))

    with pytest.raises(ConversionError, match="could not convert random-tiny decoder for rk3588: load_onnx"):
        convert("random-tiny", "rk3588", toolkit=Meddling())
