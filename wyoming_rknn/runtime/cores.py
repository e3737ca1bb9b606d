"""The cores of an NPU, shared by all graphs of the process.

A graph has a context for each core. A run takes the first core that is idle and for which its graph has a context left;
who waits is served in the order of arrival. Each core has a thread of its own that makes the library's calls, so that a
caller can give up a call that does not come back: then the context is retired for good, and the core is out of use
until the call returns after all.

The threads are daemons and nothing waits for them at exit: a call that hangs must not keep the process alive.
"""

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from wyoming_rknn.errors import AcceleratorError
from wyoming_rknn.runtime.accelerator import AcceleratorBusy

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
_DESTROY_S = 1.0
"""How long whoever closes a graph waits for the library to free it."""


class Context(ABC):
    """A graph loaded for one core, or for any if `core` is `None`; computes one run at a time."""

    def __init__(self, core: int | None = None) -> None:
        self.core = core
        self.busy = False
        """A call is inside; `Cores` alone says so."""
        self.retired = False
        """It must not be used again."""
        self._once = threading.Lock()
        self._freed = threading.Event()
        self._freed_by: int | None = None

    @property
    def released(self) -> bool:
        """Tell whether it was freed."""
        return self._freed.is_set()

    def release(self) -> None:
        """Free it, once, however often and from wherever this is called; no call must be inside.

        Waits a second at most for another thread that is about it.
        """
        if self._once.acquire(blocking=False):
            self._freed_by = threading.get_ident()
            try:
                self._destroy()
            except Exception as error:
                _LOGGER.warning("the NPU's memory for a graph cannot be freed: %s", error)
            self._freed.set()
        elif self._freed_by != threading.get_ident():  # else the garbage collector came from there
            self._freed.wait(_DESTROY_S)

    @abstractmethod
    def _destroy(self) -> None:
        """Free it."""


_C = TypeVar("_C", bound=Context)


def sweep(contexts: Sequence[Context]) -> None:
    """Free those of a graph's contexts that are retired and that no call is inside.

    The first one goes last: the others are duplicates of it and use its weights.
    """
    for context in reversed(contexts):
        is_source = context is contexts[0]
        if context.retired and not context.busy and not (is_source and any(not c.released for c in contexts[1:])):
            context.release()


def forget(contexts: Sequence[Context]) -> None:
    """Retire all contexts of a graph and free those that no call is inside; the others follow when it returns.

    Starts no thread and takes no lock that its own thread may hold: the garbage collector may call it anywhere.
    """
    for context in contexts:
        context.retired = True
    sweep(contexts)


class _Call(Generic[_C]):
    """A run that waits for a core, is computed, or is done. Guarded by the lock of `Cores`."""

    def __init__(self, contexts: Sequence[_C], work: Callable[[_C], Any], lock: threading.RLock) -> None:
        self.contexts = contexts
        self.work = work
        self.changed = threading.Condition(lock)
        self.context: _C | None = None
        self.begun_s = math.inf
        self.done = False
        self.given_up = False
        self.result: Any = None
        self.error: BaseException | None = None


class _Core:
    def __init__(self, number: int, lock: threading.RLock) -> None:
        self.number = number
        self.changed = threading.Condition(lock)
        self.call: _Call[Any] | None = None
        self.thread: threading.Thread | None = None

    @property
    def hangs(self) -> bool:
        return self.call is not None and self.call.given_up


class Cores:
    """The cores and their threads. Thread-safe.

    `prepare_thread` is called once in each core's thread, before its first call.
    """

    def __init__(self, count: int, prepare_thread: Callable[[], None] = lambda: None) -> None:
        self._prepare_thread = prepare_thread
        # Reentrant, since a collected accelerator stops its cores in whatever thread and place that happens.
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._cores = [_Core(number, self._lock) for number in range(count)]
        self._waiting: deque[_Call[Any]] = deque()
        self._stopped = False
        # There since the beginning, because no thread can be started any more when the interpreter ends.
        self._freeing: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_serve_all, args=(self._freeing,), name="npu freeing", daemon=True).start()

    def __len__(self) -> int:
        return len(self._cores)

    def run(self, contexts: Sequence[_C], work: Callable[[_C], _T], timeout_s: float) -> _T:
        """Call `work` with one of `contexts` in a core's thread and return its result.

        Waits `timeout_s` at most for a core and as long again for the call. Raises `AcceleratorBusy` if no core was
        free in that time, `AcceleratorError` if the call took longer, or at once if no core is left that `contexts`
        could use; and whatever `work` raises.
        """
        with self._lock:
            call = _Call(contexts, work, self._lock)
            self._waiting.append(call)
            self._dispatch()
            if not call.changed.wait_for(lambda: call.context is not None or call.done, timeout_s):
                self._waiting.remove(call)
                raise AcceleratorBusy(
                    f"no core of the NPU was free within {timeout_s:g} s; let it do less at once, with --max-requests"
                )
            left_s = call.begun_s + timeout_s - time.monotonic()
            if not call.changed.wait_for(lambda: call.done, left_s):
                self._give_up(call)
                raise AcceleratorError(
                    f"the NPU did not answer within {timeout_s:g} s; this graph does not use the core that hangs again"
                )
        if call.error is not None:
            try:
                raise call.error
            finally:
                del call  # the traceback would refer to itself
        result: _T = call.result
        return result

    def drain(self, contexts: Sequence[Context], timeout_s: float) -> bool:
        """Let nothing begin with `contexts` any more and wait for what runs; tells whether it ended in time.

        Calls that were given up are not waited for.
        """
        with self._lock:
            running = [context for context in contexts if context.busy and not context.retired]
            for context in contexts:
                context.retired = True
            self._dispatch()
            return self._idle.wait_for(lambda: not any(context.busy for context in running), timeout_s)

    def dismiss(self, graphs: Sequence[Sequence[Context]]) -> None:
        """Forget the contexts of several graphs, but wait for the library a second at most."""
        done = threading.Event()

        def work() -> None:
            for contexts in graphs:
                forget(contexts)
            done.set()

        if self._stopped:
            work()
        elif graphs:
            self._freeing.put(work)
            done.wait(_DESTROY_S)

    def stop(self) -> None:
        """End the threads as soon as they are idle; `run` refuses from now on. Does not wait."""
        with self._lock:
            self._stopped = True
            self._dispatch()
            for core in self._cores:
                core.changed.notify_all()
        self._freeing.put(None)

    def _dispatch(self) -> None:
        """Give idle cores to those who wait, and refuse those who would wait for ever."""
        for call in tuple(self._waiting):
            reason = self._hopeless(call)
            if reason is not None:
                self._waiting.remove(call)
                call.error = AcceleratorError(reason)
                call.done = True
                call.changed.notify_all()
            else:
                self._place(call)

    def _hopeless(self, call: _Call[Any]) -> str | None:
        if self._stopped:
            return "the NPU is not used any more, the program ends"
        usable = [context for context in call.contexts if not context.retired]
        if not usable:
            return "the NPU does not answer on any core that this graph was loaded for; restart the program"
        if not any(
            not core.hangs and context.core in (None, core.number) for core in self._cores for context in usable
        ):
            return "the NPU does not answer on any core; if it stays so, reboot the board"
        return None

    def _place(self, call: _Call[Any]) -> None:
        for core in self._cores:
            if core.call is not None:
                continue
            for context in call.contexts:
                if not context.busy and not context.retired and context.core in (None, core.number):
                    self._begin(core, call, context)
                    self._waiting.remove(call)
                    return

    def _begin(self, core: _Core, call: _Call[Any], context: Context) -> None:
        if core.thread is None:
            thread = threading.Thread(target=self._serve, args=(core,), name=f"npu core {core.number}", daemon=True)
            thread.start()
            core.thread = thread
        context.busy = True
        call.context = context
        call.begun_s = time.monotonic()
        core.call = call
        core.changed.notify_all()
        call.changed.notify_all()

    def _give_up(self, call: _Call[Any]) -> None:
        call.given_up = True
        assert call.context is not None
        call.context.retired = True
        self._dispatch()

    def _serve(self, core: _Core) -> None:
        self._prepare_thread()
        while True:
            with self._lock:
                core.changed.wait_for(lambda: core.call is not None or self._stopped)
                call = core.call
            if call is None:
                return
            try:
                call.result = call.work(call.context)
            except BaseException as error:
                call.error = error
            self._end(core, call)
            # A result must not live on until the next call arrives.
            del call

    def _end(self, core: _Core, call: _Call[Any]) -> None:
        context = call.context
        assert context is not None
        with self._lock:
            context.busy = False
            core.call = None
            call.done = True
            call.changed.notify_all()
            self._idle.notify_all()
            self._dispatch()
        if call.given_up:
            after_s = time.monotonic() - call.begun_s
            _LOGGER.info("core %d of the NPU answered after %.1f s and is used again", core.number, after_s)
        if context.retired:
            sweep(call.contexts)


def _serve_all(queue: "SimpleQueue[Callable[[], None] | None]") -> None:
    while (work := queue.get()) is not None:
        work()
        del work
