"""A SenseVoice model: its graphs, one or a bucket for each length, and its vocabulary."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from wyoming_rknn.asr.sensevoice import ctc, tokens
from wyoming_rknn.asr.sensevoice.ctc import Decoded
from wyoming_rknn.asr.sensevoice.graphs import Bucket, Load, open_bucket, read_cmvn, read_embedding
from wyoming_rknn.asr.sensevoice.tokens import Vocabulary
from wyoming_rknn.errors import AcceleratorError, EngineError, ModelError, ModelInvalid
from wyoming_rknn.features.fbank import SHIFT, Features, stack_frames
from wyoming_rknn.models.formats import sensevoice as files_of
from wyoming_rknn.models.formats.sensevoice_layout import FEATURE_SIZE
from wyoming_rknn.models.manifest import NPU_SUFFIX, Manifest
from wyoming_rknn.runtime.graph import Cancellation
from wyoming_rknn.runtime.scheduler import Stream

_LOGGER = logging.getLogger(__name__)

LONGEST_S = 30.0
"""Audio decoded at once by a graph that takes any length; the model was trained on less."""
_FRAMES_PER_S = 100
_SCALES = (1.0, 0.5, 0.25)
"""Tried one after the other when 16-bit floats overflow; smaller ones change what is understood."""
_WARM_UP_ROWS = 10
_SILENCE = -15.942385
"""Filter bank of digital silence: log 2^-23."""


class Model:
    """A loaded model. Thread-safe."""

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        buckets: Sequence[Bucket],
        itn: bool = True,
        fallback: Callable[[int], "Model | None"] = lambda _rows: None,
    ) -> None:
        """Make a model of buckets from short to long; `fallback` gives one that takes so many rows, or none."""
        self.name = name
        self._vocabulary = vocabulary
        self._buckets = tuple(buckets)
        self._itn = itn
        self._fallback = fallback
        self._guard = threading.Lock()
        self.overflows = 0
        """How many decodings computed something else than finite numbers at first."""

    @property
    def longest_frames(self) -> int:
        """Return how many frames of 10 ms can be decoded at once."""
        capacity = self._buckets[-1].capacity
        return round(LONGEST_S * _FRAMES_PER_S) if capacity is None else capacity * SHIFT

    def warm_up(self) -> None:
        """Run each graph once. Raises `ModelInvalid` if one cannot be run or does not give what it should."""
        silence = np.full((_WARM_UP_ROWS, FEATURE_SIZE), _SILENCE, np.float32)
        for bucket in self._buckets:
            rows = silence[: bucket.capacity]
            try:
                bucket.best(rows, None, self._itn)
            except EngineError as error:
                raise ModelInvalid(f"model {self.name} cannot be run: {error}") from error

    def decode(self, frames: Features, language: str | None, stream: Stream) -> Decoded:
        """Return what is said in filter banks [T, 80], with times from their beginning; at most `longest_frames`.

        Computes through `stream`. Blocks. Raises `EngineError`, `Cancelled`.
        """
        rows = stack_frames(frames)
        shortest, *longer = self._fitting(len(rows))
        decoded, failure = self._submit(shortest, rows, language, stream)
        if decoded is None:
            # The other one may have to be loaded, which must not keep the device from everybody else.
            other = self._fallback(len(rows))
            if other is not None:
                _LOGGER.debug("%s decodes instead of %s", other.name, self.name)
                decoded, _ = other._submit(other._fitting(len(rows))[0], rows, language, stream)
            elif failure is not None and longer:
                decoded, failure = self._submit(longer[0], rows, language, stream)
        if decoded is None:
            raise failure or EngineError(
                f"model {self.name} computed no numbers but NaN or infinity; put its FunASR or sherpa-onnx graph "
                "(model.int8.onnx, model_quant.onnx) beside it, which is used then, or name another by --asr-model"
            )
        return decoded

    def close(self) -> None:
        """Free all graphs."""
        for bucket in self._buckets:
            bucket.close()

    def _fitting(self, rows: int) -> list[Bucket]:
        """Return the buckets that take so many rows and can be used, or the one that would if it could."""
        fitting = [one for one in self._buckets if one.capacity is None or one.capacity >= rows]
        return [one for one in fitting if one.usable] or fitting[:1]

    def _submit(
        self, bucket: Bucket, rows: Features, language: str | None, stream: Stream
    ) -> tuple[Decoded | None, AcceleratorError | None]:
        work = partial(self._try, bucket, rows, language, stream)
        try:
            return stream.submit(work, at_s=0.0, device=bucket.device).result(), None
        except AcceleratorError as error:
            return None, error

    def _try(
        self, bucket: Bucket, rows: Features, language: str | None, cancellation: Cancellation | None
    ) -> Decoded | None:
        for scale in _SCALES if bucket.can_scale else _SCALES[:1]:
            best = bucket.best(rows, language, self._itn, scale, cancellation)
            if best is not None:
                return ctc.read(ctc.greedy(best), self._vocabulary)
            if scale == _SCALES[0]:
                self._note_overflow()
        return None

    def _note_overflow(self) -> None:
        with self._guard:
            self.overflows += 1
            count = self.overflows
        level = logging.WARNING if count == 1 else logging.DEBUG
        _LOGGER.log(
            level,
            "model %s computed NaN or infinity, as 16-bit floats do (%d so far); trying in another way",
            self.name,
            count,
        )


def open_model(
    manifest: Manifest, load: Load, itn: bool, fallback: Callable[[int], Model | None] = lambda _rows: None
) -> Model:
    """Load a model's files and run it once. Raises `ModelError`."""
    files = manifest.files
    vocabulary = tokens.read(files[files_of.TOKENS_ROLE])
    cmvn = read_cmvn(files[files_of.CMVN_ROLE]) if files_of.CMVN_ROLE in files else None
    embedding = read_embedding(files[files_of.EMBEDDING_ROLE]) if files_of.EMBEDDING_ROLE in files else None
    buckets: list[Bucket] = []
    try:
        paths = files_of.graphs(files)
        for path in paths:
            try:
                buckets.append(open_bucket(path, load, len(vocabulary), cmvn, embedding))
            except ModelError as error:
                # What one NPU graph cannot do another may; a longer one takes what is short.
                if path.suffix != NPU_SUFFIX or (path == paths[-1] and not buckets):
                    raise
                _LOGGER.warning("model %s does without %s: %s", manifest.name, path.name, error)
        model = Model(manifest.name, vocabulary, buckets, itn, fallback)
        model.warm_up()
    except ModelError:
        for bucket in buckets:
            bucket.close()
        raise
    return model
