import ctypes
import subprocess
import sys
import threading
import time

import pytest

from wyoming_rknn.runtime import memory as memory_module
from wyoming_rknn.runtime.memory import MIB, Memory, default_budget_bytes
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings


class Loaded:
    """A model that gives way unless it is used, and is freed then."""

    def __init__(self, memory, name, size_mb=1, used=False):
        self.name = name
        self.used = used
        self.asked = []
        self.is_loaded = False
        self.lease = memory.admit(name, size_mb * MIB, self.let_go)
        self.is_loaded = True
        self.lease.use()

    def let_go(self, used_too):
        self.asked.append(used_too)
        if not self.is_loaded or (self.used and not used_too):
            return False
        if not self.used:
            self.lease.end()
        return True


@pytest.fixture
def clock():
    class Clock:
        now_s = 0.0

        def __call__(self):
            return self.now_s

    return Clock()


@pytest.fixture
def trims(monkeypatch):
    """Count how often the heap is given back."""
    counted = []
    monkeypatch.setattr(memory_module, "give_back_heap", lambda: counted.append(time.monotonic()))
    return counted


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "memory"]


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_a_budget_everything_stays_and_no_thread_is_started(trims):
    memory = Memory()
    for number in range(50):
        Loaded(memory, str(number), size_mb=1000)
    assert memory.used_bytes == 50_000 * MIB
    assert len(memory.names) == 50
    assert memory._watcher is None
    assert not trims


def test_the_least_recently_used_give_way_until_a_model_fits(clock, trims):
    memory = Memory(10 * MIB, clock=clock)
    loaded = {}
    for name in "abcd":
        clock.now_s += 1
        loaded[name] = Loaded(memory, name, size_mb=2)
    clock.now_s += 1
    loaded["a"].lease.use()
    assert not trims
    Loaded(memory, "large", size_mb=5)
    assert memory.names == ["d", "a", "large"]
    assert memory.used_bytes == 9 * MIB
    assert len(trims) == 1


def test_what_is_used_goes_last_and_is_told_once(clock, caplog):
    memory = Memory(2 * MIB, clock=clock)
    used = Loaded(memory, "used", used=True)
    idle = Loaded(memory, "idle")
    clock.now_s += 1
    also_used = Loaded(memory, "also used", used=True)
    assert memory.names == ["used", "also used"]
    assert idle.lease.ended
    assert not caplog.records
    clock.now_s += 1
    newest = Loaded(memory, "newest", used=True)
    assert memory.names == ["also used", "newest"]
    assert memory.used_bytes == 3 * MIB
    assert (used.asked, also_used.asked) == ([False, False, True], [False])
    Loaded(memory, "another", used=True)
    assert newest.lease in memory._staying()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "models in use take 3 MB, more than the 2 MB of --memory-budget; raise it, or use fewer at once"
    ]
    used.lease.end()
    assert memory.used_bytes == 3 * MIB
    memory.close()


def test_the_heap_is_given_back_when_what_was_in_use_is_done_with(trims):
    memory = Memory(MIB)
    used = Loaded(memory, "used", used=True)
    Loaded(memory, "newest")
    count = len(trims)
    assert watchers()
    used.lease.end()
    wait_until(lambda: len(trims) > count)
    wait_until(lambda: not watchers())


def test_a_model_whose_files_are_gone_needs_no_budget_to_give_its_memory_back(trims):
    memory = Memory()
    idle, used = Loaded(memory, "idle"), Loaded(memory, "used", used=True)
    idle.lease.end()
    idle.lease.leave()
    assert len(trims) == 1
    used.lease.leave()
    assert memory.names == []
    assert memory.used_bytes == MIB
    used.lease.end()
    wait_until(lambda: len(trims) == 2)
    wait_until(lambda: not watchers())


def test_idle_models_go_each_in_its_time(trims):
    memory = Memory(idle_s=0.3)
    begin = time.monotonic()
    early, kept = Loaded(memory, "early"), Loaded(memory, "kept")
    while time.monotonic() < begin + 0.6:
        kept.lease.use()
        time.sleep(0.02)
    assert early.lease.ended
    assert not kept.lease.ended
    wait_until(lambda: kept.lease.ended)
    assert time.monotonic() - begin >= 0.8
    wait_until(lambda: len(trims) == 2)
    wait_until(lambda: not watchers())


def test_what_is_used_is_not_idle():
    memory = Memory(idle_s=0.05)
    used = Loaded(memory, "used", used=True)
    wait_until(lambda: len(used.asked) >= 3)
    assert not any(used.asked)
    assert memory.names == ["used"]
    used.used = False
    wait_until(lambda: memory.names == [])


def test_closed_it_ends_its_thread():
    memory = Memory(idle_s=1000.0)
    Loaded(memory, "a")
    assert watchers()
    memory.close()
    wait_until(lambda: not watchers())
    Loaded(memory, "b")
    assert not watchers()


def test_what_ended_is_forgotten():
    memory = Memory()
    for number in range(100):
        Loaded(memory, str(number)).lease.end()
    assert len(memory._leases) <= 1


def test_many_at_once_stay_within_the_budget():
    memory = Memory(5 * MIB)
    over = []

    def work(number):
        for step in range(50):
            Loaded(memory, f"{number}-{step}")
            # Each of the others may have one that is not told yet that it is loaded.
            over.append(max(0, memory.used_bytes - 9 * MIB))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert max(over) == 0
    assert memory.used_bytes == 5 * MIB


def test_the_settings_make_the_memory(monkeypatch):
    assert Runtimes.of(Settings(runtime="onnx", memory_budget=300)).memory.budget_bytes == 300 * MIB
    runtimes = Runtimes.of(Settings(runtime="onnx", idle_unload=0.01))
    Loaded(runtimes.memory, "a")
    wait_until(lambda: runtimes.memory.names == [])
    runtimes.close()


HEAP = """
import re, threading
from pathlib import Path
import numpy as np
from wyoming_rknn.runtime.memory import MIB, give_back_heap, keep_heap_together

def rss_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

keep_heap_together()
before, together = rss_mb(), threading.Barrier(4)
def work():
    together.wait()
    # Lets glibc, left to itself, take larger blocks from the heap and keep more of its top.
    np.ones(20 * MIB, np.uint8)
    blocks = [np.ones(30_000, np.uint8) for _ in range(1000)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
give_back_heap()
print(rss_mb() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library is not glibc")
def test_freed_memory_is_given_back():
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    # Without them 40 to 60 MB stay.
    assert int(done.stdout) < 20


def test_by_default_models_may_take_three_quarters_of_what_there_is(tmp_path):
    assert default_budget_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:        4000000 kB\nMemFree:          100000 kB\n")
    assert default_budget_bytes(tmp_path) == 3_000_000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert default_budget_bytes(tmp_path) == 3_000_000 * 1024
    (group / "memory.max").write_text("1000000000\n")
    assert default_budget_bytes(tmp_path) == 750_000_000
    assert Runtimes.of(Settings(runtime="onnx")).memory.budget_bytes == default_budget_bytes()
    assert Runtimes.of(Settings(runtime="onnx", memory_budget=0)).memory.budget_bytes is None
