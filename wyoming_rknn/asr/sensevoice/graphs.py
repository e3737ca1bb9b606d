"""One SenseVoice graph, whatever its layout: rows of features in, the most likely token of each frame out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wyoming_rknn.errors import AcceleratorError, ModelError, ModelFileMissing, ModelInvalid, RuntimeUnavailable
from wyoming_rknn.features.fbank import Cmvn, Features
from wyoming_rknn.models.formats.sensevoice_layout import FEATURE_SIZE, PROMPT_ROWS, Layout
from wyoming_rknn.models.manifest import NPU_SUFFIX
from wyoming_rknn.npu.load import WatchedGraph, load_proven
from wyoming_rknn.npu.selftest import Golden
from wyoming_rknn.runtime.graph import Cancellation, Graph, Tensor, TensorSpec
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import CPU, NPU

_EMBEDDING_ROWS = 16
_EVENT_ROW, _EMOTION_ROW = 1, 2
_FRONT_END = {"lfr_window_size": "7", "lfr_window_shift": "6", "normalize_samples": "0"}
"""What sherpa-onnx notes of the features, which are always these."""


class SpeechGraph(Graph, Protocol):
    """A graph that says what its exporter noted."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Return the notes."""


Load: TypeAlias = Callable[[Path], SpeechGraph]


def loader(runtimes: Runtimes, cache_dir: Path) -> Load:
    """Return what loads a graph for the device that its file is made for; raises `ModelError`."""

    def load(path: Path) -> SpeechGraph:
        if path.suffix != NPU_SUFFIX:
            return runtimes.load(path)
        try:
            # Infinity is no fault of the NPU's: smaller numbers are tried then.
            return load_proven(
                path, runtimes, cache_dir, lambda _graph: Golden.beside(path), check_finite=False, spare_memory=True
            )
        except (AcceleratorError, RuntimeUnavailable) as error:
            raise ModelInvalid(str(error)) from error

    return load


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Rows of the prompt's embedding. Defaults are those of the published models' config."""

    languages: Mapping[str, int] = field(
        default_factory=lambda: {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}
    )
    with_itn: int = 14
    without_itn: int = 15

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "PromptIds":
        """Return the defaults but for what a sherpa-onnx file says. Raises `ModelInvalid`."""
        usual = cls()
        try:
            return cls(
                {name: int(metadata.get(f"lang_{name}", row)) for name, row in usual.languages.items()},
                int(metadata.get("with_itn", usual.with_itn)),
                int(metadata.get("without_itn", usual.without_itn)),
            )
        except ValueError as error:
            raise ModelInvalid(f"the graph's metadata names a language that is no number: {error}") from None

    def of_language(self, language: str | None) -> int:
        """Return the row for a language, or the one that lets the model find out."""
        return self.languages.get(language or "auto", self.languages["auto"])

    def of_text_norm(self, itn: bool) -> int:
        """Return the row for text with digits and punctuation, or without."""
        return self.with_itn if itn else self.without_itn


@dataclass(frozen=True, slots=True)
class Bucket:
    """A loaded graph with what its layout leaves to the caller."""

    graph: SpeechGraph
    layout: Layout
    vocabulary: int
    """How many tokens there are."""
    ids: PromptIds
    cmvn: Cmvn | None = None
    """Applied to the rows; `None` where the graph does it."""
    embedding: Features | None = None
    """Rows of the prompt, float32 [16, 560]; `None` where the graph has them."""
    device: str = CPU
    scale: float = 1.0
    """What normalised speech is multiplied by, so that 16-bit floats hold what becomes of it."""

    @property
    def capacity(self) -> int | None:
        """Return how many rows fit; `None` if any number does."""
        return self.layout.capacity

    @property
    def usable(self) -> bool:
        """Tell whether it is worth while to ask the device."""
        return not isinstance(self.graph, WatchedGraph) or self.graph.usable

    @property
    def can_scale(self) -> bool:
        """Tell whether rows may be made smaller: before CMVN that would change what is said."""
        return self.cmvn is not None

    def best(
        self,
        rows: Features,
        language: str | None,
        itn: bool,
        scale: float = 1.0,
        cancellation: Cancellation | None = None,
    ) -> NDArray[np.intp] | None:
        """Return the most likely token of each frame, int [T + 4], for rows [T, 560] that are not normalised.

        `None` if the graph computed something else than finite numbers, as 16-bit floats do when they overflow. Raises
        `EngineError`, `Cancelled`, and `ModelInvalid` if the graph gives something of another shape.
        """
        if self.cmvn is not None:
            rows = self.cmvn.apply(rows) * np.float32(self.scale * scale)
        language_id, text_norm_id = self.ids.of_language(language), self.ids.of_text_norm(itn)
        feeds = self._feeds(rows, (language_id, _EVENT_ROW, _EMOTION_ROW, text_norm_id))
        logits = self.graph.run(feeds, cancellation)[self.layout.logits]
        return _best(logits, len(rows) + PROMPT_ROWS, self.vocabulary, self.layout.transposed)

    def _feeds(self, rows: Features, prompt: Sequence[int]) -> dict[str, Tensor]:
        layout, count = self.layout, len(rows)
        if self.embedding is not None:
            rows = np.concatenate((self.embedding[list(prompt)], rows))
        if layout.frames is not None:
            # Nothing masks the padding. sherpa-onnx's graphs are made for zeros; in the others, too, zeros work but are
            # frames of average speech, and the last frame, repeated, misleads the model less often.
            mode: Literal["constant", "edge"] = "constant" if layout.has_cmvn_inside else "edge"
            rows = np.pad(rows, ((0, layout.frames - len(rows)), (0, 0)), mode)
        values: dict[str | None, Tensor] = {
            layout.features: rows[np.newaxis],
            layout.lengths: np.array([count]),
            layout.language: np.array(prompt[:1]),
            layout.text_norm: np.array(prompt[-1:]),
            layout.prompt: np.array(prompt),
        }
        return {spec.name: values[spec.name].astype(spec.dtype, copy=False) for spec in self.graph.inputs}

    def close(self) -> None:
        """Free the graph."""
        self.graph.close()


def open_bucket(path: Path, load: Load, vocabulary: int, cmvn: Cmvn | None, embedding: Features | None) -> Bucket:
    """Load a graph that answers with `vocabulary` tokens. `cmvn` is used where it has none of its own.

    Raises `ModelError`.
    """
    graph = load(path)
    layout = Layout.of(graph.inputs, graph.outputs)
    try:
        if layout is None:
            raise ModelInvalid(f"{path} is not SenseVoice: it takes {_shapes(graph.inputs)}")
        if layout.vocabulary not in (None, vocabulary):
            raise ModelInvalid(
                f"{path} answers with {layout.vocabulary} tokens, the tokens beside it are {vocabulary}; take the "
                "graph and the tokens of the same model"
            )
        _check_front_end(path, graph.metadata)
        return Bucket(
            graph,
            layout,
            vocabulary,
            PromptIds.of(graph.metadata),
            None if layout.has_cmvn_inside else _cmvn(path, graph.metadata) or cmvn,
            None if layout.has_prompt_inside else embedding,
            NPU if path.suffix == NPU_SUFFIX else CPU,
            _scale(path, graph.metadata),
        )
    except ModelError:
        graph.close()
        raise


def read_cmvn(path: Path) -> Cmvn:
    """Read `am.mvn`. Raises `ModelError`."""
    try:
        return Cmvn.from_kaldi(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileMissing(f"{path} does not exist; put the model's am.mvn there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelInvalid(f"{path} cannot be read: {error}") from error


def read_embedding(path: Path) -> Features:
    """Read `embedding.npy`, float32 [16, 560]. Raises `ModelError`."""
    try:
        with path.open("rb") as file:
            embedding: Tensor = npy.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise ModelFileMissing(f"{path} does not exist; put the model's embedding.npy there") from None
    except (OSError, ValueError, EOFError) as error:
        raise ModelInvalid(f"{path} is not an array: {error}") from error
    is_right = embedding.shape == (_EMBEDDING_ROWS, FEATURE_SIZE) and embedding.dtype.kind == "f"
    if not is_right or not np.isfinite(embedding).all():
        raise ModelInvalid(f"{path} must hold {_EMBEDDING_ROWS} x {FEATURE_SIZE} numbers; take the model's own")
    return embedding.astype(np.float32)


def _best(logits: Tensor, frames: int, vocabulary: int, transposed: bool) -> NDArray[np.intp] | None:
    rows, columns = (2, 1) if transposed else (1, 2)
    if logits.ndim != 3 or logits.shape[rows] < frames or logits.shape[columns] != vocabulary:
        raise ModelInvalid(
            f"the graph answers with an array of {list(logits.shape)} for {frames} frames and {vocabulary} tokens; "
            "take the graph and the tokens of the same model"
        )
    # What belongs to padding is not looked at: it may say anything.
    valid = logits[0, :, :frames] if transposed else logits[0, :frames]
    if not np.isfinite(valid).all():
        return None
    # As it lies in memory: to transpose it first takes longer than all the rest.
    best: NDArray[np.intp] = valid.argmax(axis=0 if transposed else 1)
    return best


def _cmvn(path: Path, metadata: Mapping[str, str]) -> Cmvn | None:
    """Return what sherpa-onnx writes into the graph, as `am.mvn` without a file."""
    texts = [metadata.get(name) for name in ("neg_mean", "inv_stddev")]
    try:
        shift, scale = (np.array(text.split(","), np.float32) for text in texts if text is not None)
    except ValueError:
        if texts == [None, None]:
            return None
        raise ModelInvalid(f"{path}: neg_mean and inv_stddev of its metadata are not lists of numbers") from None
    return Cmvn(shift, scale)


def _scale(path: Path, metadata: Mapping[str, str]) -> float:
    text = next((value for name, value in metadata.items() if name.lower() == "speech_scale"), "1")
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0.0 < scale <= 1.0:
        raise ModelInvalid(f"{path}: the speech scale of its metadata, {text!r}, must be above 0 and at most 1")
    return scale


def _check_front_end(path: Path, metadata: Mapping[str, str]) -> None:
    for name, usual in _FRONT_END.items():
        if (noted := metadata.get(name, usual)) != usual:
            raise ModelInvalid(f"{path} wants features with {name}={noted}, not {usual} as all SenseVoice models")


def _shapes(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {[axis or '?' for axis in spec.shape]}" for spec in specs) or "nothing"
