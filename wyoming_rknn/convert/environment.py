"""The vendor's toolkit in an environment of its own, made on first use below the cache folder.

It wants a numpy, an onnx and a Python that are older than this program's. What it depends on goes into one virtual
environment, `dependencies-py3.11/`, each version of the toolkit into a folder beside it, `2.3.2-py3.11/`.
"""

import errno
import fcntl
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.convert.python import VERSIONS as PYTHON_VERSIONS
from wyoming_rknn.convert.python import Python, find_python
from wyoming_rknn.errors import ConversionError, UsageError, did_you_mean
from wyoming_rknn.models.store import CACHE_TAG

VERSIONS = ("2.3.2", "2.5.0")
"""Of rknn-toolkit2, the default first: 2.5.0 miscompiles "high" voices and never finishes some graphs."""

DEPENDENCIES = (
    # RKNN() wants pkg_resources, which later ones lack.
    "setuptools<81",
    "protobuf>=4.21.6,<=4.25.4",
    "psutil>=5.9",
    "ruamel.yaml>=0.17.21",
    "scipy>=1.9.3",
    "tqdm",
    "fast-histogram>=0.11",
    "numpy<=1.26.4",
    "onnx>=1.16.1,<=1.18.0",
    "onnxruntime>=1.17.0",
)
"""What the toolkit declares and uses; without torch and OpenCV, which it only imports."""

_FORMAT = 1
_MARKER = "complete.json"
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# The toolkit that converts models; safe to delete.\n"
_WORKSPACE_PREFIX = ".tmp-"
_NEEDED_BYTES = 800_000_000
_PIP_TIMEOUT_S = 1800
_NO_SPACE = "No space left on device"
_PIP_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a version of the toolkit can be run."""

    python: Path
    paths: tuple[Path, ...]
    """To put on PYTHONPATH."""
    version: str

    def variables(self) -> dict[str, str]:
        """Return the process environment for `python`: the user's without what would lead its imports elsewhere."""
        return {
            **clean_variables(os.environ),
            "PYTHONPATH": os.pathsep.join(map(str, self.paths)),
            # Else it writes an id below the user's cache and calls its maker.
            "ORT_DISABLE_TELEMETRY": "1",
        }


def prepare(version: str, cache_dir: Path, python: Path | None = None) -> Environment:
    """Return the environment for a version of rknn-toolkit2, which is made first if need be.

    Blocks: some minutes the first time. `python` is the Python 3.11 or 3.12 to make it with, by default that of an
    environment which is there, else the running one or another that is found. Raises `UsageError` for an unknown
    version or a useless `python`, `ConversionError` if the machine cannot run the toolkit or the environment cannot be
    made.
    """
    check_version(version)
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise ConversionError(
            f"models are converted on an x86-64 Linux machine, and this one is {platform.system()} on "
            f"{platform.machine()}; convert there and copy the folder over"
        )
    root = cache_dir.absolute() / "toolkit"
    base = (_made_with(root, version) if python is None else None) or find_python(python)
    dependencies = _dependencies(root, base.version)
    toolkit = root / f"{version}-py{base.version}"
    entries: tuple[tuple[Path, tuple[str, ...], Callable[[Path], None]], ...] = (
        (dependencies, DEPENDENCIES, lambda folder: _make_dependencies(base, folder)),
        (toolkit, _toolkit_requirements(version), lambda folder: _make_toolkit(dependencies, version, folder)),
    )
    found = Environment(dependencies / "bin" / "python", (toolkit,), version)
    if all(_is_complete(folder, requirements) for folder, requirements, _ in entries):
        return found
    try:
        with _locked(root):
            if not all(_is_complete(folder, requirements) for folder, requirements, _ in entries):
                _make(root, version, base.version, entries)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(root) from error
        raise ConversionError(
            f"{root} cannot be written ({error.strerror or error}); choose another folder with --cache-dir"
        ) from error
    return found


def check_version(version: str) -> None:
    """Raise `UsageError` unless `version` is a version of the toolkit that can be used."""
    if version not in VERSIONS:
        raise UsageError(f"--toolkit {version} is not supported{did_you_mean(version, VERSIONS)}")


def clean_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a process environment without what would lead a foreign Python's imports elsewhere."""
    kept = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONNOUSERSITE": "1"}


def _dependencies(root: Path, python_version: str) -> Path:
    return root / f"dependencies-py{python_version}"


def _toolkit_requirements(version: str) -> tuple[str, ...]:
    return (f"rknn-toolkit2=={version}",)


def _made_with(root: Path, version: str) -> Python | None:
    """Return the Python of an environment that was made before, best of one that has this version of the toolkit."""
    made = [
        Python(folder / "bin" / "python", python_version)
        for python_version in PYTHON_VERSIONS
        if _is_complete(folder := _dependencies(root, python_version), DEPENDENCIES)
    ]
    whole = (
        python
        for python in made
        if _is_complete(root / f"{version}-py{python.version}", _toolkit_requirements(version))
    )
    return next(whole, made[0] if made else None)


def _make(
    root: Path,
    version: str,
    python_version: str,
    entries: Sequence[tuple[Path, tuple[str, ...], Callable[[Path], None]]],
) -> None:
    if shutil.disk_usage(root).free < _NEEDED_BYTES:
        raise _disk_full(root)
    _LOGGER.info(
        "making the environment of rknn-toolkit2 %s with Python %s in %s: up to 150 MB are downloaded, once",
        version,
        python_version,
        root,
    )
    started = time.monotonic()
    (root / CACHE_TAG).write_text(_TAG_TEXT)
    # Nobody else is at work while the lock is held, so these are of processes that were killed.
    for stale in root.glob(_WORKSPACE_PREFIX + "*"):
        shutil.rmtree(stale, ignore_errors=True)
    for folder, requirements, fill in entries:
        if _is_complete(folder, requirements):
            continue
        workspace = Path(tempfile.mkdtemp(prefix=_WORKSPACE_PREFIX, dir=root))
        try:
            workspace.chmod(0o755)
            fill(workspace)
            (workspace / _MARKER).write_text(json.dumps({"format": _FORMAT, "requirements": requirements}))
            if folder.exists():
                shutil.rmtree(folder)
            workspace.rename(folder)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    _LOGGER.info("the environment of rknn-toolkit2 %s is ready after %.0f s", version, time.monotonic() - started)


def _is_complete(folder: Path, requirements: Sequence[str]) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_bytes())
        if marker["format"] != _FORMAT or marker["requirements"] != list(requirements):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # The Python that an environment was made with may be gone; what leads to it dangles then.
    python = folder / "bin" / "python"
    return python.exists() or not python.is_symlink()


def _make_dependencies(python: Python, folder: Path) -> None:
    done = _run([str(python.path), "-I", "-m", "venv", str(folder)])
    if done.returncode != 0:
        raise ConversionError(
            f"{python.path} cannot make virtual environments: {_last_line(done)}; install its venv module "
            f"(on Debian: apt install python{python.version}-venv) or name another Python with --toolkit-python"
        )
    _pip(folder, *DEPENDENCIES)


def _make_toolkit(dependencies: Path, version: str, folder: Path) -> None:
    # Its own requirements would bring torch.
    _pip(dependencies, "--no-deps", "--target", str(folder), *_toolkit_requirements(version))


def _pip(environment: Path, *arguments: str) -> None:
    python = environment / "bin" / "python"
    # Most of what is installed is never imported, so it is not compiled either.
    # A pip.conf may ask for installing into the home folder.
    options = (
        "--no-user",
        "--no-compile",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
        "--only-binary",
        ":all:",
    )
    done = _run([str(python), "-I", "-m", "pip", "install", *options, *arguments])
    if done.returncode != 0:
        if _NO_SPACE in done.stderr:
            raise _disk_full(environment.parent)
        raise ConversionError(
            f"pip could not install the toolkit: {_last_line(done)}; check the network and pip's settings (proxy, "
            "index) and try again"
        )


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    variables = {name: value for name, value in clean_variables(os.environ).items() if name not in _PIP_ELSEWHERE}
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PIP_TIMEOUT_S,
            env=variables,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConversionError(
            f"{' '.join(command[2:5])} did not end within {_PIP_TIMEOUT_S // 60} minutes; check the network and try "
            "again"
        ) from None


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout.strip()).splitlines()]
    errors = [line for line in lines if line.upper().startswith("ERROR")]
    chosen = (errors or lines or [f"exit code {done.returncode}"])[-1]
    return chosen.removeprefix("ERROR: ").rstrip(".")


def _disk_full(root: Path) -> ConversionError:
    return ConversionError(
        f"{root} has no room for the toolkit, which needs {_NEEDED_BYTES // 1_000_000} MB; free some or choose another "
        "folder with --cache-dir"
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the folder alone among all processes; waits for whoever has it. Raises `OSError`."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOGGER.info("waiting for another process that makes the toolkit's environment in %s", root)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
