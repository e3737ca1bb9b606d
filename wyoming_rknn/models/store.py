"""Which models the data folders hold. Looked up anew each time, so models come and go without a restart."""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from wyoming_rknn.models import record
from wyoming_rknn.models.formats import piper, qwen3, rknn_file, sensevoice
from wyoming_rknn.models.manifest import Detected, Manifest, Problem
from wyoming_rknn.models.record import Record

CACHE_TAG = "CACHEDIR.TAG"
"""Marks folders with derived files, which hold no models; see https://bford.info/cachedir/."""

MAX_DEPTH = 5
"""Levels below a data folder that are searched; rhasspy/piper-voices has four."""

MODEL_DEPTH = 2
"""Levels below its own folder in which a model may have files: those for an NPU lie in encoder/rk3588, say."""

Detector: TypeAlias = Callable[[Path], Detected]
"""Finds the models of one layout in one folder, with what they have in folders below it."""

DETECTORS: tuple[Detector, ...] = (piper.detect, sensevoice.detect, qwen3.detect)
"""One for each layout that is known."""

_Signature: TypeAlias = tuple[tuple[str, int, int], ...]

_LOGGER = logging.getLogger(__name__)


class Store:
    """The models in some data folders. Thread-safe; looking again costs one directory walk unless files changed."""

    def __init__(
        self,
        data_dirs: Sequence[Path],
        detectors: Sequence[Detector] = DETECTORS,
        max_depth: int = MAX_DEPTH,
        soc: str | None = None,
    ) -> None:
        """Look in `data_dirs`; `soc` is that of the NPU at hand, if there is one."""
        self._data_dirs = tuple(data_dirs)
        self._soc = soc
        self._detectors = tuple(detectors)
        self._max_depth = max_depth
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[_Signature, Detected]] = {}
        self._warned: set[Path] = set()

    def scan(self, kind: str | None = None) -> Detected:
        """Return all models, or those of one kind, sorted by name, and what looks like one but is not usable.

        The first data folder that has a name wins, within one what the NPU computes, then the first path. Folders that
        cannot be read are left out with one warning each.
        """
        manifests: dict[tuple[str, str], Manifest] = {}
        problems: list[Problem] = []
        with self._lock:
            known: dict[Path, tuple[_Signature, Detected]] = {}
            records: dict[Path, Record] = {}
            visited: set[tuple[int, int]] = set()
            for data_dir in self._data_dirs:
                here: dict[tuple[str, str], Manifest] = {}
                for folder, signature in self._walk(data_dir, visited):
                    known[folder] = (signature, self._detect(folder, signature))
                    detected = known[folder][1]
                    records.update(detected.records)
                    problems.extend(problem for problem in detected.problems if kind in (None, problem.model_kind))
                    for manifest in detected.manifests:
                        key = (manifest.kind, manifest.name)
                        if kind in (None, manifest.kind) and (
                            key not in here or (self._is_for_npu(manifest) and not self._is_for_npu(here[key]))
                        ):
                            here[key] = manifest
                manifests = here | manifests
            self._known = known
        ordered = sorted(manifests.values(), key=lambda manifest: (manifest.name.casefold(), manifest.name))
        return Detected(tuple(ordered), tuple(problems), MappingProxyType(records))

    def _is_for_npu(self, manifest: Manifest) -> bool:
        return manifest.has_npu and self._soc is not None and rknn_file.runs_on(manifest.targets, self._soc)

    def _detect(self, folder: Path, signature: _Signature) -> Detected:
        if (known := self._known.get(folder)) is not None and known[0] == signature:
            return known[1]
        try:
            found = [detect(folder) for detect in self._detectors]
        except OSError as error:
            self._warn(folder, error)
            return Detected()
        sizes = {name: size for name, size, _ in signature}
        known_files = record.read(folder) if record.MANIFEST in sizes else None
        return Detected(
            tuple(_informed(manifest, folder, sizes, known_files) for one in found for manifest in one.manifests),
            tuple(problem for one in found for problem in one.problems),
            {} if known_files is None else {folder: known_files},
        )

    def _walk(self, data_dir: Path, visited: set[tuple[int, int]]) -> list[tuple[Path, _Signature]]:
        """Return the folders that hold files, each once however many links and data folders lead to it."""
        return self._look(data_dir, 0, visited)[1]

    def _look(
        self, folder: Path, depth: int, visited: set[tuple[int, int]]
    ) -> tuple[_Signature, list[tuple[Path, _Signature]]]:
        """Return the files in a folder and `MODEL_DEPTH` below it, and the folders from there on that hold files."""
        signature: list[tuple[str, int, int]] = []
        below: list[Path] = []
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                return (), []
            if depth <= self._max_depth:
                visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == CACHE_TAG:
                        return (), []
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        below.append(folder / entry.name)
                    elif entry.is_file():
                        status = entry.stat()
                        signature.append((entry.name, status.st_size, status.st_mtime_ns))
        except (FileNotFoundError, NotADirectoryError):
            # A default data folder need not exist, and what is listed may vanish meanwhile.
            return (), []
        except OSError as error:
            if depth <= self._max_depth:
                self._warn(folder, error)
            return (), []
        folders: list[tuple[Path, _Signature]] = []
        for path in sorted(below) if depth < self._max_depth + MODEL_DEPTH else ():
            inner, found = self._look(path, depth + 1, visited)
            folders += found
            near = (each for each in inner if each[0].count("/") < MODEL_DEPTH)
            signature += ((f"{path.name}/{name}", size, time_ns) for name, size, time_ns in near)
        known = tuple(sorted(signature))
        if known and depth <= self._max_depth:
            folders.insert(0, (folder, known))
        return known, folders

    def _warn(self, folder: Path, error: OSError) -> None:
        if folder not in self._warned:
            self._warned.add(folder)
            _LOGGER.warning(
                "%s cannot be searched for models: %s; check its owner and permissions", folder, error.strerror
            )


def _informed(manifest: Manifest, folder: Path, sizes: Mapping[str, int], known: Record | None) -> Manifest:
    """Add what lies beside a model, or, if that tells of other files, their size."""
    if known is not None and record.lists(known.files, folder, manifest.files.values()):
        return replace(manifest, bytes=known.bytes, licence=known.licence, source=str(known.origin))
    return replace(manifest, bytes=sum(_size(path, folder, sizes) for path in manifest.files.values()))


def _size(path: Path, folder: Path, sizes: Mapping[str, int]) -> int:
    if path.parent == folder and path.name in sizes:
        return sizes[path.name]
    try:
        return path.stat().st_size
    except OSError:
        return 0
