"""A graph with SenseVoice's inputs and outputs that answers what a test wants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tiny_sensevoice import INPUTS, VOCABULARY

from wyoming_rknn.runtime.graph import Cancellation, Tensor, TensorSpec


@dataclass
class FakeGraph:
    """Answers with tokens that `answer` makes of the rows it is fed, and keeps what it was fed."""

    layout: str = "funasr"
    frames: int | None = None
    answer: Callable[[np.ndarray], Any] = lambda rows: np.zeros(len(rows), int)
    """Takes the rows of speech [T, 560], gives the token of each, or logits of the vocabulary [T, V]."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    vocabulary: int = VOCABULARY
    fed: list[dict[str, Tensor]] = field(default_factory=list)
    closed: bool = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        features, *rest = INPUTS[self.layout]
        sizes = (4,) if self.layout == "npu" else (None,)
        ids = [TensorSpec(name, sizes, np.dtype(np.int32)) for name in rest]
        return (TensorSpec(features, (1, self.frames, 560), np.dtype(np.float32)), *ids)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        rows = None if self.frames is None else self.frames + 4 * self._has_prompt_inside
        shape = (1, self.vocabulary, rows) if self.layout == "happyme531" else (1, rows, self.vocabulary)
        return (
            TensorSpec("logits", shape, np.dtype(np.float32)),
            TensorSpec("lengths", (1,), np.dtype(np.int32)),
        )

    @property
    def _has_prompt_inside(self) -> bool:
        return len(self.inputs) > 1

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        for spec in self.inputs:
            assert feeds[spec.name].dtype == spec.dtype
            assert all(axis in (None, size) for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True))
        assert feeds.keys() == {spec.name for spec in self.inputs}
        self.fed.append(dict(feeds))
        rows = feeds[self.inputs[0].name][0]
        answer = np.asarray(self.answer(rows if self._has_prompt_inside else rows[4:]))
        logits = answer if answer.ndim == 2 else np.eye(self.vocabulary)[answer]
        tags = np.zeros((4, self.vocabulary))
        tags[:, 0] = 1
        logits = np.concatenate((tags, logits)).astype(np.float32)
        return {"logits": (logits.T if self.layout == "happyme531" else logits)[None], "lengths": np.array([0])}

    def close(self) -> None:
        self.closed = True
