"""Manifests that `models convert` writes beside what it converts."""

import json
from pathlib import Path
from typing import Any

import pytest

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import converted
from wyoming_rknn.models.record import RecordedGraph

MANIFEST: dict[str, Any] = {
    "format": 1,
    "kind": "tts",
    "layout": "piper-parts",
    "name": "sano hfc",
    "target": "RK3588",
    "files": {"decoder.rknn": {"bytes": 3, "sha256": "0"}, "flow.onnx": {"bytes": 0}},
    "parts": {"stages": {"flow": {}, "decoder": {}}},
    "graphs": [
        {"file": "decoder.rknn", "golden": "decoder.golden.npz", "frames": 55, "context_frames": 11},
        {"file": "small.rknn", "frames": 24},
    ],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**MANIFEST, **changes}))
    return path


def test_what_a_manifest_says(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = converted.read(path, converted.PIPER)
    assert found is not None
    assert (found.path, found.name, found.targets) == (path, "sano hfc", ("rk3588",))
    assert dict(found.sizes) == {"decoder.rknn": 3, "flow.onnx": 0}
    assert found.stages == {"flow", "decoder"}
    assert found.graphs == (
        RecordedGraph("decoder.rknn", "decoder.golden.npz", 55, 11),
        RecordedGraph("small.rknn", None, 24, None),
    )


def test_files_are_compared_by_size(tmp_path: Path) -> None:
    found = converted.read(write(tmp_path), converted.PIPER)
    assert found is not None
    flaw = found.flaw("decoder.rknn")
    assert isinstance(flaw, ModelFileMissing)
    assert "decoder.rknn does not exist; copy it there" in str(flaw)
    (tmp_path / "decoder.rknn").write_bytes(b"1234")
    flaw = found.flaw("decoder.rknn")
    assert isinstance(flaw, ModelInvalid)
    assert "has 4 bytes, manifest.json says 3; copy it again" in str(flaw)
    (tmp_path / "decoder.rknn").write_bytes(b"123")
    assert found.flaw("decoder.rknn") is None
    assert "does not list unknown.onnx" in str(found.flaw("unknown.onnx"))


def test_manifests_of_others(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert converted.read(path, converted.PIPER) is None
    for content in (b"", b"{", b"\xff", b"[]", b"{}", b'{"layout": "kokoro"}', b"[" * 100_000):
        path.write_bytes(content)
        assert converted.read(path, converted.PIPER) is None
    assert converted.read(write(tmp_path), converted.SENSEVOICE) is None


@pytest.mark.parametrize("version", [None, 2, "1"])
def test_manifests_of_another_time(version: object, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"has format .*, 1 is known; update wyoming-rknn, or convert"):
        converted.read(write(tmp_path, format=version), converted.PIPER)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("files", "graphs", "name") for value in (None, 1, [1], {"a": 1})),
        *(("name", value) for value in ("", "a\nb")),
        *(("files", {name: {"bytes": 1}}) for name in ("", "..", "../x", "/etc/passwd", "a/b", "a\0b", "\ud800")),
        *(("files", {"a": {"bytes": value}}) for value in (-1, None, "1", True, 1.5)),
        *(("graphs", [{"file": "a.rknn", "frames": value}]) for value in (None, "55")),
        ("graphs", [{"file": "../a.rknn", "frames": 55}]),
        ("graphs", [{"file": "a.rknn", "frames": 55, "golden": "../b"}]),
        ("graphs", [{"file": "a.rknn", "frames": 55, "context_frames": -1}]),
        ("parts", []),
    ],
)
def test_manifests_that_are_damaged(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"manifest\.json is damaged .*; convert the model again"):
        converted.read(write(tmp_path, **{key: value}), converted.PIPER)


def test_speech_models_have_no_parts(tmp_path: Path) -> None:
    path = write(tmp_path, layout="sensevoice-rknn", target=None)
    content = json.loads(path.read_text())
    del content["parts"]
    path.write_text(json.dumps(content))
    found = converted.read(path, converted.SENSEVOICE)
    assert found is not None
    assert (found.stages, found.targets) == (frozenset(), ())
