import asyncio
import logging
import subprocess
import sys
import threading
import time

import pytest

from wyoming_rknn import __version__
from wyoming_rknn.server import addresses, discovery
from wyoming_rknn.server.discovery import Announcement, Announcer


async def first_message(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(10):
        while not caplog.records:  # noqa: ASYNC110 - logging sets no event
            await asyncio.sleep(0.01)


def test_zeroconf_is_not_loaded_before_it_is_needed() -> None:
    program = (
        "import sys\n"
        "from wyoming_rknn.server.discovery import Announcement, Announcer\n"
        "Announcer([Announcement('rknn', 10800, '0.0.0.0')])\n"
        "print(sorted({'zeroconf', 'ifaddr'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_record_says_where_and_in_which_version() -> None:
    service = discovery._Service(Announcement("rknn-1a", 10800, ""), "rknn-1a-2", None)
    found = addresses.literal("192.0.2.7")
    assert found is not None
    info = discovery._service_info(service, found)
    assert info.name == "rknn-1a-2._wyoming._tcp.local."
    assert info.server == "rknn-1a-2.local."
    assert info.port == 10800
    assert info.parsed_addresses() == ["192.0.2.7"]
    assert info.decoded_properties == {"version": __version__}


async def test_a_loopback_listener_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announcer = Announcer([Announcement("rknn", 10800, "127.0.0.1")], check_interval_s=0.02)
    await announcer.start()
    await first_message(caplog)
    await asyncio.sleep(0.1)
    assert announcer.names == ()
    await announcer.close()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "10800" in caplog.text


async def test_without_interfaces_to_read_there_is_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden() -> tuple[addresses.Interface, ...]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(addresses, "interfaces", forbidden)
    announcer = Announcer([Announcement("rknn", 10800, "")], check_interval_s=0.01)
    await announcer.start()
    await first_message(caplog)
    await asyncio.sleep(0.1)
    await announcer.close()
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert "Operation not permitted" in warning.getMessage()
    assert "--no-zeroconf" in warning.getMessage()


async def test_closing_does_not_wait_for_a_name_that_never_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    daemon: list[bool] = []

    def slow(host: str) -> tuple[addresses.Address, ...]:
        daemon.append(threading.current_thread().daemon)
        loop.call_soon_threadsafe(asked.set)
        time.sleep(3.0)
        return ()

    monkeypatch.setattr(addresses, "resolve", slow)
    announcer = Announcer([Announcement("rknn", 10800, "board.example")])
    await announcer.start()
    await asked.wait()
    begin = time.monotonic()
    await announcer.close()
    assert time.monotonic() - begin < 2.0
    assert daemon == [True], "the end of the process would wait for it"


async def test_close_is_safe_at_any_time() -> None:
    announcer = Announcer([Announcement("rknn", 10800, "127.0.0.1")])
    await announcer.close()
    await announcer.start()
    await announcer.close()
    await announcer.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "zeroconf"]
    assert not logging.getLogger("zeroconf").filters


async def test_the_librarys_complaints_go_to_debug(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("zeroconf")
    announcer = Announcer([Announcement("rknn", 10800, "127.0.0.1")])
    await announcer.start()
    library.warning("Error with socket", exc_info=OSError(101, "Network is unreachable"))
    assert not caplog.records
    caplog.set_level(logging.DEBUG, logger=discovery.__name__)
    library.warning("Error with socket")
    await announcer.close()
    (debug,) = (record for record in caplog.records if "Error with socket" in record.getMessage())
    assert (debug.name, debug.levelname) == (discovery.__name__, "DEBUG")
