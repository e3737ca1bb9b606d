"""Fetching models from servers and through networks with troubles."""

import shutil
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from downloading import leave_part, options
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
    DownloadError,
    HashMismatch,
    ModelGated,
    NetworkUnavailable,
    RemoteFileMissing,
)
from wyoming_rknn.models.catalog_entry import CatalogEntry, CatalogFile, CatalogSource
from wyoming_rknn.models.download import DownloadOptions, fetch


def test_a_server_that_recovers(server: FileServer, folder: Path) -> None:
    file = server.hub("a", b"abc", failures=3)
    fetch(model_of(file), folder, options(server))
    assert listing(folder) == {"a": b"abc"}


def test_a_server_that_does_not_recover(server: FileServer, folder: Path) -> None:
    with pytest.raises(NetworkUnavailable, match=r"127.0.0.1:\d+ failed 3 times in a row: it answers with HTTP status"):
        fetch(model_of(server.plain("a", b"abc", failures=99)), folder, options(server, attempts=3))
    assert len(server.asked) == 3


def test_a_server_that_says_when_to_come_back(server: FileServer, folder: Path) -> None:
    file = server.plain("a", b"abc", failures=1, headers={"Retry-After": "1"})
    began = time.monotonic()
    fetch(model_of(file), folder, options(server))
    assert time.monotonic() - began >= 0.9


def test_a_server_that_falls_silent(server: FileServer, folder: Path) -> None:
    file = server.plain("a", noise(1000), silent=True)

    def recover(asked: Asked) -> None:
        server.served["/files/a"].silent = not asked.range

    server.before = recover
    fetch(model_of(file), folder, options(server, timeout_s=0.3))
    assert [asked.range for asked in server.asked] == ["", "bytes=500-"]
    assert listing(folder) == {"a": noise(1000)}


def test_no_network(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        file = remote("a", b"abc", RemoteSource("someone/voices", None, "a"))
        with pytest.raises(NetworkUnavailable, match="cannot be reached: Connection refused; check the network"):
            fetch(model_of(file), folder, options(endpoint=address))
    with pytest.raises(NetworkUnavailable, match=r"nowhere\.invalid cannot be reached: .*; check the network"):
        fetch(model_of(file), folder, options(endpoint="https://nowhere.invalid"))
    assert not folder.exists()


@pytest.mark.parametrize("code", ["EntryNotFound", "RevisionNotFound", ""])
def test_a_file_that_is_not_there(server: FileServer, folder: Path, code: str) -> None:
    file = server.hub("a", b"abc")
    server.served["/someone/voices/resolve/main/dir/a"] = Served(status=404, error_code=code)
    with pytest.raises(RemoteFileMissing, match=r"does not have .*dir/a \(HTTP status 404\); try `wyoming-rknn models"):
        fetch(model_of(file), folder, options(server))
    assert len(server.asked) == 1


def test_a_repository_that_is_not_there(server: FileServer, folder: Path) -> None:
    file = server.hub("a", b"abc")
    server.served["/someone/voices/resolve/main/dir/a"] = Served(status=401, error_code="RepoNotFound")
    with pytest.raises(RemoteFileMissing, match=r"no repository http://.*/someone/voices, or it is private"):
        fetch(model_of(file), folder, options(server))


def test_a_gated_repository(server: FileServer, folder: Path) -> None:
    file = server.hub("a", b"abc", gated=True)
    page = f"accept the licence at {server.url}/someone/voices"
    with pytest.raises(ModelGated, match=f"{page}, set HF_TOKEN"):
        fetch(model_of(file), folder, options(server))
    fetch(model_of(file), folder, options(server, token="secret"))
    assert listing(folder) == {"a": b"abc"}
    # The storage it points to is not the hub.
    assert [asked.authorization for asked in server.asked] == ["", "Bearer secret", ""]
    server.served["/someone/voices/resolve/main/dir/a"] = Served(status=403, error_code="GatedRepo")
    with pytest.raises(ModelGated, match=f"your HF_TOKEN has no access yet: {page}"):
        fetch(model_of(file), folder.parent / "b", options(server, token="secret"))


def test_a_token_goes_where_it_belongs(server: FileServer, folder: Path) -> None:
    hub, plain = server.hub("a", b"abc", gated=True), server.plain("b", b"def")
    server.served["/someone/voices/resolve/main/dir/a"].redirect = "/moved"
    server.served["/moved"] = Served(b"abc")
    fetch(model_of(hub, plain), folder, options(server, token="secret"))
    seen = {asked.path: asked.authorization for asked in server.asked}
    assert seen.pop("/files/b") == ""
    assert set(seen.values()) == {"Bearer secret"}
    assert "secret" not in repr(options(token="secret"))
    away = DownloadOptions(endpoint="http://hub.example", token="secret").address(hub)
    assert away.token == ""


def test_a_mirror_gets_no_token(server: FileServer, folder: Path) -> None:
    file = server.hub("a", b"abc", gated=True)
    with pytest.raises(ModelGated, match=r"accept the licence at https://hub\.example/someone/voices"):
        fetch(model_of(file), folder, options(endpoint="https://hub.example", mirror=server.url, token="secret"))
    server.served["/someone/voices/resolve/main/dir/a"].gated = False
    fetch(model_of(file), folder, options(endpoint="https://hub.example", mirror=f"{server.url}/", token="secret"))
    assert listing(folder) == {"a": b"abc"}
    assert {asked.authorization for asked in server.asked} == {""}


def test_a_plain_address_that_is_refused(server: FileServer, folder: Path) -> None:
    with pytest.raises(ModelGated, match=r"refuses to give http://.*/files/a \(HTTP status 403\)"):
        fetch(model_of(server.plain("a", b"abc", status=403)), folder, options(server))


@pytest.mark.parametrize("fact", ["sha256", "md5"])
def test_content_that_is_not_what_was_asked_for(server: FileServer, folder: Path, fact: str) -> None:
    file = server.plain("a", noise(1000))
    server.served["/files/a"].content = noise(1000, 2)
    file = replace(file, **{other: None for other in ("sha256", "md5") if other != fact})
    with pytest.raises(HashMismatch, match=r"a from 127.0.0.1:\d+ has the (SHA-256|MD5) .* instead of "):
        fetch(model_of(file), folder, options(server))
    assert len(server.asked) == 1
    assert listing(folder.parent) == {}
    # With a part of the right version before it, the mixture is fetched anew, once.
    leave_part(folder, "a", noise(1000)[:500])
    with pytest.raises(HashMismatch):
        fetch(model_of(file), folder, options(server))
    assert len(server.asked) == 3
    assert listing(folder.parent) == {}


def test_content_of_another_size_is_not_even_read(server: FileServer, folder: Path) -> None:
    file = server.hub("a", noise(1000))
    content = noise(5_000_000)
    server.served[f"/storage/{file.sha256}"] = Served(content)
    with pytest.raises(HashMismatch, match="has 5000000 bytes instead of 1000; try `wyoming-rknn models update`"):
        fetch(model_of(file), folder, options(server))
    assert listing(folder.parent) == {}


def test_the_hubs_own_hash_is_taken_where_none_is_known(server: FileServer, folder: Path) -> None:
    file = server.hub("a", noise(1000))
    server.served[f"/storage/{file.sha256}"].content = noise(1000, 2)
    with pytest.raises(HashMismatch, match=f"instead of {file.sha256}"):
        fetch(model_of(unknown(file)), folder, options(server))
    server.served[f"/storage/{file.sha256}"].content = noise(1000)
    leave_part(folder, "a", noise(1000)[:600])
    server.sent = 0
    fetch(model_of(unknown(file)), folder, options(server))
    assert server.sent == 400


def test_lengths_that_are_not_told(server: FileServer, folder: Path) -> None:
    chunked = unknown(server.plain("a", noise(1000), chunked=True, drops=1, drop_after=500, piece=500))
    known = replace(server.plain("b", noise(1000), no_length=True), bytes=None)
    fetch(model_of(chunked, known), folder, options(server))
    assert listing(folder) == {"a": noise(1000), "b": noise(1000)}
    bare = unknown(server.plain("c", noise(1000), no_length=True))
    with pytest.raises(DownloadError, match="does not say how long c is"):
        fetch(model_of(bare), folder.parent / "c", options(server))
    empty = unknown(server.plain("d", b""))
    with pytest.raises(HashMismatch, match=r"d from .* is empty"):
        fetch(model_of(empty), folder.parent / "d", options(server))


def test_redirects_to_elsewhere_than_the_web(server: FileServer, folder: Path) -> None:
    file = server.plain("a", b"abc", redirect="file:///etc/hostname")
    with pytest.raises(DownloadError):
        fetch(model_of(file), folder, options(server))
    server.served["/files/a"].redirect = f"ftp://127.0.0.1:{server.port}/a"
    with pytest.raises(DownloadError, match="which is not safe"):
        fetch(model_of(file), folder, options(server))


def test_through_a_proxy(server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", server.url)
    server.served["/someone/voices/resolve/main/a"] = Served(b"abc")
    file = remote("a", b"abc", RemoteSource("someone/voices", None, "a"))
    fetch(model_of(file), folder, options(endpoint="http://hub.example"))
    assert listing(folder) == {"a": b"abc"}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_over_a_safe_connection(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer(key, certificate) as server:
        file = server.plain("a", noise(100_000), drops=1, drop_after=50_000, piece=10_000)
        with pytest.raises(NetworkUnavailable, match=r"certificate of 127.0.0.1:\d+ cannot be trusted \(self.signed"):
            fetch(model_of(file), folder, options(server))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fetch(model_of(file), folder, options(server))
        assert listing(folder) == {"a": noise(100_000)}
        server.served["/files/a"].redirect = "http://127.0.0.1:9/a"
        with pytest.raises(DownloadError, match=r"points to 'http://127.0.0.1:9/a', which is not safe"):
            fetch(model_of(file), folder.parent / "b", options(server))
        stop = threading.Event()
        server.served["/files/a"] = Served(noise(100_000), silent=True)
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            fetch(model_of(file), folder.parent / "c", options(server, timeout_s=30.0), stop=stop)
        timer.join()
        assert time.monotonic() - began < 5
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("download-")]


def test_a_catalogue_entry_is_a_model_to_fetch(server: FileServer, folder: Path) -> None:
    file = server.hub("a", b"abc")
    source = CatalogSource(file.source.repo, file.source.revision, file.source.path)
    entry = CatalogEntry("amy", "tts", "piper", files=(CatalogFile("a", source, 3, file.md5),))
    fetch(entry, folder, options(server))
    assert listing(folder) == {"a": b"abc"}


def test_drops_that_get_further_each_time_are_not_counted(server: FileServer, folder: Path) -> None:
    file = server.hub("a", noise(200_000), drops=9, drop_after=20_000, piece=20_000)
    fetch(model_of(file), folder, options(server, attempts=2))
    assert len([path for path in server.paths() if path.startswith("/storage")]) == 10
    assert server.sent == 200_000


def test_with_a_hash_tags_do_not_matter(server: FileServer, folder: Path) -> None:
    """Each place that a hub redirects to may have its own."""
    file = server.plain("a", noise(100_000), tag='"one"', drops=1, drop_after=50_000, piece=10_000)

    def change(asked: Asked) -> None:
        if asked.range:
            server.served["/files/a"].tag = '"two"'

    server.before = change
    fetch(model_of(file), folder, options(server))
    assert [(asked.range, asked.if_range) for asked in server.asked] == [("", ""), ("bytes=50000-", "")]
