"""One queue per device: running listeners never run dry, new ones start first come first served.

Every computation of a request goes through its `Stream`, which knows how much audio its listener still holds.
A device takes the earliest deadline first, with two refinements that plain EDF lacks:

* work towards a listener's very first sound is *eager*: it goes before work that only fills buffers, in the order in
  which it was queued. So a burst of requests is encoded first and then starts together: the last one is as quick as the
  machine allows, since nobody needs a second window while others still wait for their first;
* work whose deadline is nearer than `GUARD_S` is *critical* and goes before eager work, so that nobody who is already
  listening runs dry because others arrive. Eager work becomes critical itself after `PATIENCE_S`, so it cannot starve.

Nothing takes a device away from a running computation; cancellation interrupts it where the device knows how to.
"""

import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from wyoming_rknn.errors import Cancelled
from wyoming_rknn.runtime.cancellation import Cancellable

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

CPU, NPU, LLM = "cpu", "npu", "llm"
"""Devices; the last one is the NPU as a language model's process uses it, which shares it out by itself."""
CRITICAL, EAGER, FILL, BACKGROUND = "critical", "eager", "fill", "background"
"""Priorities; what nobody listens to comes last."""
GUARD_S = 0.06
"""How long before a listener runs dry its next window goes before anything else: about one window's computation."""
BUSY_S = 5.0
"""How long a program that ends waits for a computation, whose result nobody wants any more."""
PATIENCE_S = 1.0
"""How long a new listener may be kept waiting by running ones."""


@dataclass(frozen=True, slots=True)
class Count:
    """What a device has done at one priority."""

    jobs: int = 0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    ran_s: float = 0.0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    stream: "Stream"
    work: Callable[[], Any]
    future: "Future[Any]"
    at_s: float
    eager: bool
    order: int
    queued_s: float = 0.0

    @property
    def deadline(self) -> float:
        return self.stream.playback_s + self.at_s

    def priority(self, now: float) -> str:
        if self.deadline - GUARD_S <= now:
            return CRITICAL
        if self.eager:
            return EAGER
        return BACKGROUND if math.isinf(self.deadline) else FILL


class Scheduler:
    """Run the computations of all requests on the machine's devices.

    `devices` maps a device's name to how many computations it takes at once. The CPU takes one: each uses all its
    threads, which is quicker for a single listener and never slower in sum. An NPU takes one per core. `prepare_thread`
    is called once in each thread that computes.
    """

    def __init__(
        self,
        devices: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        prepare_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._devices = {
            name: _Device(name, slots, clock, prepare_thread) for name, slots in (devices or {CPU: 1}).items()
        }
        self._order = itertools.count()

    def stream(self, *, background: bool = False) -> "Stream":
        """Open the account of one listener, or of work that nobody listens to, which comes last."""
        return Stream(self, background)

    def counts(self) -> dict[str, dict[str, Count]]:
        """Return what each device has done so far, by priority."""
        return {name: device.counts() for name, device in self._devices.items()}

    def waiting(self) -> dict[str, dict[str, int]]:
        """Return how many computations wait for each device, by the priority that they have now."""
        return {name: device.waiting() for name, device in self._devices.items()}

    def jobs(self, device: str) -> int:
        """Return how many computations a device has done so far; none if there is no such device."""
        return sum(count.jobs for count in self.counts().get(device, {}).values())

    def close(self, timeout_s: float = 0.0) -> bool:
        """Refuse further work, cancel what waits, and return whether all devices fell idle in time."""
        for device in self._devices.values():
            device.stop()
        end = time.monotonic() + timeout_s
        return all(device.join(max(0.0, end - time.monotonic())) for device in self._devices.values())

    def _submit(
        self,
        stream: "Stream",
        device: str,
        work: Callable[[], _T],
        at_s: float,
        eager: bool,
        after: "Future[Any] | None",
    ) -> "Future[_T]":
        future: Future[_T] = Future()
        job = _Job(stream, work, future, at_s, eager, next(self._order))
        target = self._devices[device]
        if after is None:
            target.put(job)
        else:
            after.add_done_callback(lambda done: _follow(done, job, target))
        return future


class Stream(Cancellable):
    """One listener's work. Deadlines follow the playback, which is taken to start with the first delivery.

    Positions are seconds of audio from the beginning of the reply. Cancelled, work that has not begun is given up; what
    runs is interrupted where it can be, else finished for nothing. Safe to use from any thread.
    """

    def __init__(self, scheduler: Scheduler, background: bool = False) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._background = background
        self._waiting_since: float | None = None
        self._started_at: float | None = None
        self._reserved_s = 0.0

    @property
    def reserved_s(self) -> float:
        """Return the position at which audio that is not planned yet will begin."""
        return self._reserved_s

    @property
    def elapsed_s(self) -> float:
        """Return for how long work has been queued. As a position it makes work due in `PATIENCE_S`, whenever.

        For computations of many steps that nobody listens to: at one position they would be overdue after a second, and
        go before everybody's sound from then on.
        """
        return 0.0 if self._waiting_since is None else self._scheduler._clock() - self._waiting_since

    @property
    def playback_s(self) -> float:
        """Return when playback began, or must begin, on the scheduler's clock; infinite while there is no need."""
        if self._background:
            return math.inf
        if self._started_at is not None:
            return self._started_at
        return math.inf if self._waiting_since is None else self._waiting_since + PATIENCE_S

    def reserve(self, seconds: float) -> float:
        """Plan the next `seconds` of audio and return the position at which they begin."""
        begin = self._reserved_s
        self._reserved_s += seconds
        return begin

    def started(self) -> None:
        """Note that the listener has received its first audio; later calls change nothing."""
        if self._started_at is None:
            self._started_at = self._scheduler._clock()

    def slots(self, device: str) -> int:
        """Return how many computations a device takes at once."""
        return self._scheduler._devices[device].slots

    def submit(
        self, work: Callable[[], _T], *, at_s: float, device: str = CPU, after: "Future[Any] | None" = None
    ) -> "Future[_T]":
        """Queue `work`, whose audio begins at position `at_s`, once `after` is done; if that fails, so does the work.

        The future raises `Cancelled` if the stream is cancelled before the work begins.
        """
        now = self._scheduler._clock()
        if self._waiting_since is None:
            self._waiting_since = now
        if self._started_at is not None:
            # A listener who ran dry, say because the text paused, plays on from when there is sound again.
            self._started_at = max(self._started_at, now - at_s)
        eager = self._started_at is None and at_s <= 0.0 and not self._background
        return self._scheduler._submit(self, device, work, at_s, eager, after)


@dataclass(eq=False)
class _Device:
    name: str
    slots: int
    clock: Callable[[], float]
    prepare_thread: Callable[[], None]
    _jobs: list[_Job] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopped: bool = False
    _counts: dict[str, Count] = field(
        default_factory=lambda: {priority: Count() for priority in (CRITICAL, EAGER, FILL, BACKGROUND)}
    )

    def counts(self) -> dict[str, Count]:
        with self._changed:
            return dict(self._counts)

    def waiting(self) -> dict[str, int]:
        with self._changed:
            jobs = list(self._jobs)
        now = self.clock()
        found = Counter(job.priority(now) for job in jobs)
        return {priority: found[priority] for priority in (CRITICAL, EAGER, FILL, BACKGROUND)}

    def put(self, job: _Job) -> None:
        with self._changed:
            if self._stopped:
                _give_up(job)
                return
            self._jobs.append(replace(job, queued_s=self.clock()))
            if len(self._threads) < self.slots:
                # Daemon: an accelerator that never comes back must not keep the process alive.
                thread = threading.Thread(target=self._work, name=f"{self.name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            abandoned, self._jobs = self._jobs, []
            self._changed.notify_all()
        for job in abandoned:
            _give_up(job)

    def join(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        self.prepare_thread()
        while (job := self._next()) is not None:
            begin = self.clock()
            priority = job.priority(begin)
            _run(job, partial(self._note, priority, begin - job.queued_s, begin))
            # A window's result must not live on until the next job arrives.
            del job

    def _note(self, priority: str, waited_s: float, begin: float, failed: bool) -> None:
        ran_s = self.clock() - begin
        with self._changed:
            count = self._counts[priority]
            self._counts[priority] = Count(
                count.jobs + 1,
                count.waited_s + waited_s,
                max(count.longest_wait_s, waited_s),
                count.ran_s + ran_s,
                count.failed + failed,
            )

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopped)
            if self._stopped:
                return None
            now = self.clock()
            job = min(self._jobs, key=lambda job: _urgency(job, now))
            self._jobs.remove(job)
            return job


def _urgency(job: _Job, now: float) -> tuple[int, float, int]:
    if job.stream.cancelled:
        return (0, 0.0, job.order)  # costs nothing and frees whoever waits for it
    if job.deadline - GUARD_S <= now:
        return (1, job.deadline, job.order)
    if job.eager:
        return (2, 0.0, job.order)
    return (3, job.deadline, job.order)


def _give_up(job: _Job) -> None:
    # Whoever holds the future may have cancelled it, and then nothing can be set any more.
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(Cancelled())


def _follow(done: "Future[Any]", job: _Job, device: _Device) -> None:
    """Queue a job that waited for another one, or let it share that one's fate."""
    if done.cancelled():
        _give_up(job)
    elif (error := done.exception()) is None:
        device.put(job)
    elif job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)


def _run(job: _Job, note: Callable[[bool], None]) -> None:
    """Compute a job; `note` hears whether it failed before anybody who waits for the result does."""
    if job.stream.cancelled:
        _give_up(job)
        return
    if not job.future.set_running_or_notify_cancel():
        return
    try:
        result = job.work()
    except BaseException as error:
        note(not isinstance(error, Cancelled))
        job.future.set_exception(error)
    else:
        note(False)
        job.future.set_result(result)
