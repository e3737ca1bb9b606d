"""`wyoming-rknn bench asr`: how quickly the installed models hear, and how soon after the speaker has stopped."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wyoming_rknn.cli.arguments import add_settings, quiet_settings
from wyoming_rknn.errors import SpeechServerError

if TYPE_CHECKING:
    from wyoming_rknn.cli.bench.asr_runs import Measurement
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.settings import Settings

HELP = "speech-to-text: the real-time factor, and how soon after the end of the audio the text is there"

SETTINGS = (
    "data_dir", "cache_dir", "asr_engine", "asr_model", "language", "no_itn", "vad_threshold", "partial_interval",
    "runtime", "soc", "rknn_library", "rkllm_library", "rkllm_version", "threads", "cpu_affinity",
    "log_level", "log_format",
)  # fmt: skip
_COLUMNS = """load: with one run of each graph. decode: what is left to compute once all audio is there. rtf: features,
graph and text, per second of audio. latency: from the end of the audio to the text when the sound is played in real
time with 0.7 s of silence after it, as a microphone sends it; - if nobody seems to speak. vad: telling speech from
silence, per second of audio. All but load are medians."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _COLUMNS
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="sound files with speech (default: two commands that espeak-ng speaks)"
    )
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.add_argument("--repeat", metavar="N", type=int, default=3, help="runs per sound (default 3)")
    add_settings(parser, SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Measure every installed model, or the one named; those that cannot be used are reported."""
    settings = quiet_settings(arguments)
    from wyoming_rknn.runtime.runtimes import Runtimes

    runtimes = Runtimes.of(settings)
    runtimes.report()
    try:
        results, failures = measure(settings, runtimes, arguments.repeat, arguments.files)
    finally:
        runtimes.close()
    for failure in failures:
        print(f"wyoming-rknn: {failure}", file=sys.stderr)
    if getattr(arguments, "json", False):
        print(json.dumps([described(result) for result in results], indent=2))
    elif results:
        _print_table(results)
    return 1 if failures else 0


def described(result: "Measurement") -> dict[str, Any]:
    """Return what JSON shows."""
    return asdict(result) | {"rtf": result.rtf}


def measure(
    settings: "Settings", runtimes: "Runtimes", repeat: int, files: Sequence[str] = ()
) -> "tuple[list[Measurement], list[SpeechServerError]]":
    """Measure every installed model, or the one that the settings name; also returns what could not be."""
    from wyoming_rknn.asr import programs
    from wyoming_rknn.cli import recognisers
    from wyoming_rknn.cli.bench import asr_runs
    from wyoming_rknn.runtime.scheduler import BUSY_S

    found = programs.load(settings, runtimes)
    scheduler = runtimes.scheduler()
    results: list[Measurement] = []
    failures: list[SpeechServerError] = []
    try:
        choices = recognisers.named(found, settings)
        runs = asr_runs.Runs(runtimes, scheduler, settings, max(1, repeat))
        sounds = runs.sounds(files)
        for choice in choices:
            try:
                results += runs.measure(choice, sounds)
            except SpeechServerError as error:
                failures.append(error)
    finally:
        # The interpreter must not end while a device computes.
        scheduler.close(BUSY_S)
        found.close()
    return results, failures


def _print_table(results: "Sequence[Measurement]") -> None:
    width = max(5, *(len(result.sound) for result in results))
    names = f"{'model':32} {'sound':{width}}"
    print(f"{names} {'load':>8} {'audio':>8} {'decode':>10} {'rtf':>7} {'latency':>10} {'vad':>9}")
    for result in results:
        latency = "-" if result.latency_s is None else f"{1000 * result.latency_s:.1f} ms"
        print(
            f"{result.model:32} {result.sound:{width}} {result.load_s:6.2f} s {result.audio_s:6.2f} s "
            f"{1000 * result.decode_s:7.1f} ms {result.rtf:7.4f} {latency:>10} {1000 * result.vad_s:4.1f} ms/s"
        )
