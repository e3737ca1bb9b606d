import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyoming_rknn.tts.piper.windows import Growth, Window, anchored, around, plan

GROWTHS = st.builds(
    Growth, first=st.integers(8, 64), factor=st.floats(1, 4), largest=st.integers(16, 1024)
)  # what the settings allow


def sizes(frames, growth=Growth(), context=11):  # noqa: B008 - frozen
    return [window.frames for window in plan(frames, context, growth)]


@given(st.integers(1, 5000), st.integers(0, 40), GROWTHS)
def test_windows_cover_everything_once_and_in_order(frames, context, growth):
    windows = list(plan(frames, context, growth))
    assert [window.begin for window in windows] == [0, *(window.end for window in windows[:-1])]
    assert windows[-1].end == frames
    assert all(window.frames > 0 for window in windows)


@given(st.integers(1, 5000), st.integers(0, 40), GROWTHS)
def test_every_window_is_fed_its_true_context(frames, context, growth):
    for window in plan(frames, context, growth):
        assert window.fed_begin == max(0, window.begin - context)
        assert window.fed_end == min(frames, window.end + context)


@given(st.integers(1, 5000), GROWTHS)
def test_windows_grow_as_told(frames, growth):
    found = sizes(frames, growth)
    *grown, last = found
    assert all(size <= growth.largest for size in grown)
    # A remainder of up to half of it may have joined the last one.
    assert last <= growth.largest + growth.largest // 2
    assert not grown or last > grown[-1] // 2
    assert all(one <= other for one, other in itertools.pairwise(grown))
    if grown:
        assert grown[0] == min(growth.first, growth.largest)


def test_windows_double_by_default():
    assert sizes(1000) == [16, 32, 64, 128, 192, 192, 192, 184]
    assert sizes(120, Growth(20, 1.5, 40)) == [20, 30, 40, 30]
    assert sizes(100, Growth(16, 1.0, 128)) == [16, 16, 16, 16, 16, 20]


@pytest.mark.parametrize(
    ("frames", "expected"), [(1, [1]), (16, [16]), (24, [24]), (25, [16, 9]), (64, [16, 48]), (65, [16, 32, 17])]
)
def test_a_small_remainder_joins_the_window_before_it(frames, expected):
    assert sizes(frames) == expected


def test_without_a_context_there_is_one_window():
    assert list(plan(500, None, Growth())) == [Window(0, 500, 0, 500)]


def test_nothing_has_no_window():
    assert list(plan(0, 11, Growth())) == []


def test_the_context_ends_at_the_true_edges():
    assert around(0, 16, 11, 100) == Window(0, 16, 0, 27)
    assert around(95, 100, 11, 100) == Window(95, 100, 84, 100)
    assert around(40, 60, 0, 100) == Window(40, 60, 40, 60)


ANCHORED = st.integers(0, 40).flatmap(lambda context: st.tuples(st.integers(2 * context + 1, 300), st.just(context)))


@given(st.integers(1, 5000), ANCHORED)
def test_anchored_windows_cover_everything_once_and_in_order(frames, shape):
    windows = list(anchored(frames, *shape))
    assert [window.begin for window in windows] == [0, *(window.end for window in windows[:-1])]
    assert windows[-1].end == frames
    assert all(window.frames > 0 for window in windows)


@given(st.integers(1, 5000), ANCHORED)
def test_anchored_windows_have_one_width_and_true_context_or_a_true_edge(frames, shape):
    width, context = shape
    for window in anchored(frames, width, context):
        assert window.fed_end - window.fed_begin == min(width, frames)
        assert window.fed_begin == 0 or window.begin - window.fed_begin >= context
        assert window.fed_end == frames or window.fed_end - window.end >= context
        assert 0 <= window.fed_begin <= window.begin < window.end <= window.fed_end <= frames


@given(st.integers(1, 5000), ANCHORED)
def test_no_more_anchored_windows_than_needed(frames, shape):
    width, context = shape
    # n = 1 + ceil((T - W) / (W - 2R)) for more than one window.
    expected = 1 if frames <= width else 1 + -(-(frames - width) // (width - 2 * context))
    assert len(list(anchored(frames, width, context))) == expected
