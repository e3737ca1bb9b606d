"""What was found on disk: models that can be loaded, and files that look like models but cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.errors import ModelError, ModelInvalid

NPU_SUFFIX = ".rknn"
"""Of graphs that an NPU computes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model that can be loaded: which files it consists of and what it can do."""

    kind: str
    """What it is for: "tts", "asr"."""
    format: str
    """Layout of its files: "piper", "piper-pair", "piper-parts", "sensevoice-funasr"."""
    name: str
    files: Mapping[str, Path]
    """Files by role: "graph" or "encoder" and "decoder", "config", "tokens" and what else a format knows."""
    languages: tuple[str, ...]
    """BCP-47 tags, most specific first."""
    rate_hz: int
    speakers: tuple[str, ...] = ()
    """Names of speakers ordered by id; empty for one speaker."""
    description: str = ""
    quality: str = ""
    targets: tuple[str, ...] = ()
    """SoCs that its files for the NPU are made for; empty if it has none."""

    @property
    def has_npu(self) -> bool:
        """Tell whether some of its files are made for the NPU."""
        return any(path.suffix == NPU_SUFFIX for path in self.files.values())


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or folder that looks like a model but cannot be used."""

    path: Path
    message: str
    """One sentence that says what is wrong and how to mend it."""
    name: str
    """What the model would be called."""
    kind: type[ModelError] = ModelInvalid
    model_kind: str = "tts"
    """What the model would be for."""

    def error(self) -> ModelError:
        """Return a new error: one that was raised before would keep hold of what it passed through."""
        return self.kind(self.message)


@dataclass(frozen=True, slots=True)
class Detected:
    """What one or more folders hold."""

    manifests: tuple[Manifest, ...] = ()
    problems: tuple[Problem, ...] = ()
