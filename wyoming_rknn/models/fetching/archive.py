"""Models that come as an archive: the few files of it that are the model, or all of it."""

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from wyoming_rknn.errors import Cancelled, DownloadError, HashMismatch, ModelInvalid
from wyoming_rknn.models.fetching.progress import Progress
from wyoming_rknn.models.fetching.transfer import check_space, part_of
from wyoming_rknn.models.fetching.wanted import Source, WantedFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".tar.bz2", ".tbz2", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar", ".zip")
"""Of archives that can be unpacked."""

_CHUNK_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_CORRUPT = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)
_IMPOSSIBLE = (errno.EINVAL, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ)
"""What a new folder answers to places outside the archive, and to names that no file or two files have."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file that comes out of an archive. The catalogue knows nothing of it."""

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


def unpack(
    archive: Path, members: Sequence[str], folder: Path, stop: threading.Event, progress: Progress | None = None
) -> None:
    """Write members of a tar archive, of any compression, into a folder, where they appear when all are whole.

    `progress` is told how much of the archive is read. Raises `DownloadError` (an archive that is broken is gone then),
    `Cancelled` when `stop` is set, `OSError`.
    """
    left = {str(PurePosixPath(member)) for member in members}
    try:
        with _Watched(archive, stop, progress) as watched, _decoded(watched) as stream:
            # As a stream: a compressed archive is then read once.
            with tarfile.open(fileobj=stream, mode="r|") as files:
                for info in files:
                    name = str(PurePosixPath(info.name))
                    if name not in left:
                        continue
                    content = files.extractfile(info) if info.isfile() and info.size else None
                    if content is None:
                        raise DownloadError(f"{name} in {archive.name} is empty or no plain file; mend the catalogue")
                    target = folder / PurePosixPath(name).name
                    check_space(folder, info.size, target.name)
                    _write(content, part_of(target), stop)
                    left.discard(name)
                    if not left:
                        break
            # The checksum may stand at the end, and zeros in what is broken look like the end of an archive.
            while stream.read(_CHUNK_BYTES):
                pass
    except _CORRUPT as error:
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


def unpack_all(archive: Path, folder: Path, stop: threading.Event, progress: Progress | None = None) -> None:
    """Write all plain files of a tar or zip archive into a folder, but hidden ones and links.

    `progress` is told how much of the archive is read. Raises `ModelInvalid` for an archive that is broken, locked or
    would write elsewhere, `DiskFull`, `Cancelled` when `stop` is set, `OSError`.
    """
    try:
        if archive.suffix.lower() == ".zip":
            _unpack_zip(archive, folder, stop, progress)
            return
        with _Watched(archive, stop, progress) as watched, _decoded(watched) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as files:
                for info in files:
                    target = _inside(info.name, folder, archive) if info.isfile() else None
                    content = files.extractfile(info) if target is not None else None
                    if target is not None and content is not None:
                        check_space(folder, info.size, info.name)
                        _write(content, target, stop)
            while stream.read(_CHUNK_BYTES):
                pass
    except (*_CORRUPT, NotImplementedError) as error:
        raise _unreadable(archive, str(error)) from None
    except OSError as error:
        if error.errno is None or error.errno in _IMPOSSIBLE:
            raise _unreadable(archive, error.strerror or str(error)) from None
        raise


def _unpack_zip(archive: Path, folder: Path, stop: threading.Event, progress: Progress | None) -> None:
    with zipfile.ZipFile(archive) as files:
        infos = [(info, target) for info in files.infolist() if (target := _inside(info.filename, folder, archive))]
        infos = [(info, target) for info, target in infos if not info.is_dir()]
        if any(info.flag_bits & 1 for info, _ in infos):
            raise ModelInvalid(f"{archive} is locked with a password; unpack it and give its folder")
        check_space(folder, sum(info.file_size for info, _ in infos), archive.name)
        done, total = 0, sum(info.compress_size for info, _ in infos)
        for info, target in infos:
            with files.open(info) as content:
                _write(content, target, stop)
            done += info.compress_size
            if progress is not None:
                progress(done, total)


def _inside(member: str, folder: Path, archive: Path) -> Path | None:
    """Return where a member goes, nowhere if it is hidden. Raises `ModelInvalid` if that is not in the folder."""
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in member:
        raise ModelInvalid(f"{archive} holds {member!r}, which would lead out of its folder; unpack it by hand")
    return folder / path if path.parts and not any(part.startswith(".") for part in path.parts) else None


class _Watched(io.RawIOBase):
    """A file that tells how much of it is read, and that reading can be stopped."""

    def __init__(self, path: Path, stop: threading.Event, progress: Progress | None) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = path.stat().st_size
        self._stop = stop
        self._progress = progress
        self._done = self._told = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        _check(self._stop)
        count = self._file.readinto(buffer)
        self._done += count or 0
        new = self._done - self._told
        if self._progress is not None and (new >= _CHUNK_BYTES or (new and self._done == self._size)):
            self._told = self._done
            self._progress(self._done, self._size)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _decoded(archive: _Watched) -> IO[bytes]:
    file = io.BufferedReader(archive, _READ_BYTES)
    magic = file.peek(6)
    for start, decoder in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
        if magic.startswith(start):
            return cast("IO[bytes]", decoder(file))
    return cast("IO[bytes]", file)


def _write(content: IO[bytes], target: Path, stop: threading.Event) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while block := content.read(_CHUNK_BYTES):
            _check(stop)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Cancelled


def _broken(archive: Path, error: Exception) -> HashMismatch:
    archive.unlink()
    return HashMismatch(f"{archive.name} is broken and was removed: {error}; try again, or another mirror")


def _unreadable(archive: Path, reason: str) -> ModelInvalid:
    return ModelInvalid(f"{archive} is broken or no archive: {reason}; fetch or copy it again")
