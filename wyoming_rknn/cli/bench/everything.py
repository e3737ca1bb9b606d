"""`wyoming-rknn bench`: everything there is to measure, with the facts of the machine that it was measured on."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from wyoming_rknn.cli.arguments import quiet_settings
from wyoming_rknn.cli.bench import asr, npu, tts
from wyoming_rknn.errors import SpeechServerError

_T = TypeVar("_T")


def run(arguments: argparse.Namespace) -> int:
    """Print one report; what cannot be measured is named in it."""
    settings = quiet_settings(arguments)
    from wyoming_rknn.cli import doctor
    from wyoming_rknn.runtime.runtimes import Runtimes

    repeat = max(1, arguments.repeat)
    runtimes = Runtimes.of(settings)
    runtimes.report()
    failures: list[str] = []

    def attempt(measure: Callable[[], tuple[Sequence[_T], Sequence[SpeechServerError]]]) -> Sequence[_T]:
        try:
            results, problems = measure()
        except Exception as error:
            # A report that lacks a part is better than none.
            failures.append(str(error) if isinstance(error, SpeechServerError) else f"{type(error).__name__}: {error}")
            return ()
        failures.extend(map(str, problems))
        return results

    try:
        facts = doctor.facts(list(doctor.examine(settings, runtimes)), settings, runtimes)
        graphs = () if runtimes.accelerator is None else attempt(lambda: npu.measure(settings, runtimes, 4 * repeat))
        voices = attempt(lambda: tts.measure(settings, runtimes, repeat))
        recognisers = attempt(lambda: asr.measure(settings, runtimes, repeat))
    finally:
        runtimes.close()
    results: dict[str, list[dict[str, Any]]] = {
        "npu": [asdict(graph) for graph in graphs],
        "tts": [tts.described(voice) for voice in voices],
        "asr": [asr.described(recogniser) for recogniser in recognisers],
    }
    for failure in failures:
        print(f"wyoming-rknn: {failure}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"machine": facts, **results, "failures": failures}, indent=2))
    else:
        for kind, measured in results.items():
            for result in measured:
                print(kind, ", ".join(f"{name} {_short(value)}" for name, value in result.items()))
    return 1 if failures else 0


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
