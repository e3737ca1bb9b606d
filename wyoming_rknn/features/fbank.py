"""What SenseVoice and Paraformer hear: Kaldi filter banks, stacked and normalised, as FunASR computes them."""

import re
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from kaldi_native_fbank import FbankOptions, OnlineFbank
from numpy.typing import NDArray

from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import ModelInvalid

Features: TypeAlias = NDArray[np.float32]
"""Feature vectors, float32 [frames, dimensions]."""

RATE_HZ = 16_000
BINS = 80
WINDOW = 7
"""Frames that are stacked into one row."""
SHIFT = 6
"""Frames from one row to the next."""
STACKED = BINS * WINDOW
"""Dimensions of a row: 560."""
_FULL_SCALE = np.float32(32768)
"""The models were trained on samples of 16 bits."""
_BLOCK = 16_000
"""Samples handed over at once: they go as a list of Python floats, which takes 32 bytes each."""
_FIRST_CAPACITY = 512
_PLACE = "the model's am.mvn (in a sherpa-onnx graph: neg_mean and inv_stddev of the metadata)"
_FIX = "replace it with the one that was published with the model"


class Fbank:
    """Compute log filter banks while audio arrives, the same however it is cut up. One call at a time.

    80 mel bins from 20 Hz to 8 kHz, frames of 25 ms every 10 ms, Hamming window, pre-emphasis of 0.97 after the mean of
    each frame is removed, power spectrum of 512 points, natural logarithm with a floor of 2^-23, no dither: FunASR's
    `WavFrontend`, which is Kaldi's `compute-fbank-feats` with these options.
    """

    def __init__(self) -> None:
        self._kaldi = OnlineFbank(_options())
        self._frames: Features = np.empty((_FIRST_CAPACITY, BINS), np.float32)
        self._count = 0

    def accept(self, samples: Waveform) -> None:
        """Take in the audio that follows, float32 [n] within ±1 at 16 kHz, any n."""
        for begin in range(0, samples.size, _BLOCK):
            block = samples[begin : begin + _BLOCK] * _FULL_SCALE
            # A list is taken over more quickly than an array.
            self._kaldi.accept_waveform(RATE_HZ, block.tolist())
            self._collect()

    def frames(self) -> Features:
        """Return all frames so far, float32 [T, 80], read-only; T is 1 + (n - 400) // 160, or 0 if n is below 400.

        Costs nothing: it is a view, which stays as it is when more audio comes.
        """
        view = self._frames[: self._count]
        view.flags.writeable = False
        return view

    def _collect(self) -> None:
        ready = self._kaldi.num_frames_ready
        if ready > len(self._frames):
            grown: Features = np.empty((max(ready, 2 * len(self._frames)), BINS), np.float32)
            grown[: self._count] = self._frames[: self._count]
            self._frames = grown
        for index in range(self._count, ready):
            self._frames[index] = self._kaldi.get_frame(index)
        # The library would keep them all, once more.
        self._kaldi.pop(ready - self._count)
        self._count = ready


def stack_frames(features: Features, window: int = WINDOW, shift: int = SHIFT) -> Features:
    """Stack frames [T, d] to rows [ceil(T / shift), window * d], with the frame number `shift * row` in the middle.

    Known as low frame rate, LFR. Beyond either end the first or the last frame is repeated, as in FunASR's
    `apply_lfr`.
    """
    frames, dimensions = features.shape
    rows = -(-frames // shift)
    indices = np.arange(rows)[:, None] * shift + np.arange(window) - (window - 1) // 2
    return features[np.clip(indices, 0, max(0, frames - 1))].reshape(rows, window * dimensions)


@dataclass(frozen=True, slots=True, eq=False)
class Cmvn:
    """Mean and variance normalisation of stacked frames. Raises `ModelInvalid` for numbers that cannot be one."""

    shift: Features
    """What is added, float32 [560]."""
    scale: Features
    """What the sum is multiplied by, float32 [560]."""

    def __post_init__(self) -> None:
        for name, values in (("shifts", self.shift), ("scales", self.scale)):
            if values.shape != (STACKED,):
                raise ModelInvalid(f"{_PLACE} must hold {STACKED} {name}, not {values.size}; {_FIX}")
            if not np.isfinite(values).all():
                raise ModelInvalid(f"{_PLACE} holds {name} that are no finite numbers; {_FIX}")

    def apply(self, features: Features) -> Features:
        """Normalise rows, float32 [T, 560]."""
        normalised: Features = (features + self.shift) * self.scale
        return normalised

    @classmethod
    def from_kaldi(cls, text: str) -> "Cmvn":
        """Read the text of an `am.mvn`: a Kaldi network of the components AddShift and Rescale.

        Raises `ModelInvalid`.
        """
        return cls(_component(text, "AddShift"), _component(text, "Rescale"))


def _component(text: str, name: str) -> Features:
    """Return the vector of a component: `<Name> 560 560 <LearnRateCoef> 0 [ … ]`."""
    found = re.search(rf"<{name}>\s+\d+\s+\d+\s+(?:<LearnRateCoef>\s+\S+\s+)?\[([^\[\]<>]*)\]", text)
    if found is None:
        raise ModelInvalid(f"the model's am.mvn has no complete <{name}> with its numbers in brackets; {_FIX}")
    try:
        values = [float(number) for number in found[1].split()]
    except ValueError as error:
        raise ModelInvalid(f"the model's am.mvn has something else than numbers in <{name}>: {error}; {_FIX}") from None
    # What is too large for float32 becomes infinite, and is refused with the others.
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(np.float32)


def _options() -> FbankOptions:
    """Return the options in full: defaults differ between versions, and dither is on in all of them."""
    options = FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.samp_freq = RATE_HZ
    frame.frame_length_ms = 25.0
    frame.frame_shift_ms = 10.0
    frame.window_type = "hamming"
    frame.preemph_coeff = 0.97
    frame.remove_dc_offset = True
    frame.round_to_power_of_two = True
    frame.snip_edges = True
    frame.dither = 0.0
    mel.num_bins = BINS
    mel.low_freq = 20.0
    mel.high_freq = 0.0
    options.energy_floor = 0.0
    options.use_energy = False
    options.use_log_fbank = True
    options.use_power = True
    return options
