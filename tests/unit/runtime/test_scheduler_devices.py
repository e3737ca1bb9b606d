"""Several devices: work that follows other work from one to the next, and what each has done."""

import os
import threading

import pytest

from wyoming_rknn.errors import Cancelled
from wyoming_rknn.runtime.scheduler import BACKGROUND, CPU, CRITICAL, EAGER, FILL, NPU, Count, Scheduler

WAIT_S = 10.0


@pytest.fixture
def scheduler():
    scheduler = Scheduler({CPU: 1, NPU: 3})
    yield scheduler
    assert scheduler.close(WAIT_S)


def test_work_begins_after_what_it_follows(scheduler):
    stream, gate, done = scheduler.stream(), threading.Event(), []
    first = stream.submit(lambda: (gate.wait(WAIT_S), done.append("flow")), at_s=0)
    second = stream.submit(lambda: done.append("decoder"), at_s=0, device=NPU, after=first)
    # The device is idle; what may begin there does.
    stream.submit(lambda: done.append("other"), at_s=1, device=NPU).result(WAIT_S)
    assert not second.running()
    gate.set()
    second.result(WAIT_S)
    assert done == ["other", "flow", "decoder"]


def test_work_begins_at_once_after_what_is_done(scheduler):
    stream = scheduler.stream()
    done = stream.submit(int, at_s=0)
    done.result(WAIT_S)
    assert stream.submit(lambda: 7, at_s=0, device=NPU, after=done).result(WAIT_S) == 7


def test_what_follows_a_failure_fails_in_the_same_way_and_never_runs(scheduler):
    def fail():
        raise ValueError("flow")

    stream, ran = scheduler.stream(), []
    failed = stream.submit(fail, at_s=0)
    following = stream.submit(lambda: ran.append(1), at_s=0, device=NPU, after=failed)
    with pytest.raises(ValueError, match="flow"):
        following.result(WAIT_S)
    assert not ran


def test_what_follows_cancelled_work_is_cancelled(scheduler):
    stream, gate, begun = scheduler.stream(), threading.Event(), threading.Event()
    busy = stream.submit(lambda: (begun.set(), gate.wait(WAIT_S)), at_s=0)
    assert begun.wait(WAIT_S)
    waiting = stream.submit(int, at_s=0)
    following = stream.submit(int, at_s=0, device=NPU, after=waiting)
    dropped = scheduler.stream().submit(int, at_s=0)
    follows_dropped = stream.submit(int, at_s=0, device=NPU, after=dropped)
    assert dropped.cancel()
    with pytest.raises(Cancelled):
        follows_dropped.result(WAIT_S)
    stream.cancel()
    gate.set()
    busy.result(WAIT_S)
    with pytest.raises(Cancelled):
        following.result(WAIT_S)


def test_what_waits_when_everything_ends_is_given_up():
    scheduler = Scheduler({CPU: 1, NPU: 3})
    stream, gate, begun = scheduler.stream(), threading.Event(), threading.Event()
    first = stream.submit(lambda: (begun.set(), gate.wait(WAIT_S)), at_s=0)
    following = stream.submit(int, at_s=0, device=NPU, after=first)
    assert begun.wait(WAIT_S)
    scheduler.close()
    gate.set()
    with pytest.raises(Cancelled):
        following.result(WAIT_S)


def test_a_device_takes_as_much_at_once_as_it_has_slots(scheduler):
    stream, together = scheduler.stream(), threading.Barrier(3, timeout=WAIT_S)
    runs = [stream.submit(together.wait, at_s=0, device=NPU) for _ in range(3)]
    assert sorted(run.result(WAIT_S) for run in runs) == [0, 1, 2]
    assert (stream.slots(CPU), stream.slots(NPU)) == (1, 3)


def test_work_is_counted_by_device_and_priority(scheduler):
    now = [0.0]
    scheduler = Scheduler({CPU: 1, NPU: 2}, clock=lambda: now[0])

    def take(seconds):
        now[0] += seconds

    new, listening, nobody = scheduler.stream(), scheduler.stream(), scheduler.stream(background=True)
    new.submit(lambda: take(2), at_s=0).result(WAIT_S)
    listening.started()
    listening.submit(lambda: take(3), at_s=100).result(WAIT_S)
    listening.submit(lambda: take(4), at_s=-1, device=NPU).result(WAIT_S)
    nobody.submit(lambda: take(5), at_s=0).result(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        nobody.submit(lambda: 1 / 0, at_s=0).result(WAIT_S)
    assert scheduler.counts() == {
        CPU: {
            CRITICAL: Count(),
            EAGER: Count(jobs=1, ran_s=2),
            FILL: Count(jobs=1, ran_s=3),
            BACKGROUND: Count(jobs=2, ran_s=5, failed=1),
        },
        NPU: {CRITICAL: Count(jobs=1, ran_s=4), EAGER: Count(), FILL: Count(), BACKGROUND: Count()},
    }
    assert scheduler.close(WAIT_S)


def test_waiting_is_counted():
    now = [0.0]
    scheduler = Scheduler(clock=lambda: now[0])
    stream, gate, begun = scheduler.stream(), threading.Event(), threading.Event()
    busy = stream.submit(lambda: (begun.set(), gate.wait(WAIT_S)), at_s=0)
    assert begun.wait(WAIT_S)
    waiting = [stream.submit(int, at_s=0) for _ in range(2)]
    now[0] = 0.5
    gate.set()
    for run in (busy, *waiting):
        run.result(WAIT_S)
    count = scheduler.counts()[CPU][EAGER]
    assert (count.jobs, count.waited_s, count.longest_wait_s) == (3, 1.0, 0.5)
    assert scheduler.close(WAIT_S)


def test_threads_that_compute_are_prepared_and_no_others():
    one = next(iter(os.sched_getaffinity(0)))
    scheduler = Scheduler({CPU: 1, NPU: 1}, prepare_thread=lambda: os.sched_setaffinity(0, {one}))
    before = os.sched_getaffinity(0)
    for device in (CPU, NPU):
        assert scheduler.stream().submit(lambda: os.sched_getaffinity(0), at_s=0, device=device).result(WAIT_S) == {one}
    assert os.sched_getaffinity(0) == before
    assert scheduler.close(WAIT_S)
