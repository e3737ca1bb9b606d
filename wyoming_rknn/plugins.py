"""Engines enter by entry points: built-in ones by the same door as anyone's plug-in."""

import importlib.metadata
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from wyoming_rknn.errors import SpeechServerError
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)


@runtime_checkable
class Diagnosing(Protocol):
    """An engine that knows of models or voices that are there but cannot be used."""

    def problems(self) -> Mapping[str, SpeechServerError]:
        """Return, by name, what is wrong with what the engine leaves out for that; looks at the disk."""


@runtime_checkable
class Fetching(Protocol):
    """An engine that lists voices which are not here."""

    def fetch(self, voice: str) -> None:
        """Begin to fetch a listed voice in the background, unless that goes on. Returns at once, raises nothing."""


def create(group: str, order: Sequence[str], kind: str, settings: Settings, runtimes: Runtimes) -> Iterator[Any]:
    """Yield the engine of every entry point of `group`, those named by `order` first, the others by name.

    An entry point names a function that takes the settings and what computes graphs. One that fails is left out with
    one warning.
    """
    found = {point.name: point for point in importlib.metadata.entry_points(group=group)}
    if not found:
        _LOGGER.warning("no %s engine is registered; install the package with pip", kind)
    for name in sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name)):
        try:
            yield found[name].load()(settings, runtimes)
        except Exception as error:
            _LOGGER.warning("%s engine %s cannot be used: %s: %s", kind, name, type(error).__name__, error)
