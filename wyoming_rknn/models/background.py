"""Downloads that nobody waits for: one at a time, in the order in which they were asked for."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wyoming_rknn.errors import Cancelled, DownloadError, ModelError, SpeechServerError
from wyoming_rknn.models.catalog_entry import CatalogEntry
from wyoming_rknn.models.damage import claim_unseen
from wyoming_rknn.models.download import DownloadOptions, fetch
from wyoming_rknn.models.installing import finish_for

BACK_OFF_S = (60.0, 300.0, 1800.0)
"""How long a model that could not be fetched is not tried again: after the first failure, the second, all others."""

_FAREWELL_S = 5.0
"""Longest wait for the thread's end: those that `fetch` starts may be looking up a name."""

Arrived: TypeAlias = Callable[[CatalogEntry, Path], None]
"""Makes a model that is there now ready for use; raises `SpeechServerError` if it is of no use."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Order:
    entry: CatalogEntry
    folder: Path


@dataclass(frozen=True, slots=True)
class _Failure:
    count: int
    not_before_s: float


class BackgroundDownloads:
    """Fetch models in a thread that is there while there is something to do. Thread-safe.

    They replace no file that is there. What goes wrong is logged as one warning; it is tried again when the model is
    asked for again, but not at once.
    """

    def __init__(
        self,
        options: DownloadOptions,
        arrived: Arrived,
        back_off_s: Sequence[float] = BACK_OFF_S,
    ) -> None:
        """Fetch as `options` say; `arrived` is called in the thread."""
        self._options = options
        self._arrived = arrived
        self._back_off_s = tuple(back_off_s)
        self._guard = threading.Lock()
        self._orders: dict[str, _Order] = {}
        """By name; the first is under way."""
        self._failures: dict[str, _Failure] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def begin(self, entry: CatalogEntry, folder: Path) -> None:
        """Have a model fetched into `folder`, unless that is under way or failed a moment ago. Returns at once."""
        with self._guard:
            failure = self._failures.get(entry.name)
            if failure is not None and time.monotonic() < failure.not_before_s:
                return
            if self._stop.is_set() or entry.name in self._orders:
                return
            self._orders[entry.name] = _Order(entry, folder)
            if self._thread is None:
                # A daemon: the program can end though a server is silent.
                self._thread = threading.Thread(target=self._work, name="downloads", daemon=True)
                self._thread.start()

    @property
    def under_way(self) -> frozenset[str]:
        """Return the names of the models that were asked for and are not ready yet."""
        with self._guard:
            return frozenset(self._orders)

    def close(self) -> None:
        """Give up what is under way; the next download of it goes on from there. Waits for seconds at most."""
        self._stop.set()
        with self._guard:
            thread = self._thread
        if thread is not None:
            thread.join(_FAREWELL_S)

    def _work(self) -> None:
        while True:
            with self._guard:
                order = next(iter(self._orders.values()), None)
                if order is None or self._stop.is_set():
                    self._thread = None
                    return
            done = self._fetch(order)
            with self._guard:
                del self._orders[order.entry.name]
                if done:
                    self._failures.pop(order.entry.name, None)
            if done:
                _LOGGER.info("%s is ready", order.entry.name)

    def _fetch(self, order: _Order) -> bool:
        """Return whether the model is ready for use."""
        entry = order.entry
        finish = finish_for(entry)
        size = f" ({entry.bytes / 1e6:.1f} MB)" if entry.bytes is not None else ""
        _LOGGER.info("fetching %s%s into %s", entry.name, size, order.folder)
        try:
            try:
                claim = claim_unseen(entry)
                files = fetch(entry, order.folder, self._options, finish=finish, claim=claim, stop=self._stop)
            except ModelError as error:
                raise DownloadError(str(error)) from None
            # For what was there and whole, without a record.
            finish(order.folder, files)
            self._arrived(entry, order.folder)
        except Cancelled:
            return False
        except ModelError as error:
            self._fail(entry.name)
            _LOGGER.warning("%s was fetched but cannot be used: %s", entry.name, error)
            return False
        except Exception as error:
            reason = str(error) if isinstance(error, SpeechServerError) else f"{type(error).__name__}: {error}"
            wait_s = self._fail(entry.name)
            _LOGGER.warning(
                "%s cannot be fetched: %s; a request after %.0f min or later tries again",
                entry.name,
                reason,
                wait_s / 60,
            )
            return False
        return True

    def _fail(self, name: str) -> float:
        """Count a failure and return how long the model is not tried again, in seconds."""
        with self._guard:
            count = self._failures[name].count + 1 if name in self._failures else 1
            wait_s = self._back_off_s[min(count, len(self._back_off_s)) - 1]
            self._failures[name] = _Failure(count, time.monotonic() + wait_s)
        return wait_s
