"""Layouts in which Piper voices are found."""

import json
from pathlib import Path
from typing import Any

import pytest

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats.piper import detect

CONFIG: dict[str, Any] = {
    "audio": {"sample_rate": 22050, "quality": "medium"},
    "espeak": {"voice": "en-us"},
    "language": {"code": "en_GB"},
    "phoneme_id_map": {"_": [0]},
}
# Detection looks at the end of a graph, where its inputs are listed.
PIPER_GRAPH = b"weights" * 1000 + b"input input_lengths scales output"
OTHER_GRAPH = b"weights" * 1000 + b"pixels"


def put(folder: Path, *names: str, config: object = CONFIG, graph: bytes = PIPER_GRAPH) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        content = json.dumps(config).encode() if name.endswith(".json") else graph
        (folder / name).write_bytes(content)


def test_ordinary_voices(tmp_path: Path) -> None:
    put(
        tmp_path,
        "en_GB-alan-low.onnx",
        "en_GB-alan-low.onnx.json",
        "b.onnx",
        "b.onnx.json",
        "MODEL_CARD",
        "readme.json",
    )
    found = detect(tmp_path)
    assert found.problems == ()
    assert [manifest.name for manifest in found.manifests] == ["b", "en_GB-alan-low"]
    voice = found.manifests[1]
    assert (voice.kind, voice.format, voice.rate_hz) == ("tts", "piper", 22050)
    assert voice.languages == ("en-GB", "en")
    assert dict(voice.files) == {
        "graph": tmp_path / "en_GB-alan-low.onnx",
        "config": tmp_path / "en_GB-alan-low.onnx.json",
    }


@pytest.mark.parametrize(
    "config", ["config.json", "piper.json", "model.onnx.json", "someone.json", "encoder.onnx.json"]
)
def test_pairs(config: str, tmp_path: Path) -> None:
    folder = tmp_path / "ljspeech"
    put(folder, "encoder.onnx", "decoder.onnx", config)
    found = detect(folder)
    assert found.problems == ()
    (voice,) = found.manifests
    assert (voice.format, voice.name) == ("piper-pair", "ljspeech")
    assert dict(voice.files) == {
        "encoder": folder / "encoder.onnx",
        "decoder": folder / "decoder.onnx",
        "config": folder / config,
    }


def test_pair_beside_an_ordinary_voice(tmp_path: Path) -> None:
    put(tmp_path, "encoder.onnx", "decoder.onnx", "config.json", "a.onnx", "a.onnx.json")
    found = detect(tmp_path)
    assert [manifest.format for manifest in found.manifests] == ["piper", "piper-pair"]
    assert found.problems == ()


def test_several_speakers(tmp_path: Path) -> None:
    speakers = {"num_speakers": 2, "speaker_id_map": {"one": 1, "zero": 0}}
    put(tmp_path, "a.onnx", "a.onnx.json", config={**CONFIG, **speakers})
    (voice,) = detect(tmp_path).manifests
    assert voice.speakers == ("zero", "one")
    assert "2 speakers" in voice.description


def problems(folder: Path) -> list[str]:
    found = detect(folder)
    assert found.manifests == ()
    return [problem.message for problem in found.problems]


def test_config_that_is_broken(tmp_path: Path) -> None:
    put(tmp_path, "a.onnx")
    (tmp_path / "a.onnx.json").write_text("{")
    (message,) = problems(tmp_path)
    assert "a.onnx.json is not JSON" in message


@pytest.mark.parametrize("config", ["config.json", "piper.json"])
def test_config_of_a_pair_that_is_broken(config: str, tmp_path: Path) -> None:
    put(tmp_path, "encoder.onnx", "decoder.onnx")
    (tmp_path / config).write_text("{}")
    (message,) = problems(tmp_path)
    assert f"{config} is not the config of a Piper voice" in message


def test_voice_without_config(tmp_path: Path) -> None:
    put(tmp_path, "mine.onnx")
    (message,) = problems(tmp_path)
    assert message.endswith("mine.onnx has no config: put mine.onnx.json beside it")


def test_published_voice_without_config_and_half_downloaded(tmp_path: Path) -> None:
    put(tmp_path, "en_US-amy-medium.onnx", graph=b"half")
    assert len(problems(tmp_path)) == 1


@pytest.mark.parametrize("cut_off", ["voice.onnx", "encoder.onnx", "decoder.onnx"])
def test_a_graph_that_is_still_being_copied(tmp_path: Path, cut_off: str) -> None:
    folder = tmp_path / "voice"
    names = ("voice.onnx", "voice.onnx.json") if cut_off == "voice.onnx" else ("encoder.onnx", "decoder.onnx", "a.json")
    put(folder, *names)
    # Field 7, the graph, is longer than the file.
    put(folder, cut_off, graph=b"\x08\x08\x3a\xff\x7f" + PIPER_GRAPH)
    found = detect(folder)
    assert found.manifests == ()
    (problem,) = found.problems
    assert (problem.name, problem.kind) == ("voice", ModelInvalid)
    assert problem.message == f"{folder / cut_off} is not whole; wait until it is copied, or copy it again"
    put(folder, cut_off)
    assert [manifest.name for manifest in detect(folder).manifests] == ["voice"]


def test_config_without_voice(tmp_path: Path) -> None:
    put(tmp_path, "a.onnx.json")
    (message,) = problems(tmp_path)
    assert message.endswith("a.onnx.json has no voice: put a.onnx beside it")


def test_pair_without_config(tmp_path: Path) -> None:
    put(tmp_path, "encoder.onnx", "decoder.onnx")
    (message,) = problems(tmp_path)
    assert "put the voice's .json into it as config.json" in message


def test_encoder_without_decoder(tmp_path: Path) -> None:
    put(tmp_path, "encoder.onnx", "config.json")
    (message,) = problems(tmp_path)
    assert "put decoder.onnx beside it" in message


def test_other_models_are_no_business_of_ours(tmp_path: Path) -> None:
    put(tmp_path, "model.onnx", "encoder.onnx", "decoder.onnx", "silero_vad.onnx", graph=OTHER_GRAPH)
    put(tmp_path, "tokens.json", "config.json", "model.onnx.json", config={"model_type": "whisper"})
    (tmp_path / "model.onnx.json").unlink()
    assert problems(tmp_path) == []


def test_problems_know_the_voices_name_and_kind(tmp_path: Path) -> None:
    put(tmp_path, "mine.onnx", "his.onnx.json", "broken.onnx")
    (tmp_path / "broken.onnx.json").write_text("{")
    pairs = {"no-config": ("encoder.onnx", "decoder.onnx"), "no-decoder": ("encoder.onnx", "config.json")}
    for name, files in pairs.items():
        put(tmp_path / name, *files)
    put(tmp_path / "bad-config", "encoder.onnx", "decoder.onnx")
    (tmp_path / "bad-config" / "config.json").write_text("{}")
    found = [problem for folder in (".", *pairs, "bad-config") for problem in detect(tmp_path / folder).problems]
    assert {problem.name: type(problem.error()) for problem in found} == {
        "mine": ModelFileMissing,
        "his": ModelFileMissing,
        "broken": ModelInvalid,
        "no-config": ModelFileMissing,
        "no-decoder": ModelFileMissing,
        "bad-config": ModelInvalid,
    }
    assert all(str(problem.error()) == problem.message for problem in found)
    assert found[0].error() is not found[0].error()


def test_empty_folder(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
