"""A voice with its decoder on the NPU: the same speech, on all cores, and from the CPU when the NPU fails."""

import itertools
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from npu.voices import converted, npu_settings, snr_db, split_cache  # noqa: F401 - fixtures

from wyoming_rknn.models.store import Store
from wyoming_rknn.npu import load
from wyoming_rknn.runtime.rknn import open_accelerator
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import CPU, NPU, Scheduler
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest
from wyoming_rknn.tts.piper.engine import PiperEngine

TEXT = "Turn on the living room lights, please, and then tell us a story about the sea and the ships on it."
SANO, TINY = "sano-hfc", "random-tiny"


class Speaking:
    """An engine, and what it computes on."""

    def __init__(self, settings: Settings, cores: int | None) -> None:
        self.runtimes = Runtimes.of(settings)
        if cores is not None:
            accelerator = open_accelerator(settings.rknn_library, cores, True)
            self.runtimes = Runtimes(self.runtimes.board, accelerator, self.runtimes.threads)
        self.scheduler: Scheduler = self.runtimes.scheduler()
        self.engine = PiperEngine(settings, Store(settings.data_dirs), self.runtimes)

    def windows(self, voice: str, text: str = TEXT) -> Iterator[np.ndarray]:
        return self.engine.speak(SpeechRequest(text, voice), self.scheduler.stream())

    def __call__(self, voice: str, text: str = TEXT) -> np.ndarray:
        return np.concatenate(list(self.windows(voice, text)))

    def jobs(self, device: str) -> int:
        return self.scheduler.jobs(device)

    def close(self) -> None:
        assert self.scheduler.close(20)
        self.engine.close()
        self.runtimes.close()


@pytest.fixture
def speaking(double, converted, tmp_path, control) -> Iterator[Callable[..., Speaking]]:  # noqa: F811
    """Return a function that makes an engine with one voice, converted for the double, that computes there."""
    made = []

    def make(voice: str, cores: int | None = None, **settings: object) -> Speaking:
        chosen = npu_settings(double, converted(voice), tmp_path / "cache", **settings)
        made.append(Speaking(chosen, cores))
        return made[-1]

    yield make
    for one in made:
        one.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("voice", [SANO, TINY, "random-tiny-2speakers"])
def test_the_npu_says_what_the_cpu_says(speaking, voice, caplog):
    npu, cpu = speaking(voice), speaking(voice, runtime="onnx")
    spoken, expected = npu(voice), cpu(voice)
    assert spoken.shape == expected.shape
    assert snr_db(expected, spoken) > 50
    assert npu.jobs(NPU) > 3
    assert cpu.jobs(NPU) == 0
    assert not warnings(caplog)


def test_speech_is_the_same_whatever_core_is_first(speaking, control):
    control.set(run_ms=20)
    npu = speaking(TINY)
    first = npu(TINY)
    control.set(run_ms=0)
    np.testing.assert_array_equal(npu(TINY), first)


def test_all_cores_work_on_one_sentence_and_its_windows_come_in_order(speaking, control):
    control.set(run_ms=100)
    npu, cpu = speaking(TINY), speaking(TINY, runtime="onnx")
    npu.engine.prepare(TINY)
    spoken = list(npu.windows(TINY))
    assert snr_db(cpu(TINY), np.concatenate(spoken)) > 50
    runs = [call.notes for call in control.calls("rknn_run")]
    assert len(spoken) > 6
    assert {notes["cores"] for notes in runs} == {"0x1", "0x2", "0x4"}
    assert len({notes["tid"] for notes in runs}) == 3


def rate(speaking: Callable[..., Speaking], cores: int) -> float:
    """Return windows per second."""
    one = speaking(TINY, cores)
    one.engine.prepare(TINY)
    for _ in one.windows(TINY, "Good morning."):
        pass
    begin = time.monotonic()
    count = sum(1 for _ in one.windows(TINY, 3 * TEXT))
    return count / (time.monotonic() - begin)


def test_three_cores_are_nearly_three_times_as_quick_as_one(speaking, control):
    control.set(run_ms=20)
    # The figure that counts is a benchmark's; other work on this machine must not make this fail.
    assert rate(speaking, 3) > 2 * rate(speaking, 1)


def test_a_newcomer_waits_for_one_window_at_most(speaking, control):
    control.set(run_ms=100)
    npu = speaking(TINY)
    npu.engine.prepare(TINY)
    list(npu.windows(TINY, "Good morning."))
    long = npu.windows(TINY, 8 * TEXT)
    heard: list[float] = []
    busy, stop = threading.Event(), threading.Event()

    def listen() -> None:
        for _ in long:
            heard.append(time.monotonic())
            if len(heard) == 6:
                busy.set()
            if stop.is_set():
                return

    listener = threading.Thread(target=listen)
    listener.start()
    assert busy.wait(20)
    before = len(control.calls("rknn_run"))
    next(npu.windows(TINY, "How are you today, and where have you been all the time?"))
    runs = len(control.calls("rknn_run")) - before
    stop.set()
    listener.join(20)
    # What ran when it came, one on each core, and what began on the other two cores while it was computed.
    assert runs <= 6


FAULTS = {
    "failing": ({"run_rc": -1}, "RKNN_ERR_FAIL"),
    "zeros": ({"output": "zeros"}, "zeros"),
    "nan": ({"output": "nan"}, "NaN"),
    "hanging": ({"hang": "all"}, "did not"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_npu_that_fails_while_it_works_ends_in_speech_from_the_cpu_and_one_warning(
    speaking, control, caplog, fault, monkeypatch
):
    # Failures of one moment would count as one.
    monkeypatch.setattr(load, "_HICCUP_S", 0.0)
    settings, sign = FAULTS[fault]
    npu, cpu = speaking(TINY), speaking(TINY, runtime="onnx")
    expected = cpu(TINY)
    assert snr_db(expected, npu(TINY)) > 50
    control.set(**settings)
    for _ in range(3):
        assert snr_db(expected, npu(TINY)) > 50
    control.set()
    (warning,) = warnings(caplog)
    assert sign in warning
    assert "the CPU computes instead" in warning
    # What has failed so often is left alone for a while.
    before = npu.jobs(NPU)
    npu(TINY)
    assert npu.jobs(NPU) == before


def test_a_blip_on_all_cores_costs_no_more_than_its_windows(speaking, control):
    npu = speaking(TINY)
    npu.engine.prepare(TINY)
    # So long that it is over before a third run has failed, however busy this machine is.
    control.set(output="nan", run_ms=1000)
    windows = npu.windows(TINY)
    next(windows)
    control.set()
    list(windows)
    before = npu.jobs(NPU)
    npu(TINY)
    assert npu.jobs(NPU) > before + 3


def test_a_voice_for_which_the_npu_is_too_slow_is_left_to_the_cpu(speaking, control, caplog):
    # 33 of 55 frames are kept: 383 ms, on three cores.
    control.set(run_ms=1300)
    npu, cpu = speaking(TINY), speaking(TINY, runtime="onnx")
    np.testing.assert_array_equal(npu(TINY), cpu(TINY))
    assert npu.jobs(NPU) == 0
    (warning,) = warnings(caplog)
    assert "ms for 33 frames, longer than they last" in warning


@pytest.mark.parametrize(
    ("settings", "sign"),
    [
        ({"init_rc": -1}, "RKNN_ERR_FAIL"),
        ({"init_rc": -13}, "UNMATCH"),
        ({"output": "zeros"}, "zeros"),
        ({"output": "nan"}, "NaN"),
        ({"output": "wrong"}, "6.0 dB"),
        ({"run_rc": -3}, "DEVICE_UNAVAILABLE"),
        ({"hang": "all"}, "did not"),
    ],
    ids=["no init", "other SoC", "zeros", "NaN", "wrong numbers", "failing run", "hang"],
)
def test_an_npu_that_does_not_pass_its_self_test_is_not_used(speaking, control, caplog, settings, sign):
    control.set(**settings)
    npu, cpu = speaking(TINY), speaking(TINY, runtime="onnx")
    spoken = npu(TINY)
    control.set()
    np.testing.assert_array_equal(spoken, cpu(TINY))
    assert npu.jobs(NPU) == 0
    (warning,) = warnings(caplog)
    assert re.search(sign, warning)
    assert "CPU" in warning


def test_a_core_that_fails_costs_its_windows_and_not_the_others(speaking, control, caplog):
    npu, cpu = speaking(TINY), speaking(TINY, runtime="onnx")
    npu.engine.prepare(TINY)
    control.set(run_rc=-1, fault_core=1, run_ms=20)
    assert snr_db(cpu(TINY), npu(TINY)) > 50
    assert len(warnings(caplog)) == 1


def test_a_passed_self_test_is_remembered_until_something_changes(speaking, control, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    speaking(TINY).engine.prepare(TINY)
    assert sum("passed its self-test" in record.getMessage() for record in caplog.records) == 1
    runs = len(control.calls("rknn_run"))
    speaking(TINY).engine.prepare(TINY)
    assert len(control.calls("rknn_run")) == runs
    control.set(driver="0.9.9")
    speaking(TINY).engine.prepare(TINY)
    assert len(control.calls("rknn_run")) > runs


def test_wrong_numbers_are_remembered_too(speaking, control, caplog, tmp_path):
    control.set(output="wrong")
    speaking(TINY).engine.prepare(TINY)
    runs = len(control.calls("rknn_run"))
    control.set()
    again = speaking(TINY)
    again(TINY)
    assert len(control.calls("rknn_run")) == runs
    assert len(warnings(caplog)) == 2
    file = next((tmp_path / "cache" / "self-tests").iterdir())
    assert not json.loads(file.read_text())["verdict"]["passed"]


def test_an_npu_that_hung_is_asked_again_at_the_next_start(speaking, control):
    control.set(run_rc=-1)
    speaking(TINY).engine.prepare(TINY)
    control.set()
    again = speaking(TINY)
    again(TINY)
    assert again.jobs(NPU) > 3


def test_a_voice_for_another_board_speaks_from_the_cpu_and_says_why(speaking, caplog):
    other, cpu = speaking(TINY, soc="rk3576"), speaking(TINY, runtime="onnx")
    np.testing.assert_array_equal(other(TINY), cpu(TINY))
    (warning,) = warnings(caplog)
    assert "is made for rk3588, this board is an rk3576" in warning


def test_nothing_is_left_behind(speaking, control):
    npu = speaking(TINY)
    npu(TINY)
    npu.scheduler.close(10)
    npu.engine.close()
    npu.runtimes.close()
    counts = {name: len(control.calls(name)) for name in ("rknn_init", "rknn_dup_context", "rknn_destroy")}
    assert counts == {"rknn_init": 1, "rknn_dup_context": 2, "rknn_destroy": 3}


def test_cpu_and_npu_work_at_the_same_time(speaking, control):
    """While the NPU decodes a sentence, the CPU encodes the next one."""
    control.set(run_ms=50)
    npu = speaking(TINY)
    npu.engine.prepare(TINY)
    first = npu.windows(TINY)
    begun = next(first)
    second = npu.windows(TINY)
    before = len(control.calls("rknn_run"))
    assert next(second).size
    assert len(control.calls("rknn_run")) - before < len(list(itertools.chain([begun], first)))
    assert npu.jobs(CPU) >= 2
