"""Compare speech-to-text with PyPI's sherpa-onnx and wyoming-faster-whisper on the same SenseVoice files, in turn.

    python tests/benchmarks/asr.py [--quick] [--sherpa PYTHON] [--whisper PYTHON] [--rounds N] [--json FILE]

Three tables: what computing costs (features, graph and text on a random model of 54 M parameters, no VAD, no network),
how long after `audio-stop` the transcript comes when speech is streamed as it is spoken, and eight speakers at once. A
microphone is played in chunks of 10 ms; "0.7 s of silence" is what Home Assistant waits for before it ends a command.

Clips and the small model are the test data's (`WYOMING_RKNN_TEST_DATA`); without them espeak-ng speaks and the model
is that of tests/golden. Once, the network is needed: the peers get a virtual environment of their own unless an
interpreter that has them is named. The random model, 216 MB, is written to a temporary folder. Ratios within one run
are what counts; the milliseconds are this machine's.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import random_sensevoice
import soundfile
import soxr
from tts import SETTLE_S, Server, describe, read_event, serving

PEERS = ("wyoming-faster-whisper==3.8.1", "sherpa-onnx==2.0.1")
HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden" / "sensevoice"
RATE_HZ = 16_000
CHUNK = 160
CLIPS_S = (1.5, 3.0, 10.0)
THREADS = (1, 2)
BOUND = 1.05
"""How much of sherpa-onnx's time decoding may take."""
SILENCE_S = 0.7
SPEAKERS = 8
POLL_S = 0.05
UTTERANCE = "en_turn_on_the_living_room_lamp.wav"
TRAINED = "0.6 M"
TEXT = "Turn on the living room lamp."
OURS, SHERPA, WHISPER = "wyoming-rknn", "sherpa-onnx 2.0.1", "wyoming-faster-whisper 3.8.1"


@dataclass
class Table:
    """Rows of figures of two programs."""

    peer: str
    rows: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def print(self) -> None:
        print(f"| | {OURS} | {self.peer} | ratio |\n|---|---|---|---|")
        for name, (ours, theirs) in self.rows.items():
            ratio = f"{ours / theirs:.2f}" if ours is not None and theirs else ""
            cells = ("" if value is None else f"{value:.3g}" for value in (ours, theirs))
            print(f"| {name} | {' | '.join(cells)} | {ratio} |")
        print()


# What computing costs


class Decoder:
    """A process that decodes when told to, and otherwise uses no processor."""

    def __init__(self, python: str, which: str, folder: Path, threads: int) -> None:
        command = [python, str(HERE / "asr_decode.py"), which, str(folder), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> list:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended")
        return json.loads(line)

    def decode(self, clip: Path) -> tuple[float, float, str]:
        """Return seconds, seconds of all processors, and the text."""
        self.process.stdin.write(f"{clip}\n")
        self.process.stdin.flush()
        return tuple(self.answer())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


def decoding(sherpa: str, folder: Path, speech: np.ndarray, rounds: int, scratch: Path) -> Table:
    """Decode clips with both in turn, and measure our VAD beside it."""
    table, same = Table(SHERPA), 1.0
    clips = {}
    for seconds in CLIPS_S:
        clips[seconds] = scratch / f"{seconds}.npy"
        np.save(clips[seconds], np.resize(speech, round(seconds * RATE_HZ)))
    for threads in THREADS:
        decoders = {
            OURS: Decoder(sys.executable, "ours", folder, threads),
            SHERPA: Decoder(sherpa, "sherpa", folder, threads),
        }
        took: dict[tuple[str, float], list[tuple[float, float, str]]] = {}
        try:
            for clip in (*clips.values(), *clips.values()):
                for decoder in decoders.values():
                    decoder.decode(clip)
            for index in range(rounds):
                for seconds, clip in clips.items():
                    for name in sorted(decoders, reverse=bool(index % 2)):
                        # Threads of the one that has just answered spin for a while.
                        time.sleep(SETTLE_S / 3)
                        took.setdefault((name, seconds), []).append(decoders[name].decode(clip))
        finally:
            for decoder in decoders.values():
                decoder.close()
        for seconds in CLIPS_S:
            ours, theirs = took[OURS, seconds], took[SHERPA, seconds]
            label = f"{seconds:g} s, {threads} thread{'s' * (threads > 1)}"
            for name, pick in (("real-time factor", statistics.median), ("the same at best", min)):
                pair = (pick(answer[0] for answer in answers) / seconds for answers in (ours, theirs))
                table.rows[f"{label}: {name}"] = tuple(pair)
            pair = (statistics.median(answer[1] for answer in answers) / seconds for answers in (ours, theirs))
            table.rows[f"{label}: CPU seconds per second"] = tuple(pair)
            # sherpa-onnx takes the first four tokens for tags, which a random model does not give.
            same = min(same, equal(ours[0][2].split()[4:], theirs[0][2].split()))
    table.rows["share of equal words"] = same, None
    for label, audio in (("speech", np.resize(speech, 10 * RATE_HZ)), ("silence", np.zeros(10 * RATE_HZ, np.float32))):
        table.rows[f"VAD, ms per second of {label}"] = 1000 * vad_cost(audio, rounds), None
    return table


def equal(ours: list[str], theirs: list[str]) -> float:
    same = sum(first == second for first, second in zip(ours, theirs, strict=False))
    return same / max(len(ours), len(theirs), 1)


def vad_cost(audio: np.ndarray, rounds: int) -> float:
    """Return seconds per second of audio."""
    from wyoming_rknn.asr.vad import FRAME_SAMPLES, SpeechDetector

    times = []
    for _ in range(max(3, rounds // 2)):
        detector = SpeechDetector()
        # The first frame that is no silence loads the model.
        detector.probability(np.random.default_rng(1).normal(0, 0.1, FRAME_SAMPLES).astype(np.float32))
        detector.reset()
        begin = time.perf_counter()
        for start in range(0, audio.size - FRAME_SAMPLES + 1, FRAME_SAMPLES):
            detector.probability(audio[start : start + FRAME_SAMPLES])
        times.append((time.perf_counter() - begin) / (audio.size / RATE_HZ))
    return statistics.median(times)


# From audio-stop to the transcript


def event(kind: str, payload: bytes = b"", **data: object) -> bytes:
    header = {"type": kind, "version": "1.10.2", "data": data, "payload_length": len(payload)}
    return json.dumps(header).encode() + b"\n" + payload


PCM = {"rate": RATE_HZ, "width": 2, "channels": 1}


def transcribe(port: int, pcm: bytes) -> tuple[float, str]:
    """Speak in real time; return the seconds from audio-stop to the transcript, and its text."""
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(event("transcribe", language="en") + event("audio-start", **PCM))
        begin = time.perf_counter()
        for number, start in enumerate(range(0, len(pcm), 2 * CHUNK), 1):
            # A chunk is there once it has been spoken.
            time.sleep(max(0.0, begin + number * CHUNK / RATE_HZ - time.perf_counter()))
            connection.sendall(event("audio-chunk", pcm[start : start + 2 * CHUNK], **PCM))
        connection.sendall(event("audio-stop"))
        stopped = time.perf_counter()
        while True:
            kind, fields, _ = read_event(stream)
            if kind == "transcript":
                return time.perf_counter() - stopped, fields["text"]
            if kind == "error":
                raise RuntimeError(fields)


@contextmanager
def both(whisper: str, folder: Path, threads: int, scratch: Path) -> Iterator[tuple[Server, Server]]:
    """Serve the model with both programs."""

    def ours(port: int) -> list[str]:
        return [sys.executable, "-m", "wyoming_rknn", "serve", "--uri", f"tcp://127.0.0.1:{port}", "--no-zeroconf",
                "--data-dir", str(folder), "--threads", str(threads)]  # fmt: skip

    def theirs(port: int) -> list[str]:
        return [whisper, str(HERE / "asr_whisper.py"), str(port), str(folder), str(threads)]

    with serving(OURS, ours, scratch / "ours.log") as us, serving(WHISPER, theirs, scratch / "theirs.log") as them:
        yield us, them


def latencies(servers: Sequence[Server], label: str, speech: np.ndarray, rounds: int, table: Table) -> None:
    """Speak to the servers in turn, with and without silence at the end."""
    sounds = {f"{label}, {SILENCE_S:g} s of silence": with_silence(speech), f"{label}, no silence": to_pcm(speech)}
    waits: dict[tuple[str, str], list[float]] = {}
    for server in servers:
        transcribe(server.port, to_pcm(speech))
    for index in range(rounds):
        for name, pcm in sounds.items():
            for server in servers if index % 2 else reversed(servers):
                time.sleep(SETTLE_S)
                waits.setdefault((server.name, name), []).append(transcribe(server.port, pcm)[0])
    for name in sounds:
        medians = (1000 * statistics.median(waits[server.name, name]) for server in servers)
        table.rows[f"{name}: ms after audio-stop"] = tuple(medians)


def parallel(servers: Sequence[Server], label: str, speech: np.ndarray, rounds: int, table: Table) -> None:
    """Let several speak at once while somebody keeps asking what there is."""
    found: dict[str, list[tuple[float, ...]]] = {server.name: [] for server in servers}
    for index in range(rounds):
        for server in servers if index % 2 else reversed(servers):
            time.sleep(SETTLE_S)
            found[server.name].append(crowd(server.port, with_silence(speech)))
    names = ["median ms after audio-stop", "last ms after audio-stop", "slowest describe, ms", "share of right texts"]
    # A random model knows no words.
    for place, name in enumerate(names if label == TRAINED else names[:-1]):
        medians = tuple(statistics.median(row[place] for row in found[server.name]) for server in servers)
        table.rows[f"{label}, {SPEAKERS} at once: {name}"] = medians


def crowd(port: int, pcm: bytes) -> tuple[float, ...]:
    answers: list[tuple[float, str]] = []
    ready = threading.Barrier(SPEAKERS)

    def speak() -> None:
        ready.wait()
        answers.append(transcribe(port, pcm))

    threads = [threading.Thread(target=speak) for _ in range(SPEAKERS)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        slowest = max(slowest, describe(port))
        time.sleep(POLL_S)
    waits = sorted(wait for wait, _ in answers)
    if len(waits) < SPEAKERS:
        raise RuntimeError(f"only {len(waits)} of {SPEAKERS} were answered")
    # How much silence is decoded along with the words depends on the moment, and a small model hears a full stop in it.
    share = sum(words(text) == words(TEXT) for _, text in answers) / SPEAKERS
    return 1000 * statistics.median(waits), 1000 * waits[-1], 1000 * slowest, share


def words(text: str) -> list[str]:
    return "".join(letter for letter in text.casefold() if letter.isalnum() or letter.isspace()).split()


# What is heard, and by whom


def to_pcm(samples: np.ndarray) -> bytes:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def with_silence(speech: np.ndarray) -> bytes:
    """Return speech and what a room sounds like after it, at about -60 dB below full scale."""
    noise = np.random.default_rng(1).normal(0.0, 0.001, round(SILENCE_S * RATE_HZ))
    return to_pcm(np.concatenate((speech, noise)))


def utterance(data: Path, scratch: Path) -> np.ndarray:
    """Return a command, float32 [n], that ends where the speaker does."""
    path = data / "speech" / UTTERANCE
    if not path.is_file():
        path = scratch / "spoken.wav"
        say = [sys.executable, "-m", "wyoming_rknn", "say", TEXT, "--output", str(path), "--tts-engine", "espeak-ng"]
        subprocess.run([*say, "--data-dir", str(scratch / "no-voices")], check=True, stdout=subprocess.DEVNULL)
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    speech = soxr.resample(samples.mean(axis=1), rate_hz, RATE_HZ)
    levels = np.sqrt(np.square(speech[: speech.size // CHUNK * CHUNK]).reshape(-1, CHUNK).mean(axis=1))
    last = int(np.flatnonzero(levels > 0.05 * levels.max())[-1])
    return speech[: (last + 1) * CHUNK]


def small_model(data: Path, scratch: Path) -> tuple[str, Path]:
    """Return the name and the folder of a model that costs next to nothing."""
    overfit = data / "asr" / "sensevoice-overfit"
    name, source = (TRAINED, overfit) if overfit.is_dir() else ("tiny", GOLDEN)
    folder = scratch / "small"
    folder.mkdir()
    shutil.copyfile(source / "sherpa.onnx", folder / "model.onnx")
    shutil.copyfile(source / "tokens.txt", folder / "tokens.txt")
    return name, folder


def peer_python() -> str:
    """Return the interpreter of the peers' environment, made on first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = cache / "wyoming-rknn" / "benchmarks" / "-".join(peer.replace("==", "-") for peer in PEERS)
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        except BaseException:
            shutil.rmtree(folder)
            raise
    return str(python)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sherpa", metavar="PYTHON", help="an interpreter that has sherpa-onnx")
    parser.add_argument("--whisper", metavar="PYTHON", help="an interpreter that has wyoming-faster-whisper")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="threads of the servers (default 2)")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--only", choices=("decode", "latency", "parallel"), action="append")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.rounds = min(arguments.rounds, 3) if arguments.quick else arguments.rounds
    arguments.only = arguments.only or ("decode", "latency", "parallel")
    return arguments


def main() -> int:
    """Measure and print tables."""
    arguments = parse()
    sherpa, whisper = arguments.sherpa or peer_python(), arguments.whisper or peer_python()
    data = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or HERE.parents[2] / "shared" / "data")
    tables: dict[str, Table] = {}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        speech = utterance(data, scratch)
        parameters = random_sensevoice.install(scratch / "random")
        large = f"{parameters / 1e6:.0f} M"
        small, folder = small_model(data, scratch)
        if "decode" in arguments.only:
            tables["decode"] = decoding(sherpa, scratch / "random", speech, arguments.rounds, scratch)
        spoken = {
            "latency": (latencies, arguments.rounds),
            "parallel": (parallel, max(1, arguments.rounds // 3)),
        }
        for name, (measure, rounds) in spoken.items():
            if name in arguments.only:
                tables[name] = Table(WHISPER)
                for label, model in ((small, folder), (large, scratch / "random")):
                    with both(whisper, model, arguments.threads, scratch) as servers:
                        measure(servers, label, speech, rounds, tables[name])
    for table in tables.values():
        table.print()
    if arguments.json:
        arguments.json.write_text(json.dumps({name: table.rows for name, table in tables.items()}, indent=2))
    factors = [row for name, row in tables["decode"].rows.items() if "factor" in name] if "decode" in tables else []
    slow = [row for row in factors if row[0] > BOUND * row[1]]
    if slow:
        print(f"{len(slow)} of {len(factors)} real-time factors are above {BOUND} times the peer's", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
