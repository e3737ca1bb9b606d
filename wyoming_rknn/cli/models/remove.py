"""`wyoming-rknn models remove`: delete an installed model."""

import argparse
import shutil
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.errors import ModelError, ModelNotFound
from wyoming_rknn.names import folded

if TYPE_CHECKING:
    from wyoming_rknn.models.manifest import Manifest
    from wyoming_rknn.models.record import Record

HELP = "delete installed models"

_LEFTOVERS = frozenset(("MODEL_CARD", "README.md", "manifest.json", ".gitattributes"))
"""What comes with models and is of no use without them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="models as `models list` names them")
    add_settings(parser, ("data_dir", "cache_dir", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """Delete."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    from wyoming_rknn.models.store import Store

    found = Store(settings.data_dirs).scan()
    chosen = [_named(name, found.manifests) for name in arguments.names]
    # Two models may share tokens, or what was written when both were installed.
    kept = {path for manifest in found.manifests if manifest not in chosen for path in manifest.files.values()}
    for manifest in chosen:
        link = _link(manifest.folder, settings.data_dirs)
        if link is None:
            print(_remove(manifest.folder, _files(manifest, found.records, kept), settings.data_dirs))
        else:
            print(_unlink(link, manifest, kept))
    return 0


def _named(name: str, installed: "tuple[Manifest, ...]") -> "Manifest":
    for manifest in installed:
        if name == manifest.name:
            return manifest
    for manifest in installed:
        if folded(name) == folded(manifest.name):
            return manifest
    raise ModelNotFound(name, (manifest.name for manifest in installed))


def _files(manifest: "Manifest", records: "Mapping[Path, Record]", kept: Set[Path]) -> list[Path]:
    """Return the files of a model, those that were installed with it, and what tells so."""
    from wyoming_rknn.models.record import MANIFEST, lists

    folder = manifest.folder
    record = records.get(folder)
    files = list(manifest.files.values())
    if record is not None and lists(record.files, folder, files):
        installed = [folder / name for name in record.files]
        if kept.isdisjoint(installed):
            files.extend(installed)
        # Of several that were installed together the others are as good without it, unless they were converted.
        if kept.isdisjoint(installed) or not record.is_converted:
            files.append(folder / MANIFEST)
    return [path for path in dict.fromkeys(files) if path not in kept]


def _link(folder: Path, data_dirs: tuple[Path, ...]) -> Path | None:
    """Return the link that leads from a data folder to a model's folder; None if it really is in there."""
    between = (
        path
        for path in (*reversed(folder.parents), folder)
        if path not in data_dirs and any(path.is_relative_to(data_dir) for data_dir in data_dirs)
    )
    return next(filter(Path.is_symlink, between), None)


def _unlink(link: Path, manifest: "Manifest", kept: Set[Path]) -> Path:
    """Remove a link to a model, whose files stay where they really are; return where the model was."""
    if any(path.is_relative_to(link) for path in kept):
        where = link.resolve()
        raise ModelError(f"{link} leads to other models, too; delete the files of {manifest.name} in {where} by hand")
    try:
        link.unlink()
    except OSError as error:
        raise _undeletable(link, error) from error
    return manifest.folder


def _undeletable(path: Path, error: OSError) -> ModelError:
    reason = error.strerror or str(error)
    return ModelError(f"{error.filename or path} cannot be deleted: {reason}; check its owner")


def _remove(folder: Path, files: Sequence[Path], data_dirs: tuple[Path, ...]) -> Path:
    """Delete a model's files, and its folder if nothing else is in it; return where it was."""
    try:
        for path in files:
            path.unlink(missing_ok=True)
        for below in sorted(
            {above for path in files for above in path.parents if folder in above.parents}, reverse=True
        ):
            with suppress(OSError):
                below.rmdir()
        if not folder.is_dir():
            # Gone with another model that was installed with this one.
            return folder
        left = {path.name for path in folder.iterdir()}
        is_own = folder.resolve() not in {data_dir.resolve() for data_dir in data_dirs}
        if is_own and all(name in _LEFTOVERS or name.endswith(".golden.npz") for name in left):
            shutil.rmtree(folder)
    except OSError as error:
        raise _undeletable(folder, error) from error
    return folder
