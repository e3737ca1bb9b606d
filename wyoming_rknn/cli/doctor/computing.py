"""What computes: librknnrt, rknn-toolkit-lite2, ONNX Runtime, and which of them was chosen."""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from wyoming_rknn.cli.doctor.lines import Line, State, told
from wyoming_rknn.errors import RuntimeUnavailable
from wyoming_rknn.runtime import rkllm_library, rknn_lite
from wyoming_rknn.runtime.accelerator import Accelerator
from wyoming_rknn.runtime.rknn_library import FOLDERS, LIBRARY, open_library
from wyoming_rknn.runtime.runtimes import AUTO, ONNX, RKNN, RKNN_LITE, Runtimes
from wyoming_rknn.settings import Settings

_OLDEST_LIBRARY = (2, 0)
"""Older ones cannot read what the toolkit writes."""
_TAKE = "take librknnrt 2.3.2, the version that goes with the toolkit of `wyoming-rknn models convert`"
_TITLES = {RKNN: "librknnrt", RKNN_LITE: "rknn-toolkit-lite2"}


def library(settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell which librknnrt there is."""
    if settings.runtime == ONNX:
        return
    if settings.runtime == RKNN_LITE and (lack := rknn_lite.library_lack()) is not None:
        yield told("library", "fail", lack)
        return
    try:
        found = open_library(rknn_lite.LIBRARY if settings.runtime == RKNN_LITE else settings.rknn_library)
    except RuntimeUnavailable as error:
        if settings.rknn_library is not None or settings.runtime != AUTO:
            state: State = "fail"
        else:
            # A machine without an NPU lacks nothing; with one, both runtimes need it.
            state = "ok" if runtimes.board.soc is None else "warn"
        yield told("library", state, error, "install librknnrt, or name it with --rknn-library")
        return
    version = found.versions.library
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    text = f"{found.path}, version {version or 'unknown'}"
    if numbers and numbers < _OLDEST_LIBRARY:
        yield Line("library", "warn", f"{text}, is too old for the models of today", _TAKE)
    elif others := _others(found.path, FOLDERS):
        text = f"{text}; there are others as well: {', '.join(map(str, others))}"
        yield Line("library", "warn", text, "remove all but one: they are easily mistaken for each other")
    else:
        yield Line("library", "ok", text)


def lite(settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell whether rknn-toolkit-lite2 is there."""
    if settings.runtime == ONNX:
        return
    try:
        version = importlib.metadata.version("rknn-toolkit-lite2")
    except importlib.metadata.PackageNotFoundError:
        if settings.runtime == RKNN_LITE:
            fix = (
                "pip install rknn-toolkit-lite2, which there is for Python up to 3.12 on 64-bit Arm, or --runtime rknn"
            )
            yield Line("rknn-lite", "fail", "rknn-toolkit-lite2 is not installed", fix)
        elif runtimes.board.soc is not None:
            yield Line("rknn-lite", "ok", "rknn-toolkit-lite2 is not installed, and not needed")
        return
    yield Line("rknn-lite", "ok", f"rknn-toolkit-lite2 {version} is installed")


def language(settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell which librkllmrt there is; without one, the CPU computes language models."""
    is_named = settings.rkllm_library is not None or settings.rkllm_version is not None
    try:
        found = rkllm_library.find_library(settings.rkllm_library, settings.rkllm_version)
    except RuntimeUnavailable as error:
        if is_named or any((folder / rkllm_library.LIBRARY).is_file() for folder in FOLDERS):
            yield told("rkllm", "fail" if is_named else "warn", error)
        return
    yield Line("rkllm", "ok", f"{found.path}, version {found.version}")


def runtime(settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell what was chosen, whether it works as far as was tried, and why others were not chosen."""
    accelerator = runtimes.accelerator
    if accelerator is not None:
        yield _chosen(runtimes, accelerator)
    elif settings.runtime in (AUTO, ONNX):
        yield Line("runtime", "ok", "ONNX Runtime computes everything on the CPU")
    else:
        text = f"--runtime {settings.runtime} cannot be used: ONNX Runtime computes everything on the CPU"
        yield Line("runtime", "fail", text, "mend what the next line says, or choose --runtime auto")
    if settings.runtime not in (AUTO, ONNX):
        state: State = "fail"
    else:
        state = "warn" if runtimes.board.soc is not None else "ok"
    for refusal in runtimes.refusals:
        yield told("runtime", state, refusal, "mend what the lines above say")


def _chosen(runtimes: Runtimes, accelerator: Accelerator) -> Line:
    title = _TITLES.get(accelerator.name, accelerator.name)
    if failure := accelerator.load_failure:
        text = f"{title} was chosen, but the NPU does not load models: {failure}"
        return told("runtime", "warn", text, "mend what the lines above say, or restart the board")
    # What has loaded a graph knows its driver, whatever devices are seen.
    if not runtimes.sees_device and not accelerator.versions.driver:
        text = f"{title} was chosen, but no device of the NPU may be used"
        return Line("runtime", "warn", text, "mend what the lines of the device say, or choose --runtime onnx")
    graphs = "one graph at a time" if accelerator.cores == 1 else f"{accelerator.cores} graphs at a time"
    return Line("runtime", "ok", f"{title} computes {graphs} on the NPU, ONNX Runtime the rest on the CPU")


def _others(path: Path, folders: tuple[Path, ...]) -> list[Path]:
    """Return further libraries that are not the same file."""
    seen = {path.resolve()}
    others: list[Path] = []
    for folder in folders:
        other = folder / LIBRARY
        if other.is_file() and (real := other.resolve()) not in seen:
            seen.add(real)
            others.append(other)
    return others
