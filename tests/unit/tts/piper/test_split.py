"""Cutting voices: the parts together are the voice, and what cannot be cut says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_piper import VoiceShape, build_voice, cut_before_flow

from wyoming_rknn.errors import GraphNotSplittable, ModelInvalid
from wyoming_rknn.runtime.graph import Tensor
from wyoming_rknn.runtime.onnx import load
from wyoming_rknn.tts.piper.cut import Cut, Part, cut_for_pair, cut_pair, cut_voice, uncut_pair
from wyoming_rknn.tts.piper.split import read, split_into_pair, split_pair, split_voice
from wyoming_rknn.tts.piper.surgery import Wiring, extract

SHARED = ("random-tiny-high", "random-tiny-2speakers", "sano-hfc")


def feeds(model: onnx.ModelProto, phonemes: int, speaker: int = 0) -> dict[str, Tensor]:
    ids = 1 + np.arange(phonemes, dtype=np.int64)[np.newaxis] * 3 % 18
    fed: dict[str, Tensor] = {
        "input": ids,
        "input_lengths": np.array([phonemes], np.int64),
        "scales": np.array([0.0, 1.3, 0.0], np.float32),
    }
    if "sid" in {value.name for value in model.graph.input}:
        fed["sid"] = np.array([speaker], np.int64)
    return fed


def run(model: onnx.ModelProto | bytes, fed: dict[str, Tensor]) -> dict[str, Tensor]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return load(content, threads=1).run(fed)


def run_parts(cut: Cut, encoded: dict[str, Tensor]) -> Tensor:
    signal = encoded[cut.latents]
    for part in (cut.flow, cut.decoder):
        if part is not None:
            conditions = {name: encoded[name] for name in part.conditions}
            signal = run(part.model, {part.input: signal, **conditions})[part.output]
    return signal.ravel()


@pytest.mark.parametrize("speakers", [1, 3])
@pytest.mark.parametrize("flow", [True, False])
def test_parts_say_what_the_whole_voice_says(speakers: int, flow: bool) -> None:
    model = build_voice(VoiceShape(speakers=speakers, flow=flow))
    cut = cut_voice(model)
    assert (cut.flow is not None) == flow
    assert cut.encoder is not None
    assert cut.latents == ("z_p" if flow else "z")
    assert (cut.hop, cut.channels) == (8, 6)
    for phonemes in (1, 2, 17):
        for speaker in range(speakers):
            fed = feeds(model, phonemes, speaker)
            whole = run(model, fed)["output"].ravel()
            np.testing.assert_allclose(run_parts(cut, run(cut.encoder, fed)), whole, rtol=0, atol=1e-6)


def test_speakers_differ_in_the_parts_too() -> None:
    cut = cut_voice(build_voice(VoiceShape(speakers=3)))
    assert cut.encoder is not None and cut.flow is not None
    assert cut.decoder.conditions == ("cond",)
    assert cut.flow.conditions == ("g",)
    spoken = [run_parts(cut, run(cut.encoder, feeds(cut.encoder, 9, speaker))) for speaker in range(3)]
    assert np.abs(spoken[0] - spoken[1]).max() > 1e-3
    assert np.abs(spoken[1] - spoken[2]).max() > 1e-3


def test_noise_is_drawn_in_the_encoder_only() -> None:
    cut = cut_voice(build_voice())
    assert cut.encoder is not None and cut.flow is not None
    kinds = [{node.op_type for node in model.graph.node} for model in (cut.encoder, cut.flow.model, cut.decoder.model)]
    assert ["RandomNormalLike" in kind for kind in kinds] == [True, False, False]


@pytest.mark.parametrize("name", SHARED)
def test_shared_voices_are_exact(voices: Callable[[str], Path], name: str) -> None:
    path = voices(name)
    description, files = split_voice(path)
    assert description["max_diff"] <= 3e-5
    assert ("flow.onnx" in files) == (name != "sano-hfc")
    encoder = load(files["encoder.onnx"], threads=1)
    fed = feeds(read(path), 30, 1 if "2speakers" in name else 0)
    encoded = encoder.run(fed)
    signal = encoded[description["latents"]]
    for role, stage in description["stages"].items():
        conditions = {condition: encoded[condition] for condition in stage["conditions"]}
        signal = run(files[f"{role}.onnx"], {stage["input"]: signal, **conditions})[stage["output"]]
    whole = load(path, threads=1).run(fed)["output"]
    np.testing.assert_allclose(signal.ravel(), whole.ravel(), rtol=0, atol=1e-6)


def test_flow_with_an_unusual_mask_stays_in_the_encoder() -> None:
    cut = cut_voice(build_voice(VoiceShape(mask_in_sum=True)))
    assert cut.flow is None
    assert cut.latents == "z"


@pytest.mark.parametrize("speakers", [1, 3])
def test_pair_with_the_flow_inside_is_cut_further(speakers: int, tmp_path: Path) -> None:
    model = build_voice(VoiceShape(speakers=speakers))
    encoder, decoder = cut_before_flow(model)
    cut = cut_pair(encoder, decoder)
    whole_cut = cut_voice(model)
    assert cut.latents == "z" and cut.flow is not None and whole_cut.flow is not None
    assert cut.flow.context_frames == whole_cut.flow.context_frames
    assert cut.decoder.context_frames == whole_cut.decoder.context_frames
    fed = feeds(model, 17, speakers - 1)
    whole = run(model, fed)["output"].ravel()
    np.testing.assert_allclose(run_parts(cut, run(encoder, fed)), whole, rtol=0, atol=1e-6)
    paths = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    for part, path in zip((encoder, decoder), paths, strict=True):
        onnx.save(part, path)
    description, files = split_pair(*paths)
    assert sorted(files) == ["decoder.onnx", "flow.onnx"]
    assert description["max_diff"] <= 1e-6


def test_shared_voice_cut_before_the_flow(voices: Callable[[str], Path]) -> None:
    model = read(voices("random-tiny-2speakers"))
    encoder, decoder = cut_before_flow(model)
    cut = cut_pair(encoder, decoder)
    assert cut.flow is not None
    assert (cut.flow.context_frames, cut.decoder.context_frames) == (32, 11)
    fed = feeds(model, 25)
    whole = run(model, fed)["output"].ravel()
    np.testing.assert_allclose(run_parts(cut, run(encoder, fed)), whole, rtol=0, atol=1e-6)


def test_shared_pair_is_recognised_as_cut_after_the_flow(voices: Callable[[str], Path]) -> None:
    folder = voices("sano-kristin").parent
    description, files = split_pair(folder / "encoder.onnx", folder / "decoder.onnx")
    assert list(files) == ["decoder.onnx"]
    assert list(description["stages"]) == ["decoder"]
    assert description["stages"]["decoder"]["conditions"] == []
    assert description["stages"]["decoder"]["context_frames"] == 11


@pytest.mark.parametrize("speakers", [1, 3])
def test_voice_as_a_pair_for_other_programs(speakers: int, tmp_path: Path) -> None:
    model = build_voice(VoiceShape(speakers=speakers))
    path = tmp_path / "voice.onnx"
    onnx.save(model, path)
    encoder, decoder = cut_for_pair(model)
    conditions = ["g"] if speakers > 1 else []
    assert sorted(value.name for value in encoder.graph.output) == sorted(["z", "y_mask", *conditions])
    assert [value.name for value in decoder.graph.input] == ["z", "y_mask", *conditions]
    fed = feeds(model, 12, speakers - 1)
    np.testing.assert_array_equal(run(decoder, run(encoder, fed))["output"], run(model, fed)["output"])
    assert cut_pair(encoder, decoder).flow is None
    assert sorted(split_into_pair(path)[1]) == ["decoder.onnx", "encoder.onnx"]


def test_decoder_of_a_pair_that_is_not_understood_wants_whole_sentences(tmp_path: Path) -> None:
    encoder, decoder = cut_before_flow(build_voice())
    # Whoever takes the mean over time cannot be cut.
    last = decoder.graph.node[-1]
    last.output[0] = "raw"
    decoder.graph.node.append(helper.make_node("ReduceMean", ["raw"], ["mean"], axes=[-1]))
    decoder.graph.node.append(helper.make_node("Sub", ["raw", "mean"], ["output"]))
    with pytest.raises(GraphNotSplittable):
        cut_pair(encoder, decoder)
    for part, name in ((encoder, "encoder.onnx"), (decoder, "decoder.onnx")):
        onnx.save(part, tmp_path / name)
    description, files = split_pair(tmp_path / "encoder.onnx", tmp_path / "decoder.onnx")
    assert files == {}
    stage = description["stages"]["decoder"]
    assert stage["context_frames"] is None
    assert (description["latents"], stage["input"], stage["conditions"]) == ("z", "z", ["y_mask"])
    assert "ReduceMean" in description["reason"]


def test_halves_of_different_voices_are_refused() -> None:
    encoder, _ = cut_before_flow(build_voice())
    _, decoder = cut_before_flow(build_voice(VoiceShape(speakers=2)))
    with pytest.raises(ModelInvalid, match=r"takes .*g.* but encoder.onnx gives"):
        uncut_pair(encoder, decoder)


def test_parts_that_differ_from_the_whole_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto) -> Cut:
        cut = cut_voice(model)
        decoder = Part(cut.decoder.model, "z", "output", (), (cut.decoder.context_frames or 0) - 1)
        return Cut(cut.encoder, cut.latents, cut.flow, decoder, cut.hop, cut.channels)

    path = tmp_path / "voice.onnx"
    onnx.save(build_voice(), path)
    monkeypatch.setattr("wyoming_rknn.tts.piper.split.cut_voice", wrong)
    with pytest.raises(GraphNotSplittable, match="in windows by"):
        split_voice(path)


def test_voice_without_upsampling_cannot_be_cut() -> None:
    with pytest.raises(GraphNotSplittable, match="no upsampling"):
        cut_voice(build_voice(VoiceShape(upsampled=False)))


def test_shared_voice_behind_an_if_cannot_be_cut(voices: Callable[[str], Path]) -> None:
    with pytest.raises(GraphNotSplittable):
        split_voice(voices("sano-duo"))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (("x", "x_length", "scales"), "no Piper voice"),
        (("input", "input_lengths", "scales", "prosody_features"), "piper-plus"),
    ],
)
def test_foreign_graphs_are_refused(inputs: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ModelInvalid, match=reason):
        cut_voice(build_voice(VoiceShape(inputs=inputs)))


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08\x08"])
def test_files_that_are_no_onnx_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelInvalid, match=r"no ONNX model"):
        split_voice(path)


def test_half_a_download_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    content = build_voice().SerializeToString()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelInvalid):
        split_voice(path)


def test_names_that_clash_with_those_of_the_parts() -> None:
    model = build_voice(VoiceShape(speakers=2))
    wiring = Wiring(model)
    inner = [name for name in wiring.makers if name != "output"]
    # The names that the parts get are given to other tensors first.
    renamed = dict(zip(inner[5:9], ("z", "z_p", "cond", "g"), strict=True))
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    cut = cut_voice(model)
    assert cut.encoder is not None
    fed = feeds(model, 8, 1)
    whole = run(model, fed)["output"].ravel()
    np.testing.assert_allclose(run_parts(cut, run(cut.encoder, fed)), whole, rtol=0, atol=1e-6)


def test_tensors_that_a_subgraph_takes_from_around_it_are_kept() -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["outer", "outer"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["outer"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    # The input takes the name of the tensor that the subgraph sees, which must then be renamed there too.
    part = extract(Wiring(model), {"x": "outer", "yes": "yes"}, {"y": "y"})
    fed = {"outer": np.array([2.0, 3.0], np.float32), "yes": np.array(True)}
    np.testing.assert_array_equal(run(part, fed)["y"], [-4.0, -6.0])
