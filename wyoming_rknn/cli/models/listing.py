"""`wyoming-rknn models list`: what is installed, and what can be had."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.names import folded
from wyoming_rknn.settings import Settings

if TYPE_CHECKING:
    from wyoming_rknn.models.catalog_entry import CatalogEntry

HELP = "list the installed models, or those that can be had"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--available", action="store_true", help="list the catalogue: what `models add` can fetch")
    parser.add_argument("--language", metavar="TAG", dest="spoken", help="only models that know a language")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, ("data_dir", "cache_dir", "soc", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """List."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    return _available(arguments, settings) if arguments.available else _installed(arguments, settings)


def _available(arguments: argparse.Namespace, settings: Settings) -> int:
    from wyoming_rknn.models.catalogs import load_catalog
    from wyoming_rknn.models.store import Store

    entries = load_catalog(settings).available(language=arguments.spoken, soc=settings.soc)
    installed = {folded(manifest.name) for manifest in Store(settings.data_dirs).scan().manifests}
    if arguments.json:
        found = [
            {
                **asdict(entry),
                "bytes": entry.bytes,
                "installed": folded(entry.name) in installed,
                "usable": entry.is_supported and entry.is_fetchable,
            }
            for entry in entries
        ]
        print(json.dumps(found, indent=2))
        return 0
    for entry in entries:
        print(_offer(entry, folded(entry.name) in installed))
    if not entries:
        print(f"no model of the catalogue knows {arguments.spoken!r}", file=sys.stderr)
    return 0


def _offer(entry: "CatalogEntry", is_installed: bool) -> str:
    """Return a line: name, purpose, languages, quality, size, SoCs, speakers, and what to know."""
    languages = ",".join(entry.languages[:1] if entry.kind == "tts" else entry.languages)
    size = "?" if entry.bytes is None else f"{entry.bytes / 1e6:.1f} MB"
    remarks = [
        ",".join(entry.targets),
        f"{entry.num_speakers} speakers" if entry.num_speakers > 1 else "",
        "installed" if is_installed else "",
        "" if entry.is_supported else "not used by this version",
        "by hand" if entry.is_supported and not entry.is_fetchable else "",
    ]
    row = f"{entry.name:40} {entry.kind:4} {languages:16} {entry.quality:8} {size:>10}"
    return f"{row}  {', '.join(filter(None, remarks))}".rstrip()


def _installed(arguments: argparse.Namespace, settings: Settings) -> int:
    from wyoming_rknn.models.store import Store

    found = Store(settings.data_dirs).scan()
    manifests = [manifest for manifest in found.manifests if _knows(manifest, arguments.spoken)]
    if arguments.json:
        models = [
            {
                "name": manifest.name,
                "kind": manifest.kind,
                "format": manifest.format,
                "languages": list(manifest.languages),
                "rate_hz": manifest.rate_hz,
                "speakers": list(manifest.speakers),
                "targets": list(manifest.targets),
                "bytes": manifest.bytes,
                "licence": manifest.licence,
                "source": manifest.source,
                "files": {role: str(path) for role, path in manifest.files.items()},
            }
            for manifest in manifests
        ]
        print(json.dumps(models, indent=2))
    else:
        for manifest in manifests:
            print(_row(manifest))
        if not found.manifests:
            folders = ", ".join(str(folder) for folder in settings.data_dirs)
            print(
                f"no models in {folders}; name folders with --data-dir, or fetch one of `models list --available`",
                file=sys.stderr,
            )
    for problem in found.problems:
        print(f"{problem.path}: {problem.message}", file=sys.stderr)
    return 0


def _knows(manifest: Manifest, language: str | None) -> bool:
    """Tell whether a model knows a language, of whichever region."""
    if language is None:
        return True
    wanted = folded(language)
    return any(wanted in (folded(tag), folded(tag).split("-")[0]) for tag in manifest.languages)


def _row(manifest: Manifest) -> str:
    """Return a line: name, purpose, format, languages, and speakers or precision."""
    # A voice speaks one language, and its tags are readings of it.
    languages = manifest.languages[:1] if manifest.kind == "tts" else manifest.languages
    remark = f"{len(manifest.speakers)} speakers" if manifest.speakers else ""
    if manifest.kind == "asr":
        remark = manifest.quality
    return f"{manifest.name:32} {manifest.kind:4} {manifest.format:18} {','.join(languages):16} {remark}".rstrip()
