import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyoming_rknn.asr.endpoint import FRAME_S, Endpointer


def follow(*probabilities, threshold=0.5, pause_s=0.15):
    endpointer = Endpointer(threshold, pause_s)
    for probability in probabilities:
        endpointer.accept(probability)
    return endpointer


def test_nobody_is_heard_below_the_threshold():
    endpointer = follow(*[0.49] * 100)
    assert not endpointer.heard
    assert not endpointer.paused
    assert (endpointer.speech_begin_s, endpointer.speech_end_s) == (0.0, 0.0)
    assert endpointer.silence_s == pytest.approx(3.2)
    assert endpointer.frames == 100


def test_one_frame_at_the_threshold_begins_speech():
    endpointer = follow(0.0, 0.0, 0.5)
    assert endpointer.heard
    assert endpointer.speech_begin_s == pytest.approx(2 * FRAME_S)
    assert endpointer.speech_end_s == pytest.approx(3 * FRAME_S)
    assert endpointer.silence_s == 0.0


def test_speech_goes_on_within_the_hysteresis_and_does_not_begin_there():
    assert follow(0.9, 0.36, 0.36).silence_s == 0.0
    assert follow(0.9, 0.34, 0.36).silence_s == pytest.approx(2 * FRAME_S)
    assert not follow(0.36, 0.49).heard


def test_five_silent_frames_are_a_pause():
    assert not follow(0.9, *[0.0] * 4).paused
    assert follow(0.9, *[0.0] * 5).paused
    assert follow(0.9, *[0.0] * 5).silence_s == pytest.approx(0.16)


@pytest.mark.parametrize(("pause_s", "frames"), [(0.0, 1), (0.032, 1), (0.033, 2), (0.16, 5), (0.48, 15), (0.5, 16)])
def test_a_pause_is_as_long_as_asked_for(pause_s, frames):
    assert not follow(0.9, *[0.0] * (frames - 1), pause_s=pause_s).paused
    assert follow(0.9, *[0.0] * frames, pause_s=pause_s).paused


def test_a_word_after_a_pause_ends_it():
    endpointer = follow(0.9, *[0.0] * 9, 0.9)
    assert not endpointer.paused
    assert endpointer.silence_s == 0.0
    assert endpointer.speech_begin_s == 0.0
    assert endpointer.speech_end_s == pytest.approx(11 * FRAME_S)


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3, 0.95])
def test_speech_can_end_whatever_the_threshold(threshold):
    assert follow(1.0, *[0.01] * 5, threshold=threshold).paused
    assert not follow(1.0, *[threshold * 0.9] * 5, threshold=threshold).paused


@given(st.lists(st.floats(0.0, 1.0)), st.floats(0.05, 0.95), st.floats(0.0, 2.0))
def test_times_agree_at_every_frame(probabilities, threshold, pause_s):
    endpointer = Endpointer(threshold, pause_s)
    ends = []
    for probability in probabilities:
        endpointer.accept(probability)
        ends.append(endpointer.speech_end_s)
        assert endpointer.heard == (max(probabilities[: endpointer.frames]) >= threshold)
        assert math.isclose(endpointer.speech_end_s + endpointer.silence_s, endpointer.frames * FRAME_S)
        assert endpointer.speech_begin_s <= endpointer.speech_end_s
        assert not endpointer.paused or (endpointer.heard and endpointer.silence_s > pause_s - 1e-6)
    assert ends == sorted(ends)
