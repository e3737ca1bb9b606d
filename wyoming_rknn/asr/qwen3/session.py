"""One utterance heard by Qwen3-ASR: tokens are decided while it is spoken, and only its end is decided last.

At each hop all audio so far is read again, but most of it is remembered: windows of 8 s that are finished, and the
language model's keys and values up to the first difference. What was decided before, but for its last tokens, is the
beginning of the next hypothesis, as in the official streaming (https://arxiv.org/abs/2601.21337, table 8).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wyoming_rknn.asr.engine import RATE_HZ, Bias, Piece, Transcript
from wyoming_rknn.asr.joining import joined
from wyoming_rknn.asr.qwen3.audio_encoder import SECOND_ROWS, EncodedAudio
from wyoming_rknn.asr.qwen3.model import Qwen3Model
from wyoming_rknn.asr.qwen3.output import is_echo, loop, parse
from wyoming_rknn.asr.qwen3.prompt import Context
from wyoming_rknn.asr.segments import FRAME_S, Levels, best_cut
from wyoming_rknn.audio import Waveform
from wyoming_rknn.features.log_mel import LogMel
from wyoming_rknn.runtime.scheduler import Stream

LONGEST_S = 30.0
"""Audio decoded at once, where the language model reads any number of rows."""
_TOKENS_PER_S = 25
"""More than anybody says: languages whose words are in many tokens come to 15."""
_USUAL_TOKENS_PER_S = 8
_SPARE_TOKENS = 32
_LEAST_S = 2.0
"""What is shorter is not cut though its tokens find no room."""
_SHORT_S = 0.4
"""Speech that is too short for words to expect: what is not heard is guessed from them."""
_LEAST_WORD_S = 0.1
_LEAST_RANGE_DB = 12.0
"""Where it is never quieter than that, there are no pauses."""
_WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)")
"""A word with the space before it; one character where words do not show."""
_HOP = round(FRAME_S * RATE_HZ)


@dataclass(frozen=True, slots=True)
class Streaming:
    """How hypotheses follow each other while someone speaks."""

    hop_s: float = 0.5
    """New audio that is worth another hypothesis."""
    rollback: int = 5
    """Tokens at the end of a hypothesis that are decided anew; as in the official streaming."""
    free_s: float = 2.0
    """Audio up to which everything is decided anew, so that nobody is bound to what a first syllable seemed to be."""
    tokens: int = 32
    """Most new tokens of a hypothesis while someone speaks."""


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """The tokens of a stretch of audio, as far as they were decided."""

    ids: tuple[int, ...] = ()
    samples: int = 0
    """How much audio it is of."""
    is_complete: bool = False
    """Whether the model said that nothing follows."""


class _Stretch:
    """Audio that is decoded at once."""

    def __init__(self, audio: EncodedAudio, begin_s: float) -> None:
        self.begin_s = begin_s
        self.audio = audio
        self.mel = LogMel()
        self.samples = 0
        self.hypothesis = _Hypothesis()
        self.is_closed = False
        """Whether no audio will follow, so that each token that was decided stays."""
        self._blocks: list[Waveform] = []

    def accept(self, samples: Waveform) -> None:
        self.mel.accept(samples)
        self._blocks.append(samples)
        self.samples += samples.size

    @property
    def seconds(self) -> float:
        return self.samples / RATE_HZ

    @property
    def is_decided(self) -> bool:
        return self.hypothesis.is_complete and self.hypothesis.samples == self.samples

    def levels(self) -> Levels:
        """Return how loud each frame of 10 ms is, in dB."""
        samples = np.concatenate(self._blocks) if self._blocks else np.empty(0, np.float32)
        whole = samples[: samples.size // _HOP * _HOP].reshape(-1, _HOP)
        levels: Levels = (10 * np.log10(np.mean(whole * whole, axis=1) + 1e-10)).astype(np.float32)
        return levels

    def kept(self, streaming: Streaming) -> tuple[int, ...]:
        """Return the tokens that are not decided anew."""
        former = self.hypothesis
        if self.is_closed and former.samples == self.samples:
            return former.ids
        if former.samples < streaming.free_s * RATE_HZ:
            return ()
        return former.ids[: max(0, len(former.ids) - streaming.rollback)]

    def cut(self, longest_s: float, fresh: EncodedAudio) -> "tuple[_Stretch, _Stretch]":
        """Return what is before the best place to cut, not after `longest_s`, and what follows."""
        samples = np.concatenate(self._blocks)
        longest = round(longest_s / FRAME_S)
        frame = best_cut(self.levels()[:longest], longest // 2)
        head = _Stretch(self.audio.keep(frame), self.begin_s)
        head.accept(samples[: frame * _HOP])
        head.is_closed = True
        tail = _Stretch(fresh, self.begin_s + frame * FRAME_S)
        tail.accept(samples[frame * _HOP :])
        tail.is_closed = self.is_closed
        return head, tail


class Qwen3Session:
    """Hear one utterance. What is too long for one decoding is cut where it is quietest; no audio is left out."""

    def __init__(self, model: Qwen3Model, language: str | None, bias: Bias, streaming: Streaming | None = None) -> None:
        self._model = model
        self._language = language
        self._streaming = streaming or Streaming()
        self._context = model.context(bias)
        self._generator = model.open_generator()
        self._heads: list[_Stretch] = []
        """What was cut off, from early to late."""
        self._stretch = self._begin(0.0)

    def accept(self, samples: Waveform) -> None:
        """Take in the audio that follows, float32 [n] at 16 kHz."""
        if samples.size:
            self._stretch.accept(samples)

    def partial(self, stream: Stream) -> Transcript:
        """Return what is decided of what was said so far: all but the tokens that the next hypothesis may change."""
        self._cut()
        self._conclude_heads(stream)
        stretch = self._stretch
        if stretch.samples - stretch.hypothesis.samples >= self._streaming.hop_s * RATE_HZ:
            self._decode(stretch, self._streaming.tokens, stream)
            self._drop_echo(stretch)
        ids = stretch.hypothesis.ids
        return self._transcript(ids[: max(0, len(ids) - self._streaming.rollback)])

    def finish(self, stream: Stream) -> Transcript:
        """Return the transcript; costs nothing if no audio came since it was decided.

        Raises `EngineError`, `Cancelled`.
        """
        self._cut()
        self._conclude_heads(stream)
        # What has no room is cut once more.
        while not self._conclude(self._stretch, stream):
            self._cut(self._stretch.seconds / 2)
            self._conclude_heads(stream)
        return self._transcript(self._stretch.hypothesis.ids)

    def close(self) -> None:
        """Forget what was heard."""
        self._generator.close()
        self._heads, self._stretch = [], self._begin(0.0)

    def _begin(self, begin_s: float) -> _Stretch:
        return _Stretch(EncodedAudio(self._model.encoder), begin_s)

    @property
    def _longest_s(self) -> float:
        """Return how much audio the language model reads at once, with room for what is usually said in it."""
        if self._model.context_tokens is None:
            return LONGEST_S
        prompt = self._model.prompt(self._context, 0, self._language, ())
        room = self._model.context_tokens - len(prompt) - _SPARE_TOKENS
        return max(_LEAST_S, min(LONGEST_S, room / (SECOND_ROWS + _USUAL_TOKENS_PER_S)))

    def _cut(self, longest_s: float | None = None) -> None:
        """Cut off what is too long to be decoded together with the rest."""
        longest_s = longest_s or self._longest_s
        while self._stretch.seconds > longest_s:
            head, self._stretch = self._stretch.cut(longest_s, EncodedAudio(self._model.encoder))
            self._heads.append(head)

    def _conclude_heads(self, stream: Stream) -> None:
        """Decode for good what was cut off; what is given up goes on from there the next time."""
        number = 0
        while number < len(self._heads):
            head = self._heads[number]
            if self._conclude(head, stream):
                number += 1
            else:
                self._heads[number : number + 1] = head.cut(head.seconds / 2, EncodedAudio(self._model.encoder))

    def _conclude(self, stretch: _Stretch, stream: Stream) -> bool:
        """Decide a stretch to its end; return whether there was room for all of it."""
        if stretch.is_decided or not stretch.samples:
            return True
        if self._heads and stretch is self._stretch and self._is_silent(stretch):
            stretch.hypothesis = _Hypothesis(samples=stretch.samples, is_complete=True)
            return True
        had_room = self._decode(stretch, _SPARE_TOKENS + round(_TOKENS_PER_S * stretch.seconds), stream)
        if self._drop_echo(stretch):
            return self._conclude(stretch, stream)
        if not had_room and stretch.seconds >= 2 * _LEAST_S:
            return False
        stretch.hypothesis = replace(stretch.hypothesis, is_complete=True)
        return True

    def _is_silent(self, stretch: _Stretch) -> bool:
        """Tell whether what was left by a cut is a pause: of silence by itself the model makes words."""
        return _speech_s(stretch.levels(), _pause_db(self._heads[-1].levels())) < _LEAST_WORD_S

    def _drop_echo(self, stretch: _Stretch) -> bool:
        """Forget a hypothesis, and the words to expect, if a model that heard nothing reads those out."""
        if not self._context.terms:
            return False
        text = parse(stretch.hypothesis.ids, self._model.tokenizer, self._language).text
        if not is_echo(text, self._context.terms, _speech_s(stretch.levels())):
            return False
        self._context = Context()
        stretch.hypothesis = _Hypothesis()
        return True

    def _decode(self, stretch: _Stretch, max_tokens: int, stream: Stream) -> bool:
        """Make a new hypothesis; return whether the language model had room for so many tokens, or needed fewer.

        If that is given up, the former one stays, or what there is of one that no audio can change.
        """
        samples, kept = stretch.samples, stretch.kept(self._streaming)
        rows = stretch.audio.rows(stretch.mel, stream)
        context = self._context
        if context.terms and _speech_s(stretch.levels()) < _SHORT_S:
            context = Context()
        prompt = self._model.prompt(context, len(rows), self._language, kept)
        room = max_tokens
        if self._model.context_tokens is not None:
            room = min(room, self._model.context_tokens - len(prompt))
        ids = list(kept)
        is_complete = False
        try:
            for token in self._generator.generate(prompt, rows, room, stream) if room > 0 else ():
                ids.append(token)
                if (end := loop(ids)) is not None:
                    del ids[end:]
                    is_complete = True
                    break
            else:
                is_complete = len(ids) - len(kept) < room
        except BaseException:
            if stretch.is_closed:
                stretch.hypothesis = _Hypothesis(tuple(ids), samples)
            raise
        stretch.hypothesis = _Hypothesis(tuple(ids), samples, is_complete)
        return is_complete or room == max_tokens

    def _transcript(self, ids: Sequence[int]) -> Transcript:
        """Return what was said in all that was cut off, and then the tokens `ids`."""
        heard: list[tuple[list[Piece], str | None]] = []
        parts = [(head.begin_s, head.hypothesis.ids) for head in self._heads]
        for begin_s, decided in (*parts, (self._stretch.begin_s, ids)):
            output = parse(decided, self._model.tokenizer, self._language)
            heard.append(([Piece(word, begin_s) for word in _WORD.findall(output.text)], output.language))
        return joined(heard, self._language)


def _speech_s(levels: Levels, pause_db: float | None = None) -> float:
    """Return for how long it is louder than in pauses, by default its own."""
    pause_db = _pause_db(levels) if pause_db is None else pause_db
    return float(np.count_nonzero(levels > pause_db)) * FRAME_S


def _pause_db(levels: Levels) -> float:
    """Return how loud pauses are at most."""
    if not levels.size:
        return -np.inf
    quiet, loud = np.percentile(levels, (5, 95))
    return float(quiet + (loud - quiet) / 4) if loud - quiet > _LEAST_RANGE_DB else -np.inf
