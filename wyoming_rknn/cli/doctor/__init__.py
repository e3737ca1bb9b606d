"""`wyoming-rknn doctor`: what this machine has, what is wrong with it, and how to mend it."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from wyoming_rknn.cli.arguments import add_settings, quiet_settings
from wyoming_rknn.cli.doctor.lines import STATES, Check, Line

if TYPE_CHECKING:
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.settings import Settings

HELP = "look at board, NPU, libraries, permissions and models, and say what to mend"

_SETTINGS = (
    "data_dir", "cache_dir", "runtime", "soc", "rknn_library", "rkllm_library", "rkllm_version", "threads",
    "cpu_affinity", "log_level", "log_format",
)  # fmt: skip
_STATES = """Each line begins with ok, with warn where something could be better, or with fail where something cannot
work that was asked for or installed; what to do about it stands below it. The exit code is 1 if there is a fail."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _STATES
    parser.add_argument("--json", action="store_true", help="print JSON: state, checks, board, runtime")
    add_settings(parser, _SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything."""
    # What would be logged is said by the lines, with its fix.
    settings = quiet_settings(arguments, log_level="error")
    from wyoming_rknn.runtime.runtimes import Runtimes

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    runtimes = Runtimes.of(settings)
    lines: list[Line] = []
    try:
        for line in examine(settings, runtimes):
            lines.append(line)
            if not arguments.json:
                show(line)
        if arguments.json:
            print(json.dumps(facts(lines, settings, runtimes), indent=2))
    finally:
        runtimes.close()
    return exit_code(lines)


def examine(settings: "Settings", runtimes: "Runtimes") -> Iterator[Line]:
    """Yield what all checks find, as they find it; one that fails itself does not keep the others from it."""
    for check in checks():
        try:
            yield from check(settings, runtimes)
        except Exception as error:
            text = f"cannot be looked at: {type(error).__name__}: {error}"
            yield Line(check.__name__, "warn", text, "report this, with what --log-level debug prints")


def checks() -> tuple[Check, ...]:
    """Return all checks in the order of their lines."""
    # Here and not at the top: other verbs must not wait for what these need.
    from wyoming_rknn.cli.doctor import computing, machine, verify

    return (
        machine.program,
        machine.board,
        machine.npu,
        computing.library,
        computing.lite,
        computing.language,
        machine.cpu,
        machine.memory,
        machine.cache,
        verify.models,
        # After the models: whether the NPU works, and with which driver, is known once one was loaded.
        computing.runtime,
        machine.driver,
    )


def show(line: Line) -> None:
    """Print a line, and below it what to do."""
    print(f"{line.state:5} {line.check}: {line.text}", flush=True)
    if line.fix:
        print(f"      -> {line.fix}", flush=True)


def exit_code(lines: list[Line]) -> int:
    """Return 1 if something cannot work, else 0."""
    return int(any(line.state == "fail" for line in lines))


def facts(lines: list[Line], settings: "Settings", runtimes: "Runtimes") -> dict[str, object]:
    """Return what JSON shows."""
    accelerator = runtimes.accelerator
    return {
        "state": max((line.state for line in lines), key=STATES.index),
        "checks": [asdict(line) for line in lines],
        "board": asdict(runtimes.board)
        | {"devices": [asdict(node) | {"path": str(node.path)} for node in runtimes.board.devices]},
        "runtime": {
            "wanted": settings.runtime,
            "chosen": accelerator.name if accelerator else "onnx",
            "library": accelerator.versions.library if accelerator else None,
            "driver": accelerator.versions.driver if accelerator else None,
            "threads": runtimes.threads,
            "cpus": list(runtimes.cpus),
        },
    }
