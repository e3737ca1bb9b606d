"""Addresses as they are told and recorded, and what of them never is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from downloading import options
from serving_files import FileServer, RemoteSource, model_of, unknown

from wyoming_rknn.errors import DownloadError
from wyoming_rknn.models.download import fetch
from wyoming_rknn.models.fetching.http import Address, shown


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with FileServer() as running:
        yield running


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://x.example:8443/a%20b/c.onnx", "https://x.example:8443/a%20b/c.onnx"),
        ("https://x.example/v@1/c.onnx?key=SECRET#SECRET", "https://x.example/v@1/c.onnx"),
        ("https://me:SECRET@x.example/c.onnx", "https://x.example/c.onnx"),
        ("https://SECRET@[::1]:80/c.onnx", "https://[::1]:80/c.onnx"),
        ("https://me:SEC/RET@x.example/c.onnx", "an address that cannot be read"),
        ("https://[me:SECRET@x.example", "an address that cannot be read"),
        ("nowhere?key=SECRET", "nowhere"),
    ],
)
def test_what_is_told_of_an_address(url: str, told: str) -> None:
    assert shown(url) == Address(url).shown == told


@pytest.mark.parametrize(
    "manner", [{"status": 404}, {"status": 403}, {"status": 400}, {"redirect": "ftp://127.0.0.1/a?key=SECRET"}]
)
def test_no_error_tells_a_secret(manner: dict[str, object], server: FileServer, tmp_path: Path) -> None:
    file = unknown(server.plain("a", b"abc", **manner))
    file = replace(file, source=RemoteSource(url=f"{file.source.url}?key=SECRET"))
    with pytest.raises(DownloadError) as caught:
        fetch(model_of(file), tmp_path / "amy", options(server))
    assert "127.0.0.1" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///a?key=SECRET", "http://x.example:SECRET@x.example/a", "http://a:b?key=SECRET"]
)
def test_no_address_that_cannot_be_used_tells_a_secret(url: str, server: FileServer, tmp_path: Path) -> None:
    file = replace(server.plain("a", b"abc"), source=RemoteSource(url=url))
    with pytest.raises(DownloadError, match="mend the catalogue") as caught:
        fetch(model_of(file), tmp_path / "amy", options(server))
    assert "SECRET" not in str(caught.value)
