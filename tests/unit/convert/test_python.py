import stat
import sys
from pathlib import Path

import pytest

from wyoming_rknn.convert import python
from wyoming_rknn.errors import ConversionError, UsageError


def interpreter(path, answer, code=0):
    """Write something that answers like an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def too_new(monkeypatch):
    """Let the running Python be one that the toolkit has no wheels for."""
    version = type("Version", (tuple,), {"major": 3, "minor": 13})((3, 13))
    monkeypatch.setattr(sys, "version_info", version)


@pytest.fixture
def machine(tmp_path, monkeypatch, too_new):
    """Return the folder of a machine with no other Python."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


@pytest.mark.skipif(sys.version_info[:2] not in ((3, 11), (3, 12)), reason="this Python is too new for the toolkit")
def test_the_running_python_is_taken():
    found = python.find_python()
    assert (found.path, found.version) == (Path(sys.executable), f"3.{sys.version_info.minor}")


def test_one_from_path_is_taken(machine):
    interpreter(machine / "bin" / "python3.12", "3.12 x86_64")
    found = python.find_python()
    assert (found.path, found.version) == (machine / "bin" / "python3.12", "3.12")


def test_shims_that_lead_nowhere_and_foreign_machines_are_passed_over(machine):
    interpreter(machine / "bin" / "python3.11", "pyenv: python3.11: command not found", 127)
    interpreter(machine / "bin" / "python3.12", "3.12 aarch64")
    interpreter(machine / "pyenv" / "versions" / "3.11.7" / "bin" / "python3.11", "3.11 x86_64")
    assert python.find_python().path == machine / "pyenv" / "versions" / "3.11.7" / "bin" / "python3.11"


def test_none_at_all_names_how_to_get_one(machine):
    with pytest.raises(ConversionError, match=r"3\.11 or 3\.12 and none was found; .*apt install.*--toolkit-python"):
        python.find_python()


def test_the_chosen_one_is_taken(machine):
    mine = interpreter(machine / "mine" / "python", "3.12 x86_64")
    interpreter(machine / "bin" / "python3.11", "3.11 x86_64")
    assert python.find_python(mine) == python.Python(mine, "3.12")
    # A bare name is looked up.
    assert python.find_python(Path("python3.11")).path == machine / "bin" / "python3.11"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("3.13 x86_64", "is Python 3.13"),
        ("3.11 aarch64", "is no Python that runs on x86-64"),
        ("hello", "is no Python"),
    ],
)
def test_a_chosen_one_of_no_use_is_refused(machine, answer, problem):
    mine = interpreter(machine / "mine", answer)
    with pytest.raises(UsageError, match=f"--toolkit-python .* {problem}.*; name a Python 3.11 or 3.12"):
        python.find_python(mine)


def test_a_chosen_one_that_is_not_there_is_refused(machine):
    with pytest.raises(UsageError, match=r"--toolkit-python .*gone is no Python"):
        python.find_python(machine / "gone")
