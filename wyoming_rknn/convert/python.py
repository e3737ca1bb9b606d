"""Find the Python that the vendor's toolkit can run on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.errors import ConversionError, UsageError

VERSIONS = ("3.11", "3.12")
"""The toolkit has wheels up to Python 3.12; 3.11 is the one it was tried on most."""

_PROBE = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.machine())"
_PROBE_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter."""

    path: Path
    version: str
    """Like 3.11."""


def find_python(chosen: Path | None = None) -> Python:
    """Return a Python 3.11 or 3.12 for x86-64: the chosen one, else the running one, else from PATH or of pyenv.

    Blocks for a moment. Raises `UsageError` if the chosen one is of no use, `ConversionError` if none is found.
    """
    if chosen is not None:
        # A bare name is looked up as a shell does.
        chosen = Path(shutil.which(chosen) or chosen).absolute()
        version = _version(chosen)
        if version not in VERSIONS:
            problem = f"is Python {version}" if version else "is no Python that runs on x86-64"
            raise UsageError(f"--toolkit-python {chosen} {problem}; name a Python {' or '.join(VERSIONS)}")
        return Python(chosen, version)
    for candidate in _candidates():
        # What stands on PATH may be a shim that leads nowhere.
        if (version := _version(candidate)) in VERSIONS:
            return Python(candidate, version)
    raise ConversionError(
        f"rknn-toolkit2 needs Python {' or '.join(VERSIONS)} and none was found; install one (apt install python3.11 "
        "python3.11-venv, or pyenv install 3.11) or name one with --toolkit-python PATH"
    )


def _candidates() -> Iterator[Path]:
    if f"{sys.version_info.major}.{sys.version_info.minor}" in VERSIONS and sys.executable:
        yield Path(sys.executable)
    for version in VERSIONS:
        if found := shutil.which(f"python{version}"):
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    for version in VERSIONS:
        yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def _version(python: Path) -> str:
    """Return an interpreter's version, like 3.11, or "" if it does not run or is not for x86-64."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version, _, machine = done.stdout.strip().partition(" ")
    return version if done.returncode == 0 and machine in ("x86_64", "AMD64") else ""
