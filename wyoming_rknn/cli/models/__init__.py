"""`wyoming-rknn models`: what is installed, and making models ready."""

import argparse

from wyoming_rknn.cli import Verb
from wyoming_rknn.cli.models import add, convert, listing, remove, split, update, verify

HELP = "list, fetch, remove and verify models, cut or convert one"

_ACTIONS: dict[str, Verb] = {
    "list": listing,
    "add": add,
    "remove": remove,
    "update": update,
    "verify": verify,
    "split": split,
    "convert": convert,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in _ACTIONS.items():
        action.add_arguments(actions.add_parser(name, help=action.HELP, description=action.HELP))


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked for."""
    return _ACTIONS[arguments.action].run(arguments)
