"""`wyoming-rknn transcribe`: write down what is said in sound files."""

import argparse
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wyoming_rknn.cli.arguments import add_settings, quiet_settings
from wyoming_rknn.errors import EngineError, ModelError, ModelNotFound, SpeechServerError

if TYPE_CHECKING:
    from wyoming_rknn.asr.engine import AsrSession, Transcript
    from wyoming_rknn.asr.listener import Heard
    from wyoming_rknn.asr.programs import AsrChoice
    from wyoming_rknn.audio import Waveform
    from wyoming_rknn.runtime.scheduler import Scheduler, Stream
    from wyoming_rknn.settings import Settings

HELP = "write down what is said in sound files"

_SETTINGS = (
    "data_dir", "cache_dir", "asr_engine", "asr_model", "language", "no_itn", "no_full_stop", "vad_threshold",
    "runtime", "soc", "rknn_library", "rkllm_library", "rkllm_version", "threads", "cpu_affinity",
    "log_level", "log_format",
)  # fmt: skip
_OUTPUT = """Each file becomes one line of UTF-8 on stdout: its text, empty if nobody speaks in it. With several files
the line begins with the file's name and a tab. A file that cannot be read is reported on stderr, the others are
transcribed all the same, and the exit code is 1."""
_LONGEST_S = 1e9
"""A file ends by itself: however long it is, all of it is transcribed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _OUTPUT
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="WAV, FLAC, Ogg, MP3 and whatever else libsndfile reads, of any rate and channels; - is stdin",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a list of objects: file, text, language, model, times in seconds"
    )
    add_settings(parser, _SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Transcribe."""
    settings = quiet_settings(arguments)
    from wyoming_rknn.asr import programs
    from wyoming_rknn.cli import recognisers
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.runtime.scheduler import BUSY_S

    # The locale's encoding may lack what is spoken; a name of bytes that are no text comes out as it went in.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    runtimes = Runtimes.of(settings)
    runtimes.report()
    found = programs.load(settings, runtimes)
    scheduler = runtimes.scheduler()
    transcripts: list[dict[str, Any]] = []
    try:
        choice = recognisers.loaded(found, settings)
        for name in arguments.files:
            try:
                heard = _listen(name, choice, scheduler, settings)
            except (ModelError, ModelNotFound):
                raise
            except SpeechServerError as error:
                where = f"{name}: " if isinstance(error, EngineError) else ""
                print(f"wyoming-rknn: {where}{error}", file=sys.stderr)
                continue
            transcripts.append(_described(name, choice, heard))
            if not arguments.json:
                begin = f"{name}\t" if len(arguments.files) > 1 else ""
                print(begin + heard.text, flush=True)
    finally:
        scheduler.close(BUSY_S)
        found.close()
        runtimes.close()
    if arguments.json:
        print(json.dumps(transcripts, indent=2))
    return 0 if len(transcripts) == len(arguments.files) else 1


def _listen(name: str, choice: "AsrChoice", scheduler: "Scheduler", settings: "Settings") -> "Heard":
    """Return what the server would have heard. Raises `SpeechServerError`."""
    from functools import partial

    from wyoming_rknn.asr.engine import Bias
    from wyoming_rknn.asr.listener import Listener, Listening
    from wyoming_rknn.asr.vad import SpeechDetector
    from wyoming_rknn.cli.sound import SoundFeed

    listening = Listening(settings.vad_threshold, longest_s=_LONGEST_S, full_stop=not settings.no_full_stop)
    session = _Session(partial(choice.open, Bias()))
    try:
        return Listener(session.open, scheduler, listening, SpeechDetector()).listen(SoundFeed(name))
    finally:
        session.leave()


class _Session:
    """A session that can be left: the interpreter must not end while a library of another language computes in it."""

    def __init__(self, open_session: "Callable[[], AsrSession]") -> None:
        self._open_session = open_session
        self._left = False
        self._over = threading.Event()

    def open(self) -> "AsrSession":
        """Open the session, on the listener's thread."""
        try:
            self._session = self._open_session()
        except BaseException:
            self._over.set()
            raise
        return self

    def accept(self, samples: "Waveform") -> None:
        """Take in audio, unless nobody waits for its text any more."""
        if not self._left:
            self._session.accept(samples)

    def partial(self, stream: "Stream") -> "Transcript":
        """Return what was said so far."""
        return self._session.partial(stream)

    def finish(self, stream: "Stream") -> "Transcript":
        """Return what was said."""
        return self._session.finish(stream)

    def close(self) -> None:
        """Note that it is over."""
        try:
            self._session.close()
        finally:
            self._over.set()

    def leave(self) -> None:
        """Do no more than what is under way, and wait for its end."""
        from wyoming_rknn.runtime.scheduler import BUSY_S

        self._left = True
        self._over.wait(BUSY_S)


def _described(name: str, choice: "AsrChoice", heard: "Heard") -> dict[str, Any]:
    return {
        "file": name,
        "text": heard.text,
        "language": heard.transcript.language or choice.language,
        "engine": choice.engine.name,
        "model": choice.model.name,
        "audio_s": round(heard.audio_s, 3),
        "decode_s": round(heard.decode_s, 4),
        "pieces": [asdict(piece) for piece in heard.transcript.pieces],
    }
