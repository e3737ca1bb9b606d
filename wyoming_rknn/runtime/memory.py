"""How much memory models take, and which of them give way: the least recently used, and what is idle.

What is counted is an estimate that whoever loads a model makes beforehand. References decide whether somebody works
with a model: what is let go lives on for those who hold it, and counts until the last of them is done.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_LOGGER = logging.getLogger(__name__)

MIB = 1 << 20
SHARE = 0.75
"""Of the machine's memory, what models may take unless the settings say otherwise: the rest is for everything else."""
_WATCH_S = 0.5
"""How often it is looked whether models that were let go in the middle of some work are gone."""
_SETTLE_S = 0.1
"""How long freeing a model's graphs may take from when the first word of it comes."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Parameters of glibc's `mallopt`; see its malloc.h."""


class Lease:
    """A model's share of the memory, from before it is loaded until it is collected. Made by `Memory.admit`."""

    __slots__ = ("_memory", "ended", "leaving", "let_go", "name", "size_bytes", "used_s")

    def __init__(self, memory: "Memory", name: str, size_bytes: int, let_go: Callable[[bool], bool]) -> None:
        self._memory = memory
        self.name = name
        self.size_bytes = size_bytes
        self.let_go = let_go
        self.used_s = memory.clock()
        self.leaving = False
        """Only those who work with the model still hold it."""
        self.ended = False

    def use(self) -> None:
        """Note that the model is loaded, or asked for again; others may have to give way to it."""
        self.used_s = self._memory.clock()
        self.leaving = False
        self._memory.make_room(self)
        self._memory.watch()

    def leave(self) -> None:
        """Note that the model will not be asked for again, because its files are gone."""
        self.leaving = True
        if self.ended:
            give_back_heap()
        else:
            self._memory.await_end(self)

    def end(self) -> None:
        """Note that the model is freed, or could not be loaded. May be called by a finalizer: takes no lock."""
        self.ended = True


class Memory:
    """The memory of a process that models share. Thread-safe.

    `budget_bytes` limits what they take, `None` does not. A model that nobody used for `idle_s` seconds is let go;
    never, if that is 0.
    """

    def __init__(
        self, budget_bytes: int | None = None, idle_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget_bytes = budget_bytes
        self.clock = clock
        self._idle_s = idle_s
        self._leases: list[Lease] = []
        self._awaited: set[Lease] = set()
        """Let go in the middle of some work; the heap is to be given back when they are gone."""
        self._clearing = threading.Lock()
        """Held while models are let go, which may free them: that takes a while."""
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._closed = False
        self._warned = False

    @property
    def used_bytes(self) -> int:
        """Return what all models take that are loaded, are being loaded, or are still held by somebody."""
        return sum(lease.size_bytes for lease in self._all())

    @property
    def names(self) -> list[str]:
        """Return the models that are kept, the least recently used first."""
        return [lease.name for lease in self._staying()]

    def admit(self, name: str, size_bytes: int, let_go: Callable[[bool], bool]) -> Lease:
        """Reserve memory for a model that is about to be loaded, and make room for it. Blocks. Never refuses.

        `let_go` is called, from any thread, to give the model up and returns whether it was: told `False`, only if
        nobody works with it; told `True`, in any case but while it is being loaded.
        """
        lease = Lease(self, name, size_bytes, let_go)
        with self._changed:
            self._leases = [each for each in self._leases if not each.ended]
            self._leases.append(lease)
        self.make_room(lease)
        return lease

    def make_room(self, newest: Lease) -> None:
        """Let models go until the others fit: those that nobody uses first, the least recently used first.

        If all that is left is used, the others are to go as soon as they are not; one warning tells of it.
        """
        budget = self.budget_bytes
        if budget is None or self._staying_bytes() <= budget:
            return
        gone = False
        with self._clearing:
            for used_too in (False, True):
                for lease in self._staying():
                    if self._staying_bytes() <= budget:
                        break
                    if lease is not newest:
                        gone |= self._let_go(lease, used_too)
                if not used_too and self._staying_bytes() > budget:
                    self._warn(budget)
        if gone:
            give_back_heap()

    def await_end(self, lease: Lease) -> None:
        """See to it that the heap is given back once a model is gone that somebody still works with."""
        with self._changed:
            self._awaited.add(lease)
        self.watch()

    def watch(self) -> None:
        """See to what has to happen later: in a thread that is there only while there is something to wait for."""
        with self._changed:
            if self._watcher is not None:
                self._changed.notify_all()
            elif not self._closed and self._next_look_s() is not None:
                # Daemon: it must not keep the process alive.
                self._watcher = threading.Thread(target=self._watch, name="memory", daemon=True)
                self._watcher.start()

    def close(self) -> None:
        """Let nothing go any more; later calls change nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _all(self) -> list[Lease]:
        return [lease for lease in self._leases if not lease.ended]

    def _staying(self) -> list[Lease]:
        return sorted((lease for lease in self._all() if not lease.leaving), key=lambda lease: lease.used_s)

    def _staying_bytes(self) -> int:
        return sum(lease.size_bytes for lease in self._all() if not lease.leaving)

    def _let_go(self, lease: Lease, used_too: bool) -> bool:
        if lease.ended or lease.leaving:
            return False
        # Set before, since whoever finds the model again meanwhile takes it back.
        lease.leaving = True
        if not lease.let_go(used_too):
            lease.leaving = False
            return False
        _LOGGER.debug("%s is let go, %d MB", lease.name, lease.size_bytes // MIB)
        if not lease.ended:
            self.await_end(lease)
        return True

    def _warn(self, budget: int) -> None:
        if not self._warned:
            self._warned = True
            _LOGGER.warning(
                "models in use take %d MB, more than the %d MB of --memory-budget; raise it, or use fewer at once",
                self._staying_bytes() // MIB,
                budget // MIB,
            )

    def _next_look_s(self) -> float | None:
        """Return in how many seconds there is something to do; `None` if there is nothing to wait for."""
        found = [_WATCH_S] if self._awaited else []
        if self._idle_s > 0:
            now_s = self.clock()
            found += [max(0.0, lease.used_s + self._idle_s - now_s) for lease in self._staying()]
        return min(found, default=None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                gone = any(lease.ended for lease in self._awaited)
                # Who is asked for again stays.
                self._awaited = {lease for lease in self._awaited if lease.leaving and not lease.ended}
            if gone:
                time.sleep(_SETTLE_S)
                give_back_heap()
            with self._changed:
                wait_s = None if self._closed else self._next_look_s()
                if wait_s is None:
                    self._watcher = None
                    return
                self._changed.wait(wait_s)
            self._let_idle_go()

    def _let_idle_go(self) -> None:
        if self._idle_s <= 0:
            return
        gone = False
        with self._clearing:
            for lease in self._staying():
                now_s = self.clock()
                if lease.used_s + self._idle_s > now_s:
                    break
                if self._let_go(lease, used_too=False):
                    gone = True
                else:
                    lease.used_s = now_s
        if gone:
            give_back_heap()


def default_budget_bytes(root: Path = Path("/")) -> int | None:
    """Return what models may take when nothing is set: a share of the machine's memory, or of the container's.

    `None` if it cannot be told.
    """
    sizes: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    # Control groups of version 2, then 1; a container sees its own as the root.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            sizes.append(int((root / "sys/fs/cgroup" / name).read_text(encoding="ascii")))
    return int(SHARE * min(sizes)) if sizes else None


def give_back_heap() -> None:
    """Return to the system what the C library keeps of freed memory. Takes up to 50 ms; nothing where it cannot."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_heap_together() -> None:
    """Let the C library keep little of what is freed. To be called before threads are started.

    By default glibc gives each thread an arena of its own, of which `malloc_trim` cannot return the top, and stops
    mapping large blocks apart once some were freed: loading and freeing a voice of 63 MB five times left 150 MB behind,
    and leaves 20 MB with these settings (x86-64, glibc 2.36, ONNX Runtime 1.31).
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, MIB)
        library.mallopt(_M_ARENA_MAX, 2)
