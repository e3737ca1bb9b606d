"""Fixtures of the protocol tests."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from protocol.harness.clips import Clip, known_clips
from protocol.harness.log import Log
from protocol.harness.servers import ROOT, ServerProcess


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the round trip through a recogniser at the end of the whole suite."""
    items.sort(key=lambda item: item.path.name == "test_zz_round_trip.py")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    caplog.set_level(logging.DEBUG, "wyoming_rknn")
    return Log(caplog)


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers as processes; each gets a folder of its own and is gone after the test."""
    started: list[ServerProcess] = []

    def start(*arguments: str, **options: Any) -> ServerProcess:
        started.append(ServerProcess(tmp_path_factory.mktemp("server"), *arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def _test_data(name: str, what: str) -> Path:
    folder = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"no test {what}: WYOMING_RKNN_TEST_DATA names no folder with them")
    return folder


@pytest.fixture(scope="session")
def voices() -> Path:
    """Return the folder of the test voices."""
    return _test_data("voices", "voices")


@pytest.fixture(scope="session")
def recognisers() -> Path:
    """Return the folder of the test models that listen."""
    return _test_data("asr", "models")


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    """Return the recordings that the test models understand, shortest first."""
    return known_clips(_test_data("speech", "recordings"))


@pytest.fixture(scope="session")
def split_cache(voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder in which the voices that are spoken with are cut already."""
    cache = tmp_path_factory.mktemp("cache")
    for voice in ("sano-hfc", "random-tiny", "random-medium"):
        options = ("--data-dir", str(voices), "--cache-dir", str(cache), "--voice", voice)
        server = ServerProcess(tmp_path_factory.mktemp("server"), *options)
        try:
            # A voice that nobody has cut yet takes 5 s on a machine with nothing else to do.
            server.wait_for_log(f"{voice} speaks by default", patience_s=120.0)
            server.stop()
        finally:
            server.kill()
    return cache
