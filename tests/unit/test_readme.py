"""The README tells the truth."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (.+?)(?:\s{2,}#.*)?$", README, re.MULTILINE)


def test_set_up_takes_two_commands():
    section = README.split("## Set-up")[1].split("\n## ")[0]
    assert re.findall(r"^    (.+)$", section, re.MULTILINE) == [
        "pip install . && wyoming-rknn serve",
        "pip install '.[test]' && script/test",
    ]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("wyoming-rknn")])
def test_commands_of_the_readme_work(command, tmp_path):
    """Each does what it says, or, for a service that is not there, says so; none is misspelt."""
    words = command.replace("~/voices", str(tmp_path)).split(maxsplit=1)[1]
    soundfile.write(tmp_path / "recording.wav", np.zeros(1600), 16000)
    if words == "bench asr":
        words += " --repeat 1 recording.wav"
    if words == "bench --json":
        words = "bench --repeat 1 --json"
    endless = words.startswith("serve")
    if endless:
        words += " --uri tcp://127.0.0.1:0 --no-zeroconf"
    shell = f'"{sys.executable}" -m wyoming_rknn {words}'
    # Nothing is fetched by tests.
    hub = "http://127.0.0.1:9"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub}
    with subprocess.Popen(
        ["bash", "-c", f"exec {shell}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        if endless:
            while b"listening on" not in (line := process.stderr.readline()):
                assert line
            process.terminate()
        problems = process.stderr.read().decode()
    if words.startswith("models convert"):
        # What is to be converted is not there; the rest of the command is right.
        assert f"{words.split()[2]} does not exist" in problems
    if words.startswith("models add"):
        assert "127.0.0.1:9 " in problems
    expected = 1 if words == "health" or words.startswith(("models convert", "models add")) else 0
    assert process.returncode == expected, problems
    assert "Traceback" not in problems


def test_measured_figures_are_those_of_the_benchmarks():
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    measured = README.split("### Measured")[1].split("\n##")[0]
    rows = [line for line in measured.splitlines() if line.startswith("|")]
    assert len(rows) > 8
    for row in rows:
        assert row in benchmarks, row


def test_it_is_read_in_five_minutes():
    # At 240 words a minute, commands and links left out.
    prose = re.sub(r"^    .*$|\]\([^)]*\)|\W+", " ", README, flags=re.MULTILINE)
    assert len(prose.split()) < 1200


def test_configuration_page_is_up_to_date():
    subprocess.run([sys.executable, ROOT / "script" / "docs", "--check"], check=True, cwd=ROOT)
