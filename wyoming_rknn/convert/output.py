"""The folder of a converted model: made beside its place and moved there whole, the manifest written last."""

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

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the manifest."""

# Hidden, so that a store which searches the folder above does not take it for a model.
_WORKSPACE_PREFIX = ".tmp-"
_STALE_S = 86_400.0


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of `out` when the block ends well, and vanishes otherwise.

    `out` may be missing, empty, or hold a former conversion and nothing else. Raises `UsageError` for another one, at
    once, and `ConversionError` if it cannot be written.
    """
    out = out.absolute()
    _check_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(out)
        folder = Path(tempfile.mkdtemp(prefix=f"{_WORKSPACE_PREFIX}{out.name}-", dir=out.parent))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        folder.chmod(0o755)
        try:
            yield folder
            _check_replaceable(out)
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
    context_frames: int | None = None,
) -> None:
    """Write `manifest.json` for all that lies in `folder`. Raises `OSError`.

    `source` is the name and sha256 of what was converted, `more` further keys; `context_frames` is noted with graphs
    that run in windows.
    """
    context = {} if context_frames is None else {"context_frames": context_frames}
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "layout": layout,
        "name": name,
        "source": dict(zip(("file", "sha256"), source, strict=True)),
        "program": wyoming_rknn.__version__,
        "target": target,
        "toolkit": toolkit,
        "files": {path.name: _facts(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST},
        **(more or {}),
        "graphs": [
            {
                "file": graph.file,
                "golden": graph.golden,
                "frames": graph.frames,
                **context,
                # JSON knows no infinity.
                "snr_db": round(min(graph.snr_db, 999.0), 2),
                "max_abs_error": graph.max_abs_error,
                "seconds": round(graph.seconds, 2),
                "cpu_layers": list(graph.cpu_layers),
                "regtask_lines": graph.regtask_lines,
            }
            for graph in graphs
        ],
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def _facts(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder for the converted model")
    present = {path.name for path in out.iterdir()}
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        known = {MANIFEST, *manifest["files"]} if {"format", "layout", "target"} <= manifest.keys() else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = set()
    if foreign := sorted(present - known):
        raise UsageError(
            f"{out} holds {foreign[0]}, which is not of a former conversion; name another folder or an empty one"
        )


def _replace(out: Path, folder: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    # Moved aside first, so that nobody finds half of either.
    aside = Path(tempfile.mkdtemp(prefix=f"{_WORKSPACE_PREFIX}{out.name}-", dir=out.parent))
    try:
        out.rename(aside)
        folder.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(out: Path) -> None:
    """Remove what a process that was killed left behind."""
    oldest = time.time() - _STALE_S
    for folder in out.parent.glob(f"{_WORKSPACE_PREFIX}{glob.escape(out.name)}-*"):
        with suppress(OSError):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _unwritable(out: Path, error: OSError) -> ConversionError:
    return ConversionError(f"{out} cannot be written ({error.strerror or error}); choose another folder")
