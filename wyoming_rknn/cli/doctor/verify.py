"""The installed models: whether their graphs fit this board, and compute on its NPU what they should."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wyoming_rknn.cli.doctor.lines import Line, told
from wyoming_rknn.errors import ModelError, ModelNotFound, SpeechServerError
from wyoming_rknn.models.formats import converted
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.manifest import NPU_SUFFIX, Manifest
from wyoming_rknn.models.store import Store
from wyoming_rknn.names import folded
from wyoming_rknn.npu.load import run_timeout_s
from wyoming_rknn.npu.offer import obstacle
from wyoming_rknn.npu.selftest import Golden, Verdict, Verdicts, examine, golden_path
from wyoming_rknn.runtime.accelerator import Accelerator
from wyoming_rknn.runtime.graph import Graph, Tensor, TensorSpec
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

_CONVERT = "convert the model anew with `wyoming-rknn models convert`"
_CONVERT_OR_UPDATE = f"{_CONVERT}, or update librknnrt and the NPU's driver"
_RESTART = f"restart the board; if that does not help, update librknnrt and the NPU's driver, or {_CONVERT}"
_SEED = 20_241


def models(settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell which models there are and test those for the NPU."""
    for folder in settings.data_dir:
        if not folder.is_dir():
            yield Line("models", "warn", f"{folder} is no folder that can be read", "name another one with --data-dir")
    is_empty = True
    for line in check_models(settings, runtimes):
        is_empty = False
        yield line
    if is_empty:
        text = f"none in {', '.join(map(str, settings.data_dirs))}: the built-in engines speak and listen"
        yield Line("models", "warn", text, "put models there, or name their folder with --data-dir")


def check_models(
    settings: Settings, runtimes: Runtimes, names: Sequence[str] = (), fresh: bool = True, whole: bool = False
) -> Iterator[Line]:
    """Yield a line for each graph for the NPU, each other model, and each file that looks like a model but is none.

    `names` are the models to look at, none for all. Graphs for the NPU compute their golden output, unless `fresh` is
    off and the result of an earlier self-test still holds. With `whole` all files of converted models are read and
    compared with their manifest, which takes a while. Blocks. Raises `ModelNotFound` before the first line.
    """
    found = Store(settings.data_dirs, soc=runtimes.npu_soc).scan()
    known = [*(manifest.name for manifest in found.manifests), *(problem.name for problem in found.problems)]
    wanted = {folded(name): name for name in names}
    for key in wanted.keys() - {folded(name) for name in known}:
        raise ModelNotFound(wanted[key], known)
    for manifest in found.manifests:
        if not wanted or folded(manifest.name) in wanted:
            if whole:
                yield from _damage(manifest)
            yield from _model(manifest, settings, runtimes, fresh)
    for problem in found.problems:
        if not wanted or folded(problem.name) in wanted:
            yield told(_title(problem.name), "fail", problem.message, f"mend or remove {problem.path}")


def _damage(manifest: Manifest) -> Iterator[Line]:
    """Yield a line for each file of a converted model that is not the one that was written."""
    path = next(iter(manifest.files.values())).parent / converted.MANIFEST
    try:
        own = converted.read(path, converted.PIPER) or converted.read(path, converted.SENSEVOICE)
        if own is None or own.name != manifest.name:
            return
        listed = json.loads(path.read_bytes())["files"]
    except (ModelError, OSError, ValueError):
        # Told by those who look for models.
        return
    for name in own.sizes:
        # What is missing or has another size is told by them, too.
        if own.flaw(name) is None and (expected := listed[name].get("sha256")) is not None:
            try:
                with (path.parent / name).open("rb") as file:
                    is_same = hashlib.file_digest(file, "sha256").hexdigest() == expected
                text = f"{path.parent / name} is not what was converted: its sha256 is not the one in {path.name}"
            except OSError as error:
                is_same, text = False, f"{path.parent / name} cannot be read ({error.strerror})"
            if not is_same:
                yield Line(_title(manifest.name), "fail", text, f"copy it again, or {_CONVERT}")


def _model(manifest: Manifest, settings: Settings, runtimes: Runtimes, fresh: bool) -> Iterator[Line]:
    graphs = [path for path in manifest.files.values() if path.suffix == NPU_SUFFIX]
    if not graphs:
        more = "" if runtimes.accelerator is None else "; `wyoming-rknn models convert` makes it ready for the NPU"
        yield Line(_title(manifest.name), "ok", f"{manifest.format}, on the CPU{more}")
    test = _Test(runtimes, Verdicts(settings.cache), fresh)
    for path in graphs:
        yield _graph(manifest, path, test)


def _graph(manifest: Manifest, path: Path, test: "_Test") -> Line:
    """Judge a graph for the NPU. One that does not fit is no failure as long as the CPU can take its place."""
    title = _title(manifest.name)
    runtimes = test.runtimes
    is_stuck = obstacle(manifest, runtimes) is not None
    try:
        file = RknnFile.read(path)
    except ModelError as error:
        return told(title, "fail", error, _CONVERT)
    try:
        file.check_soc(runtimes.board.soc)
    except ModelError as error:
        return told(title, "fail" if is_stuck else "warn", error, _CONVERT)
    made = f"{path.name}, made for {' and '.join(file.targets)} by toolkit {file.toolkit or 'unknown'}"
    if runtimes.accelerator is None:
        text = f"{made}: not tested here, where no NPU is used"
        if is_stuck:
            return Line(title, "warn", text, "put a graph for the CPU beside it, or use the board it is made for")
        return Line(title, "ok", f"{text}; on the CPU")
    line = test.line(title, made, path, manifest.files.get("golden", golden_path(path)), runtimes.accelerator)
    remark = file.toolkit_remark(runtimes.accelerator.versions.library)
    if remark and line.state == "ok":
        what, _, fix = remark.removeprefix(f"{path} ").partition(": ")
        return Line(title, "warn", f"{line.text}; it {what}", fix or _CONVERT)
    return line


@dataclass(frozen=True, slots=True)
class _Test:
    """How graphs are run."""

    runtimes: Runtimes
    known: Verdicts
    fresh: bool

    def line(self, title: str, made: str, path: Path, golden: Path, accelerator: Accelerator) -> Line:
        """Load a graph, run it, and say how well it computed."""
        try:
            expected = Golden.read(golden) if golden.exists() else None
            graph = accelerator.load(path, timeout_s=run_timeout_s(RknnFile.read(path)), check_finite=False)
            try:
                verdict, when = self._verdict(graph, path, expected, accelerator)
            finally:
                graph.close()
        except SpeechServerError as error:
            return told(title, "fail", error, _CONVERT)
        if not verdict.passed:
            # What an error advises is for those who did not ask the doctor.
            reason = verdict.reason.partition("; ")[0]
            return Line(title, "fail", f"{made}: {reason}{when}", _CONVERT_OR_UPDATE if verdict.compared else _RESTART)
        speed = f"{verdict.run_ms or 0:.1f} ms"
        if verdict.snr_db is None:
            text = f"{made}: {speed}; whether it is right is not known, for it has no golden output beside it"
            return Line(title, "warn", text, _CONVERT)
        likeness = "exact" if math.isinf(verdict.snr_db) else f"{verdict.snr_db:.1f} dB"
        return Line(title, "ok", f"{made}: {likeness}, {speed}{when}")

    def _verdict(
        self, graph: Graph, path: Path, expected: Golden | None, accelerator: Accelerator
    ) -> tuple[Verdict, str]:
        """Return what a test finds, now or, as the text says, before; without its ratio if nothing is expected."""
        # The library tells its driver, on which verdicts depend, once it has loaded a graph.
        versions, soc = accelerator.versions, self.runtimes.board.soc
        earlier = self.known.recall(path, versions, soc)
        if earlier is not None and not self.fresh:
            return earlier, " (tested before)"
        if expected is not None:
            verdict = examine(graph, expected, accelerator.cores)
            self.known.remember(path, versions, soc, verdict)
            return verdict, ""
        verdict = examine(graph, _any_golden(graph), accelerator.cores)
        if verdict.passed and earlier is not None:
            # Its engine may have compared it with a graph for the CPU.
            return replace(earlier, run_ms=verdict.run_ms), " (compared before)"
        return replace(verdict, snr_db=None), ""


def _any_golden(graph: Graph) -> Golden:
    """Return a golden that all outputs pass which are finite and not zero."""
    random = np.random.default_rng(_SEED)
    inputs: dict[str, Tensor] = {}
    for spec in graph.inputs:
        noise = random.standard_normal(_shape(spec))
        inputs[spec.name] = noise.astype(np.float32) if spec.dtype.kind == "f" else np.ones(_shape(spec), spec.dtype)
    outputs: dict[str, Tensor] = {spec.name: np.ones(_shape(spec), np.float32) for spec in graph.outputs}
    return Golden(inputs, outputs, floor_db=-1e9)


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis or 1 for axis in spec.shape)


def _title(name: str) -> str:
    return f"model {name}"
