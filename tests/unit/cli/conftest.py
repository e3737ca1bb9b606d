import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wyoming_rknn.cli import main
from wyoming_rknn.settings import ENV_PREFIX

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with nothing installed and nothing set, and a log that is put back as it was."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    for name, folder in (("HOME", "home"), ("XDG_DATA_HOME", "data"), ("XDG_CACHE_HOME", "cache")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    # For processes of their own, wherever they run; unbuffered, an output that fails would fail earlier than usual.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    monkeypatch.chdir(tmp_path)
    root, own = logging.getLogger(), logging.getLogger("wyoming_rknn")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    logging.captureWarnings(False)


@pytest.fixture
def run(capfdbinary):
    """Return a function that runs a command line here and returns exit code, stdout and stderr."""

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:
            code = leaving.code
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err.decode()

    return run


@pytest.fixture
def program():
    """Return a function that runs a command line as a process of its own."""

    def program(*words, **kwargs):
        command = [sys.executable, "-m", "wyoming_rknn", *map(str, words)]
        return subprocess.run(command, timeout=60, **({"capture_output": True} | kwargs))

    return program


@pytest.fixture
def one_line():
    """Return a check that stderr is one line from the program, without a traceback."""

    def one_line(err):
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert err.startswith("wyoming-rknn: ")
        assert "Traceback" not in err
        return err

    return one_line
