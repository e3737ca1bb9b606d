"""What is simplified is proven, and what cannot be proven stays as it was."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_piper import PHONEMES, VoiceShape, build_voice

from wyoming_rknn.tts.piper import lean as lean_module
from wyoming_rknn.tts.piper import parts, simplify
from wyoming_rknn.tts.piper.cut import Cut, cut_voice
from wyoming_rknn.tts.piper.facts import Call, Fact
from wyoming_rknn.tts.piper.lean import lean
from wyoming_rknn.tts.piper.split import read, split_voice
from wyoming_rknn.tts.piper.verify import Vocabulary


def tiny(speakers: int = 1) -> tuple[Cut, Vocabulary]:
    return cut_voice(build_voice(VoiceShape(speakers=speakers))), Vocabulary(PHONEMES, speakers)


def contents(cut: Cut) -> list[bytes]:
    assert cut.encoder is not None and cut.flow is not None
    return [model.SerializeToString(deterministic=True) for model in (cut.encoder, cut.flow.model)]


@pytest.mark.parametrize("speakers", [1, 3])
def test_encoder_and_flow_are_simplified(speakers: int) -> None:
    cut, vocabulary = tiny(speakers)
    before = contents(cut)
    simple, kept = lean(cut, vocabulary)
    assert kept == {}
    assert simple.decoder == cut.decoder
    assert contents(cut) == before
    assert simple.encoder is not None and simple.flow is not None
    assert "Concat" not in {node.op_type for node in simple.encoder.graph.node}
    assert [node.op_type for node in simple.flow.model.graph.node].count("ConstantOfShape") == (
        1 if speakers == 1 else 2
    )


def test_a_rule_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, vocabulary = tiny()
    before = contents(cut)
    sound = simplify._superfluous

    def broken(call: Call, fact: Fact) -> int | None:
        return 0 if call.node.op_type == "Tanh" else sound(call, fact)

    monkeypatch.setattr(simplify, "_superfluous", broken)
    simple, kept = lean(cut, vocabulary)
    assert list(kept) == ["flow"]
    assert kept["flow"].startswith("z is not the same for z_p (1, 6,")
    assert contents(simple)[1] == before[1]
    assert contents(simple)[0] != before[0]


def test_a_difference_that_only_noise_shows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, vocabulary = tiny()

    def quieter(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for node in changed.graph.node:
            if node.op_type == "RandomNormalLike":
                node.attribute.append(onnx.helper.make_attribute("scale", 0.5))
        return changed

    monkeypatch.setattr(lean_module, "simplify", quieter)
    _, kept = lean(cut, vocabulary)
    assert list(kept) == ["encoder"]


def test_one_bit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, vocabulary = tiny()
    assert cut.encoder is not None

    def nudged(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for weight in changed.graph.initializer:
            if list(weight.dims) == [PHONEMES, 6]:
                table = np.nextafter(numpy_helper.to_array(weight), np.float32(9), dtype=np.float32)
                weight.CopyFrom(numpy_helper.from_array(table, weight.name))
        return changed

    monkeypatch.setattr(lean_module, "simplify", nudged)
    _, kept = lean(cut, vocabulary)
    assert list(kept) == ["encoder"]


def test_whatever_goes_wrong_the_voice_is_split(tiny_voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: onnx.ModelProto) -> onnx.ModelProto:
        raise IndexError("no such axis")

    monkeypatch.setattr(lean_module, "simplify", failing)
    description, files = split_voice(tiny_voice)
    reason = "IndexError: no such axis"
    assert description["not_simplified"] == {"encoder": reason, "flow": reason}
    assert sorted(files) == ["decoder.onnx", "encoder.onnx", "flow.onnx"]


def test_a_graph_that_does_not_load_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, vocabulary = tiny()
    monkeypatch.setattr(lean_module, "simplify", lambda _: onnx.ModelProto())
    assert sorted(lean(cut, vocabulary)[1]) == ["encoder", "flow"]


def test_a_voice_without_flow_and_an_encoder_that_is_given(tmp_path: Path) -> None:
    cut = cut_voice(build_voice(VoiceShape(flow=False)))
    simple, kept = lean(cut, Vocabulary(PHONEMES, 1))
    assert (simple.flow, kept) == (None, {})
    assert lean(replace(cut, encoder=None), Vocabulary(PHONEMES, 1)) == (replace(cut, encoder=None), {})


def test_why_a_part_is_not_simplified_is_logged(
    tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = parts._run_child

    def told(*arguments: object) -> tuple[dict[str, object], dict[str, bytes]]:
        answer, content = run(*arguments)  # type: ignore[arg-type]
        answer["description"]["not_simplified"] = {"flow": "z is not the same"}
        return answer, content

    monkeypatch.setattr(parts, "_run_child", told)
    with caplog.at_level(logging.DEBUG):
        parts.load_parts({"graph": tiny_voice}, tmp_path)
    assert "the flow of tiny.onnx is not simplified: z is not the same" in caplog.text


@pytest.mark.parametrize("name", ["random-tiny-2speakers", "sano-hfc"])
def test_exported_voices_are_simplified(voices: Callable[[str], Path], name: str) -> None:
    description, files = split_voice(voices(name))
    assert description["not_simplified"] == {}
    assert len(onnx.load_from_string(files["encoder.onnx"]).graph.node) < len(read(voices(name)).graph.node) / 1.5
