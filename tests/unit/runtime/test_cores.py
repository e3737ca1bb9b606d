import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from wyoming_rknn.errors import AcceleratorError
from wyoming_rknn.runtime.accelerator import AcceleratorBusy
from wyoming_rknn.runtime.cores import Context, Cores, forget

LONG_S = 20.0


class Recorder(Context):
    """A context that notes its end."""

    def __init__(self, core=None, log=None):
        super().__init__(core)
        self.log = [] if log is None else log

    def _destroy(self):
        assert not self.busy
        self.log.append(self.core)


@pytest.fixture
def cores():
    cores = Cores(3)
    yield cores
    cores.stop()


def pinned(log=None):
    return [Recorder(core, log) for core in range(3)]


class Gate:
    """Work that stays inside until it is let go, and counts who is inside."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.contexts = []

    def __call__(self, context):
        self.contexts.append(context)
        self.entered.release()
        assert self.open.wait(LONG_S)
        return context.core


def start(target, *arguments):
    """Call in a thread; returns a function that waits for the result or raises what was raised."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(target, *arguments)
    pool.shutdown(wait=False)
    return lambda: future.result(LONG_S)


def test_a_result_and_an_error_come_back(cores):
    assert cores.run(pinned(), lambda context: context.core, 1.0) == 0
    with pytest.raises(ZeroDivisionError):
        cores.run(pinned(), lambda context: 1 // 0, 1.0)
    assert cores.run(pinned(), lambda context: "again", 1.0) == "again"


def test_runs_of_one_graph_take_all_cores_and_the_fourth_waits(cores):
    gate, contexts = Gate(), pinned()
    results = [start(cores.run, contexts, gate, LONG_S) for _ in range(4)]
    for _ in range(3):
        assert gate.entered.acquire(timeout=LONG_S)
    assert not gate.entered.acquire(timeout=0.05)
    assert {context.core for context in gate.contexts} == {0, 1, 2}
    gate.open.set()
    assert sorted(result() for result in results)[-1] == 2


def test_two_graphs_share_the_cores_without_queueing_for_the_same_one(cores):
    gate = Gate()
    graphs = [pinned(), pinned(), pinned()]
    results = [start(cores.run, contexts, gate, LONG_S) for contexts in graphs]
    for _ in graphs:
        assert gate.entered.acquire(timeout=LONG_S)
    gate.open.set()
    assert sorted(result() for result in results) == [0, 1, 2]


def test_a_context_for_any_core_runs_where_there_is_room_but_once_at_a_time(cores):
    gate, single = Gate(), [Recorder()]
    blocker = start(cores.run, pinned(), gate, LONG_S)
    assert gate.entered.acquire(timeout=LONG_S)
    assert cores.run(single, lambda context: "ran", 1.0) == "ran"
    first = start(cores.run, single, gate, LONG_S)
    assert gate.entered.acquire(timeout=LONG_S)
    with pytest.raises(AcceleratorBusy, match=r"no core of the NPU was free within 0\.05 s; let it do less at once"):
        cores.run(single, gate, 0.05)
    assert not single[0].retired
    gate.open.set()
    blocker(), first()


def test_who_waits_longest_is_served_first():
    cores = Cores(1)
    gate, order = Gate(), []
    contexts = [Recorder(0)]
    results = [start(cores.run, contexts, gate, LONG_S)]
    assert gate.entered.acquire(timeout=LONG_S)
    for number in range(5):
        results.append(start(cores.run, contexts, lambda context, number=number: order.append(number), LONG_S))
        wait_until(lambda number=number: len(cores._waiting) == number + 1)
    gate.open.set()
    for result in results:
        result()
    cores.stop()
    assert order == [0, 1, 2, 3, 4]


def wait_until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_call_that_hangs_is_given_up_and_its_context_never_used_again(cores):
    gate, log = Gate(), []
    contexts = pinned(log)
    with pytest.raises(AcceleratorError, match=r"the NPU did not answer within 0\.1 s") as caught:
        cores.run(contexts, gate, 0.1)
    assert not isinstance(caught.value, AcceleratorBusy)
    hung = gate.contexts[0]
    assert [context.retired for context in contexts] == [True, False, False]
    seen = [cores.run(contexts, lambda context: context.core, 1.0) for _ in range(6)]
    assert set(seen) == {1}
    # Another graph's context for that core waits for nothing either: the core is out of use.
    assert cores.run(pinned(), lambda context: context.core, 1.0) == 1
    assert not hung.released
    gate.open.set()
    wait_until(lambda: not hung.busy)
    assert cores.run(pinned(), lambda context: context.core, 1.0) == 0
    assert {cores.run(contexts, lambda context: context.core, 1.0) for _ in range(3)} == {1}
    # The others may use the first one's weights.
    assert log == []
    forget(contexts)
    assert log == [2, 1, 0]


def test_a_duplicate_that_came_back_is_freed_at_once():
    cores, gate, log = Cores(2), Gate(), []
    contexts = [Recorder(0, log), Recorder(1, log)]
    first = start(cores.run, contexts, gate, LONG_S)
    assert gate.entered.acquire(timeout=LONG_S)
    with pytest.raises(AcceleratorError):
        cores.run(contexts, gate, 0.05)
    gate.open.set()
    first()
    wait_until(lambda: log == [1])
    assert not contexts[0].released
    cores.stop()


def test_without_a_live_context_a_run_is_refused_at_once(cores):
    gate, contexts = Gate(), pinned()
    for _ in contexts:
        with pytest.raises(AcceleratorError, match="did not answer"):
            cores.run(contexts, gate, 0.05)
    begin = time.monotonic()
    with pytest.raises(AcceleratorError, match="does not answer on any core that this graph was loaded for"):
        cores.run(contexts, gate, LONG_S)
    with pytest.raises(AcceleratorError, match=r"does not answer on any core; .* reboot"):
        cores.run(pinned(), gate, LONG_S)
    assert time.monotonic() - begin < LONG_S / 2
    gate.open.set()


def test_who_waits_is_refused_as_soon_as_the_last_core_hangs():
    cores, gate = Cores(1), Gate()
    hung = start(cores.run, [Recorder(0)], gate, 0.3)
    assert gate.entered.acquire(timeout=LONG_S)
    waiting = start(cores.run, [Recorder(0)], gate, LONG_S)
    for result in (hung, waiting):
        with pytest.raises(AcceleratorError, match="answer"):
            result()
    gate.open.set()
    cores.stop()


def test_draining_waits_for_what_runs_and_not_for_what_hangs(cores):
    gate, other, contexts = Gate(), Gate(), pinned()
    with pytest.raises(AcceleratorError):
        cores.run(contexts, gate, 0.05)
    running = start(cores.run, contexts, other, LONG_S)
    assert other.entered.acquire(timeout=LONG_S)
    assert not cores.drain(contexts, 0.05)
    other.open.set()
    assert running() == 1
    assert cores.drain(contexts, 0.0)
    fresh = pinned()
    slow = start(cores.run, fresh, lambda context: time.sleep(0.2), LONG_S)
    wait_until(lambda: fresh[1].busy)
    assert cores.drain(fresh, LONG_S)
    slow()
    gate.open.set()


def test_a_context_is_freed_once_and_the_first_one_last(cores):
    log = []
    contexts = pinned(log)
    cores.dismiss([contexts])
    cores.dismiss([contexts])
    cores.stop()
    cores.dismiss([contexts])
    forget(contexts)
    assert log == [2, 1, 0]


def test_the_first_context_waits_for_others_that_another_thread_frees():
    gate, log = threading.Event(), []

    class Slow(Recorder):
        def _destroy(self):
            if self.core == 1:
                begun.set()
                assert gate.wait(LONG_S)
            super()._destroy()

    begun = threading.Event()
    contexts = [Slow(core, log) for core in range(3)]
    one = start(forget, contexts)
    assert begun.wait(LONG_S)
    other = start(forget, contexts)
    time.sleep(0.05)
    assert log == [2]
    gate.set()
    one(), other()
    assert log == [2, 1, 0]


def test_a_failure_to_free_is_a_warning(caplog):
    class Stubborn(Recorder):
        def _destroy(self):
            raise AcceleratorError("no")

    contexts = [Stubborn(0)]
    forget(contexts)
    forget(contexts)
    assert [record.getMessage() for record in caplog.records] == ["the NPU's memory for a graph cannot be freed: no"]


def test_freeing_that_hangs_is_not_waited_for(cores, monkeypatch):
    monkeypatch.setattr("wyoming_rknn.runtime.cores._DESTROY_S", 0.05)
    gate = threading.Event()

    class Stuck(Recorder):
        def _destroy(self):
            gate.wait(LONG_S)

    begin = time.monotonic()
    cores.dismiss([[Stuck(0)]])
    assert time.monotonic() - begin < LONG_S / 2
    gate.set()


def test_stopped_cores_refuse(cores):
    cores.run(pinned(), lambda context: None, 1.0)
    cores.stop()
    with pytest.raises(AcceleratorError, match="not used any more"):
        cores.run(pinned(), lambda context: None, 1.0)
    wait_until(lambda: not any(thread.name.startswith("npu ") for thread in threading.enumerate()))


def test_each_core_has_a_thread_of_its_own_that_is_prepared_once():
    prepared, gate = [], Gate()
    cores = Cores(2, lambda: prepared.append(threading.current_thread().name))
    assert prepared == []
    names = [cores.run([Recorder(0)], lambda context: threading.current_thread().name, 1.0) for _ in range(3)]
    assert (names, prepared) == (["npu core 0"] * 3, ["npu core 0"])
    results = [start(cores.run, [Recorder(core)], gate, LONG_S) for core in (0, 1)]
    for _ in results:
        assert gate.entered.acquire(timeout=LONG_S)
    gate.open.set()
    assert [result() for result in results] == [0, 1]
    assert prepared == ["npu core 0", "npu core 1"]
    cores.stop()


def test_a_result_does_not_live_on_in_the_thread(cores):
    class Result:
        pass

    result = cores.run(pinned(), lambda context: Result(), 1.0)
    watched = weakref.ref(result)
    del result
    wait_until(lambda: gc.collect() >= 0 and watched() is None)


def test_many_threads_never_share_a_context(cores):
    contexts, inside, worst = pinned(), [0, 0, 0], []

    def work(context):
        inside[context.core] += 1
        worst.append(inside[context.core])
        time.sleep(0.0005)
        inside[context.core] -= 1
        return context.core

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: cores.run(contexts, work, LONG_S), range(200)))
    assert set(worst) == {1}
    assert set(seen) == {0, 1, 2}
