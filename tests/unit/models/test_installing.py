"""What is written beside models when they are installed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from downloading import options
from serving_files import FileServer, RemoteFile, model_of
from tiny_rknn import DECODER, write_rknn
from tiny_sensevoice import install

from wyoming_rknn.models import record
from wyoming_rknn.models.catalog_entry import CatalogEntry, CatalogFile, CatalogSource
from wyoming_rknn.models.download import fetch
from wyoming_rknn.models.fetching.wanted import Wanted
from wyoming_rknn.models.installing import finish_for, record_copied
from wyoming_rknn.models.record import MANIFEST, Origin, Record, RecordedFile, RecordedGraph

CONFIG = {
    "audio": {"sample_rate": 22050, "quality": "medium"},
    "espeak": {"voice": "en-us"},
    "language": {"code": "en_US"},
    "phoneme_id_map": {"_": [0]},
}


def entry_of(*files: RemoteFile, **fields: object) -> CatalogEntry:
    """Return a voice of the catalogue with these files."""
    known = tuple(
        CatalogFile(file.name, CatalogSource(**vars(file.source)), file.bytes, sha256=file.sha256) for file in files
    )
    facts = {"name": "amy", "kind": "tts", "format": "piper", "licence": "CC0", "languages": ("xx",), "files": known}
    return CatalogEntry(**{**facts, **fields})  # type: ignore[arg-type]


def voice(server: FileServer, **fields: object) -> CatalogEntry:
    return entry_of(
        server.hub("amy.onnx", b"graph"), server.hub("amy.onnx.json", json.dumps(CONFIG).encode()), **fields
    )


def installed(model: Wanted, folder: Path, server: FileServer, origin: Origin | None = None) -> Record:
    """Install as `models add` does and return what is written."""
    finish = finish_for(model, origin)
    finish(folder, fetch(model, folder, options(server), finish=finish))
    known = record.read(folder)
    assert known is not None
    return known


def test_a_voice_of_the_catalogue(server: FileServer, folder: Path) -> None:
    made = voice(server)
    known = installed(made, folder, server)
    assert (known.name, known.kind, known.layout, known.licence) == ("amy", "tts", "piper", "CC0")
    # What its config says is right where a catalogue may not be.
    assert (known.languages[0], known.rate_hz) == ("en-US", 22050)
    assert known.origin == Origin(catalog="amy", repo="someone/voices", revision="main")
    assert known.files["amy.onnx"] == RecordedFile(5, made.files[0].sha256 or "", Origin(path="dir/amy.onnx"))
    assert known.files.keys() == {"amy.onnx", "amy.onnx.json"}
    assert json.loads((folder / MANIFEST).read_text())["program"]


def test_it_is_there_before_the_model_appears(server: FileServer, folder: Path) -> None:
    model, seen = voice(server), []
    write = finish_for(model)

    def finish(where: Path, files: object) -> None:
        write(where, files)  # type: ignore[arg-type]
        seen.append((folder.exists(), (where / MANIFEST).exists()))

    fetch(model, folder, options(server), finish=finish)
    assert seen == [(False, True)]


def test_a_voice_that_was_there_without_one_gets_it_without_a_network(server: FileServer, folder: Path) -> None:
    model = voice(server)
    fetch(model, folder, options(server))
    assert not (folder / MANIFEST).exists()
    server.asked.clear()
    known = installed(model, folder, server)
    assert (known.origin.catalog, server.asked) == ("amy", [])
    # And is left alone from then on.
    before = (folder / MANIFEST).stat()
    assert installed(model, folder, server) == known
    assert (folder / MANIFEST).stat().st_ino == before.st_ino


def test_a_model_that_is_another_now_is_recorded_anew(server: FileServer, folder: Path) -> None:
    installed(voice(server), folder, server)
    newer = entry_of(server.hub("amy.onnx", b"a newer graph"), server.hub("amy.onnx.json", json.dumps(CONFIG).encode()))
    assert installed(newer, folder, server).files["amy.onnx"].bytes == 13


@pytest.mark.parametrize(
    "content",
    [
        '{"schema": "of others"}',
        '{"format": 1, "layout": "piper-parts", "name": "a", "files": {}, "source": {"file": "a"}}',
        '{"format": 2}',
        '["mine"]',
        "// a comment",
    ],
)
def test_what_somebody_else_wrote_stays(content: str, server: FileServer, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(content)
    fetch(model := voice(server), folder, options(server), finish=finish_for(model))
    assert (folder / MANIFEST).read_text() == content
    record_copied(folder, "amy", Origin())
    assert (folder / MANIFEST).read_text() == content


def test_a_manifest_that_is_fetched_stays(server: FileServer, folder: Path) -> None:
    model = entry_of(*map(server.hub, ("amy.onnx", MANIFEST), (b"graph", b"{")))
    fetch(model, folder, options(server), finish=finish_for(model))
    assert (folder / MANIFEST).read_bytes() == b"{"


def test_a_model_is_installed_where_nothing_can_be_written_beside_it(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(record, "write", refuse)
    fetch(model := voice(server), folder, options(server), finish=finish_for(model))
    assert sorted(path.name for path in folder.iterdir()) == ["amy.onnx", "amy.onnx.json"]


def test_files_from_several_places(server: FileServer, folder: Path) -> None:
    here = server.hub("amy.onnx", b"graph", repo="a/graphs")
    plain = server.plain("amy.onnx.json", json.dumps(CONFIG).encode())
    known = installed(entry_of(here, plain), folder, server)
    assert known.origin == Origin(catalog="amy")
    assert {name: str(file.origin) for name, file in known.files.items()} == {
        "amy.onnx": "a/graphs@main/dir/amy.onnx",
        "amy.onnx.json": f"{server.url}/files/amy.onnx.json",
    }


def test_what_may_be_secret_in_a_catalogue_is_not_recorded(server: FileServer, folder: Path) -> None:
    files = server.plain("amy.onnx", b"graph"), server.plain("amy.onnx.json", json.dumps(CONFIG).encode())
    signed = (replace(file, source=replace(file.source, url=f"{file.source.url}?key=SECRET")) for file in files)
    known = installed(entry_of(*signed), folder, server)
    assert known.files["amy.onnx"].origin == Origin(url=f"{server.url}/files/amy.onnx")
    assert "SECRET" not in (folder / MANIFEST).read_text()


def test_what_is_of_no_catalogue(server: FileServer, folder: Path) -> None:
    files = server.plain("amy.onnx", b"graph"), server.plain("amy.onnx.json", json.dumps(CONFIG).encode())
    known = installed(model_of(*files), folder, server, Origin(url="https://x.example/amy.onnx"))
    assert (known.kind, known.layout, known.rate_hz, known.licence) == ("tts", "piper", 22050, "")
    assert known.origin == Origin(url="https://x.example/amy.onnx")


def test_a_voice_for_the_npu(tmp_path: Path) -> None:
    for name in ("encoder.onnx", "decoder.onnx"):
        (tmp_path / name).write_bytes(b"input_lengths scales")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "decoder.golden.npz").write_bytes(b"golden")
    write_rknn(
        tmp_path / "decoder.rknn", *DECODER, targets=("RK3576",), toolkit="2.3.0", names=["dec.resblocks.0.convs."]
    )
    record_copied(tmp_path, "lj", Origin(path="/media/lj"))
    known = record.read(tmp_path)
    assert known is not None
    assert (known.name, known.layout, known.targets, known.toolkit) == ("lj", "piper-pair", ("rk3576",), "2.3.0")
    (graph,) = known.graphs
    assert (graph.file, graph.golden) == ("decoder.rknn", "decoder.golden.npz")
    assert graph.frames and graph.context_frames
    assert len(known.files) == 5
    assert all(len(file.sha256) == 64 for file in known.files.values())


def test_a_recogniser_for_the_npu(tmp_path: Path) -> None:
    install(tmp_path)
    for name, rows in (("encoder-10s.rknn", 167), ("encoder-3s.rknn", 50)):
        write_rknn(tmp_path / name, {"x": [1, rows, 560], "prompt": [4]}, {"logits": [1, rows + 4, 12]})
    (tmp_path / "broken.rknn").write_bytes(b"RKNN")
    record_copied(tmp_path, "small", Origin())
    known = record.read(tmp_path)
    assert known is not None
    assert (known.kind, known.layout, known.rate_hz) == ("asr", "sensevoice-npu", 16000)
    assert known.graphs == (RecordedGraph("encoder-10s.rknn", None, 167), RecordedGraph("encoder-3s.rknn", None, 50))
    assert "broken.rknn" in known.files


def test_graphs_in_folders_have_goldens_of_their_own(tmp_path: Path) -> None:
    for soc in ("rk3576", "rk3588"):
        (tmp_path / soc).mkdir()
        write_rknn(tmp_path / soc / "decoder.rknn", *DECODER, targets=(soc,), names=["dec.resblocks.0.convs."])
    (tmp_path / "rk3588" / "decoder.golden.npz").write_bytes(b"golden")
    record_copied(tmp_path, "amy", Origin())
    known = record.read(tmp_path)
    assert known is not None
    assert [(graph.file, graph.golden) for graph in known.graphs] == [
        ("rk3576/decoder.rknn", None),
        ("rk3588/decoder.rknn", "rk3588/decoder.golden.npz"),
    ]


def test_one_that_was_copied_too_stays(tmp_path: Path) -> None:
    (tmp_path / "amy.onnx").write_bytes(b"graph")
    known = Record("amy", layout="piper", origin=Origin(catalog="amy"))
    record.write(tmp_path, known, "1.0")
    record_copied(tmp_path, "amy", Origin(path="/media/amy"))
    assert record.read(tmp_path) == known


def test_hidden_files_and_names_that_are_no_text_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_bytes(b"a")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"a")
    record_copied(tmp_path, "amy", Origin())
    known = record.read(tmp_path)
    assert known is not None
    assert (known.files.keys(), known.layout) == ({"sub/a"}, "unknown")
    (tmp_path / MANIFEST).unlink()
    (tmp_path / "b\udcff").write_bytes(b"b")
    record_copied(tmp_path, "amy", Origin())
    assert not (tmp_path / MANIFEST).exists()


def test_what_a_catalogue_says_is_kept_of_what_no_engine_reads(server: FileServer, folder: Path) -> None:
    model = replace(voice(server), files=voice(server).files[:1], format="sounds", targets=("rk3588",), toolkit="2.0")
    known = installed(model, folder, server)
    assert (known.layout, known.languages, known.targets, known.toolkit) == ("sounds", ("xx",), ("rk3588",), "2.0")
