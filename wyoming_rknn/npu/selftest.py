"""The self-test of a graph: what it computes on this NPU, next to what ONNX Runtime computed of the same input.

What a toolkit builds without an error may be wrong on the chip, and what is wrong is often silent: zeros, NaN, noise.
So each graph has a golden beside it, and is used only once it has reproduced that on the board at hand.
"""

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid, SpeechServerError
from wyoming_rknn.runtime.accelerator import Versions
from wyoming_rknn.runtime.graph import Graph, Tensor

FLOOR_DB = 45.0
"""What 16-bit floats reach at least in graphs that are converted well, which is 51 to 60 dB; what is broken has less
than 30 dB."""
SUFFIX = ".golden.npz"
"""What a golden is called: the graph's name with this instead of its own suffix."""

_RUNS = 3
_FOLDER = "self-tests"
_FORMAT = 1
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Golden:
    """An input, and what ONNX Runtime computes of it."""

    inputs: Mapping[str, Tensor]
    """float32 or integers, as the runtime takes them, in the graph's order."""
    outputs: Mapping[str, Tensor]
    """float32."""
    floor_db: float = FLOOR_DB
    """Signal-to-noise ratio below which a graph is not used."""

    @classmethod
    def beside(cls, graph: Path) -> Self | None:
        """Read the golden that lies beside a graph; `None` if there is none. Raises as `read` does."""
        path = golden_path(graph)
        return cls.read(path) if path.exists() else None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote. Raises `ModelFileMissing`, or `ModelInvalid` if it is something else."""
        # A pipe or a device by that name would be waited for.
        if not path.is_file():
            raise ModelFileMissing(f"{path} does not exist; convert the model anew")
        try:
            # Opened here, since numpy forgets to close what it cannot make sense of.
            with path.open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                if not isinstance(arrays, np.lib.npyio.NpzFile):
                    raise ValueError("it is a single array")
                return cls(*_parts(arrays))
        # A damaged archive fails in its many layers: zip, zlib, numpy's header, memory for what the header claims.
        except Exception as error:
            raise ModelInvalid(f"{path} is not a golden: {error}; convert the model anew") from error

    def write(self, path: Path) -> None:
        """Write an .npz with the arrays "input:NAME" and "output:NAME", and "floor_db". Raises `OSError`."""
        arrays: dict[str, Any] = {f"input:{name}": value for name, value in self.inputs.items()}
        arrays |= {f"output:{name}": np.asarray(value, np.float32) for name, value in self.outputs.items()}
        # Given a name, numpy would append .npz to those that lack it.
        with path.open("wb") as file:
            np.savez_compressed(file, floor_db=np.float64(self.floor_db), **arrays)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a self-test found."""

    passed: bool
    snr_db: float | None = None
    """Of the worst output; infinite where all are equal, `None` if there was nothing to compare."""
    run_ms: float | None = None
    """Duration of the quickest run."""
    reason: str = ""
    """What is wrong, as the rest of a sentence that begins with the model; empty if it passed."""
    compared: bool = True
    """Whether all runs came to their end."""


def golden_path(graph: Path) -> Path:
    """Return where a graph's golden lies by convention."""
    return graph.with_name(graph.stem + SUFFIX)


def snr_db(reference: Tensor, result: Tensor) -> float:
    """Return 10 lg(sum of squares of the reference / sum of squares of the difference), computed in 64-bit floats.

    It is infinite for equal arrays, minus infinity if the reference is zero and the result is not, NaN if either has
    what is no number. Raises `ValueError` if the shapes differ.
    """
    if reference.shape != result.shape:
        raise ValueError(f"shape {list(result.shape)} instead of {list(reference.shape)}")
    signal = reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        noise = float(np.square(signal - result).sum())
        power = float(np.square(signal).sum())
    if noise == 0:
        return math.inf
    if not (math.isfinite(noise) and math.isfinite(power)):
        return math.nan
    return 10 * math.log10(power / noise) if power else -math.inf


def examine(graph: Graph, golden: Golden, cores: int = 1) -> Verdict:
    """Run a graph on the golden input, a few times and then on `cores` cores at once, and compare.

    Blocks. Never raises: what fails is a reason.
    """
    try:
        quickest_s = math.inf
        verdict = Verdict(False)
        for _ in range(_RUNS):
            begin_s = time.perf_counter()
            results = graph.run(golden.inputs)
            quickest_s = min(quickest_s, time.perf_counter() - begin_s)
            verdict = compare(golden, results)
            if not verdict.passed:
                return verdict
        for result in _all_at_once(graph, golden, cores):
            together = compare(golden, result)
            if not together.passed:
                return replace(together, reason=f"{together.reason}, when {cores} cores compute at once")
    except SpeechServerError as error:
        return Verdict(False, reason=f"cannot be computed: {error}", compared=False)
    except Exception as error:
        _LOGGER.debug("self-test failed", exc_info=error)
        return Verdict(False, reason=f"cannot be computed: {type(error).__name__}: {error}", compared=False)
    return replace(verdict, run_ms=round(1000 * quickest_s, 3))


def _all_at_once(graph: Graph, golden: Golden, cores: int) -> list[dict[str, Tensor]]:
    """Run it so often at a time that every core has to: one after the other would all be done by the first core."""
    if cores < 2:
        return []
    with ThreadPoolExecutor(cores, "self-test") as threads:
        return list(threads.map(lambda _: graph.run(golden.inputs), range(cores)))


def compare(golden: Golden, results: Mapping[str, Tensor]) -> Verdict:
    """Compare what a graph computed of the golden input, without its duration."""
    worst_db = math.inf
    for name, reference in golden.outputs.items():
        if name not in results:
            return Verdict(False, reason=f"has no output {name!r} but {', '.join(map(repr, results)) or 'none'}")
        result = np.asarray(results[name])
        # Libraries differ in axes of length 1; what lies in another order is told by its numbers.
        if result.size != reference.size:
            shapes = f"{list(result.shape)} instead of {list(reference.shape)}"
            return Verdict(False, reason=f"gives {name!r} the shape {shapes}")
        if not np.isfinite(result).all():
            return Verdict(False, reason=f"gives NaN or infinity in {name!r}")
        if not result.any() and reference.any():
            return Verdict(False, reason=f"gives nothing but zeros in {name!r}")
        worst_db = min(worst_db, snr_db(reference, result.reshape(reference.shape)))
    if not worst_db >= golden.floor_db:
        reason = f"differs from what ONNX Runtime computes: {worst_db:.1f} dB, at least {golden.floor_db:g} dB are due"
        return Verdict(False, worst_db, reason=reason)
    return Verdict(True, worst_db)


class Verdicts:
    """What self-tests found, one small file for each graph in the cache folder. Thread-safe.

    A verdict holds as long as the graph's file, the library, the driver and the chip are the same.
    """

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`, the program's cache folder."""
        self._folder = folder / _FOLDER

    def recall(self, path: Path, versions: Versions, soc: str | None) -> Verdict | None:
        """Return what was found on exactly this, or `None`."""
        try:
            stored = json.loads(self._file(path).read_text(encoding="utf-8"))
            if stored["of"] != _circumstances(path, versions, soc):
                return None
            found = stored["verdict"]
            snr, run_ms = _number(found["snr_db"]), _number(found["run_ms"])
            return Verdict(bool(found["passed"]), snr, run_ms, str(found["reason"]))
        # Nothing there, nothing readable, or what another version wrote.
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remember(self, path: Path, versions: Versions, soc: str | None, verdict: Verdict) -> None:
        """Keep a verdict, unless there was nothing to compare: an NPU that hangs may be well after a restart.

        A folder that cannot be written costs the next start a self-test.
        """
        if not verdict.compared:
            return
        target = self._file(path)
        partial = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            found = asdict(verdict) | {"snr_db": _text(verdict.snr_db)}
            content = json.dumps({"of": _circumstances(path, versions, soc), "verdict": found}, indent=1)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(content + "\n", encoding="utf-8")
            partial.replace(target)
        except OSError as error:
            _LOGGER.debug("a self-test's result cannot be kept: %s", error)

    def _file(self, path: Path) -> Path:
        # Two data folders may hold models of one name, and names may be too long or odd for one file.
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:24]
        return self._folder / f"{digest}.json"


def _circumstances(path: Path, versions: Versions, soc: str | None) -> dict[str, Any]:
    """Return all that a verdict depends on, as JSON has it. Raises `OSError` if there is no such file."""
    status = path.stat()
    return {
        "format": _FORMAT,
        "file": os.fsencode(path.absolute()).decode(errors="backslashreplace"),
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "library": versions.library,
        "driver": versions.driver,
        "soc": soc,
    }


def _parts(arrays: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], float]:
    """Return inputs, outputs and the floor. Raises `ValueError`, and what reading an array raises."""
    found: dict[str, dict[str, Tensor]] = {"input": {}, "output": {}}
    floor_db = FLOOR_DB
    for key, array in arrays.items():
        role, _, name = key.partition(":")
        if role in found and name:
            found[role][name] = _checked(array)
        elif key == "floor_db":
            floor_db = float(array)
        else:
            raise ValueError(f"it holds {key!r}")
    if not all(found.values()) or not math.isfinite(floor_db):
        raise ValueError("it lacks inputs, outputs or a finite floor")
    return MappingProxyType(found["input"]), MappingProxyType(found["output"]), floor_db


def _checked(array: Tensor) -> Tensor:
    if array.dtype.kind not in "fiub" or not array.size:
        raise ValueError(f"an array of {array.size} {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("numbers that are not finite")
    return array


def _text(number: float | None) -> float | str | None:
    """JSON knows no infinity."""
    return str(number) if number is not None and not math.isfinite(number) else number


def _number(value: Any) -> float | None:  # noqa: ANN401 - what JSON gives
    return None if value is None else float(value)
