"""`wyoming-rknn bench`: everything there is to measure, with the facts of the machine that it was measured on."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import settings_from
from wyoming_rknn.cli.bench import asr, npu, tts
from wyoming_rknn.errors import SpeechServerError


def run(arguments: argparse.Namespace) -> int:
    """Print one report; what cannot be measured is named in it."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level if "log_level" in arguments else "warning", settings.log_format)
    from wyoming_rknn.cli import doctor
    from wyoming_rknn.runtime.runtimes import Runtimes

    repeat = max(1, arguments.repeat)
    runtimes = Runtimes.of(settings)
    runtimes.report()
    failures: list[str] = []
    results: dict[str, list[dict[str, Any]]] = {"npu": [], "tts": [], "asr": []}
    try:
        facts = doctor.facts(list(doctor.examine(settings, runtimes)), settings, runtimes)
        if runtimes.accelerator is not None:
            results["npu"] = [asdict(result) for result in npu.measure(settings, runtimes, 4 * repeat)]
        try:
            results["tts"] = [tts.described(result) for result in tts.measure(settings, runtimes, repeat)]
        except SpeechServerError as error:
            failures.append(str(error))
        try:
            heard, broken = asr.measure(settings, runtimes, repeat)
            results["asr"] = [asr.described(result) for result in heard]
            failures += [str(error) for error in broken]
        except SpeechServerError as error:
            failures.append(str(error))
    finally:
        runtimes.close()
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
