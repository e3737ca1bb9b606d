"""The folder with what is derived from voices: `<cache>/split/<sha256>/` with parts and `manifest.json`.

Entries appear whole by a rename, so processes that split the same voice at once do no harm, and a cut of power leaves
either an entry or none. Whoever deletes the cache loses a few seconds.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wyoming_rknn.models.formats import onnx_header
from wyoming_rknn.models.store import CACHE_TAG

FORMAT = 2
"""Version of the manifests; entries of another one are made again."""

MANIFEST = "manifest.json"

_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Parts of voices; safe to delete.\n"
_WORKSPACE_PREFIX = ".tmp-"
_STALE_S = 3600.0


def digest(paths: Mapping[str, Path], root: Path) -> str:
    """Return the sha256 that names the entry of a voice: of its file, or of its files' sha256 if there are several.

    Files with weights that graphs name belong to them. Raises `OSError` if a file cannot be read.
    """
    files = [file for _, path in sorted(paths.items()) for file in (path, *_weights(path))]
    hashes = [_file_digest(path, root / "stamps") for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def read(entry: Path) -> dict[str, Any] | None:
    """Return an entry's manifest, or `None` if there is none, or it is of another format, or files are not whole."""
    try:
        manifest = json.loads((entry / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            return None
        if any((entry / name).stat().st_size != size for name, size in manifest["files"].items()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(manifest)


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """Give an empty folder below `root` that is gone afterwards unless it was published. Raises `OSError`."""
    root.mkdir(parents=True, exist_ok=True)
    _remove_stale(root)
    folder = Path(tempfile.mkdtemp(prefix=_WORKSPACE_PREFIX, dir=root))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, entry: Path, manifest: Mapping[str, Any]) -> None:
    """Turn a workspace with all parts in it into an entry. An entry that is whole already wins. Raises `OSError`."""
    with (folder / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    # The store does not take parts for voices when the cache lies within a data folder.
    (entry.parent / CACHE_TAG).write_text(_TAG_TEXT)
    for _ in range(2):
        try:
            folder.rename(entry)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        present = read(entry)
        if present is not None and present.get("program") == manifest["program"]:
            return
        _remove(entry)
    raise FileExistsError(errno.EEXIST, "the entry cannot be replaced", str(entry))


def _weights(graph: Path) -> list[Path]:
    """Return the files that hold weights of a graph."""
    header = onnx_header.read(graph)
    paths = [] if header is None else [graph.parent / name for name in header.external]
    for path in paths:
        # A device, say, would be read for ever.
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a file", str(path))
    return paths


def _remove(entry: Path) -> None:
    if not entry.is_dir():
        entry.unlink()
        return
    # Moved aside first, so that nobody finds half of it.
    aside = Path(tempfile.mkdtemp(prefix=_WORKSPACE_PREFIX, dir=entry.parent))
    entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    """Remove what a process that was killed left behind."""
    oldest = time.time() - _STALE_S
    for folder in root.glob(_WORKSPACE_PREFIX + "*"):
        with suppress(OSError):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _file_digest(path: Path, stamps: Path) -> str:
    """Return a file's sha256; a stamp saves reading a large voice from a slow card at each start."""
    status = path.stat()
    identity = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    stamp = stamps / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    with suppress(OSError, ValueError):
        known, _, value = stamp.read_text().rpartition(" ")
        if known == identity and len(value) == hashlib.sha256().digest_size * 2:
            return value
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):
        stamps.mkdir(parents=True, exist_ok=True)
        fresh = stamps / f"{stamp.name}.{os.getpid()}.{time.monotonic_ns()}"
        try:
            fresh.write_text(f"{identity} {value}")
            fresh.replace(stamp)
        finally:
            fresh.unlink(missing_ok=True)
    return value
