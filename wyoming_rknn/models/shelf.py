"""Models in memory: each loaded once, and again when its files change."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from wyoming_rknn.errors import ModelError
from wyoming_rknn.models.manifest import Manifest, Problem

_T = TypeVar("_T")
_Signature: TypeAlias = tuple[tuple[Path, int, int], ...]


@dataclass(slots=True)
class _Slot(Generic[_T]):
    """What became of a model's files as they were when they were last looked at."""

    signature: _Signature
    lock: threading.Lock = field(default_factory=threading.Lock)
    model: _T | None = None
    problem: Problem | None = None


class Shelf(Generic[_T]):
    """Keep what is loaded from files, and what is wrong with files that could not be. Thread-safe.

    A model whose files change is loaded anew; whoever works with the old one holds it until they are done.
    """

    def __init__(self, open_model: Callable[[Manifest], _T]) -> None:
        """Make an empty shelf; `open_model` loads a model, and raises `ModelError` if it cannot."""
        self._open = open_model
        self._slots: dict[str, _Slot[_T]] = {}
        self._guard = threading.Lock()

    def get(self, name: str) -> _T | None:
        """Return a model that is loaded and whose files are as they were; saves a walk through folders."""
        with self._guard:
            slot = self._slots.get(name)
        if slot is None or slot.model is None or slot.signature != _sign(path for path, *_ in slot.signature):
            return None
        return slot.model

    def load(self, manifest: Manifest) -> _T:
        """Return a model, loaded once however many ask. Blocks. Raises `ModelError`, again and again while it holds."""
        signature = _sign(manifest.files.values())
        with self._guard:
            slot = self._slots.get(manifest.name)
            if slot is None or slot.signature != signature:
                slot = self._slots[manifest.name] = _Slot(signature)
        with slot.lock:
            if slot.problem is not None:
                raise slot.problem.error()
            if slot.model is None:
                try:
                    slot.model = self._open(manifest)
                except ModelError as error:
                    slot.problem = Problem(signature[0][0], str(error), manifest.name, type(error), manifest.kind)
                    raise
            return slot.model

    def problems(self, manifests: Sequence[Manifest]) -> Mapping[str, Problem]:
        """Return, by name, which of these models proved to be broken; all others are forgotten."""
        signatures = {manifest.name: _sign(manifest.files.values()) for manifest in manifests}
        with self._guard:
            self._slots = {name: slot for name, slot in self._slots.items() if slot.signature == signatures.get(name)}
            return {name: slot.problem for name, slot in self._slots.items() if slot.problem is not None}

    def clear(self) -> list[_T]:
        """Forget all models and return those that were loaded, for their owner to close."""
        with self._guard:
            slots, self._slots = self._slots, {}
        return [slot.model for slot in slots.values() if slot.model is not None]


def _sign(paths: Iterable[Path]) -> _Signature:
    """Return what changes when files do."""
    return tuple((path, *_size_and_time(path)) for path in paths)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
