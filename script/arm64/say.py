"""On the emulated board: speak on the CPU, then on the NPU, which must say the same, do all of it, and warn of nothing.

python script/arm64/say.py VOICES VOICE RUNTIME
"""

import os
import shutil
import subprocess
import sys
import wave
from importlib.metadata import version
from pathlib import Path

import numpy as np

FLOOR_DB = 50.0
TEXT = "Turn on the living room lights, please, and then tell us a story about the sea and the ships on it."


def main() -> int:
    """Speak and compare."""
    voices, voice, runtime = sys.argv[1:]
    folder = Path("/work")
    folder.mkdir(exist_ok=True)
    calls = folder / "calls.log"
    calls.unlink(missing_ok=True)
    # No verdict of an earlier self-test is to be remembered.
    shutil.rmtree(folder / "cache", ignore_errors=True)
    os.environ["RKNN_DOUBLE_LOG"] = str(calls)
    speech = {}
    for name in ("onnx", runtime):
        out = folder / f"{name}.wav"
        out.unlink(missing_ok=True)
        command = ["wyoming-rknn", "say", TEXT, "--data-dir", voices, "--voice", voice, "--runtime", name]
        command += ["--cache-dir", str(folder / "cache"), "--noise-scale", "0", "--noise-w", "0"]
        command += ["--log-level", "info", "--output", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        print(name, done.returncode, done.stdout, done.stderr, sep="\n", flush=True)
        if done.returncode or "WARNING" in done.stderr:
            return 1
        with wave.open(str(out)) as wav:
            speech[name] = np.frombuffer(wav.readframes(wav.getnframes()), np.int16).astype(np.float64)
            seconds = wav.getnframes() / wav.getframerate()
    reference, result = speech["onnx"], speech[runtime]
    if reference.shape != result.shape:
        print(f"{result.size} samples, {reference.size} on the CPU")
        return 1
    snr_db = 10 * np.log10(np.sum(reference**2) / max(1.0, np.sum((reference - result) ** 2)))
    runs = [line for line in calls.read_text().splitlines() if line.startswith("rknn_run")]
    if runtime == "rknn-lite":
        print("rknn-toolkit-lite2", version("rknn-toolkit-lite2"), end=": ")
    print(f"{seconds:.1f} s of speech, {len(runs)} runs on the NPU, {snr_db:.1f} dB")
    return 0 if runs and snr_db > FLOOR_DB else 1


if __name__ == "__main__":
    sys.exit(main())
