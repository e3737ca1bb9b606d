"""Simplify the parts of a voice, each only if that changes no bit of what it gives. For the child process."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import onnx

from wyoming_rknn.errors import EngineError
from wyoming_rknn.runtime.graph import Graph, Tensor
from wyoming_rknn.runtime.onnx import load
from wyoming_rknn.tts.piper.cut import Cut
from wyoming_rknn.tts.piper.simplify import simplify
from wyoming_rknn.tts.piper.surgery import is_random
from wyoming_rknn.tts.piper.verify import Feeds, Vocabulary, sentences

_PHONEME_COUNTS = (1, 2, 3, 4, 5, 6, 11, 48, 120)
_SCALES = (
    (0.0, 1.5, 0.0),
    (0.667, 1.0, 0.8),
    # So much noise that numbers leave the range of the splines; short, because the durations explode with it.
    (1.0, 1e-6, 3.0),
)
_SEED = 1.0
_FeedsFor: TypeAlias = Callable[[Graph], list[Feeds]]


def lean(cut: Cut, vocabulary: Vocabulary) -> tuple[Cut, dict[str, str]]:
    """Return a voice with a simpler encoder and flow, and why a part stays as it is.

    The decoder has nothing to simplify. Raises nothing: a part that cannot be simplified is used as it is.
    """
    kept: dict[str, str] = {}
    if cut.encoder is not None:
        encoder, reason = _simpler(cut.encoder, lambda graph: _texts(graph, vocabulary))
        cut = replace(cut, encoder=encoder)
        kept |= {"encoder": reason} if reason else {}
    if cut.flow is not None:
        spoken = _spoken(cut.encoder, vocabulary) if cut.encoder is not None else []
        flow, reason = _simpler(cut.flow.model, lambda graph: _taken(graph, spoken))
        cut = replace(cut, flow=replace(cut.flow, model=flow))
        kept |= {"flow": reason} if reason else {}
    return cut, kept


def _simpler(model: onnx.ModelProto, feeds_for: _FeedsFor) -> tuple[onnx.ModelProto, str]:
    """Return a model, simplified if that is exact, else the reason."""
    try:
        simple = simplify(model)
        if simple is None:
            return model, "it holds inner graphs or operators of its own"
        reason = _difference(model, simple, feeds_for)
    # Whatever an unusual graph brings to light, the part itself is sound.
    except Exception as error:
        return model, f"{type(error).__name__}: {error}"
    return (model, reason) if reason else (simple, "")


def _difference(model: onnx.ModelProto, simple: onnx.ModelProto, feeds_for: _FeedsFor) -> str:
    """Return where two models do not give the same."""
    with contextlib.closing(_load_seeded(model)) as graph:
        fed = feeds_for(graph)
        expected = [_outcome(graph, feeds) for feeds in fed]
    # One after the other, for want of room on small boards.
    with contextlib.closing(_load_seeded(simple)) as graph:
        for feeds, wanted in zip(fed, expected, strict=True):
            # Some voices fail for a single phoneme and much noise.
            if wanted is None:
                continue
            given = graph.run(feeds)
            for name, tensor in wanted.items():
                if tensor.shape != given[name].shape or not np.array_equal(tensor, given[name], equal_nan=True):
                    shapes = ", ".join(f"{key} {value.shape}" for key, value in feeds.items())
                    return f"{name} is not the same for {shapes}"
    return "" if any(wanted is not None for wanted in expected) else "it cannot be run"


def _outcome(graph: Graph, feeds: Feeds) -> dict[str, Tensor] | None:
    try:
        return graph.run(feeds)
    except EngineError:
        return None


def _load_seeded(model: onnx.ModelProto) -> Graph:
    """Load a model whose noise is the same at each start."""
    with _seeded(model) as content:
        return load(content, threads=1)


@contextlib.contextmanager
def _seeded(model: onnx.ModelProto) -> Iterator[bytes]:
    changed = []
    for node in model.graph.node:
        if is_random(node) and not any(attribute.name == "seed" for attribute in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("seed", _SEED))
            changed.append(node)
    try:
        yield model.SerializeToString()
    finally:
        for node in changed:
            del node.attribute[-1]


def _texts(encoder: Graph, vocabulary: Vocabulary) -> list[Feeds]:
    return [feeds for scales in _SCALES for feeds in sentences(encoder, vocabulary, _PHONEME_COUNTS, scales)]


def _spoken(encoder: onnx.ModelProto, vocabulary: Vocabulary) -> list[Feeds]:
    """Return what the encoder gives for all texts."""
    with contextlib.closing(_load_seeded(encoder)) as graph:
        given = [_outcome(graph, feeds) for feeds in _texts(graph, vocabulary)]
    return [tensors for tensors in given if tensors is not None]


def _taken(graph: Graph, tensors: list[Feeds]) -> list[Feeds]:
    return [{spec.name: given[spec.name] for spec in graph.inputs} for given in tensors]
