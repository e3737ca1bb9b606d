"""The package itself runs on 64-bit Arm only: what stands in for it here behaves as it was seen to behave there."""

import contextlib
import gc
import io
import logging
import sys
import threading
import time

import numpy as np
import pytest
from npu import stand_in_lite

from wyoming_rknn.errors import AcceleratorError, EngineError, ModelFileMissing, ModelInvalid, RuntimeUnavailable
from wyoming_rknn.runtime import rknn_lite
from wyoming_rknn.runtime.accelerator import Versions

LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")
X = np.linspace(1, 2, 8, dtype=np.float32).reshape(1, 2, 4)
N = np.array([1, 2], np.int32)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    with stand_in_lite.installed(tmp_path / "site", monkeypatch):
        yield


@pytest.fixture
def npu(installed):
    accelerator = rknn_lite.open_accelerator(3)
    yield accelerator
    fake().SETTINGS.clear()
    accelerator.close()
    wait_until(lambda: not fake().ALIVE)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.rknn"
    path.write_bytes(b"RKNN....")
    return path


def fake():
    return sys.modules["rknnlite.api"]


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def expected(scale=1):
    return (X * scale) ** 2 + 3


def test_a_graph_has_an_object_for_each_core_and_no_file_in_memory(npu, path):
    graph = npu.load(path)
    assert (npu.name, npu.cores) == ("rknn-lite", 3)
    assert [lite.core_mask for lite in fake().ALIVE] == [1, 2, 4]
    assert [lite.rknn_data for lite in fake().ALIVE] == [None] * 3
    assert [(spec.name, spec.shape, spec.dtype) for spec in graph.inputs] == [
        ("x", (1, 2, 4), np.float32),
        ("n", (2,), np.int32),
    ]
    assert [(spec.name, spec.shape, spec.dtype) for spec in graph.outputs] == [("y", (1, 2, 4), np.float32)]
    assert graph.metadata == {}
    outputs = graph.run({"n": N.astype(np.int64), "x": X.astype(np.float64)})
    np.testing.assert_array_equal(outputs["y"], expected())
    assert fake().CALLS[-1][2] == [(np.float32, (1, 2, 4)), (np.int32, (2,))]


def test_versions_are_known_and_told_once_a_graph_is_loaded(npu, path, caplog):
    caplog.set_level(logging.INFO)
    assert npu.versions == Versions("", "")
    npu.load(path)
    npu.load(path)
    assert npu.versions == Versions("2.3.2 (429f97ae6b@2025-04-09T09:09:27)", "0.9.8")
    assert len(caplog.records) == 1


def test_a_single_core_gets_no_mask(installed, path):
    npu = rknn_lite.open_accelerator(1)
    npu.load(path)
    assert fake().CALLS == [("init", 0)]
    npu.close()


def test_logging_and_the_terminal_stay_as_they_were(npu, path, capfd, caplog):
    caplog.set_level(logging.DEBUG, "wyoming_rknn.runtime.rknn_lite")
    npu.load(path).run({"x": X, "n": N})
    assert tuple(map(logging.getLevelName, range(50, -1, -10))) == LEVELS
    assert [logging.getLevelName(name) for name in LEVELS] == list(range(50, -1, -10))
    assert capfd.readouterr() == ("", "")
    assert "rknn-toolkit-lite2: rknn-toolkit-lite2 version: 2.5.0" in caplog.text
    assert "rknn-toolkit-lite2: error init" in caplog.text


def test_level_names_that_somebody_gave_are_kept(installed):
    logging.addLevelName(logging.WARNING, "ATTENTION")
    rknn_lite.open_accelerator(3).close()
    assert logging.getLevelName(logging.WARNING) == "ATTENTION"


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("RKNN_ERR_FAIL", AcceleratorError, "RKNN_ERR_FAIL): `wyoming-rknn doctor` shows"),
        ("RKNN_ERR_MODEL_INVALID", ModelInvalid, "the file is broken, or made by a toolkit newer"),
        ("RKNN_ERR_TARGET_PLATFORM_UNMATCH", ModelInvalid, "the file was made for another SoC"),
        ("RKNN_ERR_KEY_INVALID", AcceleratorError, "RKNN_ERR_KEY_INVALID); `wyoming-rknn doctor` looks for the cause"),
    ],
)
def test_a_failing_init_is_named(npu, path, code, error, words):
    fake().SETTINGS["init"] = code
    with pytest.raises(error) as caught:
        npu.load(path)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith("the NPU cannot load model.rknn: init_runtime failed (RKNN init failed. error code: ")
    assert words in message
    assert [lite.released for lite in fake().MADE] == [1] * len(fake().MADE)


def test_a_file_that_is_not_there_or_foreign(npu, path, tmp_path):
    with pytest.raises(ModelFileMissing):
        npu.load(tmp_path / "none.rknn")
    path.write_bytes(b"text")
    with pytest.raises(AcceleratorError, match=r"load_rknn failed \(Invalid RKNN format!\)"):
        npu.load(path)


def test_without_masks_every_object_runs_on_any_core(npu, path):
    fake().SETTINGS["mask"] = True
    graph = npu.load(path)
    assert [call[1] for call in fake().CALLS] == [1, 0, 0, 0]
    assert [context.core for context in graph.contexts] == [None] * 3


def test_memory_for_fewer_objects_than_cores_is_enough(npu, path, caplog):
    caplog.set_level(logging.INFO)
    fake().SETTINGS["most"] = 2
    graph = npu.load(path)
    assert "model.rknn runs on 2 of 3 cores: the NPU cannot load model.rknn: init_runtime failed" in caplog.text
    np.testing.assert_array_equal(graph.run({"x": X, "n": N})["y"], expected())


def test_shapes_that_the_package_hides_are_an_error(npu, path):
    fake().SETTINGS["attr"] = True
    with pytest.raises(AcceleratorError, match=r"does not tell the shapes of model\.rknn .* use librknnrt instead"):
        npu.load(path)
    assert fake().ALIVE == []


def test_none_is_an_error_that_names_the_cause(npu, path):
    graph = npu.load(path)
    fake().SETTINGS["inference"] = True
    with pytest.raises(AcceleratorError, match=r"model\.rknn: the NPU failed: Get outputs failed, error code: X$"):
        graph.run({"x": X, "n": N})
    fake().SETTINGS.clear()
    np.testing.assert_array_equal(graph.run({"x": X, "n": N})["y"], expected())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([np.zeros((1, 2, 4), np.float32)], "zeros only"),
        ([np.full((1, 2, 4), np.nan, np.float32)], "NaN or infinity"),
        ([np.ones((1, 2, 3), np.float32)], "outputs of shapes"),
        ([], "outputs of shapes"),
    ],
)
def test_what_cannot_be_right_is_an_error(npu, path, values, words):
    graph = npu.load(path)
    fake().SETTINGS["values"] = values
    with pytest.raises(AcceleratorError, match=words):
        graph.run({"x": X, "n": N})


def test_outputs_of_another_rank_take_the_models_shape(npu, path):
    graph = npu.load(path)
    fake().SETTINGS["values"] = [np.ones((1, 1, 2, 4), np.float32)]
    assert graph.run({"x": X, "n": N})["y"].shape == (1, 2, 4)


def test_a_run_that_failed_without_a_word_is_noticed_by_its_old_outputs(npu, path):
    graph = npu.load(path)
    np.testing.assert_array_equal(graph.run({"x": X, "n": N})["y"], expected())
    # The same again is no sign of failure.
    np.testing.assert_array_equal(graph.run({"x": X, "n": N})["y"], expected())
    fake().SETTINGS["run"] = True
    for scale in (2, 3):
        with pytest.raises(AcceleratorError, match="gave the outputs of the run before"):
            graph.run({"x": X * scale, "n": N})
    fake().SETTINGS.clear()
    np.testing.assert_array_equal(graph.run({"x": X * 2, "n": N})["y"], expected(2))


def test_numbers_beyond_16_bit_floats_are_refused(npu, path):
    graph = npu.load(path)
    with pytest.raises(AcceleratorError, match="'x' holds 70000, which 16-bit floats cannot"):
        graph.run({"x": np.full_like(X, 70000.0), "n": N})
    with pytest.raises(EngineError, match=r"shape \(1, 2, 3\)"):
        graph.run({"x": X[..., :3], "n": N})


def test_a_run_that_hangs_is_given_up(npu, path):
    graph = npu.load(path, timeout_s=0.1)
    gate = threading.Event()
    fake().SETTINGS.update(hang=1, gate=gate)
    with pytest.raises(AcceleratorError, match="did not answer within"):
        graph.run({"x": X, "n": N})
    np.testing.assert_array_equal(graph.run({"x": X, "n": N})["y"], expected())
    graph.close()
    assert [lite.core_mask for lite in fake().ALIVE] == [1]
    gate.set()
    wait_until(lambda: not fake().ALIVE)


def test_objects_are_released_once_however_a_graph_ends(npu, path):
    closed, forgotten = npu.load(path), npu.load(path)
    released = [context.lite for graph in (closed, forgotten) for context in graph.contexts]
    closed.close()
    closed.close()
    del forgotten
    gc.collect()
    assert [lite.released for lite in released] == [1] * 6
    assert fake().ALIVE == []


def test_a_graph_for_fewer_cores_is_loaded_less_often_and_runs_on_any(npu, path):
    assert npu.shares_weights is False
    graph = npu.load(path, cores=1)
    assert [lite.core_mask for lite in fake().ALIVE] == [0]
    assert [context.core for context in graph.contexts] == [None]
    np.testing.assert_array_equal(graph.run({"x": X, "n": N})["y"], expected())
    assert [len(npu.load(path, cores=count).contexts) for count in (2, 3, 9)] == [2, 3, 3]


def test_loading_that_hangs_is_given_up_and_freed_when_it_comes_back(installed, path, capsys):
    npu = rknn_lite.open_accelerator(3, load_timeout_s=0.2)
    gate = threading.Event()
    fake().SETTINGS.update(slow_init=True, gate=gate, entered=threading.Semaphore(0))
    with pytest.raises(AcceleratorError, match=r"the NPU did not load model\.rknn within 0\.2 s; reboot the board"):
        npu.load(path)
    assert npu.load_failure.startswith("the NPU did not load model.rknn")
    # Meanwhile the terminal and other graphs are nobody's but their own.
    sys.stdout.write("spoken\n")
    fake().SETTINGS.pop("slow_init")
    npu.load(path).close()
    assert npu.load_failure == ""
    assert logging.getLevelName(logging.INFO) == "INFO"
    gate.set()
    wait_until(lambda: [lite.released for lite in fake().MADE] == [1] * 6)
    wait_until(lambda: not any(thread.name.startswith("npu loading") for thread in threading.enumerate()))
    assert capsys.readouterr() == ("spoken\n", "")
    npu.close()


def test_loads_that_overlap_leave_the_terminal_and_level_names_as_they_were(npu, path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", own := io.StringIO())
    error = sys.stderr
    first, second, entered = threading.Event(), threading.Event(), threading.Semaphore(0)
    threads = []
    for gate in (first, second):
        fake().SETTINGS.update(slow_init=True, gate=gate, entered=entered)
        threads.append(threading.Thread(target=npu.load, args=(path,), kwargs={"cores": 1}))
        threads[-1].start()
        assert entered.acquire(timeout=20)
    fake().SETTINGS.pop("slow_init")
    # The first one to come ends first: what it found was the real terminal, and the second one found the first's.
    for gate, thread in zip((first, second), threads, strict=True):
        sys.stdout.write("mine\n")
        gate.set()
        thread.join(20)
    assert sys.stdout is own
    assert sys.stderr is error
    assert own.getvalue() == "mine\n" * 2
    assert tuple(map(logging.getLevelName, range(50, -1, -10))) == LEVELS


def test_each_thread_that_calls_the_package_is_prepared(installed, path):
    prepared = []
    npu = rknn_lite.open_accelerator(1, prepare_thread=lambda: prepared.append(threading.current_thread().name))
    npu.load(path).run({"x": X, "n": N})
    assert prepared == ["npu loading model.rknn", "npu core 0"]
    npu.close()


def test_a_graph_that_is_loaded_when_the_npu_is_closed_is_freed(npu, path):
    npu.close()
    with pytest.raises(AcceleratorError, match="not used any more"):
        npu.load(path)
    assert fake().ALIVE == []


@pytest.mark.parametrize(
    ("content", "words"), [(None, "which does not exist"), (b"text", "which is no shared library")]
)
def test_without_the_library_the_package_is_of_no_use(installed, monkeypatch, tmp_path, content, words):
    monkeypatch.setattr(rknn_lite, "LIBRARY", library := tmp_path / "librknnrt.so")
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(RuntimeUnavailable) as caught:
        rknn_lite.open_accelerator(3)
    assert str(caught.value) == (
        f"rknn-toolkit-lite2 takes no library but {library}, {words}; install the board's rknpu2 runtime there, or make"
        " that a link to librknnrt.so"
    )


def without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rknnlite", None)


@pytest.mark.parametrize(
    ("machine", "version", "words"),
    [
        ("x86_64", (3, 11, 0), "rknn-toolkit-lite2 runs on 64-bit Arm only, this machine is x86_64"),
        ("aarch64", (3, 13, 1), "rknn-toolkit-lite2 is not made for Python"),
        ("aarch64", (3, 12, 1), "rknn-toolkit-lite2 is not installed; `pip install rknn-toolkit-lite2` does that"),
    ],
)
def test_without_the_package_the_reason_is_named(monkeypatch, machine, version, words):
    without_the_package(monkeypatch)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(RuntimeUnavailable, match=words):
        rknn_lite.open_accelerator(3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import a_module_that_nobody_has", "cannot be imported: No module named 'a_module_that_nobody_has'"),
        ("raise RuntimeError('map\\n/dev/dri')", "cannot be imported: map /dev/dri; install it again"),
        ("", "the module rknnlite is not that of rknn-toolkit-lite2"),
    ],
)
def test_a_package_that_is_broken(installed, tmp_path, monkeypatch, content, words):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    (tmp_path / "site" / "rknnlite" / "api" / "__init__.py").write_text(content)
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(pytest.raises(RuntimeUnavailable))
        rknn_lite.open_accelerator(3)
    assert words in str(caught.value)
