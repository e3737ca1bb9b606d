"""`wyoming-rknn models remove`: delete an installed model."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.errors import ModelError, ModelNotFound
from wyoming_rknn.names import folded

if TYPE_CHECKING:
    from wyoming_rknn.models.manifest import Manifest

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

    installed = Store(settings.data_dirs).scan().manifests
    chosen = [_named(name, installed) for name in arguments.names]
    # Two models may share tokens.
    kept = {path for manifest in installed if manifest not in chosen for path in manifest.files.values()}
    for manifest in chosen:
        print(_remove(manifest, kept, settings.data_dirs))
    return 0


def _named(name: str, installed: "tuple[Manifest, ...]") -> "Manifest":
    for manifest in installed:
        if name == manifest.name:
            return manifest
    for manifest in installed:
        if folded(name) == folded(manifest.name):
            return manifest
    raise ModelNotFound(name, (manifest.name for manifest in installed))


def _remove(manifest: "Manifest", kept: set[Path], data_dirs: tuple[Path, ...]) -> Path:
    """Delete a model's files, and its folder if nothing else is in it; return where it was."""
    files = [path for path in manifest.files.values() if path not in kept]
    folder = files[0].parent
    try:
        for path in files:
            path.unlink(missing_ok=True)
        left = {path.name for path in folder.iterdir()}
        is_own = folder.resolve() not in {data_dir.resolve() for data_dir in data_dirs}
        if is_own and all(name in _LEFTOVERS or name.endswith(".golden.npz") for name in left):
            shutil.rmtree(folder)
    except OSError as error:
        raise ModelError(f"{error.filename or folder} cannot be deleted: {error.strerror}; check its owner") from error
    return folder
