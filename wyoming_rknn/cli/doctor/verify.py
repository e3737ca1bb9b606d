"""The installed models: whether their graphs fit this board, and compute on its NPU what they should."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import numpy as np

from wyoming_rknn.cli.doctor.lines import Line, told
from wyoming_rknn.errors import ModelError, ModelNotFound, SpeechServerError
from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.damage import CatalogCheck, since_installed
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.manifest import NPU_SUFFIX, Detected, Manifest
from wyoming_rknn.models.record import MANIFEST, Origin, Record, lists
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
    settings: Settings,
    runtimes: Runtimes,
    names: Sequence[str] = (),
    fresh: bool = True,
    catalog: Catalog | None = None,
) -> Iterator[Line]:
    """Yield a line for each graph for the NPU, each other model, and each file that looks like a model but is none.

    `names` are the models to look at, none for all. Graphs for the NPU compute their golden output, unless `fresh` is
    off and the result of an earlier self-test still holds. With a catalogue all files of all models are read first,
    which takes a while, and compared with what was installed, or with the catalogue where nothing tells of that; a line
    names each that is damaged. Blocks. Raises `ModelNotFound` before the first line.
    """
    found = Store(settings.data_dirs, soc=runtimes.npu_soc).scan()
    wanted = {folded(name): name for name in names}
    known = [
        *(manifest.name for manifest in found.manifests),
        *(problem.name for problem in found.problems),
        *(record.name for record in found.records.values() if catalog is not None),
    ]
    for key in wanted.keys() - {folded(name) for name in known}:
        raise ModelNotFound(wanted[key], known)
    damaged: set[Path] = set()
    if catalog is not None:
        for folder, path, line in _damage(found, catalog, wanted.keys(), settings.data_dirs[0]):
            damaged |= {folder, path}
            yield line
    for manifest in found.manifests:
        if not wanted or folded(manifest.name) in wanted:
            yield from _model(manifest, settings, runtimes, fresh, damaged)
    for problem in found.problems:
        # What follows from the damage has been told.
        is_told = problem.path in damaged or _lacks(problem.path, damaged)
        if not is_told and (not wanted or folded(problem.name) in wanted):
            yield told(_title(problem.name), "fail", problem.message, f"mend or remove {problem.path}")


def _damage(found: Detected, catalog: Catalog, wanted: Set[str], first: Path) -> Iterator[tuple[Path, Path, Line]]:
    """Yield a model's folder, a damaged file and what to tell of it; `first` is the folder that models come into."""
    for folder, record in found.records.items():
        here = [manifest.name for manifest in found.manifests if _is_recorded(manifest, {folder: record})]
        names = [record.name, *here]
        names += (problem.name for problem in found.problems if folder in (problem.path, *problem.path.parents))
        if not wanted or not wanted.isdisjoint(map(folded, names)):
            for damage in since_installed(folder, record):
                fix = _mended(record, folder, here, first)
                yield folder, damage.path, Line(_title(record.name), "fail", damage.message, fix)
    check = CatalogCheck(catalog)
    for manifest in found.manifests:
        if _is_recorded(manifest, found.records) or (wanted and folded(manifest.name) not in wanted):
            continue
        if (compared := check.damage(manifest)) is not None:
            entry, damages = compared
            for damage in damages:
                made = Record(entry.name, origin=Origin(catalog=entry.name))
                fix = _mended(made, manifest.folder, [manifest.name], first)
                yield manifest.folder, damage.path, Line(_title(manifest.name), "fail", damage.message, fix)


def _is_recorded(manifest: Manifest, records: Mapping[Path, Record]) -> bool:
    record = records.get(manifest.folder)
    return record is not None and lists(record.files, manifest.folder, manifest.files.values())


def _mended(record: Record, folder: Path, names: Sequence[str], first: Path) -> str:
    """Return how a model comes back that lies in `folder`, where `names` are the models that are found of it.

    What a manifest says may be a stranger's: a command is one that can be pasted.
    """
    origin = record.origin
    if record.is_converted:
        return f"copy it again, or {_CONVERT}"
    if not (given := origin.catalog or origin.address):
        return "copy it again"
    add = f"`wyoming-rknn models add {quote(given)}`"
    if origin.catalog and folder == first / origin.catalog:
        return f"fetch it again with {add}"
    # A new one would be put beside it. Others may be in the folder, which may even be the one for all models.
    if names:
        return f"delete it with `wyoming-rknn models remove {' '.join(map(quote, names))}`, then {add}"
    left = [str(path) for path in (folder / name for name in (*record.files, MANIFEST)) if path.exists()]
    return f"delete {' and '.join(left)}, then {add}"


def _lacks(path: Path, damaged: Collection[Path]) -> bool:
    """Tell whether a problem is that a file is missing which belongs to `path`, or to which `path` belongs."""
    return any(path in (other.with_suffix(""), other.with_name(f"{other.name}.json")) for other in damaged)


def _model(
    manifest: Manifest, settings: Settings, runtimes: Runtimes, fresh: bool, damaged: Set[Path]
) -> Iterator[Line]:
    graphs = [path for path in manifest.files.values() if path.suffix == NPU_SUFFIX]
    if not graphs and damaged.isdisjoint(manifest.files.values()):
        more = "" if runtimes.accelerator is None else "; `wyoming-rknn models convert` makes it ready for the NPU"
        yield Line(_title(manifest.name), "ok", f"{manifest.format}, on the CPU{more}")
    test = _Test(runtimes, Verdicts(settings.cache), fresh)
    for path in graphs:
        if path not in damaged:
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
