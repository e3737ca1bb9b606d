"""Where catalogues lie besides the package's, and the catalogue as it is while a server runs."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.changes import size_and_time
from wyoming_rknn.settings import Settings

FILE = "catalog.json"
"""In a data folder: a user's own. In the cache folder: what `models update` fetched."""

_Signature: TypeAlias = tuple[tuple[int, int], ...]


def catalog_files(settings: Settings) -> tuple[Path, ...]:
    """Return where catalogues may lie; an earlier one wins over later ones, and all over the package's."""
    return (*(folder / FILE for folder in settings.data_dirs), updated_file(settings))


def updated_file(settings: Settings) -> Path:
    """Return where the catalogue is that `models update` writes."""
    return settings.cache / FILE


def load_catalog(settings: Settings) -> Catalog:
    """Return what can be had. Nothing is raised, as by `Catalog.load`."""
    return Catalog.load(catalog_files(settings))


class LiveCatalog:
    """What can be had now: read when first asked for, and again when a file has changed. Thread-safe."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read `files`, as `catalog_files` names them, and the package's list."""
        self._files = tuple(files)
        self._guard = threading.Lock()
        self._known: tuple[_Signature, Catalog] | None = None

    def now(self) -> Catalog:
        """Return the same object as long as no file changes. Reads files."""
        with self._guard:
            signature = tuple(size_and_time(path) for path in self._files)
            if self._known is None or self._known[0] != signature:
                self._known = (signature, Catalog.load(self._files))
            return self._known[1]
