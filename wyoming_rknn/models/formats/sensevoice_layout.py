"""How a SenseVoice graph wants to be fed, told from its inputs and outputs alone.

| inputs | made by | CMVN, language and text-norm rows |
|---|---|---|
| speech, speech_lengths, language, textnorm | FunASR | CMVN outside |
| x, x_length, language, text_norm | sherpa-onnx | CMVN outside, its numbers in the metadata |
| x [1, T, 560], prompt [4] | sherpa-onnx for the NPU | all inside |
| speech [1, T, 560] | happyme531, rkvoice-stream for the NPU | all outside: the prompt is the first rows |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FEATURE_SIZE = 560
"""Seven frames of 80 mel bins."""
PROMPT_ROWS = 4
"""Language, event, emotion, text norm: rows before the speech, and as many frames of tags before the text."""


class Tensor(Protocol):
    """An input or output of a graph."""

    @property
    def name(self) -> str:
        """Return its name."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Return its axes; `None` marks a free one."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which input takes what, and where the logits are."""

    features: str
    """Input of float32 [1, frames, 560]."""
    frames: int | None
    """The fixed number of rows of `features`; `None` if any will do."""
    lengths: str | None = None
    """Input of int32 [1]: how many rows are speech."""
    language: str | None = None
    """Input of int32 [1]."""
    text_norm: str | None = None
    """Input of int32 [1]."""
    prompt: str | None = None
    """Input of int32 [4]: language, event, emotion, text norm."""
    logits: str = ""
    """Output of float32 [1, rows, vocabulary], or [1, vocabulary, rows] if `transposed`."""
    vocabulary: int | None = None
    transposed: bool = False

    @classmethod
    def of(cls, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> "Layout | None":
        """Return the layout of a graph, or `None` if it cannot be SenseVoice."""
        speech = [tensor for tensor in inputs if len(tensor.shape) == 3 and tensor.shape[2] == FEATURE_SIZE]
        logits = next((tensor for tensor in outputs if len(tensor.shape) == 3), None)
        if len(speech) != 1 or logits is None:
            return None
        features, frames = speech[0].name, speech[0].shape[1]
        rest = [tensor for tensor in inputs if tensor is not speech[0]]
        rows = frames
        prompt = lengths = language = text_norm = None
        if len(rest) == 3:
            lengths, language, text_norm = (_named(rest, part) for part in ("len", "lang", "norm"))
            if lengths is None or language is None or text_norm is None:
                return None
            rows = None if frames is None else frames + PROMPT_ROWS
        elif len(rest) == 1:
            if rest[0].shape != (PROMPT_ROWS,) or frames is None:
                return None
            prompt, rows = rest[0].name, frames + PROMPT_ROWS
        elif rest or frames is None or frames <= PROMPT_ROWS:
            return None
        transposed = _is_transposed(logits.shape, rows)
        return cls(
            features=features,
            frames=frames,
            lengths=lengths,
            language=language,
            text_norm=text_norm,
            prompt=prompt,
            logits=logits.name,
            vocabulary=logits.shape[1 if transposed else 2],
            transposed=transposed,
        )

    @property
    def has_prompt_inside(self) -> bool:
        """Tell whether the graph knows the rows that stand for languages and text norm."""
        return self.language is not None or self.prompt is not None

    @property
    def has_cmvn_inside(self) -> bool:
        """Tell whether the graph takes features as they are."""
        return self.prompt is not None

    @property
    def capacity(self) -> int | None:
        """Return how many rows of speech fit; `None` if any number does."""
        if self.frames is None or self.has_prompt_inside:
            return self.frames
        return self.frames - PROMPT_ROWS


def _named(tensors: Sequence[Tensor], part: str) -> str | None:
    return next((tensor.name for tensor in tensors if part in tensor.name.lower()), None)


def _is_transposed(shape: Sequence[int | None], rows: int | None) -> bool:
    """Tell whether the vocabulary is the middle axis of logits with so many rows."""
    if rows is not None and rows in shape[1:]:
        return shape[1] != rows
    return shape[1] is not None and shape[2] is None
