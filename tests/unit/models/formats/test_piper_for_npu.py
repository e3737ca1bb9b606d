"""Piper voices with a decoder for the NPU: converted here or elsewhere."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tiny_rknn import DECODER, write_rknn

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import sensevoice
from wyoming_rknn.models.formats.piper import detect
from wyoming_rknn.models.manifest import Detected, Manifest, Problem

CONFIG = {
    "audio": {"sample_rate": 22050, "quality": "medium"},
    "espeak": {"voice": "en-us"},
    "language": {"code": "en_US"},
    "phoneme_id_map": {"_": [0]},
}
ENCODER = b"weights" * 1000 + b"input input_lengths scales z"
ONNX_PARTS = ("encoder.onnx", "flow.onnx", "decoder.onnx")


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        if path.suffix == ".rknn":
            write_rknn(path, *DECODER)
        elif path.suffix == ".json":
            path.write_text(json.dumps(CONFIG))
        else:
            path.write_bytes(ENCODER if name == "encoder.onnx" else name.encode())
    return folder


def converted(folder: Path, flow: bool = True, **changes: Any) -> Path:
    """Make a folder as `models convert` does."""
    parts = [name for name in ONNX_PARTS if flow or name != "flow.onnx"]
    put(folder, *parts, "decoder.rknn", "decoder.golden.npz", "config.json")
    manifest = {
        "format": 1,
        "kind": "tts",
        "layout": "piper-parts",
        "name": "sano-hfc",
        "target": "rk3588",
        "files": {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()},
        "parts": {"stages": {"decoder": {}, **({"flow": {}} if flow else {})}},
        "graphs": [{"file": "decoder.rknn", "golden": "decoder.golden.npz", "frames": 55, "context_frames": 11}],
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


def only_voice(found: Detected) -> Manifest:
    (voice,) = found.manifests
    return voice


def only_problem(found: Detected) -> Problem:
    (problem,) = found.problems
    assert str(problem.error()) == problem.message
    return problem


@pytest.mark.parametrize("flow", [True, False])
def test_converted_voice(flow: bool, tmp_path: Path) -> None:
    folder = converted(tmp_path / "folder", flow)
    found = detect(folder)
    assert found.problems == ()
    voice = only_voice(found)
    assert (voice.kind, voice.format, voice.name) == ("tts", "piper-parts", "sano-hfc")
    assert (voice.rate_hz, voice.languages, voice.quality) == (22050, ("en-US", "en"), "medium")
    assert (voice.targets, voice.has_npu) == (("rk3588",), True)
    assert voice.description == "sano-hfc (en-US, medium, rk3588)"
    expected = {
        "encoder": "encoder.onnx",
        "decoder": "decoder.onnx",
        "config": "config.json",
        "npu-decoder": "decoder.rknn",
        "golden": "decoder.golden.npz",
        "manifest": "manifest.json",
    }
    assert dict(voice.files) == {
        role: folder / name for role, name in {**expected, **({"flow": "flow.onnx"} if flow else {})}.items()
    }
    assert sensevoice.detect(folder) == Detected()


def test_converted_voice_beside_an_ordinary_one(tmp_path: Path) -> None:
    folder = put(converted(tmp_path), "a.onnx", "a.onnx.json")
    found = detect(folder)
    assert found.problems == ()
    assert {voice.name: voice.format for voice in found.manifests} == {"sano-hfc": "piper-parts", "a": "piper"}


@pytest.mark.parametrize("name", ["encoder.onnx", "flow.onnx", "decoder.onnx", "config.json"])
def test_converted_voice_that_lacks_a_file(name: str, tmp_path: Path) -> None:
    folder = converted(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    problem = only_problem(detect(folder))
    assert (problem.name, problem.kind, problem.path) == ("sano-hfc", ModelInvalid, folder)
    assert f"{folder / name} has " in problem.message
    assert "copy it again, or convert the model again" in problem.message
    (folder / name).unlink()
    found = detect(folder)
    assert found.manifests == ()
    assert only_problem(found).kind is ModelFileMissing
    assert f"{folder / name} does not exist; copy it there" in only_problem(found).message


def test_converted_voice_without_what_only_an_npu_needs(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    (folder / "decoder.golden.npz").unlink()
    found = detect(folder)
    assert "golden" not in only_voice(found).files
    assert only_voice(found).has_npu
    assert "decoder.golden.npz does not exist" in only_problem(found).message

    folder = converted(tmp_path)
    whole = (folder / "decoder.rknn").read_bytes()
    for content in (whole[:-1], b"x" * len(whole), None):
        if content is None:
            (folder / "decoder.rknn").unlink()
        else:
            (folder / "decoder.rknn").write_bytes(content)
        found = detect(folder)
        voice, problem = only_voice(found), only_problem(found)
        assert (voice.format, voice.has_npu, voice.targets) == ("piper-parts", False, ())
        assert voice.files.keys() == {"encoder", "flow", "decoder", "config", "manifest"}
        assert (problem.path, problem.name) == (folder / "decoder.rknn", "sano-hfc")
        assert problem.message.endswith("until then the voice is decoded on the CPU")


def test_converted_voice_without_its_manifest(tmp_path: Path) -> None:
    # The encoder's latents go through the flow first, which no pair has.
    folder = converted(tmp_path / "voice")
    for content in ("{", '{"layout": "other"}', None):
        if content is None:
            (folder / "manifest.json").unlink()
        else:
            (folder / "manifest.json").write_text(content)
        found = detect(folder)
        assert found.manifests == ()
        assert "manifest.json is missing or damaged; copy it there" in only_problem(found).message
        assert only_problem(found).name == "voice"
    simple = converted(tmp_path / "simple", flow=False)
    (simple / "manifest.json").unlink()
    assert (only_voice(detect(simple)).format, only_voice(detect(simple)).name) == ("piper-pair", "simple")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"name": ""}, "is damaged"),
        ({"files": {"../encoder.onnx": {"bytes": 1}}}, "is damaged"),
        ({"files": {}}, "does not list encoder.onnx"),
    ],
)
def test_converted_voice_with_a_manifest_of_no_use(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = detect(converted(tmp_path, **changes))
    assert found.manifests == ()
    assert message in only_problem(found).message


def test_converted_voice_with_a_flow_that_is_not_listed(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["flow.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "does not list flow.onnx" in only_problem(detect(folder)).message


def test_converted_voice_for_the_cpu_alone(tmp_path: Path) -> None:
    voice = only_voice(detect(converted(tmp_path, graphs=[])))
    assert (voice.has_npu, voice.targets) == (False, ())


@pytest.mark.parametrize(
    ("decoder", "config"),
    [
        ("decoder.rknn", "config.json"),
        ("decoder.rknn", "piper.json"),
        ("flow_decoder.rknn", "config.json"),
        ("flow_decoder.rknn", "model.onnx.json"),
        ("flow_decoder.rknn", "en_US-amy-medium.onnx.json"),
    ],
)
def test_pairs_that_others_converted(decoder: str, config: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "ljspeech", "encoder.onnx", decoder, config)
    files = {"encoder": folder / "encoder.onnx", "npu-decoder": folder / decoder, "config": folder / config}
    found = detect(folder)
    voice = only_voice(found)
    assert found.problems == ()
    assert (voice.format, voice.name, voice.targets) == ("piper-pair", "ljspeech", ("rk3588",))
    assert dict(voice.files) == files
    put(folder, "decoder.onnx")
    assert dict(only_voice(detect(folder)).files) == {**files, "decoder": folder / "decoder.onnx"}


def test_a_pair_whose_npu_decoder_is_broken(tmp_path: Path) -> None:
    folder = put(tmp_path / "voice", "encoder.onnx", "decoder.rknn", "config.json")
    (folder / "decoder.rknn").write_bytes((folder / "decoder.rknn").read_bytes()[:-1])
    found = detect(folder)
    assert found.manifests == ()
    assert "decoder.rknn is cut short" in only_problem(found).message
    assert only_problem(found).name == "voice"
    put(folder, "decoder.onnx")
    found = detect(folder)
    assert only_voice(found).files.keys() == {"encoder", "decoder", "config"}
    assert only_problem(found).message.endswith("until then the voice is decoded on the CPU")


def test_a_pair_is_told_from_its_trailer(tmp_path: Path) -> None:
    folder = put(tmp_path, "encoder.onnx", "config.json")
    write_rknn(folder / "decoder.rknn", *DECODER, size=20_000_000)
    tracemalloc.start()
    try:
        assert only_voice(detect(folder)).has_npu
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_pairs_that_lack_something(tmp_path: Path) -> None:
    folder = put(tmp_path / "no-config", "encoder.onnx", "decoder.rknn")
    assert "put the voice's .json into it as config.json" in only_problem(detect(folder)).message
    for config in ("config.json", "model.onnx.json"):
        folder = put(tmp_path / config, "flow_decoder.rknn", config)
        problem = only_problem(detect(folder))
        assert "flow_decoder.rknn has no encoder: put the voice's encoder.onnx beside it" in problem.message
        assert (problem.name, problem.kind) == (config, ModelFileMissing)
    assert "has no decoder" in only_problem(detect(put(tmp_path / "x", "encoder.onnx", "config.json"))).message


def test_other_models_are_no_business_of_ours(tmp_path: Path) -> None:
    folder = put(tmp_path, "decoder.rknn", "model.rknn")
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    (folder / "encoder.onnx").write_bytes(b"pixels")
    assert detect(folder) == Detected()
