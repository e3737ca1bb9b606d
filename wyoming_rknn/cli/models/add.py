"""`wyoming-rknn models add`: fetch a model of the catalogue."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.errors import ModelError
from wyoming_rknn.settings import Settings

if TYPE_CHECKING:
    from wyoming_rknn.models.catalog import Catalog
    from wyoming_rknn.models.catalog_entry import CatalogEntry

HELP = "fetch models of the catalogue into the first data folder; what is there already is checked, and mended"

_DEFAULT = "default"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="+",
        help="models as `models list --available` names them, in any spelling; `default` stands for what suits the "
        "board and --language",
    )
    parser.add_argument(
        "--model-url", metavar="URL", help="mirror of the hub (default $HF_ENDPOINT, else the hub itself)"
    )
    add_settings(parser, ("data_dir", "cache_dir", "language", "soc", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """Fetch."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    from wyoming_rknn.cli.models.listing import catalog
    from wyoming_rknn.models.download import DownloadOptions, fetch
    from wyoming_rknn.models.fetching.progress import renderer

    known = catalog(settings)
    # A name that is wrong must not be told after the first gigabyte.
    wanted = [entry for name in arguments.names for entry in _named(name, known, settings)]
    entries = [_fetchable(entry) for entry in wanted]
    options = DownloadOptions.of(os.environ, arguments.model_url)
    for entry in entries:
        folder = settings.data_dirs[0] / entry.name
        progress = renderer(entry.name)
        try:
            fetch(entry, folder, options, progress)
        finally:
            progress.close()
        print(folder)
        _remark(entry, folder)
    return 0


def _named(name: str, known: "Catalog", settings: Settings) -> "Sequence[CatalogEntry]":
    if name != _DEFAULT:
        return [known.find(name)]
    from wyoming_rknn.models.defaults import LANGUAGE, defaults
    from wyoming_rknn.runtime.board import Board

    language = settings.language or LANGUAGE
    entries = defaults(known, language, Board.read(soc=settings.soc).soc)
    if not entries:
        raise ModelError(
            f"no model of the catalogue knows {language!r}; choose a language with --language, as `wyoming-rknn models "
            "list --available` shows them"
        )
    return entries


def _fetchable(entry: "CatalogEntry") -> "CatalogEntry":
    """Return a model that can be fetched and used. Raises `ModelError`."""
    page = f"; {entry.home_url} tells how" if entry.home_url else ""
    if not entry.is_supported:
        raise ModelError(f"{entry.name} is listed, but no engine of this version uses its format, {entry.format}")
    if not entry.is_fetchable:
        raise ModelError(f"{entry.name} must be fetched by hand, which files it has is not known{page}")
    return entry


def _remark(entry: "CatalogEntry", folder: Path) -> None:
    from wyoming_rknn.models.store import Store

    if entry.remark:
        print(f"{entry.name}: {entry.remark}", file=sys.stderr)
    for problem in Store((folder,), max_depth=0).scan().problems:
        print(f"{problem.path}: {problem.message}", file=sys.stderr)
