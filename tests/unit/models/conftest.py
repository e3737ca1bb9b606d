"""What the tests of downloads share: a server, where its models go, and options that do not wait."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_files import FileServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Return a server of files that no proxy stands before."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with FileServer() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where a model goes."""
    return tmp_path / "data" / "amy"
