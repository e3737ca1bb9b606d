"""The folder of a converted model: made beside its place, or within where that cannot move, and put there whole."""

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wyoming_rknn
from wyoming_rknn.convert.report import GraphReport
from wyoming_rknn.errors import ConversionError, SpeechServerError, UsageError
from wyoming_rknn.models import record
from wyoming_rknn.models.record import FORMAT, MANIFEST
from wyoming_rknn.models.store import Store

# Hidden, so that a store which searches the folder above does not take it for a model.
_WORKSPACE_PREFIX = ".tmp-"
_STALE_S = 86_400.0
_FILE_SYSTEM = "lost+found"
"""What a file system of its own may hold before anything is put there."""


def check(out: Path) -> None:
    """Raise `UsageError` if `out` is a file, or a folder with other things than a former conversion."""
    _check_replaceable(_resolved(out))


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of `out` when the block ends well, and vanishes otherwise.

    `out` may be missing, empty, or hold a former conversion and nothing else; it may be a mount point, or the one
    folder that can be written, and then gets the files one by one. Raises `UsageError` for another one, at once, and
    `ConversionError` if it cannot be written.
    """
    out = _resolved(out)
    _check_replaceable(out)
    is_fixed = out.is_dir() and (out.is_mount() or not os.access(out.parent, os.W_OK))
    place = out if is_fixed else out.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        _remove_stale(place, out.name)
        folder = Path(tempfile.mkdtemp(prefix=f"{_WORKSPACE_PREFIX}{out.name}-", dir=place))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        folder.chmod(0o755)
        try:
            yield folder
            _check_replaceable(out)
            if is_fixed:
                _fill(out, folder)
            else:
                _replace(out, folder)
        except OSError as error:
            if isinstance(error, SpeechServerError):
                raise
            raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(
    folder: Path,
    *,
    kind: str,
    layout: str,
    name: str,
    source: tuple[str, str],
    target: str,
    toolkit: str,
    graphs: Sequence[GraphReport],
    more: Mapping[str, Mapping[str, Any]] | None = None,
    made_of: Path | None = None,
) -> None:
    """Write `manifest.json` for all that lies in `folder`. Raises `OSError`.

    `source` is the name and sha256 of what was converted, `more` further keys. The licence is that of the model which
    is installed in `made_of`, or of which that is a file; languages and rate are those that the result is found with.
    """
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "layout": layout,
        "name": name,
        "source": dict(zip(("file", "sha256"), source, strict=True)),
        "program": wyoming_rknn.__version__,
        "target": target,
        "toolkit": toolkit,
        **_licence(made_of),
        "files": {path.name: _facts(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST},
        **(more or {}),
        "graphs": [
            {
                "file": graph.file,
                "golden": graph.golden,
                "frames": graph.frames,
                **({} if graph.context_frames is None else {"context_frames": graph.context_frames}),
                # JSON knows no infinity.
                "snr_db": round(min(graph.snr_db, 999.0), 2),
                "max_abs_error": graph.max_abs_error,
                "seconds": round(graph.seconds, 2),
                "cpu_layers": list(graph.cpu_layers),
                "regtask_lines": graph.regtask_lines,
                "errors": list(graph.errors),
            }
            for graph in graphs
        ],
    }
    _write(folder / MANIFEST, manifest)
    for found in Store((folder,), max_depth=0).scan().manifests:
        if found.name == name:
            _write(folder / MANIFEST, {**manifest, "languages": list(found.languages), "rate_hz": found.rate_hz})


def _write(path: Path, manifest: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def _licence(made_of: Path | None) -> dict[str, str]:
    if made_of is None:
        return {}
    folder = made_of if made_of.is_dir() else made_of.parent
    known = record.read(folder)
    if known is None or not known.licence or not (made_of == folder or made_of.name in known.files):
        return {}
    return {"licence": known.licence}


def _facts(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _resolved(out: Path) -> Path:
    """Return where a symbolic link leads to, which is replaced and not the link."""
    return Path(os.path.realpath(out))


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder for the converted model")
    workspaces = f"{_WORKSPACE_PREFIX}{out.name}-"
    try:
        present = {path.name for path in out.iterdir() if not path.name.startswith(workspaces)}
    except OSError as error:
        raise UsageError(f"{out} cannot be read ({error.strerror}); name another folder") from error
    if foreign := sorted(present - _former(out) - {_FILE_SYSTEM}):
        raise UsageError(
            f"{out} holds {foreign[0]}, which is not of a former conversion; name another folder or an empty one"
        )


def _former(out: Path) -> set[str]:
    """Return the names of a former conversion's files."""
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        return {MANIFEST, *manifest["files"]} if {"format", "layout", "target"} <= manifest.keys() else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _replace(out: Path, folder: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    # Moved aside first, so that nobody finds half of either.
    aside = Path(tempfile.mkdtemp(prefix=f"{_WORKSPACE_PREFIX}{out.name}-", dir=out.parent))
    try:
        out.rename(aside)
        folder.rename(out)
    except BaseException as error:
        if not out.exists():
            aside.rename(out)
            raise
        shutil.rmtree(aside, ignore_errors=True)
        # A mount point that does not look like one: of the same file system as the folder above.
        if not isinstance(error, OSError) or error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _fill(out, folder)
        return
    shutil.rmtree(aside, ignore_errors=True)


def _fill(out: Path, folder: Path) -> None:
    """Move files into a folder that stays where it is; the manifest goes first and comes last."""
    aside = Path(tempfile.mkdtemp(prefix=f"{_WORKSPACE_PREFIX}{out.name}-", dir=out))
    present = {path.name for path in out.iterdir()}
    former = sorted(_former(out) & present, key=lambda name: name != MANIFEST)
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == MANIFEST, name))
    try:
        for name in former:
            (out / name).rename(aside / name)
        for name in names:
            shutil.move(folder / name, out / name)
    except BaseException:
        for name in names:
            if name not in former or (aside / name).exists():
                (out / name).unlink(missing_ok=True)
        for name in reversed(former):
            if (aside / name).exists():
                (aside / name).rename(out / name)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(place: Path, name: str) -> None:
    """Remove what a process that was killed left behind."""
    oldest = time.time() - _STALE_S
    for folder in place.glob(f"{_WORKSPACE_PREFIX}{glob.escape(name)}-*"):
        with suppress(OSError):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _unwritable(out: Path, error: OSError) -> ConversionError:
    return ConversionError(f"{out} cannot be written ({error.strerror or error}); choose another folder")
