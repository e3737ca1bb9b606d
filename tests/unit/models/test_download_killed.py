"""Fetching models in processes that are killed, and in several at once."""

import errno
import fcntl
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from downloading import options
from serving_files import (
    FileServer,
    RemoteModel,
    listing,
    model_of,
    noise,
)

from wyoming_rknn.models.download import damaged, fetch
from wyoming_rknn.models.fetching.archive import outcome
from wyoming_rknn.models.fetching.lock import locked

ROOT = Path(__file__).parents[3]


CHILD = """
import os, signal, sys
from pathlib import Path
from serving_files import RemoteModel
from wyoming_rknn.models.download import DownloadOptions, fetch

left = int(sys.argv[4])

def watch(event, arguments):
    global left
    # Everything that changes the disk, and every block that is read from it.
    if left and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "socket.connect"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

print("ready", flush=True)
sys.addaudithook(watch)
fetch(RemoteModel.from_json(sys.argv[1]), Path(sys.argv[2]), DownloadOptions(endpoint=sys.argv[3], parallel=2))
print("done", flush=True)
"""


def child(files: RemoteModel, folder: Path, server: FileServer, kill_at_step: int = 0) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, files.to_json(), str(folder), server.url, str(kill_at_step)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_whole_or_absent(files: RemoteModel, folder: Path) -> bool:
    visible = [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")]
    if not folder.exists():
        assert visible == []
        return False
    assert visible == [folder.name]
    assert damaged(files, folder) == ()
    assert set(listing(folder)) == {each.name for file in files.files for each in outcome(file)}
    return True


def test_killed_at_any_moment_it_ends_with_a_whole_model(server: FileServer, folder: Path) -> None:
    contents = [noise(400_000, 1), noise(200_000, 2), noise(500, 3)]
    files = model_of(*(server.hub(f"{n}", content, piece=10_000, pause_s=0.01) for n, content in enumerate(contents)))
    folder.parent.mkdir(parents=True)
    moments = random.Random(5)
    kills, sizes = 0, []
    while kills < 20:
        process = child(files, folder, server)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            # The whole takes 0.5 s; killed within 0.1 s, it needs several starts.
            time.sleep(moments.uniform(0.0, 0.1 if kills % 2 else 0.3))
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        if assert_whole_or_absent(files, folder):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        else:
            sizes.append(sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file()))
    assert any(size > 100_000 for size in sizes)
    fetch(files, folder, options(server))
    assert assert_whole_or_absent(files, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["amy"]


def test_killed_at_every_step_it_ends_with_a_whole_model(server: FileServer, folder: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("c", "d"):
            info = tarfile.TarInfo(name)
            info.size = 1000
            archive.addfile(info, io.BytesIO(noise(1000, 3)))
    packed = replace(server.plain("e.tar.gz", stream.getvalue()), unpack=("c", "d"))
    files = model_of(server.hub("a", noise(1000, 1)), server.plain("b", noise(2000, 2)), packed)
    folder.parent.mkdir(parents=True)
    for step in range(1, 100, 3):
        with child(files, folder, server, step) as process:
            out, _ = process.communicate()
        assert_whole_or_absent(files, folder)
        if process.returncode == 0:
            assert out == "ready\ndone\n"
            break
        assert process.returncode == -signal.SIGKILL
        fetch(files, folder, options(server))
        assert assert_whole_or_absent(files, folder)
        assert [path.name for path in folder.parent.iterdir()] == ["amy"]
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    else:
        pytest.fail("never came to an end")
    assert step > 15


def test_two_processes_fetch_once(server: FileServer, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = model_of(server.plain("a", noise(200_000), piece=10_000, pause_s=0.02))
    with child(files, folder, server) as first:
        while not server.asked:
            time.sleep(0.01)
        caplog.set_level("INFO")
        fetch(files, folder, options(server))
        out, _ = first.communicate()
    assert out == "ready\ndone\n"
    assert server.paths() == ["/files/a"]
    assert "waiting for another process that fetches amy" in caplog.text
    assert assert_whole_or_absent(files, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["amy"]


def test_many_threads_fetch_once(server: FileServer, folder: Path) -> None:
    files = model_of(server.plain("a", noise(100_000), piece=10_000, pause_s=0.01))
    threads = [threading.Thread(target=fetch, args=(files, folder, options(server))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.paths() == ["/files/a"]
    assert listing(folder.parent) == {"amy/a": noise(100_000)}


def test_a_lock_whose_file_went_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last holder removed the name between the opening and the locking; the next one would make a new file."""
    path, lock = tmp_path / ".amy.lock", fcntl.flock
    left = [path]

    def late(descriptor: int, operation: int) -> None:
        if left:
            left.pop().unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(path, threading.Event(), "amy"):
        assert path.exists()
    assert not path.exists()


def test_a_file_system_without_locks(server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    fetch(model_of(server.plain("a", b"abc")), folder, options(server))
    assert listing(folder.parent) == {"amy/a": b"abc"}
