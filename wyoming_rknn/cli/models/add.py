"""`wyoming-rknn models add`: install a model of the catalogue, from this machine or from an address."""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.errors import GraphNotSplittable, ModelError, NotInCatalog, UsageError
from wyoming_rknn.names import folded
from wyoming_rknn.settings import Settings

if TYPE_CHECKING:
    from wyoming_rknn.models.address import Given
    from wyoming_rknn.models.catalog import Catalog
    from wyoming_rknn.models.catalog_entry import CatalogEntry
    from wyoming_rknn.models.download import DownloadOptions

HELP = "install models into the first data folder; what is there already is checked, and mended"

_DEFAULT = "default"
_SUFFIXES = (".onnx", ".rknn", ".rkllm", ".onnx.json")
"""Of files that belong to a model."""
_NOTICE_S = 0.3
_ALIKE = 0.75
"""From 0 to 1, as `difflib` counts."""
_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be installed."""

    do: Callable[[], Path]
    """Does it and returns where it is."""
    entry: "CatalogEntry | None" = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names",
        metavar="NAME|PATH|URL",
        nargs="+",
        help="models as `models list --available` names them, in any spelling, where `default` stands for what suits "
        "the board and --language; files, folders or archives on this machine, which are copied; http(s) addresses of "
        "a voice's .onnx or of an archive",
    )
    parser.add_argument("--name", metavar="NAME", help="what the model of a PATH or URL is to be called")
    parser.add_argument(
        "--model-url", metavar="URL", help="mirror of the hub (default $HF_ENDPOINT, else the hub itself)"
    )
    add_settings(parser, ("data_dir", "cache_dir", "language", "soc", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """Install."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    from wyoming_rknn.models.catalogs import load_catalog
    from wyoming_rknn.models.download import DownloadOptions

    if arguments.name is not None and len(arguments.names) > 1:
        raise UsageError(f"--name {arguments.name} is for one model; give one PATH or URL with it")
    known = load_catalog(settings)
    options = DownloadOptions.of(os.environ, arguments.model_url)
    # A name that is wrong must not be told after the first gigabyte.
    jobs = [job for name in arguments.names for job in _jobs(name, arguments.name, known, settings, options)]
    for job in jobs:
        folder = job.do()
        print(folder, flush=True)
        if job.entry is not None and job.entry.remark:
            print(f"{job.entry.name}: {job.entry.remark}", file=sys.stderr)
        # A voice may lie right in a data folder, among others.
        if folder.resolve() not in [data_dir.resolve() for data_dir in settings.data_dirs]:
            _remark(folder)
            _cut(folder, settings)
    return 0


def _jobs(
    given: str, name: str | None, known: "Catalog", settings: Settings, options: "DownloadOptions"
) -> "Sequence[_Job]":
    from wyoming_rknn.models import address
    from wyoming_rknn.models.adopt import check_name

    if name is not None:
        check_name(name)
    if address.is_address(given):
        read = address.read(given, name, (options.endpoint, *filter(None, (options.mirror,))))
        return [_Job(partial(_from_address, read, name, settings, options))]
    try:
        entries = [_fetchable(entry) for entry in _named(given, known, settings)] if not _is_path(given) else []
    except NotInCatalog as error:
        if not os.path.lexists(given):
            alike = _holding_a_word_like(given, known)
            raise NotInCatalog(given, (), alike) if alike and "did you mean" not in str(error) else error from None
        entries = []
    if not entries:
        return [_Job(partial(_from_disk, Path(given), name, settings))]
    if name is not None:
        raise UsageError(f"--name {name} is for a PATH or URL; {given} is a model of the catalogue and keeps its name")
    return [_Job(partial(_from_catalog, entry, settings, options), entry) for entry in entries]


def _holding_a_word_like(given: str, known: "Catalog") -> list[str]:
    """Return the first models of whose names a part, such as the speaker's name, is spelled nearly so."""
    names = {entry.name: folded(entry.name).split("-") for entry in known.entries}
    words = {word for parts in names.values() for word in parts}
    close = get_close_matches(folded(given), words, n=1, cutoff=_ALIKE)
    return [name for name, parts in names.items() if set(close) & set(parts)][:_SUGGESTIONS]


def _is_path(given: str) -> bool:
    from wyoming_rknn.models.adopt import is_archive

    return os.sep in given or given in (".", "..", "~") or given.endswith(_SUFFIXES) or is_archive(given)


def _from_catalog(entry: "CatalogEntry", settings: Settings, options: "DownloadOptions") -> Path:
    from wyoming_rknn.models.damage import claim_for
    from wyoming_rknn.models.download import fetch
    from wyoming_rknn.models.fetching.progress import after, renderer
    from wyoming_rknn.models.installing import finish_for

    folder = settings.data_dirs[0] / entry.name
    if (elsewhere := _elsewhere(entry, settings)) is not None:
        there, is_whole = elsewhere
        if is_whole:
            return there
        folder = there
    finish = finish_for(entry)
    progress, unpacking = renderer(entry.name), renderer(f"{entry.name}, unpacking")
    try:
        files = fetch(
            entry,
            folder,
            options,
            progress,
            finish=finish,
            claim=claim_for(entry),
            unpacking=after(progress, unpacking),
        )
    finally:
        progress.close()
        unpacking.close()
    # For what was there and whole, without a record.
    finish(folder, files)
    return folder


def _elsewhere(entry: "CatalogEntry", settings: Settings) -> tuple[Path, bool] | None:
    """Return where a model lies that is not in its own folder, and whether it is whole.

    One in another data folder that is damaged or somebody's own does not count: what is in the first one is used.
    """
    from wyoming_rknn.models.adopt import in_the_way
    from wyoming_rknn.models.damage import claim_for
    from wyoming_rknn.models.download import damaged
    from wyoming_rknn.models.store import Store

    first = settings.data_dirs[0]
    own = (first / entry.name).resolve()
    for data_dir in settings.data_dirs if not own.exists() else ():
        for manifest in Store((data_dir,)).scan(entry.kind).manifests:
            if folded(manifest.name) != folded(entry.name):
                continue
            try:
                is_whole = not damaged(entry, manifest.folder, claim_for(entry)(manifest.folder))
            except ModelError:
                if data_dir == first:
                    raise
                continue
            if is_whole:
                return manifest.folder, True
            if data_dir == first:
                # Right in the data folder there may be anything else, too.
                if manifest.folder.resolve() == first.resolve():
                    raise in_the_way(manifest.folder, manifest.name)
                return manifest.folder, False
    return None


def _from_disk(path: Path, name: str | None, settings: Settings) -> Path:
    from wyoming_rknn.models.adopt import adopt, is_archive
    from wyoming_rknn.models.fetching.progress import renderer
    from wyoming_rknn.models.installing import record_copied
    from wyoming_rknn.models.record import Origin

    progress = renderer(f"{path.name}, unpacking" if is_archive(path.name) else path.name)
    origin = Origin(path=Path(os.path.normpath(path.expanduser().absolute())).name)
    try:
        return adopt(
            path,
            settings.data_dirs[0],
            name,
            progress=progress,
            finish=lambda folder, called: record_copied(folder, called, origin),
        ).folder
    finally:
        progress.close()


def _from_address(given: "Given", name: str | None, settings: Settings, options: "DownloadOptions") -> Path:
    from wyoming_rknn.models.fetching.progress import after, renderer
    from wyoming_rknn.models.from_address import install

    progress, unpacking = renderer(given.name), renderer(f"{given.name}, unpacking")
    try:
        return install(
            given,
            settings.data_dirs[0],
            options,
            name,
            progress=progress,
            unpacking=after(progress, unpacking),
        ).folder
    finally:
        progress.close()
        unpacking.close()


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


def _remark(folder: Path) -> None:
    from wyoming_rknn.models.store import Store

    for problem in Store((folder,)).scan().problems:
        print(f"{problem.path}: {problem.message}", file=sys.stderr)


def _cut(folder: Path, settings: Settings) -> None:
    """Make what the first start would otherwise wait for. Whatever fails then is told, and can be tried again."""
    from wyoming_rknn.models.store import Store
    from wyoming_rknn.tts.piper.parts import load_parts

    for manifest in Store((folder,)).scan("tts").manifests:
        text = f"{manifest.name}: it is cut for streaming, once, which takes some seconds"
        # Nothing to wait for where that is done, a look suffices then.
        notice = threading.Timer(_NOTICE_S, partial(print, text, file=sys.stderr))
        notice.daemon = True
        notice.start()
        try:
            load_parts(manifest.files, settings.cache)
        except GraphNotSplittable as error:
            print(f"{manifest.name}: each sentence is spoken in one go: {error}", file=sys.stderr)
        except ModelError as error:
            print(f"{manifest.name}: {error}", file=sys.stderr)
        finally:
            notice.cancel()
