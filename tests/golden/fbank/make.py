"""Make the feature goldens with FunASR's own front end; the tests do not need this script.

    pip install funasr-onnx==0.4.3 kaldi-native-fbank==1.23.0 "numpy<2"
    python tests/golden/fbank/make.py

It writes, beside itself, `am.mvn` (a normalisation by formula, in Kaldi's text format) and `features.npz`:

    pcm         int16 [9130]       0.11 s of digital silence, 0.25 s of a sweep from 60 Hz to 7.5 kHz on a constant
                                   offset, the rest noise that grows from 1 to 8000
    fbank       float32 [55, 80]   log filter banks by kaldi-native-fbank with the options that FunASR sets, no dither
    stacked     float32 [10, 560]  seven frames to a row, one row for six frames
    normalised  float32 [10, 560]  the same after am.mvn

With 55 frames the last row lacks frames on its right, as the first one does on its left.
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RATE_HZ = 16_000
SAMPLES = 400 + 54 * 160 + 90


def noise(count):
    """Return white noise within ±1 from a hash of the sample's number (SplitMix64)."""
    with np.errstate(over="ignore"):
        bits = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**52 - 1


def signal():
    """Return the test signal, int16 [SAMPLES]."""
    quiet, sweep = round(0.11 * RATE_HZ), round(0.25 * RATE_HZ)
    seconds = np.arange(sweep) / RATE_HZ
    low_hz, high_hz, length_s = 60.0, 7500.0, sweep / RATE_HZ
    ratio = high_hz / low_hz
    phase = 2 * np.pi * low_hz * length_s / np.log(ratio) * (ratio ** (seconds / length_s) - 1)
    rest = SAMPLES - quiet - sweep
    parts = (np.zeros(quiet), 9000 * np.sin(phase) + 700, noise(rest) * np.geomspace(1, 8000, rest))
    return np.rint(np.concatenate(parts)).astype(np.int16)


def am_mvn():
    """Return a normalisation of 560 dimensions in the text form of a Kaldi network."""
    index = np.arange(560)
    shift = -11 - 3 * np.sin(index / 25)
    scale = 0.16 + 0.03 * np.cos(index / 40)
    numbers = {"AddShift": shift, "Rescale": scale}
    lines = ["<Nnet>", "<Splice> 560 560", "[ 0 ]"]
    for name, values in numbers.items():
        listed = " ".join(f"{value:.6g}" for value in values)
        lines += [f"<{name}> 560 560", f"<LearnRateCoef> 0 [ {listed} ]"]
    return "\n".join([*lines, "</Nnet>", ""])


def main():
    """Write both files."""
    from funasr_onnx.utils.frontend import WavFrontend

    mvn = HERE / "am.mvn"
    mvn.write_text(am_mvn(), encoding="utf-8")
    front_end = WavFrontend(cmvn_file=str(mvn), window="hamming", n_mels=80, lfr_m=7, lfr_n=6, dither=0.0)
    pcm = signal()
    fbank, _ = front_end.fbank(pcm.astype(np.float32) / 32768)
    stacked = front_end.apply_lfr(fbank, 7, 6)
    normalised, _ = front_end.lfr_cmvn(fbank)
    arrays = {"pcm": pcm, "fbank": fbank, "stacked": stacked, "normalised": normalised.astype(np.float32)}
    np.savez_compressed(HERE / "features.npz", **arrays)


if __name__ == "__main__":
    main()
