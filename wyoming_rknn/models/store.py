"""Which models the data folders hold. Looked up anew each time, so models come and go without a restart."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from wyoming_rknn.models.formats import piper, rknn_file, sensevoice
from wyoming_rknn.models.manifest import Detected, Manifest, Problem

CACHE_TAG = "CACHEDIR.TAG"
"""Marks folders with derived files, which hold no models; see https://bford.info/cachedir/."""

MAX_DEPTH = 5
"""Levels below a data folder that are searched; rhasspy/piper-voices has four."""

Detector: TypeAlias = Callable[[Path], Detected]
"""Finds the models of one layout in one folder."""

DETECTORS: tuple[Detector, ...] = (piper.detect, sensevoice.detect)
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
            visited: set[tuple[int, int]] = set()
            for data_dir in self._data_dirs:
                here: dict[tuple[str, str], Manifest] = {}
                for folder, signature in self._walk(data_dir, 0, visited):
                    known[folder] = (signature, self._detect(folder, signature))
                    detected = known[folder][1]
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
        return Detected(tuple(ordered), tuple(problems))

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
        return Detected(
            tuple(manifest for one in found for manifest in one.manifests),
            tuple(problem for one in found for problem in one.problems),
        )

    def _walk(self, folder: Path, depth: int, visited: set[tuple[int, int]]) -> Iterator[tuple[Path, _Signature]]:
        """Return the folders that hold files, each once however many links and data folders lead to it."""
        signature: list[tuple[str, int, int]] = []
        below: list[Path] = []
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                return
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == CACHE_TAG:
                        return
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        below.append(folder / entry.name)
                    elif entry.is_file():
                        status = entry.stat()
                        signature.append((entry.name, status.st_size, status.st_mtime_ns))
        except (FileNotFoundError, NotADirectoryError):
            # A default data folder need not exist, and what is listed may vanish meanwhile.
            return
        except OSError as error:
            self._warn(folder, error)
            return
        if signature:
            yield folder, tuple(sorted(signature))
        if depth < self._max_depth:
            for path in sorted(below):
                yield from self._walk(path, depth + 1, visited)

    def _warn(self, folder: Path, error: OSError) -> None:
        if folder not in self._warned:
            self._warned.add(folder)
            _LOGGER.warning(
                "%s cannot be searched for models: %s; check its owner and permissions", folder, error.strerror
            )
