"""`wyoming-rknn models update`: renew the list of Piper's voices."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.errors import ModelError, ModelInvalid

HELP = "fetch the list of Piper's voices as it is now, into the cache folder"

_LIST = "voices.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model-url", metavar="URL", help="mirror of the hub (default $HF_ENDPOINT, else the hub itself)"
    )
    add_settings(parser, ("data_dir", "cache_dir", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """Renew."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    from wyoming_rknn.models import piper_voices
    from wyoming_rknn.models.catalog_entry import CatalogEntry, CatalogFile, CatalogSource
    from wyoming_rknn.models.catalogs import load_catalog, updated_file
    from wyoming_rknn.models.download import DownloadOptions, fetch

    options = DownloadOptions.of(os.environ, arguments.model_url)
    before = {entry.name for entry in load_catalog(settings).entries}
    source = CatalogSource(repo=piper_voices.REPO, path=_LIST)
    wanted = CatalogEntry("the list of voices", "tts", "piper", files=(CatalogFile(_LIST, source),))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "list"
        fetch(wanted, folder, options)
        try:
            voices = json.loads((folder / _LIST).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelInvalid("the hub's list of voices is no JSON; try again later") from error
    section, left_out = piper_voices.compact(voices, f"{piper_voices.REPO} {_LIST}")
    _write(updated_file(settings), piper_voices.dumps(section))
    for key in left_out:
        print(f"{key} is left out: the list does not describe it as it does the others", file=sys.stderr)
    news = sorted(entry.name for entry in load_catalog(settings).entries if entry.name not in before)
    print(f"{len(section['voices'])} voices, {len(news)} of them new")
    for name in news:
        print(name)
    return 0


def _write(path: Path, text: str) -> None:
    """Replace the list, unless that would be by one that cannot be read."""
    from wyoming_rknn.models import catalog_form

    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            catalog_form.read(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except ModelInvalid as error:
        raise ModelInvalid("the hub's list of voices is of no use, the one from before stays; try later") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}; choose another --cache-dir") from error
