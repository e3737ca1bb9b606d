"""Language models on the test double of librkllmrt.so, through the program's own binding and process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from npu.control import Control
from npu.double_llm.building import build

from wyoming_rknn.asr.qwen3.embeddings import Embeddings
from wyoming_rknn.asr.qwen3.rkllm_decoder import RkllmGenerator
from wyoming_rknn.cli.doctor import computing
from wyoming_rknn.errors import AcceleratorError, Cancelled, EngineError, ModelFileMissing, ModelInvalid
from wyoming_rknn.runtime.accelerator import AcceleratorBusy
from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.cancellation import Cancellable
from wyoming_rknn.runtime.rkllm import Limits, RkllmProcess, computing_cpus
from wyoming_rknn.runtime.rkllm_library import RkllmLibrary, find_library
from wyoming_rknn.runtime.scheduler import LLM, Scheduler
from wyoming_rknn.settings import Settings

VERSIONS = ("1.2.3", "1.3.0")
HIDDEN = 8
LONG_S = 20.0
QUICK = Limits(load_s=LONG_S, turn_s=LONG_S, prefill_s=0.3, prefill_row_s=0.0, token_s=0.3, abort_s=0.3)
PATIENT = Limits(LONG_S, LONG_S, LONG_S, 0.0, LONG_S, LONG_S, LONG_S, LONG_S)


@pytest.fixture(scope="session")
def doubles(tmp_path_factory):
    """Return the test doubles of librkllmrt.so by version."""
    if shutil.which("gcc") is None:
        pytest.skip("no test double of librkllmrt.so: there is no gcc to build it")
    folder = tmp_path_factory.mktemp("double_llm")
    return {version: build(folder / f"librkllmrt-{version}.so", version) for version in VERSIONS}


@pytest.fixture
def control(tmp_path, monkeypatch):
    """Let the double's processes, those that run included, do what a test asks for."""
    switch = Control(tmp_path / "double.control", tmp_path / "double.log")
    monkeypatch.setenv("RKLLM_DOUBLE_CONTROL", str(switch.path))
    monkeypatch.setenv("RKLLM_DOUBLE_LOG", str(switch.log))
    return switch


@pytest.fixture
def opened(doubles, control, tmp_path):
    """Open a model, which is closed at the test's end: `opened("1.2.3", limits=…)`."""
    model = tmp_path / "model.rkllm"
    model.write_bytes(b"a model")
    with contextlib.ExitStack() as closing:

        def opened(version=VERSIONS[0], library=None, limits=PATIENT, stop_ids=(99,), context_tokens=64):
            library = library or find_library(doubles[version])
            process = RkllmProcess(
                model, library, context_tokens=context_tokens, stop_ids=stop_ids, cpus=(0, 2), limits=limits
            )
            closing.callback(process.close)
            return process

        yield opened


@pytest.fixture(params=VERSIONS)
def llm(request, opened):
    return opened(request.param)


@pytest.fixture
def generator(opened, tmp_path):
    """Give a generator whose table has the token's number in each row, and the process behind it."""
    table = np.repeat(np.arange(40, dtype=np.float16), HIDDEN).reshape(40, HIDDEN)
    np.save(tmp_path / "embeddings.npy", table)
    process = opened()
    return RkllmGenerator(process, Embeddings(tmp_path / "embeddings.npy"), 7, frozenset({38, 39})), process


@pytest.fixture
def scheduler():
    scheduler = Scheduler({LLM: 1})
    yield scheduler
    assert scheduler.close(LONG_S)


def rows(*numbers):
    return np.repeat(np.array(numbers, np.float32), HIDDEN).reshape(-1, HIDDEN)


def pids(control):
    return [int(call.notes["pid"]) for call in control.calls("init")]


def wait_until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def runs(pid):
    """Tell whether any thread of a process runs; one that ended and was not waited for does not."""
    found = False
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= "\nState:\tZ" not in path.read_text()
    return found


def held():
    """Return what a process can leak: descriptors, threads, children."""
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), sum(map(len, children))


def test_tokens_are_those_of_the_library(llm, control):
    control.set(tokens="5 6 7 151704 8", waiting_every=2)
    assert list(llm.generate(rows(1, 2, 3), 30)) == [5, 6, 7, 151704, 8]
    control.set(tokens="9", no_finish=1)
    assert list(llm.generate(rows(4, 5), 30)) == [9]
    first, second = control.calls("run")
    assert (first.rc, first.notes["rows"], float(first.notes["sum"])) == (0, "3", 6 * HIDDEN)
    assert (second.rc, second.notes["rows"], float(second.notes["sum"])) == (0, "2", 9 * HIDDEN)
    assert [call.name for call in control.calls()] == ["init", "template", "clear", "run", "clear", "run"]
    (init,) = control.calls("init")
    assert {key: init.notes[key] for key in ("context", "cpus", "mask", "domain")} == {
        "context": "64",
        "cpus": "2",
        "mask": "0x5",
        "domain": "1",
    }


def test_rows_are_handed_over_as_they_are(llm):
    numbers = np.random.default_rng(1).integers(0, 1 << 20, 50)
    for dtype, order in ((np.float32, "C"), (np.float64, "C"), (np.float32, "F")):
        given = np.array(rows(*numbers), dtype, order=order)
        assert list(llm.generate(given, 64)) == list(numbers[:14])
    assert list(llm.generate(rows(*range(100, 140))[::-2], 64)) == list(range(139, 100, -2))


def test_a_script_gives_each_run_its_tokens(opened, control, tmp_path):
    script = tmp_path / "script"
    script.write_text("1 2\n\n3\n")
    control.set(script=script)
    llm = opened()
    assert [list(llm.generate(rows(0), 9)) for _ in range(4)] == [[1, 2], [], [3], [3]]


def test_tokens_come_as_soon_as_each_is_known(llm, control):
    control.set(tokens="1 2 3", token_ms=100)
    tokens = llm.generate(rows(0), 9)
    assert next(tokens) == 1
    assert not control.calls("run")
    assert list(tokens) == [2, 3]


@pytest.mark.parametrize("ignores", [0, 1])
def test_a_token_that_ends_ends(llm, control, ignores):
    control.set(tokens="1 2 99 3 4", ignore_abort=ignores)
    for _ in range(2):
        assert list(llm.generate(rows(0), 9)) == [1, 2]
    assert len(pids(control)) == 1


@pytest.mark.parametrize("ignores", [0, 1])
def test_no_more_tokens_than_asked_for(llm, control, ignores):
    control.set(tokens="1 2 3 4 5 6", ignore_abort=ignores, late_tokens=1)
    for number in (3, 1, 6, 2):
        assert list(llm.generate(rows(0), number)) == [1, 2, 3, 4, 5, 6][:number]
    assert len(pids(control)) == 1


def test_rows_and_tokens_stay_within_the_context(opened, control):
    llm = opened(context_tokens=6)
    control.set(tokens="1 2 3 4 5 6 7")
    assert list(llm.generate(rows(0, 0, 0, 0), 9)) == [1, 2]
    for wrong in (rows(*range(6)), rows(), np.zeros((0, 0), np.float32), np.zeros(5, np.float32)):
        with pytest.raises(EngineError, match=r"model\.rkllm takes 1 to 5 rows, not an array \("):
            next(llm.generate(wrong, 9))


def test_a_cancelled_run_ends_at_once_and_the_next_one_is_whole(llm, control):
    control.set(tokens="1 2 3 4 5 6", token_ms=60000)
    cancellation = Cancellable()
    tokens = llm.generate(rows(0), 9, cancellation)
    assert next(tokens) == 1
    threading.Timer(0.05, cancellation.cancel).start()
    with pytest.raises(Cancelled):
        next(tokens)
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert (len(pids(control)), len(control.calls("abort"))) == (1, 1)


def test_what_was_cancelled_before_is_not_begun(llm, control):
    cancellation = Cancellable()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        list(llm.generate(rows(0), 9, cancellation))
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]


def test_an_iterator_that_is_closed_gives_the_run_up(llm, control):
    control.set(tokens="1 2 3 4 5 6", token_ms=60000)
    tokens = llm.generate(rows(0), 9)
    assert next(tokens) == 1
    tokens.close()
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert int(control.calls("run")[0].notes["given"]) < 6


def test_a_library_that_does_not_let_a_run_end_gets_a_new_process(opened, control):
    llm = opened(limits=QUICK)
    control.set(tokens="1 2", ignore_abort=1, fault="hang", after=1)
    tokens = llm.generate(rows(0), 9)
    assert next(tokens) == 1
    tokens.close()
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert len(set(pids(control))) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"fault": "rc", "run_rc": 5}, "rkllm_run returned 5"),
        ({"fault": "rc", "after": 2}, "rkllm_run returned -1"),
        ({"clear_rc": -3}, "rkllm_clear_kv_cache returned -3"),
        ({"fault": "error", "after": 2}, "rkllm_run ended in the state RKLLM_RUN_ERROR"),
        ({"fault": "hang"}, "librkllmrt gave no token in 0.3 s"),
        ({"fault": "hang", "after": 2}, "librkllmrt gave no token in 0.3 s"),
        ({"fault": "crash"}, "the process of librkllmrt was ended by signal 11"),
        ({"fault": "exit", "after": 2}, "the process of librkllmrt ended with exit code 3"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_fault_costs_one_run(opened, control, fault, words):
    llm = opened(limits=QUICK)
    control.set(tokens="1 2 3", **fault)
    heard = []
    with pytest.raises(AcceleratorError) as caught:
        # Not `extend`, which keeps what it was given only at its end.
        for token in llm.generate(rows(0), 9):
            heard.append(token)
    assert heard == [1, 2, 3][: fault.get("after", 0)]
    assert str(caught.value) == f"model.rkllm: {words}; the next utterance has a new process"
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert len(set(pids(control))) == 2


def test_who_speaks_hears_of_a_fault_within_ten_seconds():
    limits = Limits()
    assert (limits.prefill(100), limits.prefill(4096)) == (3.0, 5.0)
    assert limits.turn_s + limits.abort_s + limits.longest_prefill_s <= limits.first_token_s < 10
    assert limits.token_s < 10


def test_no_wait_for_the_first_token_is_longer_than_all_may_take(opened, control):
    llm = opened(limits=Limits(load_s=LONG_S, turn_s=LONG_S, prefill_s=LONG_S, first_token_s=0.6))
    llm.start()
    control.set(tokens="7", prefill_ms=1500)
    begin = time.monotonic()
    with pytest.raises(AcceleratorError, match=r"librkllmrt gave no token in 0\.\d* s; the next utterance"):
        list(llm.generate(rows(0), 9))
    assert time.monotonic() - begin < 1.4


def test_a_cancelled_run_has_its_time_to_read_its_rows(opened, control):
    llm = opened(limits=Limits(load_s=LONG_S, turn_s=LONG_S, prefill_s=LONG_S, longest_prefill_s=LONG_S, abort_s=0.1))
    llm.start()
    control.set(tokens="1 2", prefill_ms=500)
    cancellation = Cancellable()
    threading.Timer(0.1, cancellation.cancel).start()
    with pytest.raises(Cancelled):
        list(llm.generate(rows(0), 9, cancellation))
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert len(pids(control)) == 1


def test_a_run_that_was_cancelled_while_it_hung_costs_nobody_else_an_error(opened, control):
    llm = opened(limits=QUICK)
    llm.start()
    control.set(tokens="1 2", fault="hang")
    cancellation = Cancellable()
    threading.Timer(0.05, cancellation.cancel).start()
    with pytest.raises(Cancelled):
        list(llm.generate(rows(0), 9, cancellation))
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert len(pids(control)) == 2


def test_a_process_that_ended_meanwhile_is_replaced(llm, control):
    control.set(tokens="7 8")
    llm.start()
    os.kill(pids(control)[0], signal.SIGKILL)
    # Waited for by the thread that looks after it, which thus knows.
    wait_until(lambda: not Path(f"/proc/{pids(control)[0]}").exists())
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert len(set(pids(control))) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"init_rc": -4}, "rkllm_init returned -4"),
        ({"template_rc": -1}, "rkllm_set_chat_template returned -1"),
        ({"init_fault": "crash"}, "the process of librkllmrt was ended by signal 11"),
        ({"init_fault": "hang"}, "librkllmrt did not load it in 0 s"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(opened, control, fault, words):
    limits = Limits(load_s=0.4 if "hang" in fault.values() else LONG_S, turn_s=LONG_S)
    llm = opened(limits=limits)
    control.set(**fault)
    for attempt in (llm.start, lambda: list(llm.generate(rows(0), 9))):
        with pytest.raises(AcceleratorError) as caught:
            attempt()
        made = "look whether it is made for this board and for librkllmrt 1.2.3, or restart the board"
        assert str(caught.value) == f"model.rkllm: {words}; {made}"
    control.set(tokens="7 8")
    llm = opened()
    assert list(llm.generate(rows(0), 9)) == [7, 8]


def test_no_room_for_a_process_is_told(opened, control, monkeypatch):
    llm = opened()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(AcceleratorError, match=r"its process cannot be started \(No such .*\); free some"):
            llm.start()
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]


def test_nobody_waits_long_for_a_model_that_is_being_loaded(opened, control):
    llm = opened(limits=Limits(load_s=LONG_S, turn_s=0.05))
    control.set(tokens="7 8", init_ms=700)
    with pytest.raises(AcceleratorBusy, match=r"model\.rkllm is still being loaded; try again in a moment"):
        list(llm.generate(rows(0), 9))
    with ThreadPoolExecutor() as pool:
        loaded = pool.submit(llm.start)
        wait_until(llm._turn.locked)
        with pytest.raises(AcceleratorBusy, match=r"model\.rkllm is being loaded or used; try again in a moment"):
            list(llm.generate(rows(0), 9))
        loaded.result()
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert len(pids(control)) == 1


def test_what_the_library_prints_harms_nothing(llm, control):
    control.set(init_fault="garbage", tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]


def test_a_hundred_rounds_of_faults_leak_nothing(opened, control):
    llm = opened("1.3.0", limits=QUICK)
    control.set(tokens="7 8")
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    # A fault's successor begins to load before the fault is told.
    before = held()
    for number in range(100):
        if number % 4 == 0:
            fault = ("crash", "error", "rc", "exit", "hang")[number // 4 % 5]
            control.set(tokens="1 2 3", fault=fault, after=number % 3)
            with pytest.raises(AcceleratorError):
                list(llm.generate(rows(0), 9))
        elif number % 4 == 1:
            control.set(tokens="1 2 3", token_ms=1)
            tokens = llm.generate(rows(0), 9)
            next(tokens)
            tokens.close()
        elif number % 4 == 2:
            control.set(tokens="1 2 3", token_ms=3)
            cancellation = Cancellable()
            with contextlib.suppress(Cancelled):
                for _ in llm.generate(rows(0), 9, cancellation):
                    cancellation.cancel()
        else:
            control.set(tokens="7 8")
            assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert held() == before
    llm.close()
    descriptors, threads, children = before
    # Its process, the thread that looks after it, and two pipes.
    assert held() == (descriptors - 2, threads - 1, children - 1)
    assert not any(map(runs, pids(control)))


def test_it_is_closed_with_the_model_freed(llm, control):
    llm.start()
    llm.close()
    assert [call.rc for call in control.calls("destroy")] == [0]
    assert not runs(pids(control)[0])
    with pytest.raises(EngineError, match=r"model\.rkllm was stopped; the request came too late"):
        list(llm.generate(rows(0), 9))
    llm.close()


def test_who_waits_while_it_is_closed_is_told(llm, control):
    control.set(tokens="1 2", fault="hang", after=1)
    tokens = llm.generate(rows(0), 9)
    assert next(tokens) == 1
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(next, tokens)
        llm.close()
        with pytest.raises(EngineError, match="was stopped; the request came too late"):
            waits.result()
    assert not runs(pids(control)[0])


def test_the_process_outlives_the_thread_that_asked_for_it(llm, control):
    control.set(tokens="7 8")
    thread = threading.Thread(target=llm.start)
    thread.start()
    thread.join()
    assert list(llm.generate(rows(0), 9)) == [7, 8]
    assert len(pids(control)) == 1


@pytest.mark.parametrize("fault", [{}, {"fault": "hang"}, {"init_fault": "hang"}])
def test_the_process_ends_with_the_server_however_that_ends(doubles, control, tmp_path, fault):
    control.set(tokens="1", init_ms=0, **fault)
    model = tmp_path / "model.rkllm"
    model.write_bytes(b"")
    code = f"""
import sys
from pathlib import Path
import numpy as np
from wyoming_rknn.runtime.rkllm import RkllmProcess
from wyoming_rknn.runtime.rkllm_library import find_library
llm = RkllmProcess(Path({str(model)!r}), find_library(Path({str(doubles["1.2.3"])!r})), context_tokens=64)
try:
    list(llm.generate(np.zeros((1, {HIDDEN}), np.float32), 1))
finally:
    print("over", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        children = Path(f"/proc/{server.pid}/task")
        found = set()

        def has_child():
            found.update(pid for path in children.glob("*/children") for pid in path.read_text().split())
            return found and (not fault or control.calls("clear") or "init_fault" in fault)

        wait_until(has_child)
        if not fault:
            server.stdout.readline()
        server.kill()
    wait_until(lambda: not any(map(runs, found)))


def test_another_layout_than_the_library_has_is_an_error_and_no_more(doubles, opened, control):
    control.set(tokens="7 8")
    wrong = RkllmLibrary(doubles["1.3.0"], "1.2.3"), RkllmLibrary(doubles["1.2.3"], "1.3.0")
    for library in wrong:
        with pytest.raises(AcceleratorError, match="librkllmrt"):
            opened(library=library).start()


def test_the_version_is_read_in_the_double_however_it_stands_there(doubles, tmp_path):
    assert {version: find_library(path).version for version, path in doubles.items()} == {one: one for one in VERSIONS}
    alone = build(tmp_path / "alone.so", "1.3.0", "-DRKLLM_ALONE")
    assert find_library(alone).version == "1.3.0"


def test_four_fast_cores_are_used():
    own = tuple(sorted(os.sched_getaffinity(0)))
    assert computing_cpus(Board(big_cpus=(4, 5, 6, 7))) == (4, 5, 6, 7)
    assert computing_cpus(Board()) == own[:4]


def test_a_prompt_is_read_with_its_audio_and_its_tokens_come(generator, scheduler, control):
    control.set(hidden=HIDDEN)
    generate, _ = generator
    stream = scheduler.stream()
    assert list(generate.generate([1, 7, 7, 5], rows(21, 22), 9, stream)) == [1, 21, 22, 5]
    assert list(generate.generate([1, 7, 7, 5], rows(21, 22), 2, stream)) == [1, 21]
    assert list(generate.generate([1, 2], rows()[:0], 0, stream)) == []
    control.set(tokens="1 2 39 3")
    assert list(generate.generate([1], rows(), 9, stream)) == [1, 2]
    control.set(tokens="4")
    assert list(generate.generate([1], rows(), 9, stream)) == [4]
    generate.close()


@pytest.mark.parametrize(
    ("ids", "audio", "words"),
    [
        ([1, 7], rows(), "a prompt has 1 places for rows of 8 numbers, not for 0 rows of 8"),
        ([1, 7], np.zeros((1, 9), np.float32), "not for 1 rows of 9"),
        ([1, 40], rows(), "a prompt has tokens beyond the 40 of the model's vocabulary"),
        ([-1], rows(), "a prompt has tokens beyond"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(generator, scheduler, ids, audio, words):
    with pytest.raises(EngineError, match=words):
        list(generator[0].generate(ids, audio, 9, scheduler.stream()))


def test_finals_go_before_partials_and_nobody_gets_anothers_tokens(generator, scheduler, control):
    generate, process = generator
    process.start()
    control.set(token_ms=60000)
    first, partial, final = scheduler.stream(), scheduler.stream(background=True), scheduler.stream()
    running = generate.generate([1, 2, 3, 4, 5], rows(), 9, first)
    assert next(running) == 1
    control.set()
    over = []

    def hear(name, stream, ids):
        heard = list(generate.generate(ids, rows(), 9, stream))
        over.append(name)
        return heard

    with ThreadPoolExecutor() as pool:
        later = pool.submit(hear, "partial", partial, [11, 12])
        wait_until(lambda: len(scheduler._devices[LLM]._jobs) == 1)
        sooner = pool.submit(hear, "final", final, [21, 22, 23])
        wait_until(lambda: len(scheduler._devices[LLM]._jobs) == 2)
        first.cancel()
        with pytest.raises(Cancelled):
            next(running)
        assert (later.result(), sooner.result()) == ([11, 12], [21, 22, 23])
    assert over == ["final", "partial"]
    assert [call.notes["rows"] for call in control.calls("run")] == ["5", "3", "2"]


def test_who_is_cancelled_waits_for_nobody(generator, scheduler, control):
    generate, process = generator
    process.start()
    control.set(tokens="1 2 3", token_ms=60000)
    others, mine = scheduler.stream(), scheduler.stream()
    running = generate.generate([1], rows(), 9, others)
    assert next(running) == 1
    threading.Timer(0.02, mine.cancel).start()
    with pytest.raises(Cancelled):
        next(generate.generate([1], rows(), 9, mine))
    assert not control.calls("run")
    running.close()
    with pytest.raises(Cancelled):
        list(generate.generate([1], rows(), 9, mine))
    wait_until(lambda: control.calls("run"))
    assert len(control.calls("run")) == 1


def test_who_stops_reading_gives_the_device_free(generator, scheduler, control):
    generate, process = generator
    process.start()
    control.set(tokens="1 2 3 4 5 6 7 8", token_ms=60000)
    stream = scheduler.stream()
    tokens = generate.generate([1], rows(), 9, stream)
    assert next(tokens) == 1
    tokens.close()
    control.set(tokens="7 8")
    assert list(generate.generate([1], rows(), 9, stream)) == [7, 8]
    assert int(control.calls("run")[0].notes["given"]) < 8
    assert len(pids(control)) == 1


def test_a_fault_reaches_who_asked(generator, scheduler, control):
    generate, _ = generator
    control.set(tokens="1 2 3", fault="crash", after=2)
    with pytest.raises(AcceleratorError, match="was ended by signal 11"):
        list(generate.generate([1], rows(), 9, scheduler.stream()))
    control.set(tokens="7 8")
    assert list(generate.generate([1], rows(), 9, scheduler.stream())) == [7, 8]


def test_a_table_that_is_none_is_told(tmp_path):
    path = tmp_path / "embeddings.npy"
    with pytest.raises(ModelFileMissing, match="is missing"):
        Embeddings(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelInvalid, match="is no table of embeddings"):
        Embeddings(path)
    np.save(path, np.zeros((3, 4)))
    with pytest.raises(ModelInvalid, match=r"is float64 \[3, 4\], not float16 or float32 \[vocabulary, hidden\]"):
        Embeddings(path)


def test_the_doctor_tells_which_library_there_is(doubles, tmp_path):
    def told(**settings):
        return [(line.state, line.text) for line in computing.language(Settings(**settings), None)]

    assert told(rkllm_library=doubles["1.3.0"]) == [("ok", f"{doubles['1.3.0']}, version 1.3.0")]
    assert told(rkllm_library=tmp_path / "gone.so") == [("fail", f"{tmp_path / 'gone.so'} does not exist")]
    ((state, text),) = told(rkllm_version="1.1")
    assert (state, text) == ("fail", "--rkllm-version 1.1 is no version that can be used")
