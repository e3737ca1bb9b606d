"""`wyoming-rknn bench npu`: how quick each graph is on the NPU, on one core and on all."""

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wyoming_rknn.cli.arguments import add_settings, quiet_settings
from wyoming_rknn.errors import RuntimeUnavailable, SpeechServerError

if TYPE_CHECKING:
    from wyoming_rknn.models.manifest import Manifest
    from wyoming_rknn.runtime.accelerator import NpuGraph
    from wyoming_rknn.runtime.graph import Tensor
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.settings import Settings

HELP = "NPU: each graph's run time, and how many runs a second one core and all cores give"

SETTINGS = ("data_dir", "cache_dir", "runtime", "soc", "rknn_library", "threads", "cpu_affinity", "log_level",
            "log_format")  # fmt: skip
_SECONDS = 1.0
"""How long each number of cores is kept busy."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One graph on the NPU."""

    model: str
    file: str
    targets: tuple[str, ...]
    toolkit: str
    load_s: float
    run_ms: float
    """Median of runs one after the other."""
    snr_db: float | None
    """To the golden output; `None` without one."""
    runs_per_s: Mapping[int, float]
    """By number of runs at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.add_argument("--repeat", metavar="N", type=int, default=20, help="runs per graph (default 20)")
    add_settings(parser, SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Measure every graph for the NPU among the installed models. Raises `RuntimeUnavailable` without an NPU."""
    settings = quiet_settings(arguments)
    from wyoming_rknn.runtime.runtimes import Runtimes

    runtimes = Runtimes.of(settings)
    runtimes.report()
    try:
        if runtimes.accelerator is None:
            raise RuntimeUnavailable("no NPU is used here; `wyoming-rknn doctor` says why")
        results, failures = measure(settings, runtimes, max(1, arguments.repeat))
    finally:
        runtimes.close()
    for failure in failures:
        print(f"wyoming-rknn: {failure}", file=sys.stderr)
    code = 1 if failures else 0
    if getattr(arguments, "json", False):
        print(json.dumps([asdict(result) for result in results], indent=2))
        return code
    for result in results:
        rates = ", ".join(f"{rate:.1f}/s on {count}" for count, rate in result.runs_per_s.items())
        snr = "" if result.snr_db is None else f", {result.snr_db:.1f} dB"
        print(f"{result.model} {result.file}: {result.run_ms:.1f} ms, {rates}{snr}")
    return code


def measure(
    settings: "Settings", runtimes: "Runtimes", repeat: int
) -> tuple[list[Measurement], list[SpeechServerError]]:
    """Measure each graph made for this NPU; also returns what could not be."""
    from wyoming_rknn.models.manifest import NPU_SUFFIX
    from wyoming_rknn.models.store import Store

    results: list[Measurement] = []
    failures: list[SpeechServerError] = []
    for manifest in Store(settings.data_dirs, soc=runtimes.npu_soc).scan().manifests:
        for path in manifest.files.values():
            if path.suffix == NPU_SUFFIX:
                try:
                    results.append(_measure(manifest, path, runtimes, repeat))
                except SpeechServerError as error:
                    failures.append(error)
    return results, failures


def _measure(manifest: "Manifest", path: Path, runtimes: "Runtimes", repeat: int) -> Measurement:
    from wyoming_rknn.models.formats.rknn_file import RknnFile
    from wyoming_rknn.npu.load import run_timeout_s
    from wyoming_rknn.npu.selftest import Golden, compare, golden_path

    file = RknnFile.read(path)
    file.check_soc(runtimes.board.soc)
    assert runtimes.accelerator is not None
    beside = golden_path(path)
    golden = Golden.read(beside) if beside.is_file() else None
    begin_s = time.perf_counter()
    graph = runtimes.accelerator.load(path, timeout_s=run_timeout_s(file), check_finite=False)
    load_s = time.perf_counter() - begin_s
    try:
        feeds = _noise(graph) if golden is None else golden.inputs
        verdict = None if golden is None else compare(golden, graph.run(feeds))
        durations_s = [_timed(graph, feeds) for _ in range(repeat)]
        rates = {count: _rate(graph, feeds, count) for count in range(1, runtimes.accelerator.cores + 1)}
    finally:
        graph.close()
    return Measurement(
        manifest.name,
        path.name,
        file.targets,
        file.toolkit,
        load_s,
        1000 * statistics.median(durations_s),
        None if verdict is None else verdict.snr_db,
        rates,
    )


def _noise(graph: "NpuGraph") -> "dict[str, Tensor]":
    import numpy as np

    random = np.random.default_rng(0)
    return {
        spec.name: random.standard_normal([axis or 1 for axis in spec.shape]).astype(spec.dtype)
        for spec in graph.inputs
    }


def _timed(graph: "NpuGraph", feeds: "Mapping[str, Tensor]") -> float:
    begin_s = time.perf_counter()
    graph.run(feeds)
    return time.perf_counter() - begin_s


def _rate(graph: "NpuGraph", feeds: "Mapping[str, Tensor]", count: int) -> float:
    """Return runs per second with `count` of them at once."""
    end_s = time.perf_counter() + _SECONDS
    runs = [0] * count
    failures: list[SpeechServerError] = []

    def work(place: int) -> None:
        try:
            while time.perf_counter() < end_s:
                graph.run(feeds)
                runs[place] += 1
        except SpeechServerError as error:
            failures.append(error)

    begin_s = time.perf_counter()
    threads = [threading.Thread(target=work, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(runs) / (time.perf_counter() - begin_s)
