"""What is to be fetched, and whether a file on disk is it."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from wyoming_rknn.errors import DownloadError

_BLOCK_BYTES = 1 << 20


class Source(Protocol):
    """Where a file is: in a repository of a hub, or, where `url` is not empty, there."""

    @property
    def repo(self) -> str | None:
        """Return the repository, as in "rhasspy/piper-voices"."""

    @property
    def revision(self) -> str | None:
        """Return a branch, tag or commit; none for "main"."""

    @property
    def path(self) -> str | None:
        """Return the file's path in the repository."""

    @property
    def url(self) -> str | None:
        """Return the address of a file that is in no hub."""


class WantedFile(Protocol):
    """A file of a model. What is known of it is checked; where no hash is known, the hub's is taken if it tells one."""

    @property
    def name(self) -> str:
        """Return the path below the model's folder, with slashes."""

    @property
    def source(self) -> Source:
        """Return where it is."""

    @property
    def bytes(self) -> int | None:
        """Return its size."""

    @property
    def sha256(self) -> str | None:
        """Return its SHA-256 in hexadecimal digits."""

    @property
    def md5(self) -> str | None:
        """Return its MD5 in hexadecimal digits."""

    @property
    def unpack(self) -> tuple[str, ...]:
        """Return, if it is a tar archive, its members that are the model's files."""


class Wanted(Protocol):
    """A model."""

    @property
    def name(self) -> str:
        """Return the name that messages use."""

    @property
    def files(self) -> Sequence[WantedFile]:
        """Return all files; each name once."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file must be like; None for what is not known."""

    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @classmethod
    def of(cls, file: WantedFile) -> "Facts":
        """Return what is known of a file."""
        return cls(file.bytes, file.sha256.lower() if file.sha256 else None, file.md5.lower() if file.md5 else None)

    @property
    def has_hash(self) -> bool:
        """Tell whether a hash is known."""
        return bool(self.sha256 or self.md5)


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that is there and whole."""

    name: str
    bytes: int
    sha256: str


def check_names(model: Wanted) -> None:
    """Raise `DownloadError` for a file that would land outside its folder, stands twice, or is not to be had."""
    seen: set[str] = set()
    for name in [name for file in model.files for name in (file.name, *map(_last, file.unpack))]:
        path = PurePosixPath(name)
        bad = not path.parts or path.is_absolute() or ".." in path.parts or str(path) != name
        # A name with a leading dot or this suffix is kept for what is not done.
        if bad or any(part.startswith(".") for part in path.parts) or name.endswith(".part") or "\0" in name:
            raise DownloadError(f"{model.name} has a file with the unusable name {name!r}; mend the catalogue")
        if name in seen:
            raise DownloadError(f"{model.name} has the file {name!r} twice; mend the catalogue")
        seen.add(name)
    if not seen:
        raise DownloadError(f"{model.name} has no files in the catalogue that could be fetched")


def _last(member: str) -> str:
    return PurePosixPath(member).name


def inspect(path: Path, facts: Facts) -> tuple[str, FetchedFile | None]:
    """Read a file and return what is wrong with it ("" if nothing) and what it is. Raises `OSError`.

    With no facts known, every file is right but an empty one.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if facts.bytes is not None and size != facts.bytes:
            return f"has {size} bytes instead of {facts.bytes}", None
        if not size and facts.bytes is None and not facts.has_hash:
            return "is empty", None
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        while block := file.read(_BLOCK_BYTES):
            sha256.update(block)
            if facts.md5:
                md5.update(block)
    if facts.sha256 and sha256.hexdigest() != facts.sha256:
        return f"has the SHA-256 {sha256.hexdigest()} instead of {facts.sha256}", None
    if facts.md5 and md5.hexdigest() != facts.md5:
        return f"has the MD5 {md5.hexdigest()} instead of {facts.md5}", None
    return "", FetchedFile(path.name, size, sha256.hexdigest())


def whole(path: Path, file: WantedFile) -> FetchedFile | None:
    """Return what a file on disk is, or None if it is absent, cannot be read, or is not what is wanted."""
    try:
        found = inspect(path, Facts.of(file))[1]
    except OSError:
        return None
    return found and FetchedFile(file.name, found.bytes, found.sha256)
