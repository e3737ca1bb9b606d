"""Word that nobody waits for a result any more, and who wants to hear it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wyoming_rknn.errors import Cancelled


class Cancellable:
    """Something that can be given up once. Thread-safe; a `Cancellation` for those who run graphs for it."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._guard = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Tell whether it was given up."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Give it up; later calls change nothing."""
        with self._guard:
            self._cancelled.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise `Cancelled` if it was given up."""
        if self.cancelled:
            raise Cancelled

    @contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call back, from any thread, when it is given up within the context, or at once if it was before."""
        with self._guard:
            late = self._cancelled.is_set()
            if not late:
                self._callbacks.append(callback)
        if late:
            callback()
        try:
            yield
        finally:
            with self._guard:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)
