"""`wyoming-rknn models split`: cut a voice by hand."""

import argparse
from pathlib import Path

from wyoming_rknn.cli import logs
from wyoming_rknn.cli.arguments import add_settings, settings_from

HELP = "cut a Piper voice into encoder and decoder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("voice", metavar="VOICE.onnx", type=Path, help="the voice; its .onnx.json lies beside it")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for encoder.onnx, decoder.onnx and config.json")
    add_settings(parser, ("data_dir", "cache_dir", "log_level", "log_format"))


def run(arguments: argparse.Namespace) -> int:
    """Split."""
    settings = settings_from(arguments)
    logs.configure(settings.log_level, settings.log_format)
    from wyoming_rknn.tts.piper.parts import split_to

    for path in split_to(arguments.voice, arguments.out):
        print(path)
    return 0
