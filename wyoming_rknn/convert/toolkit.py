"""Build one graph with the vendor's toolkit: in a process of its own, with a time limit, and not taken at its word."""

import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.convert.compiler_log import CompilerLog
from wyoming_rknn.convert.environment import VERSIONS, Environment, prepare
from wyoming_rknn.errors import ConversionError, ModelError, UsageError, did_you_mean
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.runtime.graph import Tensor

TARGETS = ("rk3588", "rk3576", "rk3568", "rk3566", "rk3562", "rv1126b")
TIMEOUT_S = 600.0

_LOG = "toolkit.log"
_MOST_ERRORS = 3
"""Messages of the compiler that a warning quotes."""
_WORKER = Path(__file__).with_name("worker.py")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One graph to convert."""

    name: str
    """Of the graph, for messages and the log: "sano-hfc decoder"."""
    graph: Path
    """ONNX with fixed shapes, opset 19 at most."""
    target: str
    inputs: Mapping[str, Tensor]
    """What the simulator is fed, by input name."""
    out: Path
    """The `.rknn` file to write."""
    custom_string: str = ""
    """Kept in the file word for word; at most 1024 bytes."""
    optimization_level: int = 3
    timeout_s: float = TIMEOUT_S
    allow_regtask: bool = False
    """Keep a build whose log says that values did not fit into the NPU's registers."""
    smaller: str = "take a smaller graph"
    """What to do if values do not fit into the NPU's registers."""


@dataclass(frozen=True, slots=True)
class Built:
    """A graph that was built and simulated."""

    rknn: Path
    simulated: Mapping[str, NDArray[np.float32]]
    """What the simulator gives for the inputs, by output name."""
    cpu_layers: tuple[str, ...]
    """Layers that the compiler left to the CPU, "Reshape:z_rs"; inputs and outputs do not count."""
    log: Path
    """All that the toolkit said; the next build of the same name replaces it."""
    seconds: float
    regtask_lines: int
    errors: tuple[str, ...] = ()
    """Other error messages of the compiler."""
    peak_mb: int = 0


class Toolkit(Protocol):
    """What turns ONNX into RKNN."""

    @property
    def version(self) -> str:
        """Return its version, like 2.3.2."""

    def build(self, request: BuildRequest) -> Built:
        """Convert and simulate a graph; blocks. Raises `ConversionError`."""


@dataclass(frozen=True, slots=True)
class VendorToolkit:
    """rknn-toolkit2 in its own environment."""

    environment: Environment
    log_dir: Path
    """Gets one log per graph and target, replaced by the next build."""
    worker: Path = field(default=_WORKER, repr=False)

    @classmethod
    def prepared(cls, version: str, cache_dir: Path, python: Path | None = None) -> Self:
        """Make the toolkit ready to use, see `environment.prepare`; its logs go below `cache_dir` too."""
        return cls(prepare(version, cache_dir, python), cache_dir / "toolkit" / "logs")

    @property
    def version(self) -> str:
        """Return the toolkit's version."""
        return self.environment.version

    def build(self, request: BuildRequest) -> Built:
        """Convert and simulate a graph; blocks for seconds to minutes.

        Nothing the toolkit returns is trusted: its log is searched, the file looked at. Raises `UsageError` for an
        unknown target and `ConversionError` with the fix for everything that goes wrong.
        """
        check_target(request.target)
        label = f"{request.name} for {request.target}"
        _LOGGER.info("converting %s with rknn-toolkit2 %s", label, self.version)
        started = time.monotonic()
        log = self._log_path(request)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=request.out.parent) as name:
            folder = Path(name)
            try:
                answer, ending = self._run(request, folder)
                # Not the one in the folder of logs: another process may build what has the same name.
                found = CompilerLog.parse((folder / _LOG).read_text(encoding="utf-8", errors="replace"))
            finally:
                _keep(folder / _LOG, log)
            if ending or "failed" in answer:
                raise self._failure(label, answer, ending, found, log)
            simulated = _read(folder / "simulated.npz")
        seconds = time.monotonic() - started
        if simulated is None or self._targets(request.out) != (request.target,):
            missing = "usable file" if simulated is not None else "simulated output"
            raise ConversionError(
                f"rknn-toolkit2 {self.version} says that it converted {label} but left no {missing}; its log is {log}"
            )
        if found.regtask and not request.allow_regtask:
            raise self._register_overflow(label, request, found, log)
        if not found.layers:
            _LOGGER.warning("the log of %s has no layer plan, so what the NPU leaves to the CPU is unknown", label)
        if found.regtask:
            _LOGGER.warning(
                "%s is kept although %d values did not fit into the NPU's registers: it may give wrong results",
                label,
                found.regtask,
            )
        if found.errors:
            _LOGGER.warning(
                "rknn-toolkit2 reports success for %s but also %d errors: %s; the log is %s",
                label,
                len(found.errors),
                "; ".join(error[:200] for error in found.errors[:_MOST_ERRORS]),
                log,
            )
        return Built(
            rknn=request.out,
            simulated=simulated,
            cpu_layers=found.cpu_layers,
            log=log,
            seconds=seconds,
            regtask_lines=found.regtask,
            errors=found.errors,
            peak_mb=answer.get("peak_mb", 0),
        )

    def _run(self, request: BuildRequest, folder: Path) -> tuple[dict[str, Any], str]:
        """Run the worker; returns its answer and how it ended, "" if as it should."""
        inputs, answer = folder / "inputs.npz", folder / "answer.json"
        np.savez(inputs, **{name: np.ascontiguousarray(value) for name, value in request.inputs.items()})  # type: ignore[arg-type]
        message = {
            "graph": str(request.graph.absolute()),
            "target": request.target,
            "out": str(request.out.absolute()),
            "inputs": str(inputs),
            "simulated": str(folder / "simulated.npz"),
            "answer": str(answer),
            "config": {
                "optimization_level": request.optimization_level,
                **({"custom_string": request.custom_string} if request.custom_string else {}),
            },
        }
        (folder / "request.json").write_text(json.dumps(message))
        # -P, since the modules beside the worker have the names of others.
        command = [str(self.environment.python), "-s", "-P", str(self.worker)]
        with (folder / _LOG).open("xb") as output:
            try:
                child = subprocess.Popen(
                    [*command, str(folder / "request.json"), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # It leaves copies of the graph where it works, so this is beside the result and not in memory.
                    cwd=folder,
                    env=self.environment.variables(),
                    start_new_session=True,
                )
            except OSError as error:
                return {}, f"could not be started ({error.strerror})"
            try:
                code = child.wait(request.timeout_s)
            except subprocess.TimeoutExpired:
                return {}, f"did not finish within {request.timeout_s:g} s"
            finally:
                _kill_group(child)
        if code < 0:
            memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            return {}, f"was ended by signal {-code}{memory}"
        try:
            return json.loads(answer.read_bytes()), ""
        except (OSError, ValueError):
            return {}, f"ended with exit code {code} and no answer"

    def _failure(
        self, label: str, answer: Mapping[str, Any], ending: str, found: CompilerLog, log: Path
    ) -> ConversionError:
        if ending:
            hint = self._other_version() or "try another graph"
            if ending.startswith("did not finish"):
                hint = f"give it longer with --timeout S{self._other_version(', or ')}"
            return ConversionError(f"rknn-toolkit2 {self.version} {ending} on {label}; {hint}; its log is {log}")
        message = " ".join(str(answer.get("message", "")).split())
        reason = found.errors[-1] if found.errors else message
        return ConversionError(
            f"rknn-toolkit2 {self.version} could not convert {label}: {answer['failed']} {message[:200]}"
            f"{f' ({reason[:200]})' if reason != message else ''}{self._other_version('; ')}; its log is {log}"
        )

    def _register_overflow(self, label: str, request: BuildRequest, found: CompilerLog, log: Path) -> ConversionError:
        return ConversionError(
            f"{label} does not fit the NPU: {found.regtask} values exceed its registers (REGTASK), though the toolkit "
            f"reports success; {request.smaller}{self._other_version(', ')}, or keep it at your own "
            f"risk with --allow-regtask; the log is {log}"
        )

    def _other_version(self, prefix: str = "") -> str:
        return "" if self.version == VERSIONS[0] else f"{prefix}take the proven version with --toolkit {VERSIONS[0]}"

    @staticmethod
    def _targets(path: Path) -> tuple[str, ...]:
        try:
            return RknnFile.read(path).targets
        except ModelError:
            return ()

    def _log_path(self, request: BuildRequest) -> Path:
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConversionError(
                f"{self.log_dir} cannot be written ({error.strerror}); choose another folder with --cache-dir"
            ) from error
        name = "".join(char if char.isalnum() or char in "-_." else "-" for char in request.name)
        return self.log_dir / f"{name}-{request.target}-{self.version}.log"


def check_target(target: str) -> None:
    """Raise `UsageError` unless `target` is a SoC that models can be converted for."""
    if target not in TARGETS:
        raise UsageError(f"--target {target} is not supported{did_you_mean(target, TARGETS)}")


def _read(path: Path) -> dict[str, NDArray[np.float32]] | None:
    try:
        with np.load(path) as stored:
            return {name: np.asarray(stored[name], np.float32) for name in stored.files}
    except (OSError, ValueError, EOFError):
        return None


def _keep(log: Path, path: Path) -> None:
    """Put a log into the folder of logs, which may lie on another file system, whole and in place of an older one."""
    if not log.exists():
        return
    fresh = path.with_name(f".tmp-{os.getpid()}-{time.monotonic_ns()}.log")
    try:
        shutil.copyfile(log, fresh)
        fresh.replace(path)
    except OSError as error:
        # A build is not worth less for it.
        _LOGGER.warning("the log %s cannot be written (%s); choose another folder with --cache-dir", path, error)
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
