"""Models from addresses that users give, against a server on this machine."""

import io
import logging
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from downloading import options
from hub_voices import put, voice_files
from serving_files import Asked, FileServer, listing

from wyoming_rknn.errors import ModelError, ModelInvalid, NetworkUnavailable, RemoteFileMissing
from wyoming_rknn.models import address, from_address, record
from wyoming_rknn.models.adopt import Adopted
from wyoming_rknn.models.from_address import install
from wyoming_rknn.models.record import Origin

VOICE = "de_DE-otto-low"
FILES = voice_files(VOICE)
GRAPH, CONFIG = f"{VOICE}.onnx", f"{VOICE}.onnx.json"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def url(server: FileServer) -> str:
    """Let the server have a voice and return its address."""
    for name, content in FILES.items():
        server.plain(name, content)
    return f"{server.url}/files/{GRAPH}"


def get(url: str, data: Path, server: FileServer, name: str | None = None) -> Adopted:
    return install(address.read(url, name, (server.url,)), data, options(server, attempts=1), name)


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:bz2") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./top/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def files_of(data: Path) -> dict[str, bytes]:
    return {name: content for name, content in listing(data).items() if not name.endswith("/manifest.json")}


def test_a_voice(url: str, data: Path, server: FileServer) -> None:
    assert get(url, data, server) == Adopted(data / VOICE, True)
    assert files_of(data) == {f"{VOICE}/{name}": content for name, content in FILES.items()}
    known = record.read(data / VOICE)
    assert known is not None
    assert (known.name, known.kind, known.origin) == (VOICE, "tts", Origin(url=url))
    assert {name: file.bytes for name, file in known.files.items()} == {k: len(v) for k, v in FILES.items()}


def test_what_is_there_is_not_asked_for_and_what_is_damaged_is_mended(url: str, data: Path, server: FileServer) -> None:
    get(url, data, server)
    server.asked.clear()
    assert get(url, data, server) == Adopted(data / VOICE, False)
    assert server.asked == []
    (data / VOICE / GRAPH).write_bytes(FILES[GRAPH][:-1] + b"!")
    assert get(url, data, server) == Adopted(data / VOICE, False)
    assert server.paths() == [f"/files/{GRAPH}"]
    assert (data / VOICE / GRAPH).read_bytes() == FILES[GRAPH]


def test_another_name_and_one_that_is_taken(url: str, data: Path, server: FileServer) -> None:
    put(data / VOICE, voice_files(VOICE, seed=2))
    before = listing(data)
    with pytest.raises(ModelError, match=f"`wyoming-rknn models remove {VOICE}` first"):
        get(url, data, server)
    assert server.asked == []
    assert listing(data) == before
    get(url, data, server, "emil")
    assert (data / "emil/emil.onnx").read_bytes() == FILES[GRAPH]


def test_a_file_of_a_hub_with_a_token_and_a_hash(data: Path, server: FileServer) -> None:
    for name, content in FILES.items():
        server.hub(name, content, gated=True)
    given = address.read(f"{server.url}/someone/voices/blob/main/dir/{GRAPH}", hubs=(server.url,))
    install(given, data, options(server, token="secret"))
    known = record.read(data / VOICE)
    assert known is not None
    assert known.origin.repo == "someone/voices"
    assert get(f"{server.url}/someone/voices/resolve/main/dir/{GRAPH}", data, server) == Adopted(data / VOICE, False)


def test_an_archive(data: Path, server: FileServer) -> None:
    server.plain("voices-1.tar.bz2", packed(FILES | {"README": b"text"}))
    url = f"{server.url}/files/voices-1.tar.bz2"
    assert get(url, data, server) == Adopted(data / VOICE, True)
    assert files_of(data) == {f"{VOICE}/{name}": content for name, content in FILES.items()}
    known = record.read(data / VOICE)
    assert known is not None
    assert known.origin == Origin(url=url)
    assert get(url, data, server) == Adopted(data / VOICE, False)
    assert len(server.asked) == 1
    (data / VOICE / CONFIG).write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"exists and holds something else; .* first"):
        get(url, data, server)
    assert get(url, data, server, "emil") == Adopted(data / "emil", True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({GRAPH: b"<html>" * 100, CONFIG: FILES[CONFIG]}, f"^{GRAPH} is not an ONNX graph, or not a whole one"),
        ({GRAPH: FILES[GRAPH], CONFIG: b"<html>"}, f"^{CONFIG} "),
    ],
)
def test_what_is_no_voice_leaves_nothing(data: Path, server: FileServer, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        server.plain(name, content)
    server.plain("a.tar.bz2", packed(files))
    with pytest.raises(ModelInvalid, match=message):
        get(f"{server.url}/files/{GRAPH}", data, server)
    assert list(data.iterdir()) == []
    with pytest.raises(ModelInvalid) as caught:
        get(f"{server.url}/files/a.tar.bz2", data, server)
    assert str(caught.value).startswith("a.tar.bz2: top/de_DE-otto-low.onnx")
    assert list(data.iterdir()) == []


def test_files_that_are_not_there(url: str, data: Path, server: FileServer) -> None:
    del server.served[f"/files/{CONFIG}"]
    with pytest.raises(RemoteFileMissing, match=r"does not have .*; check the address, and that a voice's .onnx.json"):
        get(url, data, server)
    with pytest.raises(RemoteFileMissing, match=r"does not have .*a\.zip \(HTTP status 404\); check the address$"):
        get(f"{server.url}/files/a.zip", data, server)
    assert list(data.iterdir()) == []


def test_what_was_interrupted_is_continued(data: Path, server: FileServer) -> None:
    content = packed(FILES)
    server.plain("a.tar.bz2", content, drops=1, drop_after=len(content) // 2)
    url = f"{server.url}/files/a.tar.bz2"
    server.served["/files/a.tar.bz2"].tag = '"1"'
    with pytest.raises(NetworkUnavailable):
        get(url, data, server)
    assert [path for path in data.iterdir() if not path.name.startswith(".")] == []
    assert get(url, data, server).is_new
    assert [path.name for path in data.iterdir()] == [VOICE]


def test_what_may_be_secret_in_an_address_is_not_recorded(url: str, data: Path, server: FileServer) -> None:
    get(f"{url}?signature=SECRET", data, server)
    known = record.read(data / VOICE)
    assert known is not None and known.origin == Origin(url=url)
    assert all("SECRET" not in path.read_text(errors="replace") for path in data.rglob("*") if path.is_file())
    server.asked.clear()
    # The next signature is another one, the address is the same.
    assert get(f"{url}?signature=another", data, server) == Adopted(data / VOICE, False)
    assert server.asked == []
    server.plain("a.tar.bz2", packed({"emil.onnx": FILES[GRAPH], "emil.onnx.json": FILES[CONFIG]}))
    got = get(f"{server.url}/files/a.tar.bz2?signature=SECRET", data, server)
    known = record.read(got.folder)
    assert known is not None and known.origin == Origin(url=f"{server.url}/files/a.tar.bz2")
    assert get(f"{server.url}/files/a.tar.bz2?signature=another", data, server) == Adopted(got.folder, False)


# Addresses that end in the same name.


@pytest.fixture
def others(server: FileServer) -> dict[str, dict[str, bytes]]:
    """Let the server have two voices of one name, and archives of others, and return their files."""
    voices = {"x": voice_files(VOICE, 16000, seed=1), "y": voice_files(VOICE, 22050, seed=2)}
    for place, files in voices.items():
        for name, content in files.items():
            server.plain(f"{place}/{name}", content)
        server.plain(f"{place}/v.tar.bz2", packed(voice_files(place, seed=3)))
    return voices


def test_what_another_address_left_is_not_taken(
    data: Path, server: FileServer, others: dict[str, dict[str, bytes]]
) -> None:
    server.served[f"/files/x/{CONFIG}"].status = 500

    def wait(asked: Asked) -> None:
        end = time.monotonic() + 10
        while asked.path == f"/files/x/{CONFIG}" and not any(data.glob(f".*/{GRAPH}")):
            assert time.monotonic() < end
            time.sleep(0.01)

    server.before = wait
    with pytest.raises(NetworkUnavailable):
        get(f"{server.url}/files/x/{GRAPH}", data, server)
    assert [name.rpartition("/")[2] for name in listing(data)] == [GRAPH]
    get(f"{server.url}/files/y/{GRAPH}", data, server)
    assert files_of(data) == {f"{VOICE}/{name}": content for name, content in others["y"].items()}
    assert [path.name for path in data.iterdir()] == [VOICE]


def test_an_archive_that_another_address_left_is_not_taken(
    data: Path, server: FileServer, others: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(from_address, "adopt", end)
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        get(f"{server.url}/files/x/v.tar.bz2", data, server)
    assert [name.rpartition("/")[2] for name in listing(data)] == ["v.tar.bz2"]
    assert get(f"{server.url}/files/y/v.tar.bz2", data, server) == Adopted(data / "y", True)
    # And of the first nothing is fetched twice.
    assert get(f"{server.url}/files/x/v.tar.bz2", data, server) == Adopted(data / "x", True)
    assert server.paths() == ["/files/x/v.tar.bz2", "/files/y/v.tar.bz2"]
    assert sorted(path.name for path in data.iterdir()) == ["x", "y"]


def at_once(server: FileServer, waiting: str, caplog: pytest.LogCaptureFixture, *gets: Callable[[], Adopted]) -> list:
    """Return what each came to; the first goes on when as many wait for it as there are others."""
    caplog.set_level(logging.INFO)

    def hold(asked: Asked) -> None:
        end = time.monotonic() + 10
        while [record.getMessage() for record in caplog.records].count(waiting) < len(gets) - 1:
            assert time.monotonic() < end
            time.sleep(0.01)

    def do(get: Callable[[], Adopted]) -> object:
        try:
            return get()
        except ModelError as error:
            return error

    server.before = hold
    with ThreadPoolExecutor() as threads:
        first = threads.submit(do, gets[0])
        while not server.asked:
            assert not first.done()
            time.sleep(0.01)
        found = list(threads.map(do, gets[1:]))
        return [first.result(), *found]


def test_of_two_at_once_the_second_is_told_that_the_first_has_the_name(
    data: Path, server: FileServer, others: dict[str, dict[str, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    gets = [partial(get, f"{server.url}/files/{place}/{GRAPH}", data, server) for place in "xy"]
    first, second = at_once(server, f"waiting for another process that fetches {VOICE}", caplog, *gets)
    assert first == Adopted(data / VOICE, True)
    assert f"{data / VOICE} exists and holds something else" in str(second)
    assert files_of(data) == {f"{VOICE}/{name}": content for name, content in others["x"].items()}


def test_an_archive_that_several_ask_for_is_fetched_once(
    data: Path, server: FileServer, others: object, caplog: pytest.LogCaptureFixture
) -> None:
    gets = [partial(get, f"{server.url}/files/x/v.tar.bz2", data, server)] * 3
    found = at_once(server, "waiting for another process that fetches v", caplog, *gets)
    assert found == [Adopted(data / "x", True), Adopted(data / "x", False), Adopted(data / "x", False)]
    assert server.paths() == ["/files/x/v.tar.bz2"]
    assert [path.name for path in data.iterdir()] == ["x"]
