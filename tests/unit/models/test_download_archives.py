"""Models that come as a tar archive."""

import io
import os
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from serving_files import FileServer, RemoteFile, RemoteModel

from wyoming_rknn.errors import Cancelled, DiskFull, DownloadError, HashMismatch
from wyoming_rknn.models.download import DownloadOptions, damaged, fetch
from wyoming_rknn.models.fetching import archive as archives

MEMBERS = ("model-1/model.rknn", "./model-1/tokens.txt")
CONTENTS = {"model.rknn": os.urandom(200_000), "tokens.txt": b"<unk> 0\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sense"


def packed(mode: str = "w:bz2", **others: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in {"README": b"x", **CONTENTS, "large.wav": bytes(1000), **others}.items():
            info = tarfile.TarInfo(f"model-1/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def model(server: FileServer, content: bytes, members: tuple[str, ...] = MEMBERS) -> RemoteModel:
    file = replace(server.plain("model-1.tar.bz2", content), bytes=None, sha256=None, md5=None, unpack=members)
    return RemoteModel("sense", [file])


def options(**changes: object) -> DownloadOptions:
    return DownloadOptions(**{"endpoint": "http://127.0.0.1:9", "backoff_s": 0.01, **changes})  # type: ignore[arg-type]


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_members_that_are_wanted_come_out(server: FileServer, folder: Path, mode: str) -> None:
    files = model(server, packed(mode))
    found = fetch(files, folder, options())
    assert listing(folder.parent) == {f"sense/{name}": content for name, content in CONTENTS.items()}
    assert [(file.name, file.bytes) for file in found] == [("model.rknn", 200_000), ("tokens.txt", 8)]
    assert fetch(files, folder, options(offline=True)) == found
    assert len(server.asked) == 1


def test_beside_files_that_come_as_they_are(server: FileServer, folder: Path) -> None:
    files = model(server, packed())
    both = RemoteModel("sense", [*files.files, server.plain("am.mvn", b"mvn")])
    steps: list[tuple[int, int | None]] = []
    fetch(both, folder, options(), lambda *step: steps.append(step))
    assert listing(folder) == CONTENTS | {"am.mvn": b"mvn"}
    (folder / "tokens.txt").unlink()
    assert damaged(both, folder) == ("tokens.txt",)
    server.asked.clear()
    fetch(both, folder, options())
    assert server.paths() == ["/files/model-1.tar.bz2"]
    assert listing(folder) == CONTENTS | {"am.mvn": b"mvn"}
    assert steps[-1][0] == steps[-1][1]


def test_an_archive_that_is_there_is_not_fetched_again(server: FileServer, folder: Path) -> None:
    files = model(server, packed())
    workspace = folder.with_name(".sense.download")
    workspace.mkdir(parents=True)
    (workspace / "model-1.tar.bz2").write_bytes(packed())
    (workspace / "model.rknn.part").write_bytes(b"half")
    fetch(files, folder, options())
    assert server.asked == []
    assert listing(folder.parent) == {f"sense/{name}": content for name, content in CONTENTS.items()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_archives_that_are_broken_are_removed(server: FileServer, folder: Path, mode: str) -> None:
    whole = packed(mode)
    for content in (whole[: len(whole) // 2], b"<html>" + bytes(2000), whole[:60_000] + bytes(1000) + whole[61_000:]):
        if mode == "w" and content[:6] != b"<html>" and len(content) == len(whole):
            continue
        with pytest.raises(HashMismatch, match=r"model-1.tar.bz2 is broken and was removed"):
            fetch(model(server, content), folder, options())
        assert "model-1.tar.bz2" not in {path.name for path in folder.parent.rglob("*")}
        assert not folder.exists()


def test_members_that_are_not_there_or_no_files(server: FileServer, folder: Path) -> None:
    with pytest.raises(DownloadError, match=r"does not hold model-1/absent; mend the catalogue"):
        fetch(model(server, packed(), (*MEMBERS, "model-1/absent")), folder, options())
    with pytest.raises(DownloadError, match=r"model-1/hollow in model-1.tar.bz2 is empty or no plain file"):
        fetch(model(server, packed(hollow=b""), ("model-1/hollow",)), folder.parent / "b", options())
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        link = tarfile.TarInfo("model-1/model.rknn")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DownloadError, match="no plain file"):
        fetch(model(server, stream.getvalue(), MEMBERS[:1]), folder.parent / "c", options())
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("member", ["a/..", "..", "a/.hidden", "a/b.part"])
def test_members_that_lead_astray(server: FileServer, folder: Path, member: str) -> None:
    with pytest.raises(DownloadError, match="unusable name"):
        fetch(model(server, packed(), (member,)), folder, options())


def test_members_of_one_name(server: FileServer, folder: Path) -> None:
    with pytest.raises(DownloadError, match="twice"):
        fetch(model(server, packed(), ("a/x", "b/x")), folder, options())


def test_room_for_what_comes_out(server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, needed: int, what: str) -> None:
        raise DiskFull(f"{what} {needed}")

    monkeypatch.setattr(archives, "check_space", full)
    with pytest.raises(DiskFull, match=r"model\.rknn 200000"):
        fetch(model(server, packed()), folder, options())
    assert not folder.exists()


def test_a_stop_is_heeded(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(packed("w"))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        archives.unpack(tmp_path / "a.tar", MEMBERS, tmp_path, stop)
    assert not (tmp_path / "model.rknn").exists()


def test_unpacking_shows_how_far_it_is(server: FileServer, folder: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    content = packed("w", large=os.urandom(3_000_000))
    fetch(model(server, content), folder, options(), unpacking=lambda *step: steps.append(step))
    assert [total for _, total in steps] == [len(content)] * len(steps)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert len(steps) >= 3
    assert steps[-1][0] == len(content)


def test_a_stop_is_heeded_while_what_nobody_wants_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(packed("w", large=bytes(20_000_000)))
    stop = threading.Event()
    steps: list[int] = []

    def show(done: int, total: int | None) -> None:
        steps.append(done)
        stop.set()

    with pytest.raises(Cancelled):
        archives.unpack(tmp_path / "a.tar", MEMBERS, tmp_path, stop, show)
    assert len(steps) == 1
    assert not (tmp_path / "model.rknn").exists()


def test_an_archive_is_a_file_of_a_model() -> None:
    file = RemoteFile("a.tar", source=None, unpack=("x/a", "x/b"))  # type: ignore[arg-type]
    assert [each.name for each in archives.outcome(file)] == ["a", "b"]
    assert archives.outcome(replace(file, unpack=())) == (replace(file, unpack=()),)


def test_members_of_a_broken_archive_do_not_count(server: FileServer, folder: Path) -> None:
    """The second is what breaks it."""
    whole = packed("w:gz")
    with pytest.raises(HashMismatch):
        fetch(model(server, whole[:-2000] + bytes(1000) + whole[-1000:]), folder, options())
    assert {path.name for path in folder.parent.rglob("*.*")} <= {
        ".sense.download",
        "model.rknn.part",
        "tokens.txt.part",
    }
    fetch(model(server, whole), folder, options())
    assert listing(folder) == CONTENTS
