"""The `manifest.json` of a folder that `wyoming-rknn models convert` wrote, whatever kind of model lies in it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wyoming_rknn.errors import ModelError, ModelFileMissing, ModelInvalid

MANIFEST = "manifest.json"
PIPER, SENSEVOICE = "piper-parts", "sensevoice-rknn"
"""Layouts."""

_FORMAT = 1
_MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ConvertedGraph:
    """A graph for the NPU."""

    file: str
    golden: str | None
    """File with inputs and the outputs that ONNX Runtime gives for them."""
    frames: int
    context_frames: int | None


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
    graphs: tuple[ConvertedGraph, ...]
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
    content = _load(path)
    if content is None or content.get("layout") != layout:
        return None
    if content.get("format") != _FORMAT:
        raise ModelInvalid(
            f"{path} has format {content.get('format')!r}, {_FORMAT} is known; update wyoming-rknn, or convert the "
            "model again"
        )
    try:
        target = content.get("target")
        return Converted(
            path=path,
            name=_text(content["name"]),
            targets=(target.lower(),) if isinstance(target, str) and target else (),
            sizes=MappingProxyType({_file(name): _whole(file["bytes"]) for name, file in content["files"].items()}),
            graphs=tuple(_graph(graph) for graph in content["graphs"]),
            stages=frozenset(content.get("parts", {}).get("stages", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelInvalid(f"{path} is damaged ({error!r}); convert the model again") from error


def _load(path: Path) -> Mapping[str, Any] | None:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _graph(graph: Mapping[str, Any]) -> ConvertedGraph:
    golden, context = graph.get("golden"), graph.get("context_frames")
    return ConvertedGraph(
        _file(graph["file"]),
        None if golden is None else _file(golden),
        _whole(graph["frames"]),
        None if context is None else _whole(context),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{value!r} is no name")
    return value


def _file(value: object) -> str:
    # What a manifest names must lie beside it.
    if (name := _text(value)) != Path(name).name or name == "..":
        raise ValueError(f"{value!r} is no file name")
    return name


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no number")
    return value
