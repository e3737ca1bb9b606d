"""`wyoming-rknn bench`: how quick the installed models are on this machine."""

import argparse

from wyoming_rknn.cli import Verb
from wyoming_rknn.cli.bench import asr, tts

HELP = "measure first audio, latency and real-time factor of the installed models"

_KINDS: dict[str, Verb] = {"tts": tts, "asr": asr}
_SETTINGS = tuple(dict.fromkeys((*tts.SETTINGS, *asr.SETTINGS)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be measured."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="|".join(_KINDS))
    for name, kind in _KINDS.items():
        kind.add_arguments(kinds.add_parser(name, help=kind.HELP, description=kind.HELP))


def run(arguments: argparse.Namespace) -> int:
    """Measure every installed model of a kind, or the one named."""
    return _KINDS[arguments.kind].run(arguments)
