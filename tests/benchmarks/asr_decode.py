"""Decode clips with a SenseVoice model when told to: one half of a comparison, run by asr.py in a process of its own.

    python asr_decode.py ours|sherpa FOLDER THREADS

FOLDER holds model.onnx and tokens.txt. Each line of standard input names a .npy file, float32 [n] at 16 kHz; each line
of standard output is the answer, a list: wall-clock seconds, seconds of all processors, the text.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

RATE_HZ = 16_000


def ours(folder: Path, threads: int) -> Callable[[np.ndarray], str]:
    """Return what computes features, graph and text as the server does, without its VAD."""
    from wyoming_rknn.asr.engine import Bias
    from wyoming_rknn.asr.sensevoice.engine import create
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.settings import Settings

    settings = Settings(data_dir=(folder,), runtime="onnx", threads=threads)
    runtimes = Runtimes.of(settings)
    engine = create(settings, runtimes)
    model = engine.models()[0].name
    engine.prepare(model)
    scheduler = runtimes.scheduler()

    def decode(samples: np.ndarray) -> str:
        session = engine.open(model, None, Bias())
        session.accept(samples)
        text = session.finish(scheduler.stream()).text
        session.close()
        return text

    return decode


def sherpa(folder: Path, threads: int) -> Callable[[np.ndarray], str]:
    """Return sherpa-onnx's decoding."""
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_sense_voice(
        str(folder / "model.onnx"), str(folder / "tokens.txt"), num_threads=threads, use_itn=True
    )

    def decode(samples: np.ndarray) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE_HZ, samples)
        recognizer.decode_stream(stream)
        text: str = stream.result.text
        return text

    return decode


def main() -> None:
    decode = {"ours": ours, "sherpa": sherpa}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        samples = np.load(line.strip())
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        text = decode(samples)
        answer = (time.perf_counter() - begin_s, time.process_time() - begin_cpu_s, text)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
