"""The thread on which an utterance's session does its work."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from wyoming_rknn.asr.engine import AsrSession

_T = TypeVar("_T")


class Decoder:
    """Owns an utterance's session: calls come one at a time, in order, on a thread that nobody else waits for."""

    def __init__(self, open_session: Callable[[], AsrSession]) -> None:
        self._open_session = open_session
        self._closed = False
        self._calls: SimpleQueue[tuple[Callable[[AsrSession], Any], Future[Any] | None] | None] = SimpleQueue()

    def start(self) -> None:
        """Open the session."""
        # Daemon: a computation that never ends must not keep the process alive.
        threading.Thread(target=self._work, name="asr decoder", daemon=True).start()

    def post(self, call: Callable[[AsrSession], None]) -> None:
        """Queue a call whose result is not needed; if it fails, so does every later one."""
        self._calls.put((call, None))

    def call(self, call: Callable[[AsrSession], _T]) -> "Future[_T]":
        """Queue a call and return its result to come."""
        future: Future[_T] = Future()
        self._calls.put((call, future))
        return future

    def close(self) -> None:
        """Close the session once the calls are done whose results may be waited for."""
        self._closed = True
        self._calls.put(None)

    def _work(self) -> None:
        session: AsrSession | None = None
        failure: BaseException | None = None
        try:
            session = self._open_session()
        except BaseException as cause:
            failure = cause
        while (queued := self._calls.get()) is not None:
            call, future = queued
            result = None
            error: BaseException | None = failure
            if session is not None and error is None and not (self._closed and future is None):
                try:
                    result = call(session)
                except BaseException as raised:
                    error = raised
            if future is None:
                failure = error
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
            # What a call holds must not live on until the next one comes.
            del queued, call, future, result, error
        if session is not None:
            session.close()
