"""`wyoming-rknn models list`: what is installed."""

import argparse
import json
import sys

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.models.manifest import Manifest

HELP = "list the installed models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, ("data_dir", "cache_dir", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """List."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    from wyoming_rknn.models.store import Store

    found = Store(settings.data_dirs).scan()
    if arguments.json:
        models = [
            {
                "name": manifest.name,
                "kind": manifest.kind,
                "format": manifest.format,
                "languages": list(manifest.languages),
                "rate_hz": manifest.rate_hz,
                "speakers": list(manifest.speakers),
                "files": {role: str(path) for role, path in manifest.files.items()},
            }
            for manifest in found.manifests
        ]
        print(json.dumps(models, indent=2))
    else:
        for manifest in found.manifests:
            print(_row(manifest))
        if not found.manifests:
            folders = ", ".join(str(folder) for folder in settings.data_dirs)
            print(f"no models in {folders}; name folders with --data-dir", file=sys.stderr)
    for problem in found.problems:
        print(f"{problem.path}: {problem.message}", file=sys.stderr)
    return 0


def _row(manifest: Manifest) -> str:
    """Return a line: name, purpose, format, languages, and speakers or precision."""
    # A voice speaks one language, and its tags are readings of it.
    languages = manifest.languages[:1] if manifest.kind == "tts" else manifest.languages
    remark = f"{len(manifest.speakers)} speakers" if manifest.speakers else ""
    if manifest.kind == "asr":
        remark = manifest.quality
    return f"{manifest.name:32} {manifest.kind:4} {manifest.format:18} {','.join(languages):16} {remark}".rstrip()
