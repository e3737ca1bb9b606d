"""Fetching models: what arrives, what is kept when it is interrupted, and what the disk has to say."""

import errno
import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from downloading import leave_part, options, workspace
from serving_files import (
    Asked,
    FileServer,
    RemoteSource,
    Served,
    listing,
    model_of,
    noise,
    remote,
    unknown,
)

from wyoming_rknn.errors import (
    Cancelled,
    DiskFull,
    DownloadError,
    FolderNotWritable,
    NetworkUnavailable,
    RemoteFileMissing,
    UsageError,
)
from wyoming_rknn.models.download import DownloadOptions, damaged, discard, fetch
from wyoming_rknn.models.store import Store

# What comes, and where to.


def test_files_of_a_hub_and_plain_ones_arrive(server: FileServer, folder: Path) -> None:
    contents = {"amy.onnx": noise(300_000), "amy.onnx.json": b"{}", "extra/MODEL_CARD": b"free"}
    files = [
        server.hub("amy.onnx", contents["amy.onnx"]),
        server.plain("amy.onnx.json", contents["amy.onnx.json"]),
        replace(server.hub("MODEL_CARD", contents["extra/MODEL_CARD"]), name="extra/MODEL_CARD"),
    ]
    steps: list[tuple[int, int | None]] = []
    found = fetch(model_of(*files), folder, options(server), lambda done, total: steps.append((done, total)))
    assert listing(folder) == contents
    assert [path.name for path in folder.parent.iterdir()] == ["amy"]
    assert [(file.name, file.bytes, file.sha256) for file in found] == [
        (name, len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()
    ]
    assert steps[-1] == (sum(map(len, contents.values())),) * 2
    assert steps == sorted(steps)
    assert {asked.agent.split("/")[0] for asked in server.asked} == {"wyoming-rknn"}


def test_names_and_revisions_are_quoted(server: FileServer, folder: Path) -> None:
    file = server.hub("tugão #1.onnx", b"voice", revision="refs/pr/1")
    fetch(model_of(file), folder, options(server))
    assert server.paths()[0] == "/someone/voices/resolve/refs/pr/1/dir/tugão #1.onnx"
    assert listing(folder) == {"tugão #1.onnx": b"voice"}


def test_installed_models_touch_no_network(server: FileServer, folder: Path) -> None:
    file = server.hub("amy.onnx", noise(1000))
    bare = unknown(server.hub("amy.json", b"{}"))
    fetch(model_of(file, bare), folder, options(server))
    server.asked.clear()
    again = fetch(model_of(file, bare), folder, options(offline=True))
    assert [entry.bytes for entry in again] == [1000, 2]
    assert server.asked == []
    # A voice that someone copied there is as good.
    other = folder.parent / "copied"
    other.mkdir()
    (other / "amy.onnx").write_bytes(noise(1000))
    fetch(model_of(file), other, options(offline=True))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["amy", "copied"]


def test_offline_says_so(server: FileServer, folder: Path) -> None:
    with pytest.raises(NetworkUnavailable, match="amy is not installed, and HF_HUB_OFFLINE"):
        fetch(model_of(server.hub("a", b"a")), folder, options(server, offline=True))
    assert server.asked == []
    assert not folder.parent.exists()


def test_several_files_at_once_but_not_more(server: FileServer, folder: Path) -> None:
    files = [server.plain(f"{number}", noise(40_000, number), pause_s=0.05, piece=10_000) for number in range(8)]
    threads: list[int] = []
    server.before = lambda asked: threads.append(
        sum(each.name.startswith("download-") for each in threading.enumerate())
    )
    fetch(model_of(*files), folder, options(server))
    assert max(threads) == 4
    assert server.most_at_once > 1
    assert len(listing(folder)) == 8


def test_only_what_is_missing_or_wrong_is_fetched(server: FileServer, folder: Path) -> None:
    files = [server.plain(name, noise(1000, number)) for number, name in enumerate(("a", "b", "c"))]
    fetch(model_of(*files), folder, options(server))
    (folder / "own.txt").write_text("mine")
    (folder / "b").write_bytes(noise(1000, 77))
    (folder / "c").unlink()
    assert damaged(model_of(*files), folder) == ("b", "c")
    server.asked.clear()
    fetch(model_of(*files), folder, options(server))
    assert sorted(server.paths()) == ["/files/b", "/files/c"]
    assert listing(folder) == {"own.txt": b"mine", **{name: noise(1000, n) for n, name in enumerate("abc")}}
    assert [path.name for path in folder.parent.iterdir()] == ["amy"]


def test_a_damaged_model_stays_as_it_is_until_all_is_there(server: FileServer, folder: Path) -> None:
    good, bad = server.plain("good", noise(1000)), server.plain("bad", noise(1000), status=404)
    folder.mkdir(parents=True)
    (folder / "good").write_bytes(b"old")
    with pytest.raises(RemoteFileMissing):
        fetch(model_of(good, bad), folder, options(server, parallel=1))
    assert listing(folder) == {"good": b"old"}


def test_what_else_belongs_there_is_written_before_it_appears(server: FileServer, folder: Path) -> None:
    file = server.plain("a", b"abc")

    def finish(where: Path, files: object) -> None:
        assert not folder.exists()
        (where / "manifest.json").write_text("{}")

    fetch(model_of(file), folder, options(server), finish=finish)
    assert set(listing(folder)) == {"a", "manifest.json"}


def test_a_finish_that_fails_installs_nothing(server: FileServer, folder: Path) -> None:
    def finish(where: Path, files: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fetch(model_of(server.plain("a", b"abc")), folder, options(server), finish=finish)
    assert not folder.exists()


def test_a_folder_that_is_empty_or_a_link(server: FileServer, folder: Path) -> None:
    file = server.plain("a", b"abc")
    folder.mkdir(parents=True)
    fetch(model_of(file), folder, options(server))
    real = folder.parent.parent / "elsewhere"
    real.mkdir()
    (folder.parent / "link").symlink_to(real)
    fetch(model_of(file), folder.parent / "link", options(server))
    assert listing(folder) == listing(real) == {"a": b"abc"}


# What was interrupted.


def test_goes_on_where_it_ended(server: FileServer, folder: Path) -> None:
    content = noise(200_000)
    file = server.hub("a", content)
    leave_part(folder, "a", content[:150_000])
    fetch(model_of(file), folder, options(server))
    assert server.asked[-1].range == "bytes=150000-"
    assert server.sent == 50_000
    assert listing(folder) == {"a": content}


@pytest.mark.parametrize("hub", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_drops(server: FileServer, folder: Path, hub: bool, ranges: bool) -> None:
    content = noise(200_000)
    add = server.hub if hub else server.plain
    file = add("a", content, drops=3, drop_after=60_000, ranges=ranges, piece=20_000)
    fetch(model_of(file), folder, options(server))
    assert listing(folder) == {"a": content}
    assert server.sent == (200_000 if ranges else 380_000)


def test_a_connection_that_drops_at_the_same_place_for_ever(server: FileServer, folder: Path) -> None:
    file = server.plain("a", noise(200_000), drops=1000, drop_after=60_000, ranges=False)
    with pytest.raises(NetworkUnavailable, match=r"failed 3 times in a row: the connection was lost; try again later"):
        fetch(model_of(file), folder, options(server, attempts=3))
    assert len(server.asked) == 3
    assert not folder.exists()


def test_a_complete_part_needs_no_network(server: FileServer, folder: Path) -> None:
    file = server.plain("a", noise(1000))
    leave_part(folder, "a", noise(1000))
    fetch(model_of(file), folder, options(server))
    assert server.asked == []
    assert listing(folder) == {"a": noise(1000)}


@pytest.mark.parametrize("part", [noise(1000, 9), noise(600, 9), noise(3000, 9)], ids=["full", "short", "long"])
def test_a_part_of_something_else_is_fetched_anew(server: FileServer, folder: Path, part: bytes) -> None:
    file = server.plain("a", noise(1000))
    leave_part(folder, "a", part)
    fetch(model_of(file), folder, options(server))
    assert listing(folder) == {"a": noise(1000)}


def test_a_part_that_is_longer_than_the_file_of_unknown_size(server: FileServer, folder: Path) -> None:
    file = unknown(server.plain("a", noise(1000)))
    leave_part(folder, "a", noise(1500, 9))
    fetch(model_of(file), folder, options(server))
    assert listing(folder) == {"a": noise(1000)}


def test_without_a_hash_an_old_part_is_not_trusted(server: FileServer, folder: Path) -> None:
    file = unknown(server.plain("a", noise(1000)))
    leave_part(folder, "a", noise(500, 9))
    fetch(model_of(file), folder, options(server))
    assert listing(folder) == {"a": noise(1000)}


def test_without_a_hash_only_the_same_version_is_continued(server: FileServer, folder: Path) -> None:
    file = unknown(server.plain("a", noise(100_000, 1), tag='"one"', drops=1, drop_after=50_000, piece=10_000))
    new = Served(noise(100_000, 2), tag='"two"')

    def change(asked: Asked) -> None:
        if asked.range:
            server.served["/files/a"] = new

    server.before = change
    fetch(model_of(file), folder, options(server))
    assert [asked.if_range for asked in server.asked] == ["", '"one"']
    assert listing(folder) == {"a": noise(100_000, 2)}


def test_what_no_longer_belongs_to_the_model_does_not_come_along(server: FileServer, folder: Path) -> None:
    leave_part(folder, "old/gone", b"x")
    (workspace(folder) / "stray").write_bytes(b"y")
    fetch(model_of(server.plain("a", b"abc")), folder, options(server))
    assert listing(folder) == {"a": b"abc"}
    assert not (folder / "old").exists()


def test_a_model_that_is_not_whole_is_not_found(server: FileServer, folder: Path) -> None:
    config = b'{"audio": {"sample_rate": 22050}, "espeak": {"voice": "en"}, "phoneme_id_map": {"_": [0]}}'
    good = server.plain("amy.onnx.json", config)
    with pytest.raises(RemoteFileMissing):
        fetch(model_of(good, server.plain("amy.onnx", b"x", status=404)), folder, options(server, parallel=1))
    assert Store([folder.parent]).scan().manifests == ()
    assert Store([folder.parent]).scan().problems == ()
    fetch(model_of(good, server.plain("amy.onnx", b"x")), folder, options(server))
    assert [manifest.name for manifest in Store([folder.parent]).scan().manifests] == ["amy"]


def test_remains_go_when_asked(server: FileServer, folder: Path) -> None:
    leave_part(folder, "a", b"x")
    discard(folder)
    assert list(folder.parent.iterdir()) == []
    leave_part(folder, "a", b"x")
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    fetch(model_of(server.plain("a", b"abc")), folder, options(server))
    assert [path.name for path in folder.parent.iterdir()] == ["amy"]


# The disk.


def test_too_little_room_is_told_before_anything_is_fetched(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = server.hub("a", noise(1000))
    status = os.statvfs("/")
    fields = list(status)
    fields[4] = 8_001_000 // status.f_frsize
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    big = replace(file, bytes=50_000_000)
    with pytest.raises(DiskFull, match=r"amy needs 50\.0 MB more and its disk has 8\.0 MB free; free some"):
        fetch(model_of(big), folder, options(server))
    assert server.asked == []
    server.served[f"/storage/{file.sha256}"].content = noise(2_000_000)
    with pytest.raises(DiskFull, match=r"a needs 2\.0 MB more"):
        fetch(model_of(unknown(file)), folder, options(server))
    assert not folder.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up(server: FileServer, folder: Path) -> None:
    file = server.plain("a", noise(1000))
    workspace(folder).mkdir(parents=True)
    (workspace(folder) / "a.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"the disk of .* is full; free some space and try again"):
        fetch(model_of(file), folder, options(server))
    assert not folder.exists()


def test_a_folder_that_must_not_be_written_to(server: FileServer, folder: Path) -> None:
    folder.parent.mkdir()
    folder.parent.chmod(0o500)
    root = os.geteuid() == 0
    try:
        if root:
            folder.parents[1].chmod(0o755)
            os.seteuid(65534)
        with pytest.raises(FolderNotWritable, match="must not be used; check its owner and permissions"):
            fetch(model_of(server.plain("a", b"abc")), folder, options(server))
    finally:
        if root:
            os.seteuid(0)
        folder.parent.chmod(0o700)


def test_files_in_the_way(server: FileServer, folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")
    with pytest.raises(DownloadError, match="is in the way"):
        fetch(model_of(server.plain("a", b"abc")), folder, options(server))
    with pytest.raises(DownloadError, match=r"cannot be used for models: (Not a directory|File exists)"):
        fetch(model_of(server.plain("a", b"abc")), folder / "below", options(server))


def test_errors_of_the_disk_have_numbers() -> None:
    from wyoming_rknn.models.fetching.failures import of_disk

    assert isinstance(of_disk(OSError(errno.EDQUOT, "x"), Path("data")), DiskFull)
    assert isinstance(of_disk(OSError(errno.EROFS, "x"), Path("data")), FolderNotWritable)


# Ends before the end.


def test_a_stop_is_heeded_at_once(server: FileServer, folder: Path) -> None:
    file = server.plain("a", noise(1_000_000), silent=True)
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(model_of(file), folder, options(server, timeout_s=30.0), stop=stop)
    assert time.monotonic() - began < 5
    timer.join()
    assert set(listing(folder.parent)) == {".amy.download/a.part"}
    assert (workspace(folder) / "a.part").stat().st_size == 500_000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download-")]
    server.served["/files/a"].silent = False
    fetch(model_of(file), folder, options(server))
    assert server.asked[-1].range == "bytes=500000-"
    assert listing(folder) == {"a": noise(1_000_000)}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_parts_alone(server: FileServer, folder: Path, kind: type[BaseException]) -> None:
    file = server.plain("a", noise(400_000), piece=20_000, pause_s=0.05)

    def interrupt(done: int, total: int | None) -> None:
        if done > 50_000:
            raise kind

    with pytest.raises(kind):
        fetch(model_of(file), folder, options(server), interrupt)
    assert set(listing(folder.parent)) == {".amy.download/a.part"}
    server.served["/files/a"].pause_s = 0
    fetch(model_of(file), folder, options(server))
    assert server.asked[-1].range
    assert listing(folder) == {"a": noise(400_000)}


def test_an_error_of_one_file_ends_the_others(server: FileServer, folder: Path) -> None:
    slow = server.plain("slow", noise(1_000_000), silent=True)
    missing = server.plain("missing", b"x", status=404)

    def wait(asked: Asked) -> None:
        while asked.path == "/files/missing" and server.sent < 500_000:
            time.sleep(0.01)

    server.before = wait
    began = time.monotonic()
    with pytest.raises(RemoteFileMissing):
        fetch(model_of(slow, missing), folder, options(server, timeout_s=30.0))
    assert time.monotonic() - began < 5


# Words.


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "", ".", "a//b", ".hidden/a", "a.part", "a/"])
def test_names_that_lead_astray(server: FileServer, folder: Path, name: str) -> None:
    file = replace(server.plain("a", b"abc"), name=name)
    with pytest.raises(DownloadError, match="unusable name"):
        fetch(model_of(file), folder, options(server))
    assert server.asked == []


def test_models_that_cannot_be_fetched(server: FileServer, folder: Path) -> None:
    file = server.plain("a", b"abc")
    with pytest.raises(DownloadError, match="amy has no files"):
        fetch(model_of(), folder, options(server))
    with pytest.raises(DownloadError, match="amy has the file 'a' twice"):
        fetch(model_of(file, file), folder, options(server))
    for source in (RemoteSource(), RemoteSource(url="file:///etc/passwd"), RemoteSource(repo="a/b")):
        with pytest.raises(DownloadError, match="mend the catalogue"):
            fetch(model_of(replace(file, source=source)), folder, options(server))


def test_options_from_the_environment() -> None:
    assert DownloadOptions.of({}) == DownloadOptions()
    heeded = DownloadOptions.of(
        {"HF_ENDPOINT": "https://hub.example", "HF_TOKEN": " x\n", "HF_HUB_OFFLINE": "true"}, "https://mirror.example/m"
    )
    assert (heeded.endpoint, heeded.token, heeded.offline) == ("https://hub.example", "x", True)
    file = remote("a", b"", RemoteSource("someone/voices", "v1", "x/a.onnx"))
    assert heeded.address(file).url == "https://mirror.example/m/someone/voices/resolve/v1/x/a.onnx"
    for wrong in (
        "hub.example",
        "ftp://hub.example",
        "https://",
        "https://hub.example?x=1",
        "https://a:1@b",
        "https://[a",
    ):
        with pytest.raises(UsageError, match="HF_ENDPOINT must be an address"):
            DownloadOptions.of({"HF_ENDPOINT": wrong})
        with pytest.raises(UsageError, match="--model-url must be an address"):
            DownloadOptions.of({}, wrong)
    with pytest.raises(UsageError, match=r"not 'https://hub\.example/x'$"):
        DownloadOptions.of({"HF_ENDPOINT": "https://me:SECRET@hub.example/x?token=SECRET"})
