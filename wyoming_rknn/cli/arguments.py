"""Options made from the settings tree."""

import argparse
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Never, NoReturn

from wyoming_rknn.cli import logs
from wyoming_rknn.errors import UsageError, did_you_mean
from wyoming_rknn.settings import (
    ADDON_OPTIONS,
    ENV_PREFIX,
    Settings,
    each,
    from_environment,
    from_file,
    in_container,
    is_repeatable,
    option,
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UsageError`s that name close options."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - passed through
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - argparse's signature
        """Parse; unknown options are reported with the known ones that look alike."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0], parsed.verb)
        return parsed

    def _refuse(self, word: str, verb: str) -> Never:
        if not word.startswith("-"):
            raise UsageError(f"{word!r} is one argument too many for {verb!r} (see wyoming-rknn {verb} --help)")
        verbs = next(action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        known = list(_options(verbs.choices[verb]))
        name = word.split("=")[0]
        raise UsageError(f"unknown option {name}{did_you_mean(name, known)} (see wyoming-rknn {verb} --help)")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                yield from _options(choice)


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add an option for every setting, or for those named; what is not given stays unset."""
    chosen = set(names) if names is not None else None
    for spec in each():
        if chosen is not None and spec.name not in chosen:
            continue
        details: dict[str, Any] = {"dest": spec.name, "default": argparse.SUPPRESS, "help": spec.metadata["help"]}
        if spec.type is bool:
            details["action"] = "store_true"
        else:
            details["metavar"] = spec.metadata.get("metavar") or "|".join(spec.metadata["choices"])
            if is_repeatable(spec):
                details["action"] = "append"
            elif spec.name == "zeroconf":
                details |= {"nargs": "?", "const": ""}
        parser.add_argument(option(spec.name), **details)
    parser.add_argument("--config", metavar="FILE", help="settings file, YAML or JSON")


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Merge the command line, the environment and the settings file. Raises `UsageError`."""
    known = {spec.name for spec in each()}
    given = {name: value for name, value in vars(arguments).items() if name in known}
    environment = from_environment(os.environ)
    named = arguments.config or os.environ.get(f"{ENV_PREFIX}CONFIG")
    path = Path(named) if named else ADDON_OPTIONS if in_container(os.environ) and ADDON_OPTIONS.is_file() else None
    layers = (given, environment, from_file(path) if path is not None else {})
    return Settings.merge(*layers)


def quiet_settings(arguments: argparse.Namespace, log_level: str = "warning") -> Settings:
    """Return the settings, and log from `log_level` on unless the command line names another. Raises `UsageError`.

    For commands that end soon: they go by what is here, and fetch nothing that would come too late.
    """
    settings = replace(settings_from(arguments), auto_download=False)
    logs.configure(settings.log_level if "log_level" in arguments else log_level, settings.log_format)
    return settings
