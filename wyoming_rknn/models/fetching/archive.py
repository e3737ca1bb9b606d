"""Models that come as a tar archive: the few files of it that are the model."""

import bz2
import gzip
import lzma
import os
import tarfile
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from wyoming_rknn.errors import Cancelled
from wyoming_rknn.models.fetching.failures import DownloadError, HashMismatch
from wyoming_rknn.models.fetching.transfer import check_space, part_of
from wyoming_rknn.models.fetching.wanted import Source, WantedFile

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A file that comes out of an archive. Nothing is known of it beforehand."""

    name: str
    source: Source
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    unpack: tuple[str, ...] = ()


def outcome(file: WantedFile) -> tuple[WantedFile, ...]:
    """Return what a file becomes in the model's folder: itself, or the members of an archive by their last names."""
    if not file.unpack:
        return (file,)
    return tuple(Member(PurePosixPath(member).name, file.source) for member in file.unpack)


def unpack(archive: Path, members: Sequence[str], folder: Path, stop: threading.Event) -> None:
    """Write members of a tar archive, of any compression, into a folder, where they appear when all are whole.

    Raises `DownloadError` (an archive that is broken is gone then), `Cancelled` when `stop` is set, `OSError`.
    """
    left = {str(PurePosixPath(member)) for member in members}
    try:
        with _opened(archive) as stream:
            # As a stream: a compressed archive is then read once.
            with tarfile.open(fileobj=stream, mode="r|") as files:
                for info in files:
                    name = str(PurePosixPath(info.name))
                    if name not in left:
                        continue
                    content = files.extractfile(info) if info.isfile() and info.size else None
                    if content is None:
                        raise DownloadError(f"{name} in {archive.name} is empty or no plain file; mend the catalogue")
                    _write(content, info.size, folder / PurePosixPath(name).name, stop)
                    left.discard(name)
                    if not left:
                        break
            # The checksum may stand at the end, and zeros in what is broken look like the end of an archive.
            while stream.read(_CHUNK_BYTES):
                _check(stop)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _broken(archive, error) from None
    except OSError as error:
        # The decoders of gzip and bzip2 report what they cannot read as an error of the system without a number.
        if error.errno is None:
            raise _broken(archive, error) from None
        raise
    if left:
        raise DownloadError(f"{archive.name} does not hold {', '.join(sorted(left))}; mend the catalogue")
    for member in members:
        target = folder / PurePosixPath(member).name
        part_of(target).replace(target)


def _opened(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        magic = file.read(6)
    for start, decoder in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
        if magic.startswith(start):
            return cast("IO[bytes]", decoder(archive))
    return archive.open("rb")


def _write(content: IO[bytes], size: int, target: Path, stop: threading.Event) -> None:
    check_space(target.parent, size, target.name)
    with part_of(target).open("wb") as part:
        while block := content.read(_CHUNK_BYTES):
            _check(stop)
            part.write(block)
        part.flush()
        os.fsync(part.fileno())


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Cancelled


def _broken(archive: Path, error: Exception) -> HashMismatch:
    archive.unlink()
    return HashMismatch(f"{archive.name} is broken and was removed: {error}; try again, or another mirror")
