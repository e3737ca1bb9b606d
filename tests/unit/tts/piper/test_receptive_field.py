"""The context of flows and decoders, proven by poisoning everything outside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_piper import VoiceShape, build_voice, cut_before_flow

from wyoming_rknn.errors import GraphNotSplittable
from wyoming_rknn.runtime.onnx import load
from wyoming_rknn.tts.piper.cut import Part, cut_pair, cut_voice
from wyoming_rknn.tts.piper.receptive_field import ReceptiveField, analyse
from wyoming_rknn.tts.piper.split import read
from wyoming_rknn.tts.piper.surgery import Wiring

KEPT = 5


def is_finite_within(part: Part, rate: int, channels: int, context: int) -> bool:
    """Tell whether kept frames stay finite when every frame beyond `context` is not a number."""
    begin, end = 50, 50 + KEPT
    latents = np.random.default_rng(0).normal(size=(1, channels, 2 * begin + KEPT)).astype(np.float32)
    latents[:, :, : begin - context] = np.nan
    latents[:, :, end + context :] = np.nan
    graph = load(part.model.SerializeToString(), threads=1)
    shapes = {spec.name: tuple(axis or 1 for axis in spec.shape) for spec in graph.inputs}
    widths = {name: next(s for s in _condition_widths(part.model, name)) for name in part.conditions}
    conditions = {name: np.ones((1, widths[name], 1), np.float32) for name in part.conditions}
    assert part.input in shapes
    made = graph.run({part.input: latents, **conditions})[part.output]
    return bool(np.isfinite(made[..., begin * rate : end * rate]).all())


def _condition_widths(model: onnx.ModelProto, name: str) -> list[int]:
    wiring = Wiring(model)
    for position in wiring.takers[name]:
        node = wiring.nodes[position]
        if node.op_type == "Conv":
            return [(wiring.shape(node.input[1]) or (0, 0))[1]]
        for other in node.input:
            maker = wiring.maker(other)
            if maker is not None and maker.op_type == "Conv":
                return [(wiring.shape(maker.input[1]) or (0,))[0]]
    return []


def assert_tight(part: Part, rate: int, channels: int, context: int) -> None:
    assert part.context_frames == context
    assert is_finite_within(part, rate, channels, context)
    assert not is_finite_within(part, rate, channels, context - 1)


@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize(("dilations", "context"), [((), 4), ((1, 2), 6), ((1, 3, 9), 9)])
def test_context_is_exact(speakers: int, dilations: tuple[int, ...], context: int) -> None:
    cut = cut_voice(build_voice(VoiceShape(speakers=speakers, dilations=dilations)))
    assert cut.flow is not None
    assert_tight(cut.decoder, cut.hop, cut.channels, context)
    assert_tight(cut.flow, 1, cut.channels, 4)


@pytest.mark.parametrize(
    ("name", "decoder", "flow"),
    [
        ("random-tiny", 11, 32),
        ("random-tiny-high", 13, 32),
        ("random-tiny-2speakers", 11, 32),
        ("sano-hfc", 11, None),
    ],
)
def test_context_of_shared_voices(voices: Callable[[str], Path], name: str, decoder: int, flow: int | None) -> None:
    cut = cut_voice(read(voices(name)))
    assert cut.hop == 256
    assert_tight(cut.decoder, cut.hop, cut.channels, decoder)
    assert (cut.flow is None) == (flow is None)
    if cut.flow is not None and flow is not None:
        assert_tight(cut.flow, 1, cut.channels, flow)


def test_context_of_a_pair_with_the_flow_inside() -> None:
    cut = cut_pair(*cut_before_flow(build_voice(VoiceShape(speakers=2))))
    assert cut.flow is not None
    assert_tight(cut.flow, 1, cut.channels, 4)
    assert_tight(cut.decoder, cut.hop, cut.channels, 6)


def test_context_of_a_shared_voice_with_the_flow_inside(voices: Callable[[str], Path]) -> None:
    cut = cut_pair(*cut_before_flow(read(voices("random-tiny"))))
    assert cut.flow is not None
    assert_tight(cut.flow, 1, cut.channels, 32)
    assert_tight(cut.decoder, cut.hop, cut.channels, 11)


def test_filter_behind_the_decoder_counts(voices: Callable[[str], Path]) -> None:
    folder = voices("sano-kristin").parent
    cut = cut_pair(read(folder / "encoder.onnx"), read(folder / "decoder.onnx"))
    assert_tight(cut.decoder, cut.hop, cut.channels, 11)


def graph_of(
    *nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None, inputs: tuple[str, ...] = ("z",)
) -> Wiring:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, None]) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return Wiring(helper.make_model(graph))


def kernel(*shape: int) -> dict[str, np.ndarray]:
    return {"w": np.ones(shape, np.float32)}


def test_sides_may_differ() -> None:
    wiring = graph_of(helper.make_node("Conv", ["z", "w"], ["y"], pads=[4, 0]), weights=kernel(2, 2, 5))
    assert analyse(wiring, "z", "y") == ReceptiveField(4, 0, 1)


def test_weights_that_the_graph_computes() -> None:
    wiring = graph_of(
        helper.make_node("Add", ["w", "w"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["weight"]),
        helper.make_node("Conv", ["z", "weight"], ["y"], pads=[3, 3]),
        weights=kernel(2, 2, 7),
    )
    assert analyse(wiring, "z", "y") == ReceptiveField(3, 3, 1)


def test_widest_branch_counts() -> None:
    wiring = graph_of(
        helper.make_node("Conv", ["z", "w"], ["a"], pads=[2, 2], dilations=[1]),
        helper.make_node("Conv", ["z", "w"], ["b"], pads=[6, 6], dilations=[3]),
        helper.make_node("Add", ["a", "b"], ["y"]),
        weights=kernel(2, 2, 5),
    )
    assert analyse(wiring, "z", "y").context_frames == 6


def test_zeros_shaped_like_the_signal_need_no_context() -> None:
    wiring = graph_of(
        helper.make_node("Conv", ["z", "w"], ["far"], pads=[4, 4], dilations=[2]),
        helper.make_node("Shape", ["far"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Add", ["z", "zeros"], ["y"]),
        weights=kernel(2, 2, 5),
    )
    assert analyse(wiring, "z", "y").context_frames == 0


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([helper.make_node("ReduceMean", ["z"], ["y"], axes=[2])], id="mean over time"),
        pytest.param([helper.make_node("Softmax", ["z"], ["y"], axis=-1)], id="softmax over time"),
        pytest.param([helper.make_node("Concat", ["z", "z"], ["y"], axis=2)], id="joined in time"),
        pytest.param([helper.make_node("Transpose", ["z"], ["y"], perm=[0, 2, 1])], id="transposed"),
        pytest.param([helper.make_node("Conv", ["z", "w"], ["y"], strides=[2], pads=[2, 2])], id="strided"),
        pytest.param([helper.make_node("Conv", ["z", "w"], ["y"], auto_pad="SAME_UPPER")], id="automatic padding"),
        pytest.param([helper.make_node("ConvTranspose", ["z", "w"], ["y"], strides=[3])], id="unequal upsampling"),
        pytest.param([helper.make_node("Slice", ["z", "one", "end", "two"], ["y"])], id="start cut off"),
        pytest.param([helper.make_node("Slice", ["z", "zero", "two", "two"], ["y"])], id="end cut off"),
        pytest.param([helper.make_node("Slice", ["z", "zero", "end", "two", "two"], ["y"])], id="every other frame"),
        pytest.param([helper.make_node("Slice", ["z", "one", "end", "two", "minus"], ["y"])], id="reversed in time"),
        pytest.param([helper.make_node("Pad", ["z", "pads"], ["y"], mode="reflect")], id="padded"),
        pytest.param([helper.make_node("Unsqueeze", ["z", "three"], ["y"])], id="time no longer last"),
        pytest.param([helper.make_node("GRU", ["z", "w", "w"], ["y"], hidden_size=2)], id="recurrent"),
    ],
)
def test_layers_that_cannot_be_cut_in_time(nodes: list[onnx.NodeProto]) -> None:
    weights = kernel(2, 2, 5) | {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "three": np.array([3]),
        "minus": np.array([-1]),
        "end": np.array([2**62]),
        "pads": np.array([0, 0, 1, 0, 0, 1]),
    }
    with pytest.raises(GraphNotSplittable):
        analyse(graph_of(*nodes, weights=weights), "z", "y")


def test_signals_of_different_rates_are_not_joined() -> None:
    wiring = graph_of(
        helper.make_node("ConvTranspose", ["z", "w"], ["fast"], strides=[5]),
        helper.make_node("Add", ["fast", "z"], ["y"]),
        weights=kernel(2, 2, 5),
    )
    with pytest.raises(GraphNotSplittable, match="different rates"):
        analyse(wiring, "z", "y")


def test_speech_that_ignores_the_latents() -> None:
    wiring = graph_of(helper.make_node("Neg", ["other"], ["y"]), inputs=("z", "other"))
    with pytest.raises(GraphNotSplittable, match="does not depend"):
        analyse(wiring, "z", "y")
