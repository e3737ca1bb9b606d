from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
import tiny_qwen3
from npu.stand_in_toolkit import StandInToolkit

from wyoming_rknn.convert.overflow import LARGEST, peaks
from wyoming_rknn.convert.qwen3 import convert_qwen3
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.errors import ConversionError
from wyoming_rknn.npu.selftest import Golden

WEIGHTS = tiny_qwen3.random_weights()


@pytest.fixture
def convert(tmp_path):
    """Return a function that converts a tiny checkpoint with a toolkit."""

    def run(toolkit, weights=WEIGHTS):
        source = tiny_qwen3.write_checkpoint(tmp_path / "tiny", weights)
        return convert_qwen3(source, "rk3588", tmp_path / "out", ConvertOptions(), toolkit, tmp_path)

    return run


def test_goldens_are_of_the_shapes_of_the_graphs_and_hide_padding(convert):
    toolkit = StandInToolkit()
    report = convert(toolkit)
    assert [graph.frames for graph in report.graphs] == [100, 26, 52, 104]
    assert [request.target for request in toolkit.requests] == ["rk3588"] * 4
    golden = Golden.read(report.out / "audio_conv.golden.npz")
    assert golden.inputs["mel"].shape == (1, 128, 100)
    # Speech, not silence.
    assert golden.inputs["mel"].std() > 0.1
    for rows in (26, 52, 104):
        golden = Golden.read(report.out / f"audio_encoder.{rows}.golden.npz")
        assert golden.inputs["mask"].shape == (1, 1, rows, rows)
        visible = golden.inputs["mask"][0, 0, 0] == 0
        assert golden.inputs["mask"].min() == -1e4
        features = golden.inputs["features"][0, visible]
        np.testing.assert_allclose(
            golden.outputs["embeddings"][0, visible], tiny_qwen3.encoded(WEIGHTS, features), atol=1e-4
        )
    assert not list(report.out.glob(".*"))


@dataclass
class Measuring(StandInToolkit):
    """Notes the largest number within each graph."""

    largest: dict[str, float] = field(default_factory=dict)

    def build(self, request):
        self.largest[request.name] = max(peaks(onnx.load(request.graph), [request.inputs]).values())
        return super().build(request)


def test_what_overflows_16_bits_is_rescaled(convert):
    weights = dict(WEIGHTS)
    name = "model.audio_tower.layers.0.fc2.bias"
    # Not the same for all, or the norm would take it away.
    weights[name] = np.where(np.arange(tiny_qwen3.WIDTH) == 5, np.float32(131072.0), weights[name])
    toolkit = Measuring()
    report = convert(toolkit, weights)
    assert len(toolkit.largest) == 4
    assert max(toolkit.largest.values()) < LARGEST
    assert report.snr_db > 45


def test_a_simulation_that_differs_is_no_model(convert, tmp_path):
    spoiled = StandInToolkit(spoil=lambda outputs: {name: value * np.float32(1.1) for name, value in outputs.items()})
    with pytest.raises(ConversionError, match=r"tiny audio_conv for rk3588, simulated"):
        convert(spoiled)
    assert not (tmp_path / "out").exists()
