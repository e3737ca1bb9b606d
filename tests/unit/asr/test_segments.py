"""Where long audio is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyoming_rknn.asr.segments import Levels, best_cut

SPEECH_DB, SILENCE_DB = 60.0, 20.0


def levels(frames: int = 300, *pauses: tuple[int, int], silence_db: float = SILENCE_DB) -> Levels:
    """Return speech, which goes up and down, with pauses from frame to frame."""
    wave = SPEECH_DB + 8 * np.sin(np.arange(frames) * 0.7)
    for begin, end in pauses:
        wave[begin:end] = silence_db
    return wave.astype(np.float32)


def test_the_middle_of_the_longest_pause() -> None:
    assert best_cut(levels(300, (160, 175), (200, 240), (270, 290)), 150) == 220


def test_the_later_one_of_two() -> None:
    assert best_cut(levels(300, (160, 180), (240, 260)), 150) == 250


def test_what_is_too_early_does_not_count() -> None:
    assert best_cut(levels(300, (20, 140), (180, 200)), 150) == 190
    assert best_cut(levels(300, (100, 170)), 150) == 160


def test_a_pause_at_the_end() -> None:
    assert best_cut(levels(300, (280, 300)), 150) == 290


@pytest.mark.parametrize("silence_db", [-69.0, 20.0, 45.0])
def test_noise_in_the_background_does_not_hide_a_pause(silence_db: float) -> None:
    noise = np.random.default_rng(1).normal(scale=1.0, size=300)
    pauses = levels(300, (40, 60), (200, 240), silence_db=silence_db)
    assert 215 <= best_cut((pauses + noise).astype(np.float32), 150) <= 225


def test_without_a_pause_the_quietest_place() -> None:
    speech = levels(300, (200, 202))
    speech[240:260] -= 15
    assert 240 <= best_cut(speech, 150) <= 260


def test_a_closure_inside_a_word_is_no_pause() -> None:
    assert best_cut(levels(300, (210, 217), (180, 192)), 150) == 186
    softly = levels(300, (200, 208), silence_db=40)
    softly[240:270] -= 21
    assert 240 <= best_cut(softly, 150) <= 270


def test_silence_and_short_audio() -> None:
    assert 150 <= best_cut(np.full(300, SILENCE_DB, np.float32), 150) < 300
    assert best_cut(np.zeros(2, np.float32), 1) == 1
    assert best_cut(levels(12), 6) in range(6, 12)


@given(st.lists(st.floats(-69, 100, width=32), min_size=2, max_size=200), st.data())
def test_a_cut_is_always_inside(values: list[float], data: st.DataObject) -> None:
    earliest = data.draw(st.integers(1, len(values) - 1))
    assert earliest <= best_cut(np.array(values, np.float32), earliest) < len(values)
