"""What was found on disk: models that can be loaded, and files that look like models but cannot."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelError, ModelInvalid
from wyoming_rknn.models.record import Record

NPU_SUFFIX = ".rknn"
"""Of graphs that an NPU computes."""
_NO_RECORDS: Mapping[Path, Record] = MappingProxyType({})


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
    bytes: int = 0
    """Size of its files, on disk or as they were installed; 0 if not known."""
    licence: str = ""
    source: str = ""
    """Where it was fetched or converted from; empty if nothing beside it tells."""

    @property
    def folder(self) -> Path:
        """Return the folder that all its files are in or below."""
        return Path(os.path.commonpath([path.parent for path in self.files.values()]))

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
    records: Mapping[Path, Record] = field(default_factory=lambda: _NO_RECORDS)
    """What lies beside installed models, by folder; some may be too damaged to be found."""
