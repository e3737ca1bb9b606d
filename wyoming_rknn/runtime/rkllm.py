"""Language models on the NPU through librkllmrt: the server's end of the pipe to the process in which that works."""

import collections
import contextlib
import logging
import os
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.errors import AcceleratorError, Cancelled, EngineError
from wyoming_rknn.runtime import rkllm_worker as worker
from wyoming_rknn.runtime.accelerator import AcceleratorBusy
from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.child import Child
from wyoming_rknn.runtime.graph import Cancellation
from wyoming_rknn.runtime.rkllm_library import RkllmLibrary

_LOGGER = logging.getLogger(__name__)

_CHILD = "wyoming_rknn.runtime.rkllm_worker"
_TICK_S = 0.005
_LEAVE_S = 2.0
_CPUS = 4
"""CPU cores for what the NPU leaves to them: at least one for each of its cores."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which the library is held to hang."""

    load_s: float = 60.0
    """A gigabyte comes from a slow SD card in that time."""
    turn_s: float = 3.0
    """For a model that is being loaded when it is needed, as after a crash: from memory then, not from the disk."""
    prefill_s: float = 2.0
    prefill_row_s: float = 0.01
    """The slowest chip reads some 100 rows a second, an RK3588 a thousand."""
    longest_prefill_s: float = 5.0
    token_s: float = 2.0
    """A token takes 30 ms on an RK3588, and some 200 ms on the slowest chip."""
    abort_s: float = 1.0
    """For the end of a run that was given up, at least: it ends with its next token, and has no less time for that."""
    first_token_s: float = 9.0
    """For all of the above: who speaks hears within ten seconds that something is wrong."""

    def prefill(self, rows: int) -> float:
        """Return how long the first token may take."""
        return min(self.longest_prefill_s, self.prefill_s + rows * self.prefill_row_s)


def computing_cpus(board: Board) -> tuple[int, ...]:
    """Return the CPU cores that the library should use: four fast ones (4 to 7 on RK3588 and RK3576), or four."""
    own = sorted(os.sched_getaffinity(0))
    # The library takes a mask of 32 cores.
    return tuple(number for number in board.big_cpus or own if number < 32)[:_CPUS]


class RkllmProcess:
    """A language model in a process of its own, which is made anew after a crash. Thread-safe; one run at a time.

    `context_tokens` is how many rows and new tokens a run may have together, `stop_ids` are the tokens that end one.
    """

    def __init__(
        self,
        model: Path,
        library: RkllmLibrary,
        *,
        context_tokens: int,
        stop_ids: tuple[int, ...] = (),
        cpus: tuple[int, ...] = (0,),
        limits: Limits | None = None,
    ) -> None:
        self.name = model.name
        self._version = library.version
        self._options = worker.Options(
            str(library.path), library.version, str(model), context_tokens, stop_ids, cpus, os.getpid()
        )
        self._limits = limits or Limits()
        self._turn = threading.Lock()
        # For what `close` must get at while someone has the turn.
        self._guard = threading.Lock()
        self._session: _Session | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process and load the model unless that was done. Blocks. Raises `AcceleratorError`."""
        with self._my_turn(time.monotonic() + self._limits.load_s, None):
            self._loaded(self._limits.load_s, None)

    def generate(
        self, embeddings: NDArray[np.float32], max_tokens: int, cancellation: Cancellation | None = None
    ) -> Generator[int, None, None]:
        """Yield the ids of the most likely tokens after `embeddings`, float32 [n, hidden], as soon as each is known.

        Tokens that end a run end the iterator. Close it if it is not read to its end: until then it has the turn.
        Raises `AcceleratorError` when the library fails, ends its process or gives no answer in time, and at a
        cancellation `Cancelled`, without waiting for the library.
        """
        rows = np.ascontiguousarray(embeddings, np.float32)
        room = self._options.context_tokens - len(rows)
        if rows.ndim != 2 or not rows.size or room < 1:
            raise EngineError(
                f"{self.name} takes 1 to {self._options.context_tokens - 1} rows, not an array {rows.shape}; speak in"
                " shorter parts"
            )
        begin = time.monotonic()
        latest = begin + self._limits.first_token_s
        with self._my_turn(begin + self._limits.turn_s, cancellation):
            session = self._loaded(self._limits.turn_s, cancellation)
            try:
                with contextlib.closing(session.run(rows, min(max_tokens, room), latest, cancellation)) as tokens:
                    yield from tokens
            except _Failure as failure:
                self._replace(session)
                raise self._error(failure, "the next utterance has a new process") from None

    def close(self) -> None:
        """Free the model and end the process; whoever waits for it gets an `EngineError`."""
        with self._guard:
            self._closed = True
            session, self._session = self._session, None
        if session is None:
            return
        session.stop("was stopped")
        # An iterator that nobody closed must not keep it from its end.
        has_turn = self._turn.acquire(timeout=_LEAVE_S)
        try:
            session.close(_LEAVE_S if has_turn else 0.0)
        finally:
            if has_turn:
                self._turn.release()

    def _loaded(self, limit_s: float, cancellation: Cancellation | None) -> "_Session":
        """Return a session that is ready to run, once what it was doing for others is over, and it is loaded."""
        with self._guard:
            session = self._session
        if session is not None and not session.is_ready_again(cancellation):
            self._replace(session)
        with self._guard:
            self._check()
            if self._session is None:
                self._session = self._opened()
            session = self._session
        try:
            session.load(time.monotonic() + limit_s, cancellation)
        except TimeoutError:
            raise AcceleratorBusy(f"{self.name} is still being loaded; try again in a moment") from None
        except _Failure as failure:
            self._drop(session)
            fix = f"look whether it is made for this board and for librkllmrt {self._version}, or restart the board"
            raise self._error(failure, fix) from None
        return session

    def _opened(self) -> "_Session":
        try:
            return _Session(self._options, self._limits)
        except OSError as error:
            raise AcceleratorError(
                f"{self.name}: its process cannot be started ({error.strerror}); free some memory"
            ) from error

    def _replace(self, session: "_Session") -> None:
        """End a session; its successor begins to load at once, for who comes next."""
        self._drop(session)
        with self._guard, contextlib.suppress(AcceleratorError):
            if not self._closed and self._session is None:
                self._session = self._opened()

    def _drop(self, session: "_Session") -> None:
        with self._guard:
            if self._session is session:
                self._session = None
        session.close(0.0)

    def _error(self, failure: "_Failure", fix: str) -> EngineError:
        if self._closed:
            return EngineError(f"{self.name} was stopped; the request came too late")
        _LOGGER.debug("%s: %s", self.name, failure)
        return AcceleratorError(f"{self.name}: {failure}; {fix}")

    def _check(self) -> None:
        if self._closed:
            raise EngineError(f"{self.name} was stopped; the request came too late")

    @contextlib.contextmanager
    def _my_turn(self, end: float, cancellation: Cancellation | None) -> Iterator[None]:
        while not self._turn.acquire(timeout=_TICK_S):
            if cancellation is not None and cancellation.cancelled:
                raise Cancelled
            if time.monotonic() > end:
                raise AcceleratorBusy(f"{self.name} is being loaded or used; try again in a moment")
        try:
            yield
        finally:
            self._turn.release()


class _Failure(Exception):
    """What befell the process, as a sentence without its end."""


class _Session:
    """One child process. One call at a time, but for `stop`."""

    def __init__(self, options: worker.Options, limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._received = bytearray()
        self._replies: collections.deque[tuple[int, int, int | str]] = collections.deque()
        self._ending: str | None = None
        self._is_loaded = False
        self._number = 0
        self._unfinished = 0
        """The run whose end was not told yet."""
        self._ends_by = 0.0
        """When that run must be over."""
        self._loading_ends = time.monotonic() + limits.load_s
        self._child = Child(_CHILD, [options.dumps()], self._hear, self._end)

    def load(self, end: float, cancellation: Cancellation | None) -> None:
        """Wait until the model is loaded; goes on where an earlier call stopped. At `end` raises `TimeoutError`."""
        if self._is_loaded:
            return
        try:
            kind, _, value = self._next(min(end, self._loading_ends), cancellation)
        except TimeoutError:
            if time.monotonic() < self._loading_ends:
                raise
            raise _Failure(f"librkllmrt did not load it in {self._limits.load_s:.0f} s") from None
        if kind != worker.READY:
            raise _Failure(str(value))
        self._is_loaded = True

    def is_ready_again(self, cancellation: Cancellation | None) -> bool:
        """Tell whether the process is of further use, once a run that was given up has ended. Raises `Cancelled`."""
        try:
            while self._unfinished:
                kind, number, _ = self._next(self._ends_by, cancellation)
                if number == self._unfinished and kind in (worker.DONE, worker.FAILED):
                    self._unfinished = 0
        except (_Failure, TimeoutError):
            return False
        return self._child.is_alive

    def run(
        self, rows: NDArray[np.float32], max_tokens: int, latest: float, cancellation: Cancellation | None
    ) -> Generator[int, None, None]:
        """Yield tokens, the first one at `latest`; one that is not read to its end gives the run up when closed."""
        self._number += 1
        limits = self._limits
        begin = time.monotonic()
        limit_s = max(0.0, min(limits.prefill(len(rows)), latest - begin))
        header = worker.REQUEST.pack(worker.RUN, self._number, *rows.shape, max_tokens)
        end = begin + limit_s
        if not self._child.write([header, rows.data], limit_s):
            with contextlib.suppress(TimeoutError):
                self._next(time.monotonic() + _LEAVE_S, None)
            raise _Failure("its process takes no rows")
        self._unfinished = self._number
        is_cut = True
        try:
            for _ in range(max_tokens):
                kind, _, value = self._next(end, cancellation)
                if kind == worker.DONE:
                    self._unfinished = 0
                    break
                if isinstance(value, str):
                    raise _Failure(value)
                yield value
                limit_s = limits.token_s
                end = time.monotonic() + limit_s
            is_cut = False
        except TimeoutError:
            raise _Failure(f"librkllmrt gave no token in {limit_s:.3g} s") from None
        finally:
            # An abort is not heard while the rows are read.
            self._ends_by = max(end, time.monotonic() + limits.abort_s)
            if is_cut and self._unfinished:
                self._child.write([worker.REQUEST.pack(worker.ABORT, self._unfinished, 0, 0, 0)], _TICK_S)

    def stop(self, why: str) -> None:
        """Let whoever waits know that there is nothing to wait for."""
        self._end(why)

    def close(self, timeout_s: float) -> None:
        """End the process."""
        if not timeout_s:
            self._child.kill()
        self._child.close(timeout_s)

    def _next(self, end: float, cancellation: Cancellation | None) -> tuple[int, int, int | str]:
        """Return the next reply. Raises `Cancelled`, `TimeoutError`, and `_Failure` when there will be none."""
        called = contextlib.nullcontext() if cancellation is None else cancellation.on_cancel(self._wake)
        with called, self._changed:
            while True:
                if cancellation is not None and cancellation.cancelled:
                    raise Cancelled
                if self._replies:
                    return self._replies.popleft()
                if self._ending is not None:
                    raise _Failure(self._ending)
                if (left := end - time.monotonic()) <= 0:
                    raise TimeoutError
                self._changed.wait(left)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _hear(self, received: bytes) -> None:
        with self._changed:
            self._received += received
            while (reply := self._reply()) is not None:
                self._replies.append(reply)
            self._changed.notify_all()

    def _reply(self) -> tuple[int, int, int | str] | None:
        """Take a whole reply out of what was received."""
        if len(self._received) < worker.REPLY.size:
            return None
        kind, number, value = worker.REPLY.unpack_from(self._received)
        size = worker.REPLY.size + (value if kind == worker.FAILED else 0)
        if len(self._received) < size:
            return None
        words = bytes(self._received[worker.REPLY.size : size]).decode(errors="replace")
        del self._received[:size]
        return kind, number, words if kind == worker.FAILED else value

    def _end(self, why: str) -> None:
        with self._changed:
            if self._ending is None:
                self._ending = f"the process of librkllmrt {why}"
            self._changed.notify_all()
