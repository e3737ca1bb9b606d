"""The systemd unit: whether systemd understands it, how little it may do, and whether that is enough for the server."""

import asyncio
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_voices import TEXT, put, voice_files
from protocol.harness.client import connect
from protocol.harness.servers import ROOT, ServerProcess
from protocol.harness.spoken import spoken
from protocol.harness.transcription import transcribe
from unplugged import recorded

UNIT = ROOT / "docs" / "deploy" / "wyoming-rknn.service"
MOST_EXPOSURE = 2.5
VOICE = "en_US-test-low"


@pytest.fixture
def analyze() -> str:
    if (found := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed, so the unit cannot be checked")
    return found


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def called(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_understands_the_unit(analyze: str, tmp_path: Path):
    # The program that it names must exist.
    installed = tmp_path / UNIT.name
    program = values("ExecStart")[0].split()[0]
    installed.write_text(UNIT.read_text(encoding="utf-8").replace(program, sys.executable), encoding="utf-8")
    assert called(analyze, "verify", "--man=no", installed) == ""


def test_the_unit_may_do_little(analyze: str):
    told = called(analyze, "security", "--offline=true", "--no-pager", UNIT)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert exposure
    assert float(exposure[1]) <= MOST_EXPOSURE


def allowed(analyze: str, name: str) -> set[str]:
    """Return a system call, or those of a set."""
    if not name.startswith("@"):
        return {name}
    lines = [line.strip() for line in called(analyze, "syscall-filter", name).splitlines()[1:]]
    return {call for line in lines if line and line[0] != "#" for call in allowed(analyze, line)}


async def test_the_server_makes_no_system_call_that_the_unit_forbids(analyze: str, tmp_path: Path):
    trace = tmp_path / "trace"
    record = [*recorded(), "--daemonize", "--summary-only", f"--output={trace}"]
    put(tmp_path / "data" / "wyoming-rknn" / VOICE, voice_files(VOICE))
    server = ServerProcess(tmp_path, "--voice", VOICE, within=record, zeroconf=True, log_level="info")
    try:
        # Cut by a child process, spoken, heard: all of it by the CPU.
        await asyncio.to_thread(server.wait_for_log, f"{VOICE} speaks by default", 1, 120.0)
        async with connect(server.uri) as client:
            assert (await client.say(TEXT)).pcm
            assert (await client.say(TEXT, "espeak-en-us")).pcm
            await transcribe(client, spoken("Turn on the living room light."))
        server.stop()
    finally:
        server.kill()
    end = time.monotonic() + 30
    while not (trace.is_file() and re.search(r" total$", trace.read_text(), re.MULTILINE)):
        assert time.monotonic() < end, "strace writes no summary"
        await asyncio.sleep(0.05)
    made = set(re.findall(r"^ *\d+\.\d+ .* (\w+)$", trace.read_text(), re.MULTILINE)) - {"total"}
    assert {"execve", "bind", "openat", "mmap"} <= made
    granted, taken = ({call for name in names for call in allowed(analyze, name)} for names in filters())
    forbidden = made & taken | made - granted
    assert forbidden == set()


def filters() -> tuple[list[str], list[str]]:
    lists = values("SystemCallFilter")
    return (
        [name for words in lists if words[0] != "~" for name in words.split()],
        [name for words in lists if words[0] == "~" for name in words[1:].split()],
    )


def test_the_service_manager_waits_for_the_server_and_watches_it():
    assert values("Type") == ["notify"]
    assert values("WatchdogSec") == ["60"]
    assert values("DynamicUser") == ["yes"]
    assert values("DevicePolicy") == ["closed"]
    # What the server needs to know of the machine.
    assert not values("PrivateDevices") and not values("ProcSubset") and not values("PrivateNetwork")


def test_the_unit_and_its_command_share_folders_and_program():
    command = (UNIT.parent / "wyoming-rknn").read_text(encoding="utf-8")
    assert values("ExecStart")[0].removesuffix(" serve") in command
    for key in ("StateDirectory", "CacheDirectory", "EnvironmentFile", "SupplementaryGroups"):
        assert f"{key}={values(key)[0]}" in command
    variables = values("Environment")[0].replace("%S", "/var/lib").replace("%C", "/var/cache").split()
    assert all(f"--setenv={variable}" in command for variable in variables)
