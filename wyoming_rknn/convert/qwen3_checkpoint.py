"""A Qwen3-ASR checkpoint: its sizes from `config.json` and its weights from safetensors, without torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.errors import ConversionError, ModelFileMissing, ModelInvalid

Weight = NDArray[np.float32]

CONFIG = "config.json"
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
"""The language model's first and, unless it is tied to it, last weight."""
TEXT_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json")
"""Of the tokenizer: the first says all, or the next two and what is added to them."""
_ALIGNER = "score."
"""Begins the names of the last layer of a model that puts words in their places."""
_SUFFIX = ".safetensors"
_MAX_HEADER = 100_000_000
"""Bytes, as https://github.com/huggingface/safetensors allows."""
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_RENAMED = (
    ("thinker.audio_tower.proj1.", "model.multi_modal_projector.linear_1."),
    ("thinker.audio_tower.proj2.", "model.multi_modal_projector.linear_2."),
    ("thinker.audio_tower.", "model.audio_tower."),
    ("thinker.model.", "model.language_model."),
    ("thinker.lm_head.", "lm_head."),
)
"""Names of the original checkpoint and those of transformers, the longest first."""


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """Of the audio encoder."""

    mels: int
    channels: int
    """Of its convolutions."""
    width: int
    layers: int
    heads: int
    units: int
    """Between a layer's last two weights."""
    chunk_frames: int
    """Mel frames that the convolutions take at once."""
    window_chunks: int
    """Chunks within which rows attend to each other."""

    @property
    def chunk_rows(self) -> int:
        """Return how many rows a chunk becomes."""
        return halved_thrice(self.chunk_frames)


@dataclass(frozen=True, slots=True)
class DecoderSize:
    """Of the language model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    units: int
    vocabulary: int
    norm_epsilon: float
    rope_theta: float
    is_tied: bool
    """Whether the embeddings are the last layer, too."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is."""

    encoder: EncoderSize
    decoder: DecoderSize

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read what transformers' or the original `config.json` holds. Raises `ModelInvalid`."""
        try:
            parts = config.get("thinker_config", config)
            audio, text = parts["audio_config"], parts["text_config"]
            for part, name, known in ((audio, "activation_function", "gelu"), (text, "hidden_act", "silu")):
                if part.get(name, known) != known:
                    raise ValueError(f"{name} {part[name]!r}")
            rope = text.get("rope_parameters") or {}
            return cls(
                EncoderSize(
                    mels=int(audio.get("num_mel_bins", 128)),
                    channels=int(audio.get("downsample_hidden_size", 480)),
                    width=int(audio["d_model"]),
                    layers=int(audio.get("encoder_layers") or audio["num_hidden_layers"]),
                    heads=int(audio["encoder_attention_heads"]),
                    units=int(audio["encoder_ffn_dim"]),
                    chunk_frames=2 * int(audio.get("n_window", 50)),
                    window_chunks=int(audio.get("n_window_infer", 800)) // (2 * int(audio.get("n_window", 50))),
                ),
                DecoderSize(
                    hidden=int(text["hidden_size"]),
                    layers=int(text["num_hidden_layers"]),
                    heads=int(text["num_attention_heads"]),
                    kv_heads=int(text["num_key_value_heads"]),
                    head_dim=int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]),
                    units=int(text["intermediate_size"]),
                    vocabulary=int(text["vocab_size"]),
                    norm_epsilon=float(text.get("rms_norm_eps", 1e-6)),
                    rope_theta=float(rope["rope_theta"] if "rope_theta" in rope else text["rope_theta"]),
                    is_tied=True,
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ModelInvalid(
                f"{CONFIG} does not describe a Qwen3-ASR model ({error!r}); download the checkpoint again"
            ) from error


class Weights(Protocol):
    """Where weights come from."""

    def read(self, name: str, *shape: int) -> Weight:
        """Return a weight, float32, by transformers' name. Raises `ModelError` if it is missing or of another shape."""


@dataclass(frozen=True, slots=True)
class _Stored:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Byte in the file."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with `config.json` and one or more `.safetensors`. Reads a weight when it is asked for."""

    folder: Path
    size: Size
    stored: Mapping[str, _Stored] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the headers. Raises `ModelError` with what is missing or broken."""
        size = Size.of(_json(folder / CONFIG))
        stored: dict[str, _Stored] = {}
        files = sorted(folder.glob(f"*{_SUFFIX}"))
        if not files:
            raise ModelFileMissing(f"{folder} holds no {_SUFFIX} file; download the checkpoint's weights, too")
        for path in files:
            stored |= _header(path)
        if any(name.startswith(_ALIGNER) for name in stored):
            raise ModelInvalid(f"{folder} holds a forced aligner, which recognises nothing; take Qwen3-ASR itself")
        # What config.json says of this, and where, differs between checkpoints.
        decoder = replace(size.decoder, is_tied=HEAD not in stored)
        return cls(folder, replace(size, decoder=decoder), stored)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files with weights."""
        return tuple(sorted({one.file for one in self.stored.values()}))

    def read(self, name: str, *shape: int) -> Weight:
        """Return a weight, float32, by transformers' name. Raises `ModelError` if it is missing or of another shape."""
        one = self.stored.get(name)
        if one is None:
            raise ModelInvalid(f"{self.folder} has no weight {name}; take a checkpoint of Qwen3-ASR, whole")
        if one.shape != shape:
            raise ModelInvalid(
                f"the weight {name} has the shape {list(one.shape)} instead of {list(shape)}, which {CONFIG} asks for; "
                "download the checkpoint again"
            )
        try:
            raw = np.memmap(one.file, _NUMPY[one.dtype], "r", one.begin, shape)
        except (OSError, ValueError) as error:
            raise ModelInvalid(f"{one.file} is cut short ({error}); download it again") from error
        if one.dtype == "BF16":
            # The upper half of a float32.
            wide = raw.astype(np.uint32)
            wide <<= np.uint32(16)
            return wide.view(np.float32)
        return np.asarray(raw, np.float32)


def halved_thrice(frames: int) -> int:
    """Return how many rows three convolutions of stride 2 make of frames."""
    for _ in range(3):
        frames = math.ceil(frames / 2)
    return frames


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder's `config.json` is that of a Qwen3-ASR model."""
    try:
        config = _json(folder / CONFIG)
    except (ModelFileMissing, ModelInvalid):
        return False
    return config.get("model_type") == "qwen3_asr"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelFileMissing(f"{path} does not exist; download the checkpoint whole")
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no object")
        return content
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path} is not JSON ({error}); download it again") from error


def _header(path: Path) -> dict[str, _Stored]:
    """Read where weights lie: 8 bytes with the length of a JSON object, that, the weights."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, path.stat().st_size - 8):
                raise ValueError("no header")
            header = json.loads(file.read(length))
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            shape = tuple(int(size) for size in entry["shape"])
            if entry["dtype"] not in _NUMPY:
                raise ConversionError(
                    f"{path} is quantised ({entry['dtype']}); take the checkpoint in bfloat16 or float32"
                )
            if end - begin != math.prod(shape) * np.dtype(_NUMPY[entry["dtype"]]).itemsize:
                raise ValueError(f"{name} has the wrong size")
            found[_renamed(name)] = _Stored(path, entry["dtype"], shape, 8 + length + begin)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ModelInvalid(f"{path} is not a file of safetensors ({error}); download it again") from error


def _renamed(name: str) -> str:
    for original, current in _RENAMED:
        if name.startswith(original):
            return current + name.removeprefix(original)
    return name
