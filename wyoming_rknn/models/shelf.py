"""Models in memory: each loaded once, again when its files change, and let go when their room is needed."""

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

from wyoming_rknn.errors import ModelError
from wyoming_rknn.models.changes import size_and_time
from wyoming_rknn.models.manifest import NPU_SUFFIX, Manifest, Problem

_T = TypeVar("_T")
_Signature: TypeAlias = tuple[tuple[Path, int, int], ...]

WORKING_BYTES = 64 << 20
"""What a model on the CPU takes beside its weights: buffers that ONNX Runtime keeps between runs, see `footprint`."""
_NO_GRAPHS = frozenset(("config", "tokens", "golden", "manifest", "cmvn", "embedding"))
"""Roles of files that take next to no memory, or are read and forgotten."""
_SMALL_SUFFIXES = frozenset((".json", ".txt"))
_PLAIN_SUFFIXES = frozenset((NPU_SUFFIX, ".rkllm", ".npy"))
"""Of files that are in memory as they are: graphs for an NPU, language models for one, tables."""


class Lease(Protocol):
    """A model's share of the memory."""

    def use(self) -> None:
        """Note that the model is loaded, or asked for again."""

    def leave(self) -> None:
        """Note that the model will not be asked for again."""

    def end(self) -> None:
        """Note that the model is freed, or could not be loaded."""


class Memory(Protocol):
    """What keeps models within a budget."""

    def admit(self, name: str, size_bytes: int, let_go: Callable[[bool], bool]) -> Lease:
        """Make room for a model that is about to be loaded; `let_go` gives it up, told `True` also if it is used."""


def footprint(manifest: Manifest, *, npu: bool = True) -> int:
    """Return about how many bytes a model takes once it has been used; without an `npu` its graphs for one do not.

    Twice its ONNX and `WORKING_BYTES`, and once its files for the NPU and tables. Measured on two x86-64 cores
    with ONNX Runtime 1.31, files in MB and what the process grew by: Piper voices 7 and 66, 5 and 56, 60 (medium) and
    180, one that cannot be cut 13 and 140; SenseVoice with a quarter of its layers 206, and 365 after 5 s of audio, 560
    after 30 s.
    """
    paths = [path for role, path in manifest.files.items() if role not in _NO_GRAPHS]
    plain = [path for path in paths if path.suffix in _PLAIN_SUFFIXES and (npu or path.suffix != NPU_SUFFIX)]
    on_cpu = [path for path in paths if path.suffix not in _PLAIN_SUFFIXES | _SMALL_SUFFIXES]
    return _bytes(plain) + (2 * _bytes(on_cpu) + WORKING_BYTES if on_cpu else 0)


class Shelf(Generic[_T]):
    """Keep what is loaded from files, and what is wrong with files that could not be. Thread-safe.

    A model whose files change is loaded anew; whoever works with the old one holds it until they are done. Models must
    take weak references, and free what they hold when they are collected.
    """

    def __init__(
        self,
        open_model: Callable[[Manifest], _T],
        memory: Memory | None = None,
        size_of: Callable[[Manifest], int] = footprint,
    ) -> None:
        """Make an empty shelf; `open_model` loads a model, and raises `ModelError` if it cannot.

        `memory` may let models go; `size_of` tells beforehand how many bytes one will take.
        """
        self._open = open_model
        self._memory = memory or _Boundless()
        self._size_of = size_of
        self._slots: dict[str, _Slot[_T]] = {}
        self._guard = threading.Lock()

    def get(self, name: str) -> _T | None:
        """Return a model that is loaded and whose files are as they were; saves a walk through folders."""
        with self._guard:
            slot = self._slots.get(name)
        if slot is None or slot.signature != _sign(path for path, *_ in slot.signature):
            return None
        return slot.use()

    def load(self, manifest: Manifest) -> _T:
        """Return a model, loaded once however many ask. Blocks. Raises `ModelError`, again and again while it holds.

        Makes room for it first. A model that was let go but that somebody works with is taken back.
        """
        signature = _sign(manifest.files.values())
        old: _Slot[_T] | None = None
        with self._guard:
            slot = self._slots.get(manifest.name)
            if slot is None or slot.signature != signature:
                old, slot = slot, _Slot(signature)
                self._slots[manifest.name] = slot
        if old is not None:
            old.forget()
        with slot.loading:
            if slot.problem is not None:
                raise slot.problem.error()
            if (model := slot.use()) is not None:
                return model
            lease = self._memory.admit(manifest.name, self._size_of(manifest), slot.let_go)
            try:
                model = self._open(manifest)
            except ModelError as error:
                lease.end()
                slot.problem = Problem(signature[0][0], str(error), manifest.name, type(error), manifest.kind)
                raise
            except BaseException:
                lease.end()
                raise
            slot.put(model, lease)
        # What was loaded at the same time may have to give way.
        lease.use()
        return model

    def problems(self, manifests: Sequence[Manifest]) -> Mapping[str, Problem]:
        """Return, by name, which of these models proved to be broken; all others are forgotten and let go."""
        signatures = {manifest.name: _sign(manifest.files.values()) for manifest in manifests}
        with self._guard:
            forgotten = [slot for name, slot in self._slots.items() if slot.signature != signatures.get(name)]
            self._slots = {name: slot for name, slot in self._slots.items() if slot.signature == signatures.get(name)}
            problems = {name: slot.problem for name, slot in self._slots.items() if slot.problem is not None}
        for slot in forgotten:
            slot.forget()
        return problems

    def clear(self) -> list[_T]:
        """Forget all models and return those that were loaded, for their owner to close."""
        with self._guard:
            slots, self._slots = self._slots, {}
        loaded = [slot.use() for slot in slots.values()]
        for slot in slots.values():
            slot.forget()
        return [model for model in loaded if model is not None]


class _Slot(Generic[_T]):
    """What became of a model's files as they were when they were last looked at."""

    def __init__(self, signature: _Signature) -> None:
        self.signature = signature
        self.loading = threading.Lock()
        self.problem: Problem | None = None
        self._guard = threading.Lock()
        self._kept: _T | None = None
        self._known: weakref.ref[_T] | None = None
        self._lease: Lease | None = None
        self._forgotten = False

    def use(self) -> _T | None:
        """Return the model if it is in memory, and keep it from now on."""
        with self._guard:
            model = self._kept
            if model is None and self._known is not None:
                model = self._known()
                self._kept = None if self._forgotten else model
            lease = self._lease
        if model is not None and lease is not None:
            lease.use()
        return model

    def put(self, model: _T, lease: Lease) -> None:
        """Keep a model that was loaded just now, unless its files are gone already."""
        weakref.finalize(model, lease.end).atexit = False
        with self._guard:
            self._known, self._lease = weakref.ref(model), lease
            self._kept = None if self._forgotten else model

    def let_go(self, used_too: bool) -> bool:
        """Keep the model no longer, unless somebody uses it and `used_too` is false; tells whether it was let go."""
        with self._guard:
            model, self._kept = self._kept, None
        if model is None:
            return False
        # The last reference may be this one: freed without the guard, for which requests wait.
        del model
        if used_too:
            return True
        with self._guard:
            self._kept = None if self._known is None or self._forgotten else self._known()
            return self._kept is None

    def forget(self) -> None:
        """Let the model go for good."""
        with self._guard:
            self._forgotten = True
            model, self._kept, lease = self._kept, None, self._lease
        del model
        if lease is not None:
            lease.leave()


class _Boundless:
    """Memory that nobody counts."""

    def admit(self, name: str, size_bytes: int, let_go: Callable[[bool], bool]) -> "_Boundless":
        del name, size_bytes, let_go
        return self

    def use(self) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


def _bytes(paths: Iterable[Path]) -> int:
    return sum(max(0, size_and_time(path)[0]) for path in paths)


def _sign(paths: Iterable[Path]) -> _Signature:
    """Return what changes when files do."""
    return tuple((path, *size_and_time(path)) for path in paths)
