"""Prove that a voice in parts says what the whole voice says, sample by sample.

Runs in the child process, because it holds every graph of a voice at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.errors import GraphNotSplittable
from wyoming_rknn.runtime.graph import Graph, Tensor

TOLERANCE = 1e-5
"""Largest difference allowed of samples within ±1; one int16 step is 3.05e-5."""

WINDOW_TOLERANCE = 3e-5
"""The same for speech made in windows, where the CPU may sum in another order."""

Feeds: TypeAlias = dict[str, Tensor]
"""What a graph is fed, by input."""

_PHONEME_COUNTS = (3, 11, 48)
# Prime, so that windows begin at ever new places.
_WINDOW_FRAMES = 23
_FEW_SPEAKERS = 3
# Spoken slowly enough that the longest sentence takes several windows, with all noise off.
_SCALES = (0.0, 1.5, 0.0)


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """A flow or decoder, loaded."""

    graph: Graph
    input: str
    output: str
    conditions: tuple[str, ...]
    context_frames: int | None
    rate: int
    """Output positions per frame."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How many phoneme ids and speakers a voice knows."""

    phonemes: int
    speakers: int


def compare_voice(
    whole: Graph, encoder: Graph, latents: str, parts: tuple[LoadedPart, ...], vocabulary: Vocabulary
) -> float:
    """Return the largest difference between a whole voice and its parts, noise off.

    Raises `GraphNotSplittable` if it is too large or the lengths differ.
    """
    largest = 0.0
    for feeds in sentences(encoder, vocabulary):
        (speech, *_) = (whole.run(feeds)[spec.name] for spec in whole.outputs if spec.name == _speech(whole))
        largest = max(largest, _compare(speech, encoder.run(feeds), latents, parts))
    return largest


def compare_pair(
    decoder: Graph, encoder: Graph, latents: str, parts: tuple[LoadedPart, ...], vocabulary: Vocabulary
) -> float:
    """Return the largest difference between the decoder of a pair and the parts it was cut into.

    Raises `GraphNotSplittable` if it is too large or the lengths differ.
    """
    largest = 0.0
    for feeds in sentences(encoder, vocabulary):
        encoded = encoder.run(feeds)
        speech = decoder.run({spec.name: encoded[spec.name] for spec in decoder.inputs})[_speech(decoder)]
        largest = max(largest, _compare(speech, encoded, latents, parts))
    return largest


def sentences(
    encoder: Graph, vocabulary: Vocabulary, counts: Sequence[int] = _PHONEME_COUNTS, scales: Sequence[float] = _SCALES
) -> list[Feeds]:
    """Return sentences of `counts` phonemes, the longest for several speakers; `scales` as Piper's graphs take them."""
    names = {spec.name for spec in encoder.inputs}
    last = vocabulary.speakers - 1
    speakers = sorted({0, last // 2, last})[:_FEW_SPEAKERS] if "sid" in names else [0]
    spoken: list[Feeds] = []
    for count in counts:
        for speaker in speakers if count == max(counts) else speakers[:1]:
            ids = 1 + np.arange(count, dtype=np.int64) * 7 % max(1, vocabulary.phonemes - 1)
            feeds: Feeds = {
                "input": ids[np.newaxis] % vocabulary.phonemes,
                "input_lengths": np.array([count], np.int64),
                "scales": np.array(scales, np.float32),
            }
            if "sid" in names:
                feeds["sid"] = np.array([speaker], np.int64)
            spoken.append(feeds)
    return spoken


def _compare(speech: Tensor, encoded: Mapping[str, Tensor], latents: str, parts: tuple[LoadedPart, ...]) -> float:
    expected = speech.ravel()
    whole = _difference(expected, _run(encoded, latents, parts, whole=True))
    windowed = _difference(expected, _run(encoded, latents, parts, whole=False))
    # Not `>`: what is not a number is no match either.
    if not (whole <= TOLERANCE and windowed <= WINDOW_TOLERANCE):
        raise GraphNotSplittable(f"the parts differ from the whole voice by {whole:.2g}, in windows by {windowed:.2g}")
    return max(whole, windowed)


def _run(
    encoded: Mapping[str, Tensor], latents: str, parts: tuple[LoadedPart, ...], *, whole: bool
) -> NDArray[np.float32]:
    signal = encoded[latents]
    for part in parts:
        conditions = {name: encoded[name] for name in part.conditions}
        if whole or part.context_frames is None:
            signal = part.graph.run({part.input: signal, **conditions})[part.output]
            continue
        frames, context = signal.shape[-1], part.context_frames
        pieces = []
        for begin in range(0, frames, _WINDOW_FRAMES):
            end = min(begin + _WINDOW_FRAMES, frames)
            low, high = max(0, begin - context), min(frames, end + context)
            made = part.graph.run({part.input: signal[:, :, low:high], **conditions})[part.output]
            pieces.append(made[..., (begin - low) * part.rate : (end - low) * part.rate])
        signal = np.concatenate(pieces, axis=-1)
    return signal.ravel()


def _difference(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    if expected.shape != actual.shape:
        raise GraphNotSplittable(f"the parts give {actual.size} samples where the whole voice gives {expected.size}")
    return float(np.max(np.abs(expected - actual), initial=0.0))


def _speech(graph: Graph) -> str:
    names = [spec.name for spec in graph.outputs]
    return "output" if "output" in names else names[0]
