"""Models that lie on this machine are copied into a data folder."""

import io
import json
import logging
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
from hub_voices import put, voice_files
from serving_files import listing
from tiny_rknn import write_rknn

from wyoming_rknn.errors import Cancelled, DiskFull, ModelError, ModelFileMissing, ModelInvalid, UsageError
from wyoming_rknn.models import adopt as adopting
from wyoming_rknn.models import record
from wyoming_rknn.models.adopt import Adopted, adopt
from wyoming_rknn.models.installing import record_copied
from wyoming_rknn.models.record import Origin
from wyoming_rknn.models.store import Store

VOICE = "de_DE-otto-low"
FILES = voice_files(VOICE)
GRAPH, CONFIG = f"{VOICE}.onnx", f"{VOICE}.onnx.json"


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """Return a folder with a voice and a stranger."""
    return put(tmp_path / "downloads", FILES | {"holiday.jpg": b"sun", "MODEL_CARD": b"a voice"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def pair(folder: Path) -> Path:
    return put(folder, {"encoder.onnx": FILES[GRAPH], "decoder.onnx": FILES[GRAPH], "config.json": FILES[CONFIG]})


def names(data: Path) -> list[str]:
    return [manifest.name for manifest in Store((data,)).scan().manifests]


def packed(path: Path, files: dict[str, bytes], mode: str = "") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{mode}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def nothing_is_left(data: Path) -> bool:
    return not data.exists() or list(data.iterdir()) == []


@pytest.mark.parametrize("given", [GRAPH, CONFIG, "."])
def test_a_voice_is_copied_without_what_lies_beside_it(voice: Path, data: Path, given: str) -> None:
    before = listing(voice)
    assert adopt(voice / given, data) == Adopted(data / VOICE, True)
    assert listing(data) == {f"{VOICE}/{name}": content for name, content in FILES.items()} | {
        f"{VOICE}/MODEL_CARD": b"a voice"
    }
    assert listing(voice) == before


def test_once_more_changes_nothing(voice: Path, data: Path) -> None:
    adopt(voice, data)
    folder = data / VOICE
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert adopt(voice, data) == Adopted(folder, False)
    assert adopt(folder, data) == adopt(folder / GRAPH, data) == Adopted(folder, False)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_one_of_the_same_name_is_not_replaced(voice: Path, data: Path, tmp_path: Path) -> None:
    adopt(voice, data)
    other = put(tmp_path / "other", voice_files(VOICE, seed=2))
    with pytest.raises(ModelError, match=rf"`wyoming-rknn models remove {VOICE}` first, or .* --name"):
        adopt(other, data)
    assert (data / VOICE / GRAPH).read_bytes() == FILES[GRAPH]
    assert adopt(other, data, "emil") == Adopted(data / "emil", True)
    assert names(data) == [VOICE, "emil"]


def test_strangers_in_the_way(voice: Path, data: Path) -> None:
    put(data / VOICE, {"notes.txt": b"mine"})
    with pytest.raises(ModelError, match="rename or delete it first"):
        adopt(voice, data)
    (data / "emil").write_text("mine")
    with pytest.raises(ModelError, match="a file has the model's name"):
        adopt(voice, data, "emil")
    (data / VOICE / "notes.txt").unlink()
    assert adopt(voice, data).is_new


def test_a_pair_has_the_name_of_its_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pair(tmp_path / "paroli" / "ljspeech")
    assert adopt(folder, data).folder.name == "ljspeech"
    assert adopt(folder / "encoder.onnx", data, "emil").folder.name == "emil"
    monkeypatch.chdir(folder)
    assert not adopt(Path(), data).is_new
    assert names(data) == ["emil", "ljspeech"]


def test_a_graph_for_the_npu_brings_what_belongs_to_it(data: Path, tmp_path: Path) -> None:
    folder = pair(tmp_path / "ljspeech")
    write_rknn(folder / "decoder.rknn", {"z": (1, 192, 55)}, {"audio": (1, 1, 14080)})
    adopt(folder / "decoder.rknn", data)
    assert listing(data / "ljspeech") == listing(folder)


def test_what_a_converted_voice_is_called_is_changed_in_its_manifest(data: Path, tmp_path: Path) -> None:
    folder = pair(tmp_path / "built")
    parts = {name: {"bytes": (folder / name).stat().st_size} for name in sorted(path.name for path in folder.iterdir())}
    manifest = {
        "format": 1, "layout": "piper-parts", "name": VOICE, "target": "rk3588", "files": parts, "graphs": [],
        "source": {"file": GRAPH, "sha256": "0" * 64}, "parts": {"stages": {}},
    }  # fmt: skip
    put(folder, {"manifest.json": json.dumps(manifest).encode()})
    adopt(folder, data)
    adopt(folder, data, "emil")
    assert names(data) == [VOICE, "emil"]
    assert listing(data / VOICE) == listing(folder)
    assert json.loads((data / "emil/manifest.json").read_bytes()) == {**manifest, "name": "emil"}


def test_the_record_of_a_renamed_model_is_made_anew(voice: Path, data: Path) -> None:
    def finish(folder: Path, name: str) -> None:
        record_copied(folder, name, Origin(path="/media/stick"))

    adopt(voice, data, finish=finish)
    assert record.read(data / VOICE) is not None
    adopt(data / VOICE, data, "emil", finish=finish)
    known = record.read(data / "emil")
    assert known is not None
    assert (known.name, known.origin) == ("emil", Origin(path="/media/stick"))
    assert set(known.files) == {"emil.onnx", "emil.onnx.json", "MODEL_CARD"}


def test_several_models_have_the_name_of_what_holds_them(data: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    put(both / "a", voice_files("de_DE-a-low"))
    put(both / "b", voice_files("de_DE-b-low"))
    assert adopt(both, data) == Adopted(data / "both", True)
    assert names(data) == ["de_DE-a-low", "de_DE-b-low"]
    assert adopt(both, data, "mine") == Adopted(data / "mine", True)


@pytest.mark.parametrize("name", ["otto-v1.tar.bz2", "otto-v1.tar.gz", "otto-v1.tgz", "otto-v1.tar", "otto-v1.zip"])
def test_archives(data: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopting, "_SHOWN_BYTES", 0)
    mode = {"bz2": "bz2", ".gz": "gz", "tgz": "gz"}.get(name[-3:], "")
    files = {f"top/{each}": content for each, content in FILES.items()} | {"top/.x/y": b"", "top/a.wav": b"wav"}
    steps: list[tuple[int, int | None]] = []
    archive = packed(tmp_path / name, files, mode)
    adopted = adopt(archive, data, progress=lambda *step: steps.append(step))
    assert adopted == Adopted(data / VOICE, True)
    assert listing(data) == {f"{VOICE}/{each}": content for each, content in FILES.items()}
    assert steps and steps[-1][0] == steps[-1][1]
    assert adopt(archive, data) == Adopted(data / VOICE, False)
    assert archive.is_file()


def test_a_model_without_a_folder_in_its_archive_is_called_as_that(data: Path, tmp_path: Path) -> None:
    folder = pair(tmp_path / "x")
    adopt(packed(tmp_path / "Otto.v1.zip", listing(folder)), data)
    assert names(data) == ["Otto.v1"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({GRAPH: FILES[GRAPH]}, f"{GRAPH} has no config: put {CONFIG} beside it"),
        ({CONFIG: FILES[CONFIG]}, f"{CONFIG} has no voice: put {GRAPH} beside it"),
        ({GRAPH: b"<html>", CONFIG: FILES[CONFIG]}, f"{GRAPH} is not an ONNX graph, or not a whole one"),
        ({GRAPH: FILES[GRAPH], CONFIG: b"{"}, CONFIG),
        ({"decoder.rknn": b"RKNN"}, "holds no model that can be used; give a Piper voice's .onnx"),
        ({"a.txt": b"text"}, "holds no model that can be used; give a Piper voice's .onnx"),
    ],
)
def test_what_is_no_model_is_told_and_leaves_nothing(
    data: Path, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    folder = put(tmp_path / "given", files)
    archive = packed(tmp_path / "given.zip", files)
    for path in (folder, folder / next(iter(files)), archive):
        with pytest.raises(ModelError) as caught:
            adopt(path, data)
        assert message in str(caught.value)
        assert ".unpacked" not in str(caught.value)
        assert nothing_is_left(data)


@pytest.mark.parametrize("weights", ["../weights", "{}/weights"])
def test_weights_that_lie_elsewhere_are_not_touched(data: Path, tmp_path: Path, weights: str) -> None:
    secret = tmp_path / "weights"
    secret.write_bytes(bytes(64))
    graph = onnx.load_from_string(FILES[GRAPH])
    tensor = graph.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", weights.format(tmp_path)
    folder = put(tmp_path / "given", FILES | {GRAPH: graph.SerializeToString()})
    for path in (folder, packed(tmp_path / "given.zip", listing(folder))):
        with pytest.raises(ModelInvalid, match="which lies elsewhere; put all into one folder"):
            adopt(path, data)
        assert nothing_is_left(data)
    assert secret.is_file()


def test_weights_beside_a_graph_come_along(data: Path, tmp_path: Path) -> None:
    graph = onnx.load_from_string(FILES[GRAPH])
    folder = put(tmp_path / "given", FILES)
    onnx.save(graph, folder / GRAPH, save_as_external_data=True, location="otto.bin", size_threshold=0)
    adopt(folder / GRAPH, data, "emil")
    assert {path.name for path in (data / "emil").iterdir()} == {"emil.onnx", "emil.onnx.json", "otto.bin"}


def test_archives_that_are_broken_or_lead_astray(data: Path, tmp_path: Path) -> None:
    for name in ("a.tar.gz", "a.tar.bz2", "a.zip", "a.tar"):
        (tmp_path / name).write_bytes(os.urandom(5000))
        with pytest.raises(ModelInvalid, match="is broken or no archive"):
            adopt(tmp_path / name, data)
        assert (tmp_path / name).is_file()
    cut = packed(tmp_path / "b.tar.gz", FILES, "gz")
    cut.write_bytes(cut.read_bytes()[:-3000])
    with pytest.raises(ModelInvalid, match="is broken or no archive"):
        adopt(cut, data)
    for name in ("c.tar", "c.zip"):
        with pytest.raises(ModelInvalid, match="would lead out of its folder"):
            adopt(packed(tmp_path / name, {f"../{GRAPH}": b"x"}), data)
    assert nothing_is_left(data)
    assert not (data.parent / GRAPH).exists()


@pytest.mark.parametrize("members", [("a", "a/b"), ("a/b", "a"), ("n" * 300,)])
def test_archives_that_no_folder_can_hold(data: Path, tmp_path: Path, members: Sequence[str]) -> None:
    for name in ("a.tar", "a.zip"):
        archive = packed(tmp_path / name, dict.fromkeys(members, b"x"))
        with pytest.raises(ModelInvalid, match=rf"{name} is broken or no archive: .*; fetch or copy it again"):
            adopt(archive, data)
        assert nothing_is_left(data)


def test_an_archive_whose_list_begins_before_it(data: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    # The size of the list, in the last 22 bytes.
    content[-10:-6] = (1 << 24).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(ModelInvalid, match="is broken or no archive"):
        adopt(archive, data)
    assert nothing_is_left(data)


def test_how_far_it_is_is_shown_for_what_is_large(voice: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int | None]] = []
    adopt(voice, data, progress=lambda *step: steps.append(step))
    assert steps == []
    monkeypatch.setattr(adopting, "_SHOWN_BYTES", 0)
    adopt(voice, data, "emil", progress=lambda *step: steps.append(step))
    total = sum(map(len, FILES.values())) + len(b"a voice")
    assert steps[-1] == (total, total)


def test_names(voice: Path, data: Path) -> None:
    for name in ("", "..", ".otto", "a/b", "a\n", "x" * 300, "a.part"):
        with pytest.raises(UsageError, match="cannot be a model's name"):
            adopt(voice, data, name)
    assert nothing_is_left(data)


def test_paths_that_are_none(voice: Path, data: Path) -> None:
    with pytest.raises(ModelFileMissing, match=r"nix\.onnx does not exist; give a Piper voice"):
        adopt(voice / "nix.onnx", data)
    adopt(voice, data)
    for path in (data, data.parent):
        with pytest.raises(ModelError, match="holds the data folder"):
            adopt(path, data)


def test_a_full_disk(voice: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs: list[int] = []

    def full(folder: Path, needed: int, what: str) -> None:
        needs.append(needed)
        raise DiskFull(what)

    monkeypatch.setattr(adopting, "check_space", full)
    with pytest.raises(DiskFull):
        adopt(voice / GRAPH, data)
    assert needs == [sum(map(len, FILES.values())) + len(b"a voice")]
    assert nothing_is_left(data)


def test_a_stop_is_heeded_and_a_failure_leaves_nothing(voice: Path, data: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    for path in (voice, packed(tmp_path / "a.tar", FILES)):
        with pytest.raises(Cancelled):
            adopt(path, data, stop=stop)
        assert nothing_is_left(data)

    def fail(folder: Path, name: str) -> None:
        assert listing(folder)
        raise ModelError(name)

    with pytest.raises(ModelError, match=VOICE):
        adopt(voice, data, finish=fail)
    assert nothing_is_left(data)


def test_what_a_killed_process_left_is_swept(voice: Path, data: Path) -> None:
    put(data / f".{VOICE}.added" / VOICE, {GRAPH: b"half"})
    adopt(voice, data)
    assert [path.name for path in data.iterdir()] == [VOICE]


def test_two_at_once_do_no_harm(voice: Path, data: Path) -> None:
    found: list[Adopted] = []
    threads = [threading.Thread(target=lambda: found.append(adopt(voice, data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(adopted.is_new for adopted in found) == [False, False, False, True]
    assert [path.name for path in data.iterdir()] == [VOICE]


def test_where_one_unpacks_another_waits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(adopting, "_SHOWN_BYTES", 0)
    archive = packed(tmp_path / "v.zip", FILES)
    begun = threading.Event()

    def hold(done: int, total: int | None) -> None:
        begun.set()
        end = time.monotonic() + 10
        while "waiting for another process that fetches v.unpacked" not in caplog.messages:
            assert time.monotonic() < end
            time.sleep(0.01)

    with ThreadPoolExecutor() as threads:
        first = threads.submit(adopt, archive, data, progress=hold)
        assert begun.wait(10)
        second = threads.submit(adopt, archive, data)
        assert (first.result(), second.result()) == (Adopted(data / VOICE, True), Adopted(data / VOICE, False))
    assert [path.name for path in data.iterdir()] == [VOICE]


def test_names_in_an_advice_are_as_a_shell_takes_them(tmp_path: Path) -> None:
    folder = put(tmp_path / "otto", voice_files("my otto; rm -rf ~"))
    assert "`wyoming-rknn models remove 'my otto; rm -rf ~'`" in str(adopting.in_the_way(folder))
