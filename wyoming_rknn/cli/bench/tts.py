"""`wyoming-rknn bench tts`: how soon and how quickly the installed voices speak."""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from wyoming_rknn.cli.arguments import add_settings, quiet_settings
from wyoming_rknn.errors import SpeechServerError

if TYPE_CHECKING:
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.runtime.scheduler import Scheduler
    from wyoming_rknn.settings import Settings
    from wyoming_rknn.tts.programs import Choice

HELP = "text-to-speech: how soon the first audio is there, and the real-time factor"

SETTINGS = (
    "data_dir", "cache_dir", "voice", "tts_engine", "language", "first_window", "window_growth", "max_window",
    "runtime", "soc", "rknn_library", "threads", "cpu_affinity", "log_level", "log_format",
)  # fmt: skip
TEXTS = {
    "short": "The light is on.",
    "long": "The morning starts with fog in the valleys, later the sun comes through, and in the afternoon it gets warm"
    " with up to twenty degrees before the first clouds arrive from the west.",
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One voice and one text; times in seconds, medians over the repetitions."""

    engine: str
    voice: str
    text: str
    load_s: float
    first_audio_s: float
    total_s: float
    audio_s: float
    on_npu: bool
    """Whether an NPU computed a part of it."""

    @property
    def rtf(self) -> float:
        """Return computing time per audio time."""
        return self.total_s / self.audio_s if self.audio_s else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.add_argument("--repeat", metavar="N", type=int, default=5, help="runs per text (default 5)")
    add_settings(parser, SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Measure every installed voice, or the one named."""
    settings = quiet_settings(arguments)
    from wyoming_rknn.runtime.runtimes import Runtimes

    runtimes = Runtimes.of(settings)
    runtimes.report()
    try:
        results, failures = measure(settings, runtimes, arguments.repeat)
    finally:
        runtimes.close()
    for failure in failures:
        print(f"wyoming-rknn: {failure}", file=sys.stderr)
    if getattr(arguments, "json", False):
        print(json.dumps([described(result) for result in results], indent=2))
        return 1 if failures else 0
    print(f"{'voice':32} {'text':6} {'load':>8} {'first audio':>12} {'total':>8} {'audio':>8} {'rtf':>7}")
    for result in results:
        print(
            f"{result.voice:32} {result.text:6} {result.load_s:6.2f} s {1000 * result.first_audio_s:9.0f} ms "
            f"{result.total_s:6.2f} s {result.audio_s:6.2f} s {result.rtf:7.3f}{' on the NPU' * result.on_npu}"
        )
    return 1 if failures else 0


def described(result: Measurement) -> dict[str, Any]:
    """Return what JSON shows."""
    return asdict(result) | {"rtf": result.rtf}


def measure(
    settings: "Settings", runtimes: "Runtimes", repeat: int
) -> tuple[list[Measurement], list[SpeechServerError]]:
    """Measure every installed voice, or the one that the settings name; also returns what could not be."""
    from wyoming_rknn.runtime.scheduler import BUSY_S
    from wyoming_rknn.tts import programs
    from wyoming_rknn.tts.programs import Choice, Wanted

    found = programs.load(settings, runtimes)
    scheduler = runtimes.scheduler()
    results: list[Measurement] = []
    failures: list[SpeechServerError] = []
    try:
        if settings.voice or settings.language:
            choices = [found.choose(Wanted(settings.voice, settings.language))]
        else:
            engine, voices = found.offered()[0]
            # A program with a hundred voices is one synthesiser; its speakers are one voice.
            wanted = [voice for voice in voices if "#" not in voice.name][:20] if engine.name == "piper" else []
            choices = [Choice(engine, voice, None) for voice in wanted] or [found.choose(Wanted())]
        for choice in choices:
            try:
                results += _measure(choice, scheduler, max(1, repeat))
            except SpeechServerError as error:
                failures.append(error)
    finally:
        # The interpreter must not end while a device computes.
        scheduler.close(BUSY_S)
        found.close()
    return results, failures


def _measure(choice: "Choice", scheduler: "Scheduler", repeat: int) -> list[Measurement]:
    from wyoming_rknn.runtime.scheduler import NPU

    begin = time.perf_counter()
    choice.engine.prepare(choice.voice.name)
    load_s = time.perf_counter() - begin
    results = []
    for label, text in TEXTS.items():
        before = scheduler.jobs(NPU)
        _speak(choice, scheduler, text)  # the first run allocates
        runs = [_speak(choice, scheduler, text) for _ in range(repeat)]
        first_s, total_s, audio_s = (statistics.median(values) for values in zip(*runs, strict=True))
        on_npu = scheduler.jobs(NPU) > before
        results.append(
            Measurement(choice.engine.name, choice.voice.name, label, load_s, first_s, total_s, audio_s, on_npu)
        )
    return results


def _speak(choice: "Choice", scheduler: "Scheduler", text: str) -> tuple[float, float, float]:
    """Return the seconds until the first audio, until the last, and of audio."""
    from wyoming_rknn.tts.narrator import Manner, Narrator, TextFeed

    feed = TextFeed(choice.voice.language)
    feed.write(text)
    feed.end()
    narrator = Narrator(choice.engine, choice.voice, Manner(), scheduler.stream())
    begin = time.perf_counter()
    first_s, samples = 0.0, 0
    for waveform in narrator.narrate(feed):
        first_s = first_s or time.perf_counter() - begin
        samples += waveform.size
    return first_s, time.perf_counter() - begin, samples / choice.voice.rate_hz
