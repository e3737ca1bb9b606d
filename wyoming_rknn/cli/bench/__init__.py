"""`wyoming-rknn bench`: how quick the installed models are on this machine."""

import argparse

from wyoming_rknn.cli import Verb
from wyoming_rknn.cli.arguments import add_settings
from wyoming_rknn.cli.bench import asr, everything, npu, tts

HELP = "measure first audio, latency and real-time factor of the installed models, and the NPU"

_KINDS: dict[str, Verb] = {"tts": tts, "asr": asr, "npu": npu}
_SETTINGS = tuple(dict.fromkeys((*tts.SETTINGS, *asr.SETTINGS, *npu.SETTINGS)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be measured: all there is, or one kind."""
    parser.add_argument("--json", action="store_true", help="print JSON, with the facts of the machine")
    parser.add_argument("--repeat", metavar="N", type=int, default=5, help="runs of each (default 5)")
    add_settings(parser, _SETTINGS)
    kinds = parser.add_subparsers(dest="kind", metavar="|".join(_KINDS))
    for name, kind in _KINDS.items():
        kind.add_arguments(kinds.add_parser(name, help=kind.HELP, description=kind.HELP))


def run(arguments: argparse.Namespace) -> int:
    """Measure every installed model, of a kind if one is named."""
    if arguments.kind is None:
        return everything.run(arguments)
    return _KINDS[arguments.kind].run(arguments)
