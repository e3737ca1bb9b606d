"""`wyoming-rknn say`: speak a text into a file or a pipe."""

import argparse
import os
import sys
import wave
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from wyoming_rknn.cli.arguments import add_settings, quiet_settings
from wyoming_rknn.errors import UsageError

if TYPE_CHECKING:
    from wyoming_rknn.audio import Waveform
    from wyoming_rknn.settings import Settings

HELP = "speak a text into a WAV file, or as raw 16-bit samples to stdout"

_SETTINGS = (
    "data_dir", "cache_dir", "voice", "tts_engine", "language", "length_scale", "noise_scale", "noise_w", "volume",
    "sentence_silence", "first_window", "window_growth", "max_window",
    "runtime", "soc", "rknn_library", "threads", "cpu_affinity", "log_level", "log_format",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("text", metavar="TEXT", help="what to say; - reads it from stdin")
    parser.add_argument("--speaker", metavar="S", help="speaker of the voice, by name or number")
    parser.add_argument("--speed", metavar="X", type=float, default=1.0, help="2 is twice as fast (default 1)")
    parser.add_argument("--ssml", action="store_true", help="the text is SSML")
    parser.add_argument("--output", metavar="FILE.wav|-", default="output.wav", help="default output.wav")
    add_settings(parser, _SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Speak."""
    settings = quiet_settings(arguments)
    if not 0.1 <= arguments.speed <= 10:
        raise UsageError(f"--speed must be between 0.1 and 10, not {arguments.speed:g}")
    if arguments.output != "-":
        _speak(arguments, settings, lambda audio, rate_hz: _write(audio, rate_hz, arguments.output))
        return 0
    with _stdout_alone() as raw:
        _speak(arguments, settings, lambda audio, _rate_hz: _pipe(audio, raw))
    return 0


def _speak(
    arguments: argparse.Namespace, settings: "Settings", write: "Callable[[Iterable[Waveform], int], None]"
) -> None:
    from dataclasses import replace

    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.runtime.scheduler import BUSY_S
    from wyoming_rknn.tts import programs
    from wyoming_rknn.tts.narrator import Manner, Narrator, TextFeed
    from wyoming_rknn.tts.programs import Wanted

    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    settings = replace(settings, length_scale=settings.length_scale / arguments.speed)
    with ExitStack() as opened:
        runtimes = Runtimes.of(settings)
        opened.callback(runtimes.close)
        runtimes.report()
        found = programs.load(settings, runtimes)
        opened.callback(found.close)
        choice = found.choose(Wanted(settings.voice, settings.language, arguments.speaker))
        scheduler = runtimes.scheduler()
        # The interpreter must not end while a device computes.
        opened.callback(scheduler.close, BUSY_S)
        feed = TextFeed(choice.voice.language, is_ssml=arguments.ssml, reads_phonemes=choice.voice.reads_phonemes)
        feed.write(text)
        feed.end()
        manner = Manner(choice.speaker, settings.sentence_silence)
        narrator = Narrator(choice.engine, choice.voice, manner, scheduler.stream())
        write(narrator.narrate(feed), choice.voice.rate_hz)


@contextmanager
def _stdout_alone() -> Iterator[BinaryIO]:
    """Give stdout's file; meanwhile whatever an NPU's library prints goes to stderr."""
    sys.stdout.flush()
    stdout = sys.stdout.fileno()
    with os.fdopen(os.dup(stdout), "wb", buffering=0) as raw:
        os.dup2(sys.stderr.fileno(), stdout)
        try:
            yield raw
        finally:
            os.dup2(raw.fileno(), stdout)


def _pipe(audio: "Iterable[Waveform]", raw: BinaryIO) -> None:
    from wyoming_rknn.audio import to_bytes

    for waveform in audio:
        rest = memoryview(to_bytes(waveform))
        while rest:
            rest = rest[raw.write(rest) :]


def _write(audio: "Iterable[Waveform]", rate_hz: int, output: str) -> None:
    from wyoming_rknn.audio import silence, to_bytes

    # A text that cannot be spoken leaves an older file as it is.
    spoken = iter(audio)
    first = next(spoken, silence(0.0, rate_hz))
    try:
        with Path(output).open("wb") as file, wave.open(file) as wav:
            wav.setframerate(rate_hz)
            wav.setsampwidth(2)
            wav.setnchannels(1)
            for waveform in chain((first,), spoken):
                wav.writeframes(to_bytes(waveform))
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; choose another file with --output") from None
