import threading
import time

import pytest

from wyoming_rknn.errors import Cancelled
from wyoming_rknn.runtime.scheduler import CPU, GUARD_S, PATIENCE_S, Scheduler

WAIT_S = 10.0


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Gate:
    """Work that lasts until it is told to end, so that other work piles up behind it."""

    def __init__(self):
        self.begun = threading.Event()
        self.end = threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.end.wait(WAIT_S)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def scheduler(clock):
    scheduler = Scheduler(clock=clock)
    yield scheduler
    scheduler.close(WAIT_S)


@pytest.fixture
def order(scheduler):
    """Return a function that queues named work behind a closed gate, and one that opens it and tells the order."""
    done, futures, gate = [], [], Gate()
    busy = scheduler.stream().submit(gate, at_s=0)
    gate.begun.wait(WAIT_S)

    def queue(name, stream, at_s):
        futures.append(stream.submit(lambda: done.append(name), at_s=at_s))
        return futures[-1]

    def run():
        gate.end.set()
        busy.result(WAIT_S)
        for future in futures:
            if not future.cancelled():
                future.exception(WAIT_S)
        return done

    yield queue, run
    gate.end.set()


def playing(scheduler):
    """Return the account of a listener who hears the first audio now."""
    stream = scheduler.stream()
    stream.started()
    return stream


def test_a_result_reaches_its_future(scheduler):
    assert scheduler.stream().submit(lambda: 42, at_s=0).result(WAIT_S) == 42


def test_the_earliest_deadline_comes_first(scheduler, clock, order):
    queue, run = order
    early = playing(scheduler)
    clock.now += 5
    late = playing(scheduler)
    for name, stream, at_s in (("d", late, 9), ("c", early, 12), ("b", late, 6), ("a", early, 10), ("e", late, 9)):
        queue(name, stream, at_s)
    assert "".join(run()) == "abcde"


def test_the_first_sound_comes_before_what_fills_buffers(scheduler, order):
    queue, run = order
    listener, newcomer = playing(scheduler), scheduler.stream()
    queue("buffer", listener, GUARD_S + 0.01)
    queue("first sound", newcomer, 0)
    assert run() == ["first sound", "buffer"]


def test_who_runs_dry_comes_before_a_first_sound(scheduler, order):
    queue, run = order
    newcomer, listener = scheduler.stream(), playing(scheduler)
    queue("first sound", newcomer, 0)
    queue("dry", listener, GUARD_S)
    assert run() == ["dry", "first sound"]


def test_of_those_who_run_dry_the_first_comes_first(scheduler, order):
    queue, run = order
    listener, other = playing(scheduler), playing(scheduler)
    queue("later", listener, GUARD_S / 2)
    queue("sooner", other, GUARD_S / 3)
    queue("too late already", listener, 0)
    assert run() == ["too late already", "sooner", "later"]


def test_work_that_nobody_listens_to_comes_last(scheduler, clock, order):
    queue, run = order
    warm_up = scheduler.stream(background=True)
    queue("warm-up", warm_up, 0)
    clock.now += 10 * PATIENCE_S
    queue("far ahead", playing(scheduler), 1000)
    queue("first sound", scheduler.stream(), 0)
    assert run() == ["first sound", "far ahead", "warm-up"]


def test_newcomers_are_served_in_the_order_in_which_they_ask(scheduler, clock, order):
    queue, run = order
    second, first = scheduler.stream(), scheduler.stream()
    queue("1", first, 0)
    clock.now += 0.1
    queue("2", second, 0)
    queue("3", scheduler.stream(), 0)
    queue("1 again", first, 0)
    assert run() == ["1", "2", "3", "1 again"]


def test_nobodys_second_window_delays_a_first_one(scheduler, clock, order):
    queue, run = order
    one, other = scheduler.stream(), scheduler.stream()
    queue("one, first", one, 0)
    queue("one, second", one, 0.2)
    queue("other, first", other, 0)
    clock.now += 0.5
    assert run() == ["one, first", "other, first", "one, second"]


def test_patience_ends(scheduler, clock, order):
    queue, run = order
    newcomer, listener = scheduler.stream(), scheduler.stream()
    queue("first sound", newcomer, 0)
    clock.now += PATIENCE_S
    listener.started()
    queue("running dry", listener, GUARD_S / 2)
    assert run() == ["first sound", "running dry"]


def test_patience_begins_with_the_first_text_not_with_the_connection(scheduler, clock, order):
    queue, run = order
    slow_writer = scheduler.stream()
    clock.now += 10 * PATIENCE_S
    queue("first sound", slow_writer, 0)
    queue("dry", playing(scheduler), 0)
    assert run() == ["dry", "first sound"]


def test_who_ran_dry_while_the_text_paused_does_not_come_first_for_ever(scheduler, clock, order):
    queue, run = order
    paused = playing(scheduler)
    clock.now += 60
    other = playing(scheduler)
    queue("after the pause", paused, 2)
    queue("in two seconds", other, 2)
    queue("three seconds later", paused, 5)
    assert run() == ["after the pause", "in two seconds", "three seconds later"]


def test_two_listeners_take_turns(scheduler, order):
    queue, run = order
    streams = {name: playing(scheduler) for name in "ab"}
    for name, stream in streams.items():
        for window in range(5):
            queue(name, stream, 1 + window)
    assert "".join(run()) == "ababababab"


def test_what_is_cancelled_never_runs(scheduler, order):
    queue, run = order
    stream, other = scheduler.stream(), scheduler.stream()
    cancelled = queue("cancelled", stream, 0)
    queue("other", other, 0)
    stream.cancel()
    assert stream.cancelled
    assert run() == ["other"]
    assert isinstance(cancelled.exception(WAIT_S), Cancelled)


def test_what_is_cancelled_frees_who_waits_for_it_at_once(scheduler, order):
    queue, run = order
    stream, finished = playing(scheduler), []
    queue("dry", playing(scheduler), 0).add_done_callback(lambda _: finished.append("dry"))
    queue("cancelled", stream, 1000).add_done_callback(lambda _: finished.append("cancelled"))
    stream.cancel()
    run()
    assert finished == ["cancelled", "dry"]


def test_what_runs_is_finished(scheduler):
    gate, stream = Gate(), scheduler.stream()
    running = stream.submit(gate, at_s=0)
    gate.begun.wait(WAIT_S)
    stream.cancel()
    gate.end.set()
    assert running.result(WAIT_S) is None
    assert isinstance(stream.submit(lambda: None, at_s=0).exception(WAIT_S), Cancelled)


def test_check_raises_once_cancelled(scheduler):
    stream = scheduler.stream()
    stream.check()
    stream.cancel()
    with pytest.raises(Cancelled):
        stream.check()


def test_an_error_reaches_its_future_and_harms_nobody(scheduler):
    def fail():
        raise KeyError("lost")

    def leave():
        raise SystemExit

    stream = scheduler.stream()
    assert isinstance(stream.submit(fail, at_s=0).exception(WAIT_S), KeyError)
    assert isinstance(stream.submit(leave, at_s=0).exception(WAIT_S), SystemExit)
    assert stream.submit(lambda: 1, at_s=0).result(WAIT_S) == 1


def test_a_future_that_its_holder_cancels_harms_nobody(scheduler, order):
    queue, run = order
    waiting, stream = queue("waiting", scheduler.stream(), 0), scheduler.stream()
    assert waiting.cancel()
    given_up = queue("given up", stream, 0)
    assert given_up.cancel()
    stream.cancel()
    queue("other", scheduler.stream(), 0)
    assert run() == ["other"]
    gate = Gate()
    scheduler.stream().submit(gate, at_s=0)
    gate.begun.wait(WAIT_S)
    assert queue("never", scheduler.stream(), 0).cancel()
    gate.end.set()
    assert scheduler.close(WAIT_S)


def test_a_device_with_two_slots_does_two_things_at_once():
    scheduler = Scheduler({"npu": 2})
    together = threading.Barrier(2)
    futures = [scheduler.stream().submit(lambda: together.wait(WAIT_S), at_s=0, device="npu") for _ in range(2)]
    assert sorted(future.result(WAIT_S) for future in futures) == [0, 1]
    assert scheduler.close(WAIT_S)


def test_devices_do_not_wait_for_each_other(clock):
    scheduler = Scheduler({CPU: 1, "npu": 1}, clock)
    gate, stream = Gate(), scheduler.stream()
    busy = stream.submit(gate, at_s=0)
    assert stream.submit(lambda: "done", at_s=0, device="npu").result(WAIT_S) == "done"
    gate.end.set()
    busy.result(WAIT_S)
    assert scheduler.close(WAIT_S)


def test_a_device_with_one_slot_does_one_thing_at_a_time(scheduler):
    running, most = 0, 0

    def work():
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.002)
        running -= 1

    streams = [scheduler.stream() for _ in range(5)]
    for future in [stream.submit(work, at_s=at_s) for at_s in range(4) for stream in streams]:
        future.result(WAIT_S)
    assert most == 1


def test_close_cancels_what_waits_and_refuses_what_comes():
    scheduler = Scheduler()
    gate, stream = Gate(), scheduler.stream()
    running = stream.submit(gate, at_s=0)
    gate.begun.wait(WAIT_S)
    waiting = stream.submit(lambda: None, at_s=1)
    assert not scheduler.close()
    assert isinstance(waiting.exception(0), Cancelled)
    assert isinstance(stream.submit(lambda: None, at_s=0).exception(0), Cancelled)
    gate.end.set()
    assert scheduler.close(WAIT_S)
    assert running.result(0) is None


def test_close_is_quick_when_nothing_runs_and_leaves_no_thread():
    before = threading.active_count()
    scheduler = Scheduler({CPU: 3})
    for _ in range(5):
        scheduler.stream().submit(lambda: None, at_s=0).result(WAIT_S)
    assert scheduler.close(WAIT_S)
    assert threading.active_count() == before
    assert Scheduler().close()


def test_a_result_is_not_kept(scheduler):
    class Result:
        freed = threading.Event()

        def __del__(self):
            self.freed.set()

    future = scheduler.stream().submit(Result, at_s=0)
    future.result(WAIT_S)
    del future
    assert Result.freed.wait(WAIT_S)


def test_audio_is_planned_in_order(scheduler):
    stream = scheduler.stream()
    assert [stream.reserve(seconds) for seconds in (0.0, 1.5, 0.2)] == [0.0, 0.0, 1.5]
    assert stream.reserved_s == 1.7


def test_what_waits_is_told_by_priority(scheduler, clock, order):
    queue, run = order
    assert not any(scheduler.waiting()[CPU].values())
    queue("first sound", scheduler.stream(), 0)
    queue("warm-up", scheduler.stream(background=True), 0)
    queue("later", playing(scheduler), 60)
    assert scheduler.waiting()[CPU] == {"critical": 0, "eager": 1, "fill": 1, "background": 1}
    clock.now += PATIENCE_S
    assert scheduler.waiting()[CPU] == {"critical": 1, "eager": 0, "fill": 1, "background": 1}
    run()
    assert not any(scheduler.waiting()[CPU].values())


def test_positions_that_follow_the_clock_are_never_overdue(scheduler, clock, order):
    queue, run = order
    stream = scheduler.stream()
    assert stream.elapsed_s == 0
    queue("step", stream, stream.elapsed_s)
    clock.now += 60
    assert stream.elapsed_s == 60
    queue("next step", stream, stream.elapsed_s)
    queue("sound", scheduler.stream(), 0)
    # The first has waited for too long; the second has a second.
    assert run() == ["step", "sound", "next step"]
