"""The command line: one module per verb."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from wyoming_rknn import __version__
from wyoming_rknn.errors import Cancelled, SpeechServerError, UsageError

_LOGGER = logging.getLogger(__name__)
_VERBS = ("serve", "say", "transcribe", "models", "doctor", "bench", "health")


class Verb(Protocol):
    """What each module of this package offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the job and return the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 fine, 1 the job failed, 2 wrong use."""
    code = _run(argv)
    try:
        sys.stdout.flush()
    except OSError:
        # What cannot be written must not fail once more, with a traceback, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        parser, verbs = _parser()
        arguments = parser.parse_args(argv)
        code = verbs[arguments.verb].run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # A reader that goes away, as in `say | head`, is no failure of ours. SIGPIPE stays ignored all the same: it
        # would end the server with the first client that hangs up.
        return 0
    except SpeechServerError as error:
        _LOGGER.debug("failed", exc_info=error)
        print(f"wyoming-rknn: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except (KeyboardInterrupt, Cancelled):
        return 130
    except Exception as error:
        _LOGGER.debug("failed", exc_info=error)
        print(f"wyoming-rknn: {type(error).__name__}: {error}; --log-level debug shows where", file=sys.stderr)
        return 1


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Verb]]:
    from wyoming_rknn.cli.arguments import Parser

    parser = Parser(prog="wyoming-rknn", description="Streaming speech for Home Assistant.")
    parser.add_argument("--version", action="version", version=f"wyoming-rknn {__version__}")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    verbs: dict[str, Verb] = {}
    for name in _VERBS:
        verbs[name] = verb = cast(Verb, importlib.import_module(f"wyoming_rknn.cli.{name}"))
        verb.add_arguments(subparsers.add_parser(name, help=verb.HELP, description=verb.HELP))
    return parser, verbs
