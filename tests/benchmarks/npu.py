"""What scheduling on several NPU cores gives, measured with the test double of librknnrt in place of an NPU.

    python tests/benchmarks/npu.py [--run-ms 20] [--rounds 3]

The double takes a set time for each run on a core, so these figures say what the program adds, never how quick a board
is: windows per second of one voice on one core and on three, and how long a second listener waits for its first audio
while a long text is being spoken. Needs gcc and the test voices (`WYOMING_RKNN_TEST_DATA`).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In place of this file's folder, where `npu` would be this file.
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from npu.building import build  # noqa: E402
from npu.stand_in_toolkit import StandInToolkit  # noqa: E402

from wyoming_rknn.convert.piper import convert_voice  # noqa: E402
from wyoming_rknn.convert.report import ConvertOptions  # noqa: E402
from wyoming_rknn.models.store import Store  # noqa: E402
from wyoming_rknn.runtime import rknn  # noqa: E402
from wyoming_rknn.runtime.board import Board  # noqa: E402
from wyoming_rknn.runtime.runtimes import Runtimes  # noqa: E402
from wyoming_rknn.settings import Settings  # noqa: E402
from wyoming_rknn.tts.engine import SpeechRequest  # noqa: E402
from wyoming_rknn.tts.piper.engine import PiperEngine  # noqa: E402

VOICE = "random-tiny"
TEXT = "Turn on the living room lights, please, and then tell us a story about the sea and the ships on it."
CORES = (1, 3)


class Speaking:
    """A voice on so many NPU cores."""

    def __init__(self, library: Path, cores: int, folder: Path) -> None:
        settings = Settings(data_dir=(folder / "voices",), cache_dir=folder / "cache")
        accelerator = rknn.open_accelerator(library, cores, True)
        self.runtimes = Runtimes(Board(soc="rk3588", npu_cores=cores), accelerator, min(4, os.cpu_count() or 1))
        self.scheduler = self.runtimes.scheduler()
        self.engine = PiperEngine(settings, Store(settings.data_dirs), self.runtimes)
        self.engine.prepare(VOICE)
        for _ in self.windows("Good morning."):
            pass

    def windows(self, text: str):
        """Yield the audio of a text, window by window."""
        return self.engine.speak(SpeechRequest(text, VOICE), self.scheduler.stream())

    def rate(self) -> float:
        """Return windows per second of a long sentence, from its first to its last."""
        times = [time.perf_counter() for _ in self.windows(4 * TEXT)]
        return (len(times) - 1) / (times[-1] - times[0])

    def newcomer_s(self, alone: bool) -> float:
        """Return when a listener hears the first window, alone or while a text of 30 s is being spoken."""
        busy, stop = threading.Event(), threading.Event()

        def listen() -> None:
            for number, _ in enumerate(self.windows(8 * TEXT)):
                if number == 6:
                    busy.set()
                if stop.is_set():
                    return

        listener = threading.Thread(target=listen)
        if not alone:
            listener.start()
            busy.wait(30)
        begin_s = time.perf_counter()
        next(self.windows("Good morning, how are you today?"))
        took_s = time.perf_counter() - begin_s
        stop.set()
        if not alone:
            listener.join()
        return took_s

    def close(self) -> None:
        """Free everything."""
        self.scheduler.close(10)
        self.engine.close()
        self.runtimes.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-ms", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = Path(os.environ.get("WYOMING_RKNN_TEST_DATA", ROOT / ".." / "shared" / "data"))
    os.environ["RKNN_DOUBLE_RUN_MS"] = str(arguments.run_ms)
    rates: dict[int, list[float]] = {cores: [] for cores in CORES}
    waits: dict[str, list[float]] = {"alone": [], "while another is spoken to": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build(folder)
        source = data / "voices" / VOICE / f"{VOICE}.onnx"
        convert_voice(source, "rk3588", folder / "voices" / VOICE, ConvertOptions(), StandInToolkit(), folder / "cache")
        speaking = {cores: Speaking(library, cores, folder) for cores in CORES}
        for _ in range(arguments.rounds):
            for cores in CORES:
                rates[cores].append(speaking[cores].rate())
            for label in waits:
                waits[label].append(speaking[CORES[-1]].newcomer_s(label == "alone"))
        for one in speaking.values():
            one.close()
    one, all_cores = (statistics.median(rates[cores]) for cores in CORES)
    result = {
        "run_ms": arguments.run_ms,
        "windows_per_s": {cores: statistics.median(rates[cores]) for cores in CORES},
        "ratio": all_cores / one,
        "first_audio_ms": {label: 1000 * statistics.median(values) for label, values in waits.items()},
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"runs of {arguments.run_ms:g} ms: {one:.1f} windows/s on 1 core, {all_cores:.1f} on {CORES[-1]}")
    print(f"ratio {result['ratio']:.2f}")
    for label, value in result["first_audio_ms"].items():
        print(f"first audio {label}: {value:.0f} ms")


if __name__ == "__main__":
    main()
