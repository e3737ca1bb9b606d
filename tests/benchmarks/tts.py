"""Compare this server with PyPI's wyoming-piper on the same voice, request by request in turn.

    python tests/benchmarks/tts.py [--voice NAME] [--rounds N] [--clients N] [--json FILE]

Needs the test voices (`WYOMING_RKNN_TEST_DATA`) and, once, the network: wyoming-piper gets a virtual environment of its
own. Ratios within one run are what counts; the milliseconds are this machine's.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PEER = "wyoming-piper==2.5.2"
LONG_S, SHORT_S, BURST_S = 10.0, 1.5, 5.0
TEXT = (
    "the morning starts with fog in the valleys later the sun comes through and in the afternoon it gets warm with up "
    "to twenty degrees before the first clouds arrive from the west while in the evening some rain is likely"
)
SETTLE_S = 0.3
"""Between requests: the peer's threads spin on both cores for a while after an answer."""


@dataclass
class Reply:
    """What a listener saw of one reply; seconds."""

    first_s: float
    burst_s: float
    total_s: float
    audio_s: float
    margin_s: float


@dataclass
class Server:
    """A running server."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def resident_mb(self) -> float:
        """Memory of the serving process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def speak(port: int, text: str, voice: str, before_s: float = 0.0) -> Reply:
    """Ask for a text and listen to the end."""
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as stream:
        data = json.dumps({"text": text, "voice": {"name": voice}}).encode()
        header = json.dumps({"type": "synthesize", "version": "1.10.2", "data_length": len(data)}).encode()
        begin = time.perf_counter() - before_s
        connection.sendall(header + b"\n" + data)
        heard_s, first_s, burst_s, margin_s = 0.0, 0.0, 0.0, float("inf")
        while True:
            event, fields, payload = read_event(stream)
            now_s = time.perf_counter() - begin
            if event == "audio-chunk":
                first_s = first_s or now_s
                # How long before this chunk was due the listener received it.
                margin_s = min(margin_s, first_s + heard_s - now_s) if heard_s else margin_s
                heard_s += len(payload) / (fields["rate"] * fields["width"] * fields["channels"])
                if not burst_s and heard_s >= BURST_S:
                    burst_s = now_s
            elif event == "audio-stop":
                return Reply(first_s, burst_s or now_s, now_s, heard_s, margin_s if margin_s < 1e9 else 0.0)
            elif event == "error":
                raise RuntimeError(fields)


def describe(port: int) -> float:
    """Return how long `describe` took."""
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as stream:
        begin = time.perf_counter()
        connection.sendall(b'{"type": "describe"}\n')
        while read_event(stream)[0] != "info":
            pass
        return time.perf_counter() - begin


def read_event(stream: object) -> tuple[str, dict, bytes]:
    header = json.loads(stream.readline())
    data = header.get("data") or {}
    if header.get("data_length"):
        data |= json.loads(stream.read(header["data_length"]))
    return header["type"], data, stream.read(header["payload_length"]) if header.get("payload_length") else b""


def describe_while_speaking(port: int, text: str, voice: str) -> float:
    """Return the slowest of some `describe`s during a synthesis."""
    speaking = threading.Thread(target=speak, args=(port, text, voice))
    speaking.start()
    slowest = 0.0
    while speaking.is_alive():
        slowest = max(slowest, describe(port))
        time.sleep(0.01)
    return slowest


def text_of(seconds: float, port: int, voice: str) -> str:
    """Return a sentence whose audio is about as long as asked for."""
    words = TEXT.split()
    count = 3
    while True:
        text = " ".join(words[index % len(words)] for index in range(count)).capitalize() + "."
        if (audio_s := speak(port, text, voice).audio_s) >= seconds * 0.97:
            return text
        count = max(count + 1, int(count * min(1.5, 0.97 * seconds / audio_s)))


@contextmanager
def serving(name: str, command: Callable[[int], list[str]], log: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(command(port), stdout=output, stderr=output)
    try:
        for _ in range(600):
            try:
                describe(port)
                break
            except (OSError, ValueError):
                time.sleep(0.1)
        else:
            raise RuntimeError(f"{name} does not answer: {log.read_text()}")
        yield Server(name, port, process)
    finally:
        process.terminate()
        process.wait(10)


def peer_python() -> Path:
    """Return the interpreter of the peer's environment, made on first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = cache / "wyoming-rknn" / "benchmarks" / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
    return python


def clients(port: int, count: int, text: str, voice: str) -> list[Reply]:
    """Let several clients ask at once."""
    replies: list[Reply | None] = [None] * count
    ready = threading.Barrier(count)

    def ask(index: int) -> None:
        ready.wait()
        replies[index] = speak(port, text, voice)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [reply for reply in replies if reply is not None]


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", default="random-medium")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    voice: str = arguments.voice
    folder = data / "voices" / voice
    if not folder.is_dir():
        print(f"{folder} is missing; set WYOMING_RKNN_TEST_DATA", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(folder, Path(scratch) / "voices")

        def ours(port: int) -> list[str]:
            return [sys.executable, "-m", "wyoming_rknn", "serve", "--uri", f"tcp://127.0.0.1:{port}", "--no-zeroconf",
                    "--data-dir", str(folder), "--voice", voice]  # fmt: skip

        def theirs(port: int) -> list[str]:
            return [str(peer_python()), "-m", "wyoming_piper", "--uri", f"tcp://127.0.0.1:{port}", "--voice", voice,
                    "--data-dir", str(copy), "--download-dir", str(copy)]  # fmt: skip

        with (
            serving("wyoming-rknn", ours, Path(scratch) / "ours.log") as us,
            serving("wyoming-piper", theirs, Path(scratch) / "theirs.log") as them,
        ):
            results = measure((us, them), voice, arguments.rounds, arguments.clients)
    print_table(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0


def measure(servers: tuple[Server, Server], voice: str, rounds: int, count: int) -> dict[str, dict[str, float]]:
    texts = {"10 s": text_of(LONG_S, servers[0].port, voice), "1.5 s": text_of(SHORT_S, servers[0].port, voice)}
    replies: dict[tuple[str, str], list[Reply]] = {}
    slowest: dict[str, list[float]] = {server.name: [] for server in servers}
    for server in servers:
        for text in texts.values():
            speak(server.port, text, voice)
    for index in range(rounds):
        for server in servers if index % 2 else reversed(servers):
            for label, text in texts.items():
                time.sleep(SETTLE_S)
                replies.setdefault((server.name, label), []).append(speak(server.port, text, voice))
            time.sleep(SETTLE_S)
            slowest[server.name].append(describe_while_speaking(server.port, texts["10 s"], voice))
    memory = {server.name: server.resident_mb for server in servers}
    results: dict[str, dict[str, float]] = {}
    for server in servers:
        row = results[server.name] = {}
        for label in texts:
            these = replies[server.name, label]
            row[f"{label}: first audio, ms"] = 1000 * statistics.median(reply.first_s for reply in these)
            if label == "10 s":
                row["10 s: 5 s of audio sent, ms"] = 1000 * statistics.median(reply.burst_s for reply in these)
                row["10 s: worst playback margin, ms"] = 1000 * min(reply.margin_s for reply in these)
            row[f"{label}: total, ms"] = 1000 * statistics.median(reply.total_s for reply in these)
            row[f"{label}: audio, s"] = statistics.median(reply.audio_s for reply in these)
        row["describe during synthesis, ms"] = 1000 * statistics.median(slowest[server.name])
        row["memory, MB"] = memory[server.name]
    crowd_rounds = [clients(servers[0].port, count, texts["10 s"], voice) for _ in range(5)]
    single_s = statistics.median(reply.first_s for reply in replies[servers[0].name, "10 s"])
    last_s = statistics.median(max(reply.first_s for reply in crowd) for crowd in crowd_rounds)
    row = results[servers[0].name]
    row[f"{count} clients: last first audio / single"] = last_s / single_s
    row[f"{count} clients: worst playback margin, ms"] = 1000 * statistics.median(
        min(reply.margin_s for reply in crowd) for crowd in crowd_rounds
    )
    row[f"{count} clients: rtf"] = statistics.median(
        max(reply.total_s for reply in crowd) / sum(reply.audio_s for reply in crowd) for crowd in crowd_rounds
    )
    return results


def print_table(results: dict[str, dict[str, float]]) -> None:
    ours, theirs = results["wyoming-rknn"], results["wyoming-piper"]
    print("| | wyoming-rknn | wyoming-piper 2.5.2 | ratio |")
    print("|---|---|---|---|")
    for key, value in ours.items():
        other = theirs.get(key)
        comparable = other and "margin" not in key and "audio, s" not in key
        ratio = f"{value / other:.2f}" if comparable and other else ""
        print(f"| {key} | {figure(value)} | {'' if other is None else figure(other)} | {ratio} |")


def figure(value: float) -> str:
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 1 else 3}f}"


if __name__ == "__main__":
    sys.exit(main())
