"""Installed models whose files are no longer what they were, or not what the catalogue says, and whose they are."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from wyoming_rknn.errors import DownloadError
from wyoming_rknn.models import record
from wyoming_rknn.models.adopt import in_the_way
from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import CatalogEntry
from wyoming_rknn.models.download import Claim, damaged
from wyoming_rknn.models.fetching.archive import outcome
from wyoming_rknn.models.fetching.wanted import Facts, WantedFile, whole
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.models.record import MANIFEST, Record, RecordedFile
from wyoming_rknn.names import folded


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what it should be."""

    path: Path
    message: str
    """What is wrong, without the fix."""


def since_installed(folder: Path, known: Record) -> Iterator[Damage]:
    """Yield a line for each file in `folder` that is not as its record says. Reads all of them, one after the other."""
    for name, file in known.files.items():
        path = folder / name
        if (flaw := _flaw(path, file, "converted" if known.is_converted else "installed")) is not None:
            yield Damage(path, f"{path} {flaw}")


def facts_of(known: Record) -> Mapping[str, Facts]:
    """Return what a record tells of the files."""
    return {name: Facts(file.bytes, file.sha256 or None) for name, file in known.files.items()}


def claim_for(entry: CatalogEntry) -> Claim:
    """Return what lets a model of the catalogue be mended, and nobody's own model of that name be replaced.

    It is the catalogue's if its record says so or, without a record, if all its files that are there have the right
    sizes. A file of which nothing is known is not. One from elsewhere is as good as long as all of it is the same.
    """

    def claim(folder: Path) -> Mapping[str, Facts]:
        known = record.read(folder)
        if known is not None and known.origin.catalog == entry.name:
            return facts_of(known)
        wanted = [each for file in entry.files for each in outcome(file)]
        if known is None:
            is_ours = all(_can_be(folder / each.name, each) for each in wanted if _is_there(folder, each.name))
        else:
            is_ours = all(Facts.of(each) != Facts() for each in wanted) and not damaged(entry, folder)
        if not is_ours:
            raise in_the_way(folder, entry.name)
        return {}

    return claim


def claim_unseen(entry: CatalogEntry) -> Claim:
    """Return what lets files of a model be added where nobody looks on, and none be replaced."""
    look = claim_for(entry)

    def claim(folder: Path) -> Mapping[str, Facts]:
        facts = look(folder)
        for name in damaged(entry, folder, facts):
            if _is_there(folder, name):
                mend = f"`wyoming-rknn models add {quote(entry.name)}`"
                raise DownloadError(f"{folder / name} is damaged; {mend} mends it")
        return facts

    return claim


def _can_be(path: Path, file: WantedFile) -> bool:
    if file.bytes is None:
        return Facts.of(file).has_hash and whole(path, file) is not None
    try:
        return path.stat().st_size == file.bytes
    except OSError:
        return False


def _is_there(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


class CatalogCheck:
    """Compares models that have no record with the catalogue."""

    def __init__(self, catalog: Catalog) -> None:
        """Take the models that can be had."""
        self._entries: dict[str, CatalogEntry] = {}
        for entry in catalog.entries:
            for name in entry.aliases:
                self._entries.setdefault(folded(name), entry)
        self._entries |= {folded(entry.name): entry for entry in catalog.entries}

    def damage(self, manifest: Manifest) -> tuple[CatalogEntry, list[Damage]] | None:
        """Return the catalogue's model of the same name and file sizes, and which files are another's all the same.

        None if there is no such model: one may have the name of a published voice and be somebody's own.
        """
        folder = manifest.folder
        entry = self._entries.get(folded(manifest.name))
        if entry is None or not entry.files or not _has_sizes(folder, entry):
            return None
        paths = [folder / name for name in damaged(entry, folder)]
        return entry, [Damage(path, f"{path} is not the file that the catalogue knows") for path in paths]


def _flaw(path: Path, file: RecordedFile, done: str) -> str | None:
    try:
        with path.open("rb") as content:
            size = content.seek(0, 2)
            if size != file.bytes:
                return f"has {size} bytes, {MANIFEST} says {file.bytes}"
            content.seek(0)
            if file.sha256 and hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                return f"is not what was {done}: its sha256 is not the one in {MANIFEST}"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _has_sizes(folder: Path, entry: CatalogEntry) -> bool:
    try:
        sizes: Mapping[str, int] = {
            each.name: (folder / each.name).stat().st_size for file in entry.files for each in outcome(file)
        }
    except OSError:
        return False
    return all(file.bytes in (None, sizes[file.name]) for file in entry.files if not file.unpack)
