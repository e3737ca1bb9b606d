"""Speech to try a recogniser with while it is converted: espeak-ng's, in all languages of SenseVoice."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np

from wyoming_rknn.audio import Waveform, from_int16, resample
from wyoming_rknn.errors import EngineError
from wyoming_rknn.features.fbank import RATE_HZ, SHIFT, Fbank, Features, stack_frames
from wyoming_rknn.tts.espeak_library import NORMAL_WPM, library

SENTENCES = (
    # Chinese comes first: it is what the published model overflows with.
    ("zh", "sit/cmn", "打开客厅的灯，然后把音乐的声音调小一点。"),
    ("en", "gmw/en-US", "Turn on the lights in the living room, and set the heating to twenty one degrees."),
    ("ja", "jpx/ja", "りびんぐ の でんき を つけて ください。"),
    ("ko", "ko", "거실 불을 켜 주세요."),
    ("yue", "sit/yue", "開客廳燈，校細啲聲。"),
)
"""Language, espeak-ng's voice, text."""
_LOUDEST = 0.9
_FRAME = RATE_HZ // 100
_WINDOW = RATE_HZ // 40


class Probe:
    """Speech in several languages. The same in each process that makes it once."""

    def __init__(self) -> None:
        """Have all sentences spoken. Raises `EngineError` if espeak-ng cannot."""
        espeak = library()
        espeak.open()
        try:
            self._spoken = tuple(_spoken(voice, text) for _, voice, text in SENTENCES)
        finally:
            espeak.release()

    @property
    def languages(self) -> Sequence[str]:
        """Return the languages that can come first."""
        return tuple(language for language, _, _ in SENTENCES)

    def rows(self, count: int, first: str) -> Features:
        """Return `count` stacked frames, float32 [count, 560], of speech that begins in one language and goes on."""
        fbank = Fbank()
        fbank.accept(self.speech(_WINDOW + _FRAME * (SHIFT * count - 1), first))
        return stack_frames(fbank.frames()[: SHIFT * count])

    def speech(self, count: int, first: str) -> Waveform:
        """Return `count` samples at 16 kHz, float32, of speech that begins in one language and goes on."""
        wanted = count
        begin = self.languages.index(first)
        parts: list[Waveform] = []
        for part in cycle((*self._spoken[begin:], *self._spoken[:begin])):
            parts.append(part)
            wanted -= part.size
            if wanted <= 0:
                break
        return np.concatenate(parts)[:count]


def _spoken(voice: str, text: str) -> Waveform:
    espeak = library()
    pcm = bytearray()

    def take(samples: bytes) -> bool:
        pcm.extend(samples)
        return True

    espeak.synthesize(text, voice, NORMAL_WPM, take)
    speech = resample(from_int16(np.frombuffer(pcm, np.int16)), espeak.rate_hz, RATE_HZ)
    loudest = float(np.abs(speech).max(initial=0.0))
    if loudest == 0.0:
        raise EngineError(f"espeak-ng says nothing with its voice {voice}; reinstall espeakng-loader")
    louder: Waveform = speech * np.float32(_LOUDEST / loudest)
    return louder
