"""The `manifest.json` of a folder that `wyoming-rknn models convert` wrote, whatever kind of model lies in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.models import record
from wyoming_rknn.models.record import FORMAT, RecordedGraph

PIPER, SENSEVOICE = "piper-parts", "sensevoice-rknn"
"""Layouts."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What a manifest says."""

    path: Path
    """The manifest."""
    name: str
    """What the model is called."""
    targets: tuple[str, ...]
    sizes: Mapping[str, int]
    """Bytes of each file, by name."""
    graphs: tuple[RecordedGraph, ...]
    """Each with its window's width."""
    stages: frozenset[str]
    """Into which parts a voice is cut, besides its encoder."""

    def flaw(self, name: str) -> ModelError | None:
        """Return what is wrong with a file of the folder, if anything."""
        path = self.path.parent / name
        if name not in self.sizes:
            return ModelInvalid(f"{self.path} does not list {name}; convert the model again")
        try:
            size = path.stat().st_size
        except OSError:
            return ModelFileMissing(f"{path} does not exist; copy it there, or convert the model again")
        if size != self.sizes[name]:
            return ModelInvalid(
                f"{path} has {size} bytes, {self.path.name} says {self.sizes[name]}; copy it again, or convert the "
                "model again"
            )
        return None


def read(path: Path, layout: str) -> Converted | None:
    """Read a manifest; `None` if there is none, or one of another layout or program.

    Raises `ModelInvalid` if it is of this layout but cannot be used.
    """
    content = record.load(path)
    if content is None or content.get("layout") != layout:
        return None
    if content.get("format") != FORMAT:
        raise ModelInvalid(
            f"{path} has format {content.get('format')!r}, {FORMAT} is known; update wyoming-rknn, or convert the "
            "model again"
        )
    try:
        known = record.parse(content)
        if any(graph.frames is None for graph in known.graphs):
            raise ValueError("a graph has no width")
        if deep := next((name for name in known.files if "/" in name), None):
            raise ValueError(f"{deep!r} is no file name")
        stages = frozenset[str](content.get("parts", {}).get("stages", {}))
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelInvalid(f"{path} is damaged ({error}); convert the model again") from error
    sizes = MappingProxyType({name: file.bytes for name, file in known.files.items()})
    return Converted(path, known.name, known.targets, sizes, known.graphs, stages)
