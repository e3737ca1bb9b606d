"""An encoder and a generator that hear perfectly: seconds of audio that tell their number, and the words for them."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from wyoming_rknn.asr.qwen3.audio_encoder import SECOND, SECOND_ROWS, rows_of
from wyoming_rknn.asr.qwen3.model import Qwen3Model
from wyoming_rknn.asr.qwen3.tokenizer import AUDIO_PAD, read
from wyoming_rknn.features.log_mel import BINS, RATE_HZ, log_mel

TOKENIZER = Path(__file__).with_name("golden") / "qwen3" / "tokenizer"
_DIGIT_HZ = 150.0
_BASES_HZ = (600.0, 3000.0)
"""Of tens and of ones."""
_PAUSE_S = 0.12


def counted(seconds: float, pauses: bool = True) -> np.ndarray:
    """Return audio float32 [round(16000 * seconds)] in which each second sounds its number, at most 99."""
    whole = _counted(math.ceil(seconds / 20) * 20, pauses)
    return whole[: round(RATE_HZ * seconds)].copy()


@cache
def _counted(seconds: int, pauses: bool) -> np.ndarray:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    numbered = [
        sum(np.sin(2 * np.pi * (base + _DIGIT_HZ * digit) * (number + time_s)) for base, digit in _tones(number))
        for number in range(seconds)
    ]
    sound = np.array(numbered)
    if pauses:
        sound *= time_s < 1.0 - _PAUSE_S
    return (0.3 * sound).astype(np.float32).reshape(-1)


def _tones(number: int) -> Iterator[tuple[float, int]]:
    return zip(_BASES_HZ, divmod(number, 10), strict=True)


@cache
def _bands() -> np.ndarray:
    """Return the loudest band of each tone, int [2, 10]."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    tones = [[np.sin(2 * np.pi * (base + _DIGIT_HZ * digit) * time_s) for digit in range(10)] for base in _BASES_HZ]
    return np.array([[log_mel(tone.astype(np.float32))[50].argmax() for tone in row] for row in tones])


class OracleEncoder:
    """Gives rows that hold the number heard in them, -1 for none; counts what it computes."""

    hidden = 4

    def __init__(self) -> None:
        self._tens, self._ones = _bands()
        self.encoded_frames: list[int] = []

    def encode(self, mel, known, stream=None):
        assert 0 < len(mel) <= 8 * SECOND
        assert mel.shape[1] == BINS
        self.encoded_frames.append(len(mel))
        if stream is not None:
            stream.submit(lambda: None, at_s=0.0).result()
        count = rows_of(len(mel))
        rows = np.zeros((count, self.hidden), np.float32)
        row = np.arange(count)
        begin = row // SECOND_ROWS * SECOND + row % SECOND_ROWS * 8
        rows[:, 0] = self._numbers(mel[np.minimum(begin + 3, len(mel) - 1)])
        return rows

    def _numbers(self, frames):
        tens, ones, usual = frames[:, self._tens], frames[:, self._ones], np.median(frames, axis=1)
        # Between two tones, as in a pause, nothing stands out.
        is_clear = np.minimum(tens.max(1), ones.max(1)) - usual >= 0.5
        return np.where(is_clear, 10 * tens.argmax(1) + ones.argmax(1), -1)


class OracleGenerator:
    """Says each number that the audio holds once, in order, and goes on where the prompt ends."""

    def __init__(self, tokenizer, prompts: list[list[int]], context_tokens: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens
        self.prompts = prompts

    def generate(self, ids, audio, max_tokens, stream) -> Iterator[int]:
        ids = list(ids)
        self.prompts.append(ids)
        assert max_tokens > 0
        assert self._context_tokens is None or len(ids) + max_tokens <= self._context_tokens
        assert ids.count(self._tokenizer.special(AUDIO_PAD)) == len(audio)
        said = answer(self._tokenizer, [int(number) for number in audio[:, 0]])
        begin = self._continued(ids, said)
        for token in said[begin : begin + max_tokens]:
            stream.submit(lambda: None, at_s=0.0).result()
            yield token

    def _continued(self, ids, said) -> int:
        """Return how much of the answer the prompt holds already."""
        prefix = continued(self._tokenizer, ids)
        assert prefix == said[: len(prefix)], "what was decided before is not what the audio says"
        return len(prefix)

    def close(self) -> None:
        self.prompts.append([])


def continued(tokenizer, ids) -> list[int]:
    """Return what a prompt holds of the answer."""
    mark = tokenizer.encode("assistant\n")
    end = next(place for place in range(len(ids), 0, -1) if ids[place - len(mark) : place] == mark)
    return ids[end:]


def answer(tokenizer, numbers) -> list[int]:
    """Return the tokens for the numbers of rows, each said when it is heard first."""
    said: list[int] = []
    for number in numbers:
        if number >= 0 and (not said or said[-1] != number):
            said.append(number)
    head = [*tokenizer.encode("language English"), tokenizer.special("<asr_text>")]
    return head + tokenizer.encode(" ".join(f"n{number:02}" for number in said))


_tokenizer = cache(lambda: read(TOKENIZER))


def oracle(context_tokens: int | None = None) -> tuple[Qwen3Model, OracleEncoder, list[list[int]]]:
    """Return a model that hears perfectly, its encoder, and all prompts it will be given."""
    tokenizer, encoder, prompts = _tokenizer(), OracleEncoder(), []

    def open_generator() -> OracleGenerator:
        return OracleGenerator(tokenizer, prompts, context_tokens)

    model = Qwen3Model("oracle", encoder, tokenizer, open_generator, lambda: None, context_tokens)
    return model, encoder, prompts


def numbers_in(text: str) -> list[int]:
    """Return the numbers that a transcript tells."""
    return [int(word.removeprefix("n")) for word in text.split()]
