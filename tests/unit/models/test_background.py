"""Downloads in the background: in order, one at a time, each failure told once and not repeated at once."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from downloading import options, workspace
from serving_files import Asked, FileServer, RemoteFile, listing, noise

from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.models import background, record
from wyoming_rknn.models.background import BackgroundDownloads
from wyoming_rknn.models.catalog_entry import CatalogEntry, CatalogFile, CatalogSource


def entry(name: str, *files: RemoteFile) -> CatalogEntry:
    found = (
        CatalogFile(each.name, CatalogSource(url=each.source.url), each.bytes, each.md5, each.sha256) for each in files
    )
    return CatalogEntry(name, "tts", "piper", files=tuple(found))


@contextmanager
def running(
    arrived: Callable[[CatalogEntry, Path], None] | None = None, **more: object
) -> Iterator[BackgroundDownloads]:
    downloads = BackgroundDownloads(options(attempts=1), arrived or (lambda entry, folder: None), **more)  # type: ignore[arg-type]
    try:
        yield downloads
    finally:
        downloads.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]


def settled(downloads: BackgroundDownloads, patience_s: float = 20.0) -> None:
    end = time.monotonic() + patience_s
    while downloads.under_way:
        assert time.monotonic() < end
        time.sleep(0.01)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_models_come_one_at_a_time_in_the_order_of_requests(server: FileServer, tmp_path: Path) -> None:
    came: list[str] = []
    with running(lambda entry, folder: came.append(entry.name)) as downloads:
        for number in range(3):
            wanted = entry(f"m{number}", server.plain(f"f{number}", noise(50_000, number), pause_s=0.02, piece=10_000))
            for _ in range(3):
                downloads.begin(wanted, tmp_path / wanted.name)
        assert downloads.under_way == {"m0", "m1", "m2"}
        settled(downloads)
    assert came == ["m0", "m1", "m2"]
    assert server.most_at_once == 1
    assert server.paths() == ["/files/f0", "/files/f1", "/files/f2"]
    for number in range(3):
        assert listing(tmp_path / f"m{number}")[f"f{number}"] == noise(50_000, number)
        # The record that `models add` writes, too.
        assert (tmp_path / f"m{number}" / "manifest.json").is_file()


def test_it_is_under_way_until_it_is_ready_for_use(server: FileServer, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    there, go_on = threading.Event(), threading.Event()

    def arrived(entry: CatalogEntry, folder: Path) -> None:
        assert (folder / "f").is_file()
        there.set()
        assert go_on.wait(20)

    with running(arrived) as downloads:
        downloads.begin(entry("amy", server.plain("f", noise(1_500_000))), tmp_path / "amy")
        assert there.wait(20)
        assert downloads.under_way == {"amy"}
        go_on.set()
        settled(downloads)
    assert messages(caplog, logging.INFO) == [f"fetching amy (1.5 MB) into {tmp_path / 'amy'}", "amy is ready"]


def test_the_thread_is_there_only_while_there_is_something_to_do(server: FileServer, tmp_path: Path) -> None:
    with running() as downloads:
        assert "downloads" not in {thread.name for thread in threading.enumerate()}
        for name in ("a", "b"):
            downloads.begin(entry(name, server.plain(name, b"abc")), tmp_path / name)
            settled(downloads)
            end = time.monotonic() + 20
            while "downloads" in {thread.name for thread in threading.enumerate()}:
                assert time.monotonic() < end
            assert (tmp_path / name / name).read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ({"status": 404}, "does not have"),
        ({"content": noise(1000, 2)}, "SHA-256"),
        ({"drops": 9, "drop_after": 100}, "the connection was lost"),
        ({"status": 500}, "500"),
    ],
)
def test_a_failure_is_one_warning_and_holds_up_nothing_else(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, manner: dict[str, object], reason: str
) -> None:
    wanted = entry("amy", server.plain("f", noise(1000)))
    for key, value in manner.items():
        setattr(server.served["/files/f"], key, value)
    with running() as downloads:
        downloads.begin(wanted, tmp_path / "amy")
        downloads.begin(entry("bob", server.plain("g", b"abc")), tmp_path / "bob")
        settled(downloads)
        asked = len(server.asked)
        downloads.begin(wanted, tmp_path / "amy")
        assert not downloads.under_way
    assert len(server.asked) == asked
    assert not (tmp_path / "amy").exists()
    assert (tmp_path / "bob" / "g").is_file()
    (warning,) = messages(caplog, logging.WARNING)
    assert warning.startswith("amy cannot be fetched: ")
    assert warning.endswith("; a request after 1 min or later tries again")
    assert reason in warning


def test_each_failure_makes_the_wait_longer_up_to_the_last(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(monotonic=lambda: now.s, s=1000.0)
    monkeypatch.setattr(background, "time", now)
    wanted = entry("amy", server.plain("f", noise(1000), status=404))
    with running() as downloads:
        for tries, wait_s in enumerate((60.0, 300.0, 1800.0, 1800.0), 1):
            downloads.begin(wanted, tmp_path / "amy")
            settled(downloads)
            assert len(server.asked) == tries
            now.s += wait_s - 1
            downloads.begin(wanted, tmp_path / "amy")
            assert not downloads.under_way
            now.s += 1


def test_success_forgets_failures(server: FileServer, tmp_path: Path, caplog) -> None:
    wanted = entry("amy", server.plain("f", noise(1000)))
    with running(back_off_s=(0.0, 60.0)) as downloads:
        for status in (404, 0, 404):
            server.served["/files/f"].status = status
            downloads.begin(wanted, tmp_path / "amy")
            settled(downloads)
            if not status:
                (tmp_path / "amy" / "f").unlink()
    assert [line.count("after 0 min") for line in messages(caplog, logging.WARNING)] == [1, 1]


@pytest.mark.parametrize("damage", [b"other", b"another size"])
def test_what_somebody_puts_there_meanwhile_stays(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    wanted = entry("amy", server.plain("f", b"files"))
    folder = tmp_path / "amy"

    def copy(asked: Asked) -> None:
        folder.mkdir()
        (folder / "f").write_bytes(damage)

    server.before = copy
    with running() as downloads:
        downloads.begin(wanted, folder)
        settled(downloads)
    assert (folder / "f").read_bytes() == damage
    (warning,) = messages(caplog, logging.WARNING)
    assert warning.startswith("amy cannot be fetched: ")
    same_size = "f is damaged; `wyoming-rknn models add amy` mends it; a request"
    assert (same_size if damage == b"other" else "exists and holds something else") in warning


def test_what_is_damaged_is_mended_by_none_but_the_user(server: FileServer, tmp_path: Path, caplog) -> None:
    wanted = entry("amy", server.plain("f", b"files"), server.plain("g", b"more"))
    with running() as downloads:
        downloads.begin(wanted, tmp_path / "amy")
        settled(downloads)
        (tmp_path / "amy" / "f").write_bytes(b"edited")
        downloads.begin(wanted, tmp_path / "amy")
        settled(downloads)
        assert (tmp_path / "amy" / "f").read_bytes() == b"edited"
        assert len(messages(caplog, logging.WARNING)) == 1
    # What is missing comes all the same.
    (tmp_path / "amy" / "f").unlink()
    with running() as downloads:
        downloads.begin(wanted, tmp_path / "amy")
        settled(downloads)
    assert (tmp_path / "amy" / "f").read_bytes() == b"files"


def test_what_is_of_no_use_when_it_has_come_is_told(server: FileServer, tmp_path: Path, caplog) -> None:
    def arrived(entry: CatalogEntry, folder: Path) -> None:
        raise ValueError("surprise") if entry.name == "bob" else ModelInvalid("amy is broken; take another")

    with running(arrived) as downloads:
        for name in ("amy", "bob"):
            downloads.begin(entry(name, server.plain(name, b"abc")), tmp_path / name)
        settled(downloads)
    assert messages(caplog, logging.WARNING) == [
        "amy was fetched but cannot be used: amy is broken; take another",
        "bob cannot be fetched: ValueError: surprise; a request after 1 min or later tries again",
    ]


def test_closed_in_the_middle_it_ends_at_once_and_leaves_nothing_that_looks_installed(
    server: FileServer, tmp_path: Path, caplog
) -> None:
    content = noise(1_000_000)
    wanted = entry("amy", server.plain("f", content, piece=20_000, pause_s=0.05))
    with running() as downloads:
        downloads.begin(wanted, tmp_path / "amy")
        downloads.begin(entry("bob", server.plain("g", b"abc")), tmp_path / "bob")
        part = workspace(tmp_path / "amy") / "f.part"
        end = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size > 100_000):
            assert time.monotonic() < end
            time.sleep(0.01)
        begin = time.monotonic()
        downloads.close()
        assert time.monotonic() - begin < 2.0
        downloads.begin(wanted, tmp_path / "amy")
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert not messages(caplog, logging.WARNING)
    server.served["/files/f"].pause_s = 0.0
    sent = server.sent
    with running() as downloads:
        downloads.begin(wanted, tmp_path / "amy")
        settled(downloads)
    assert listing(tmp_path / "amy")["f"] == content
    assert server.sent - sent < len(content)


def test_what_was_there_gets_its_record_too(server: FileServer, tmp_path: Path) -> None:
    wanted = entry("amy", server.plain("f", b"abc"))
    (tmp_path / "amy").mkdir()
    (tmp_path / "amy" / "f").write_bytes(b"abc")
    with running() as downloads:
        downloads.begin(wanted, tmp_path / "amy")
        settled(downloads)
    known = record.read(tmp_path / "amy")
    assert known is not None and known.origin.catalog == "amy"
    assert server.asked == []
