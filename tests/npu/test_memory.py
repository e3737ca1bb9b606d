"""Models on the NPU that share a budget of memory: contexts are freed when a model gives way."""

import gc
import logging

import pytest
from npu.test_hearing import buckets, clips, hearing  # noqa: F401 - fixtures
from npu.test_speech import TINY, speaking, warnings  # noqa: F401 - fixtures
from npu.voices import converted, split_cache  # noqa: F401 - fixtures

from wyoming_rknn.runtime.memory import MIB
from wyoming_rknn.runtime.scheduler import NPU
from wyoming_rknn.tts.engine import SpeechRequest

TEXT = "Turn on the living room lights, please."


def left(control) -> int:
    """Return how many contexts are not freed."""
    opened = len(control.calls("rknn_init")) + len(control.calls("rknn_dup_context"))
    return opened - len(control.calls("rknn_destroy"))


def test_a_voice_that_gives_way_frees_its_contexts_without_the_collector(speaking, control):  # noqa: F811
    speak = speaking(TINY)
    speak(TINY, TEXT)
    before = left(control)
    assert before >= 3
    gc.collect()
    gc.disable()
    try:
        stream = speak.scheduler.stream()
        windows = speak.engine.speak(SpeechRequest(TEXT, TINY), stream)
        next(windows)
        speak.runtimes.memory.budget_bytes = MIB
        room = speak.runtimes.memory.admit("another", MIB, lambda _used_too: False)
        # In use: it speaks on.
        assert left(control) == before
        assert len(list(windows)) > 1
        del windows, stream
        assert left(control) == 0
        room.end()
    finally:
        gc.enable()
    jobs = speak.jobs(NPU)
    assert speak(TINY, TEXT).any()
    assert speak.jobs(NPU) > jobs


@pytest.mark.parametrize(("budget_mb", "longest_s"), [(0, 10), (100, 10), (6, 5), (3, 3), (1, 3)])
def test_the_longest_buckets_are_left_out(hearing, buckets, clips, budget_mb, longest_s, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    hear = hearing(buckets, memory_budget=budget_mb)
    assert hear(clips[0]) == clips[0].text
    model = hear.engine._installed.load("model")
    assert model.longest_frames / 100 == pytest.approx(longest_s, abs=0.1)
    count = {10: 3, 5: 2, 3: 1}[longest_s]
    assert len(model._buckets) == count
    found = [line for line in warnings(caplog) if "memory-budget" in line]
    # One of the graphs alone is more than 1 MB; then it is all there is.
    assert len(found) == (count < 3) + (budget_mb == 1)
    if count < 3:
        assert f"model model does without its {3 - count} longest graphs" in found[-1]
    used = hear.runtimes.memory.used_bytes
    assert count * 2 * MIB < used < count * 3 * MIB
    hear(clips[2])
    assert len([line for line in warnings(caplog) if "does without" in line]) == (count < 3)
