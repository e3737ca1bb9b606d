"""What lies beside an installed model: written whole, read with tolerance, and told with the model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from wyoming_rknn.models import record
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.models.record import MANIFEST, Origin, Record, RecordedFile, RecordedGraph
from wyoming_rknn.models.store import Store

CONFIG = {"audio": {"sample_rate": 22050}, "espeak": {"voice": "de"}, "phoneme_id_map": {"_": [0]}}
FILES = {
    "amy.onnx": RecordedFile(5, "ab" * 32, Origin(path="de/amy.onnx")),
    "amy.onnx.json": RecordedFile(len(json.dumps(CONFIG)), "cd" * 32),
}
AMY = Record(
    "amy",
    "tts",
    "piper",
    files=MappingProxyType(FILES),
    languages=("de-DE", "de"),
    rate_hz=22050,
    licence="CC0",
    origin=Origin(catalog="amy", repo="someone/voices", revision="v1"),
)
FOR_NPU = replace(
    AMY, files=MappingProxyType({**FILES, "sub/amy.rknn": RecordedFile(9)}), targets=("rk3588",), toolkit="2.3.2",
    graphs=(RecordedGraph("sub/amy.rknn", "amy.golden.npz", 55, 11), RecordedGraph("other.rknn")),
)  # fmt: skip
SMALLEST = {"format": 1, "layout": "piper", "name": "amy", "files": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a voice."""
    folder = tmp_path / "voices" / "amy"
    folder.mkdir(parents=True)
    (folder / "amy.onnx").write_bytes(b"graph")
    (folder / "amy.onnx.json").write_text(json.dumps(CONFIG))
    return folder


def voice_in(folder: Path) -> Manifest:
    (voice,) = Store([folder]).scan().manifests
    return voice


def say(folder: Path, content: object) -> None:
    (folder / MANIFEST).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("known", [AMY, FOR_NPU, Record("amy", layout="piper")])
def test_what_is_written_is_read(known: Record, folder: Path) -> None:
    record.write(folder, known, "1.0")
    assert record.read(folder) == known
    assert sorted(path.name for path in folder.iterdir()) == ["amy.onnx", "amy.onnx.json", MANIFEST]
    assert (folder / MANIFEST).stat().st_mode & 0o777 == 0o644
    # What is not known is not written.
    assert "null" not in (folder / MANIFEST).read_text()


def test_what_cannot_be_written_leaves_what_was(folder: Path) -> None:
    record.write(folder, AMY, "1.0")
    with pytest.raises(UnicodeEncodeError):
        record.write(folder, replace(AMY, licence="\ud800"), "1.0")
    assert record.read(folder) == AMY
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '"a"', "1" * 10_000, "[" * 100_000, {}, {"schema": "kokoro.convonly.bundle.v1"},
        {"name": "amy", "files": ["amy.onnx"], "version": 1}, {**SMALLEST, "format": 2}, {**SMALLEST, "format": True},
        {**SMALLEST, "name": None}, {**SMALLEST, "name": "a\nb"}, {**SMALLEST, "layout": ""},
        {**SMALLEST, "files": []}, {**SMALLEST, "files": {"a": 1}}, {**SMALLEST, "files": {"a": {"bytes": -1}}},
        {**SMALLEST, "files": {"../a": {"bytes": 1}}}, {**SMALLEST, "files": {"/a": {"bytes": 1}}},
        {**SMALLEST, "files": {"a//b": {"bytes": 1}}}, {**SMALLEST, "files": {"": {"bytes": 1}}},
        {**SMALLEST, "files": {"a": {"bytes": 1, "sha256": 1}}}, {**SMALLEST, "languages": "de"},
        {**SMALLEST, "rate_hz": "22050"}, {**SMALLEST, "source": "here"}, {**SMALLEST, "source": {"url": 1}},
        {**SMALLEST, "targets": [1]}, {**SMALLEST, "graphs": [{}]}, {**SMALLEST, "graphs": 1},
    ],
)  # fmt: skip
def test_what_others_write_is_no_record_and_no_obstacle(content: object, folder: Path) -> None:
    bare = voice_in(folder)
    say(folder, content)
    assert record.read(folder) is None
    assert voice_in(folder) == bare
    assert Store([folder]).scan().problems == ()


def test_a_manifest_that_is_no_file_is_none(folder: Path) -> None:
    (folder / MANIFEST).mkdir()
    assert record.read(folder) is None
    assert not record.is_ours_to_write(folder)
    assert voice_in(folder).name == "amy"


@pytest.mark.parametrize(
    ("content", "is_ours"),
    [
        (None, True),
        ("{", False),
        ("// a comment\n{}", False),
        (["mine"], False),
        ({**SMALLEST, "more": "x" * (5 << 20)}, False),
        (SMALLEST, True),
        ({"files": ["amy.onnx"]}, False),
        ({**SMALLEST, "format": 2}, False),
        ({**SMALLEST, "layout": "piper-parts", "target": "rk3588", "source": {"file": "amy.onnx"}}, False),
    ],
)
def test_whose_manifest_may_be_replaced(content: object, is_ours: bool, folder: Path) -> None:
    if content is not None:
        say(folder, content)
    assert record.is_ours_to_write(folder) == is_ours


@pytest.mark.parametrize(
    ("origin", "text", "address"),
    [
        (Origin(), "", ""),
        (Origin(file="amy.onnx", sha256="ab"), "amy.onnx", ""),
        (Origin(catalog="amy"), "amy", ""),
        (Origin(catalog="amy", repo="a/b", revision="v1"), "a/b@v1", ""),
        (
            Origin(repo="a/b", path="c/amy.onnx"),
            "a/b/c/amy.onnx",
            "https://huggingface.co/a/b/resolve/main/c/amy.onnx",
        ),
        (Origin(url="https://x.example/a"), "https://x.example/a", "https://x.example/a"),
        (Origin(path="amy.onnx"), "amy.onnx", ""),
    ],
)
def test_where_something_is_from(origin: Origin, text: str, address: str) -> None:
    assert (str(origin), origin.address) == (text, address)


# What the store makes of it.


def test_the_store_tells_what_the_record_does(folder: Path) -> None:
    record.write(folder, AMY, "1.0")
    voice = voice_in(folder)
    assert (voice.licence, voice.source, voice.bytes) == ("CC0", "someone/voices@v1", AMY.bytes)
    assert dict(Store([folder.parent]).scan().records) == {folder: AMY}


def test_without_one_the_size_is_that_of_the_files(folder: Path) -> None:
    voice = voice_in(folder)
    assert (voice.licence, voice.source, voice.bytes) == ("", "", 5 + len(json.dumps(CONFIG)))
    assert dict(Store([folder]).scan().records) == {}


def test_a_record_says_nothing_of_what_it_does_not_list(folder: Path) -> None:
    record.write(folder, AMY, "1.0")
    (folder / "zoe.onnx").write_bytes(b"another")
    (folder / "zoe.onnx.json").write_text(json.dumps(CONFIG))
    voices = {voice.name: voice for voice in Store([folder]).scan().manifests}
    assert {name: voice.licence for name, voice in voices.items()} == {"amy": "CC0", "zoe": ""}
    assert voices["zoe"].bytes == 7 + len(json.dumps(CONFIG))


def test_what_changes_is_read_again_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write(folder, AMY, "1.0")
    store, reads = Store([folder]), []

    def counting(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def count(path: Path) -> Any:
            reads.append(path)
            return read(path)

        return count

    monkeypatch.setattr(record, "read", counting(record.read))
    for _ in range(3):
        assert store.scan().manifests[0].licence == "CC0"
    assert len(reads) == 1
    record.write(folder, replace(AMY, licence="MIT, as of late"), "1.0")
    assert store.scan().manifests[0].licence == "MIT, as of late"
    (folder / MANIFEST).unlink()
    assert (store.scan().manifests[0].licence, len(reads)) == ("", 2)
