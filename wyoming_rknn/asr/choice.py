"""Which of the models on disk is meant."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.names import folded

_GRAPH_SUFFIXES = (".onnx", ".rknn", ".rkllm")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model as the settings name it: by its name, or by where its graph or its folder lies."""

    text: str

    @property
    def is_path(self) -> bool:
        """Tell whether it is rather a path than a name; some names, too, have a separator."""
        return os.sep in self.text or self._path.suffix in _GRAPH_SUFFIXES

    @property
    def folder(self) -> Path:
        """Return the folder that is meant if it is a path; it need not exist."""
        return self._path.parent if self._path.suffix in _GRAPH_SUFFIXES else self._path

    def choose(self, manifests: Sequence[Manifest]) -> Manifest | None:
        """Return the model that is meant; of a folder the first one."""
        readings = [named(self.text, manifests), located(self._path, manifests)]
        return next((found for found in (reversed(readings) if self.is_path else readings) if found), None)

    @property
    def _path(self) -> Path:
        return Path(self.text).expanduser()


def named(wanted: str, manifests: Sequence[Manifest]) -> Manifest | None:
    """Return the model of this name, or the first one in the folder of this name; both in any spelling."""
    exact = (manifest for manifest in manifests if manifest.name == wanted)
    alike = (manifest for manifest in manifests if folded(manifest.name) == folded(wanted))
    within = (manifest for manifest in manifests if folded(folder_of(manifest).name) == folded(wanted))
    return next((manifest for found in (exact, alike, within) for manifest in found), None)


def located(path: Path, manifests: Sequence[Manifest]) -> Manifest | None:
    """Return the model with a graph at this path, or the first one in the folder at this path."""
    of_file = (manifest for manifest in manifests if _place(path) in graphs_of(manifest))
    within = (manifest for manifest in manifests if path.resolve() == folder_of(manifest))
    return next((manifest for found in (of_file, within) for manifest in found), None)


def merged(first: Iterable[Manifest], others: Iterable[Manifest]) -> list[Manifest]:
    """Return all models, each once, under different names; `first` wins."""
    models = list(first)
    taken = {_identity(manifest) for manifest in models}
    names = {manifest.name for manifest in models}
    models += [other for other in others if other.name not in names and _identity(other) not in taken]
    return models


def graphs_of(manifest: Manifest) -> list[Path]:
    """Return where a model's graphs lie, whatever links lead there."""
    return [_place(path) for path in manifest.files.values() if path.suffix in _GRAPH_SUFFIXES]


def folder_of(manifest: Manifest) -> Path:
    """Return where a model lies: the folder that holds all its files, at whatever depth."""
    return Path(os.path.commonpath([path.parent.resolve() for path in manifest.files.values()]))


def _identity(manifest: Manifest) -> frozenset[Path]:
    return frozenset(graphs_of(manifest))


def _place(path: Path) -> Path:
    # A file that is a link itself belongs to the folder it lies in, with the tokens there.
    return path.parent.resolve() / path.name
