"""`wyoming-rknn models convert`: make a model ready for an NPU, or a checkpoint for the CPU."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.errors import UsageError

if TYPE_CHECKING:
    from wyoming_rknn.convert.report import ConversionReport, GraphReport

HELP = "convert a Piper voice, a SenseVoice model or a Qwen3-ASR checkpoint for an NPU; on an x86-64 machine"

_EPILOG = """The first time, the vendor's toolkit is installed below the cache folder (450 MB) with a Python 3.11 or
3.12. What it builds runs in its simulator and is compared with ONNX Runtime; no NPU is needed. --target onnx writes a
Qwen3-ASR checkpoint for the CPU alone, on any machine and without the toolkit."""
_ONNX = "onnx"
"""A target that is no SoC."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="a voice's .onnx with its .onnx.json beside it, a SenseVoice graph, "
        "the folder of either, or that of a Qwen3-ASR checkpoint",
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument(
        "--target",
        required=True,
        metavar="SOC",
        help="rk3588, rk3576, rk3568, rk3566, rk3562 or rv1126b; onnx for a CPU",
    )
    parser.add_argument("--toolkit", default="2.3.2", metavar="VERSION", help="2.3.2 or 2.5.0 (default 2.3.2)")
    parser.add_argument("--toolkit-python", type=Path, metavar="FILE", help="a Python 3.11 or 3.12 for the toolkit")
    parser.add_argument("--frames", type=int, metavar="N", help="a voice's window (default 55; 32 for rk3566, rk3568)")
    parser.add_argument("--seconds", metavar="LIST", help="lengths of a recogniser's graphs (default 3,5,10,20)")
    parser.add_argument(
        "--precision", metavar="LIST", help="of Qwen3-ASR's language model: fp32, int8, int4 (default int8)"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for one graph (default 600, for a recogniser's 3600)"
    )
    parser.add_argument("--allow-regtask", action="store_true", help="keep what the compiler reports REGTASK errors of")
    add_settings(parser, ("cache_dir", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """Convert."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    from wyoming_rknn.convert.environment import check_version
    from wyoming_rknn.convert.recipes import recipe_for
    from wyoming_rknn.convert.report import ConvertOptions
    from wyoming_rknn.convert.toolkit import VendorToolkit, check_target

    if arguments.target != _ONNX:
        check_target(arguments.target)
    check_version(arguments.toolkit)
    if arguments.timeout is not None and not arguments.timeout > 0:
        raise UsageError(f"--timeout {arguments.timeout:g} must be more than 0")
    options = ConvertOptions(
        frames=arguments.frames,
        seconds=_seconds(arguments.seconds),
        precisions=_precisions(arguments.precision),
        timeout_s=arguments.timeout,
        allow_regtask=arguments.allow_regtask,
    )
    recipe = recipe_for(arguments.model)
    model, target, out = arguments.model, arguments.target, arguments.out
    if options.precisions is not None and recipe.export is None:
        raise UsageError("--precision is for a Qwen3-ASR checkpoint, which this is not; leave it out")
    if target == _ONNX and recipe.export is None:
        raise UsageError("--target onnx is for a Qwen3-ASR checkpoint; this runs on a CPU as it is, so name a SoC")
    recipe.check(model, target, out, options)
    with _unwound():
        if target == _ONNX and recipe.export is not None:
            recipe.export(model, out, options)
            print(f"for ONNX Runtime on a CPU; copy {out} into the board's data folder")
            return 0
        toolkit = VendorToolkit.prepared(arguments.toolkit, settings.cache, arguments.toolkit_python)
        report = recipe.convert(model, target, out, options, toolkit, settings.cache)
    _print(report)
    return 0


@contextmanager
def _unwound() -> Iterator[None]:
    """Let signals that end the program raise, so that nothing half made is left behind."""

    def leave(number: int, _: FrameType | None) -> None:
        # One is enough: the next would come while it is cleaned up.
        for other in former:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    # What is ignored, as SIGHUP by nohup, stays so.
    former = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    try:
        for number in former:
            signal.signal(number, leave)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _seconds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        seconds = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        seconds = ()
    if not seconds or not 1 <= seconds[0] <= seconds[-1] <= 30:
        raise UsageError(f"--seconds must be numbers from 1 to 30, such as 3,5,10,20, not {text!r}")
    return seconds


def _precisions(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def _print(report: "ConversionReport") -> None:
    for graph in report.graphs:
        print(
            f"{report.out / graph.file}: {graph.snr_db:.1f} dB in the simulator, {_frames(graph)}, "
            f"{graph.rknn_bytes / 1e6:.1f} MB, {graph.seconds:.1f} s"
        )
        if graph.cpu_layers:
            print(f"  left to the CPU: {', '.join(graph.cpu_layers)}")
        if graph.regtask_lines:
            print(f"  {graph.regtask_lines} REGTASK errors, kept as asked for: listen before you trust it")
        if graph.errors:
            print(f"  {len(graph.errors)} errors of the compiler, though it reports success: see {graph.log}")
    print(f"for {report.target}, by toolkit {report.toolkit}; copy {report.out} into the board's data folder")


def _frames(graph: "GraphReport") -> str:
    if graph.context_frames is None:
        return f"{graph.frames} frames"
    return f"{graph.used_frames} of {graph.frames} frames are used"
