import runpy
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyoming_rknn.features.log_mel import BINS, HOP, LEAST, LogMel, log_mel

GOLDEN = Path(__file__).parents[2] / "golden" / "qwen3"
SIGNALS = runpy.run_path(str(GOLDEN / "mel_signals.py"))
TOLERANCE = 3e-5
"""What torch's float32 accounts for; a wrong window, border or filter is off by 1e-3 at least."""


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "mel.npz") as arrays:
        return dict(arrays)


def streamed(samples, sizes, asked=()):
    """Return the frames of audio that comes in pieces of these sizes, asked for after some of them."""
    features = LogMel()
    for number, size in enumerate(sizes):
        features.accept(samples[:size])
        samples = samples[size:]
        if number in asked:
            features.mel(0, features.frames)
    features.accept(samples)
    return features.mel(0, features.frames)


def noise(count, seed=0):
    return (np.random.default_rng(seed).standard_normal(count) * 0.1).astype(np.float32)


@pytest.mark.parametrize("name", SIGNALS["SIGNALS"])
def test_is_what_transformers_computes(golden, name):
    mel = log_mel(SIGNALS["signal"](name))
    assert mel.dtype == np.float32
    assert mel.shape == (golden[f"{name} means"].size, BINS)
    stored = mel[SIGNALS["stored_frames"](len(mel))]
    np.testing.assert_allclose(stored, golden[f"{name} frames"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(mel.mean(axis=1), golden[f"{name} means"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(mel.mean(axis=0), golden[f"{name} bands"], rtol=0, atol=TOLERANCE)


@settings(deadline=None, max_examples=60)
@given(
    count=st.one_of(st.integers(1, 1000), st.integers(7_900, 8_100), st.integers(1, 30_000)),
    sizes=st.lists(st.integers(0, 3_000), max_size=20),
    asked=st.sets(st.integers(0, 19)),
)
def test_is_the_same_to_the_bit_however_audio_is_cut(count, sizes, asked):
    samples = noise(count) * 4
    np.testing.assert_array_equal(streamed(samples, sizes, asked), log_mel(samples))


def test_is_the_same_to_the_bit_sample_by_sample():
    samples = noise(1_700)
    np.testing.assert_array_equal(streamed(samples, [1] * samples.size), log_mel(samples))


def test_a_part_is_the_part_of_the_whole():
    features = LogMel()
    features.accept(noise(16_000 + 7_999))
    whole = features.mel(0, features.frames)
    assert features.settled == features.frames == len(whole) == 149
    for begin, end in ((0, 1), (0, 149), (40, 100), (100, 149), (148, 149), (149, 149), (7, 7)):
        np.testing.assert_array_equal(features.mel(begin, end), whole[begin:end])


def test_a_frame_is_settled_once_its_window_was_heard():
    features = LogMel()
    samples = noise(16_000)
    found = []
    for begin in range(0, 1_000, 20):
        features.accept(samples[begin : begin + 20])
        found.append(features.settled)
    # The first ones hear what is mirrored, of which the last is sample 200.
    assert found == [max(0, (heard - 200) // HOP + 1) if heard > 200 else 0 for heard in range(20, 1_001, 20)]


def test_settled_frames_stay_as_long_as_the_scale_does():
    features = LogMel()
    features.accept(noise(20_000))
    scale, settled = features.scale, features.settled
    before = features.mel(0, settled)
    features.accept(noise(30_000, seed=1) * np.float32(0.1))
    assert features.scale == scale
    np.testing.assert_array_equal(features.mel(0, settled), before)


def test_something_louder_raises_the_floor_of_what_was_before_and_no_more():
    quiet, loud = noise(16_000) * np.float32(1e-4), noise(16_000, seed=1)
    features = LogMel()
    features.accept(quiet)
    settled = features.settled
    before, floor_before = features.mel(0, settled), features.scale[1]
    features.accept(loud)
    floor = features.scale[1]
    assert floor > floor_before
    expected = np.maximum(before, (np.float32(floor) + 4) / 4)
    np.testing.assert_allclose(features.mel(0, settled), expected, rtol=0, atol=1e-6)


def test_a_clip_above_full_scale_is_divided_by_its_peak():
    samples = noise(16_123)
    samples[4_000] = -0.5
    np.testing.assert_allclose(log_mel(samples * 8), log_mel(samples * 2), rtol=0, atol=1e-5)
    assert not np.allclose(log_mel(samples), log_mel(samples * 2), rtol=0, atol=1e-3)


def test_a_short_clip_is_heard_as_if_zeros_followed():
    samples = noise(1_234)
    padded = np.concatenate([samples, np.zeros(LEAST - samples.size, np.float32)])
    np.testing.assert_array_equal(log_mel(samples), log_mel(padded))


def test_what_follows_a_short_clip_takes_the_place_of_the_zeros():
    samples = noise(12_000)
    np.testing.assert_array_equal(streamed(samples, [300, 100, 5_000], asked={0, 1, 2}), log_mel(samples))


def test_silence_and_nothing():
    assert log_mel(np.zeros(0, np.float32)).shape == (0, BINS)
    features = LogMel()
    features.accept(np.zeros(0, np.float32))
    assert (features.frames, features.settled) == (0, 0)
    # 1e-10 is the least power there is: (-10 + 4) / 4.
    assert set(log_mel(np.zeros(9_999, np.float32)).ravel().tolist()) == {-1.5}


def test_frames_belong_to_the_caller():
    features = LogMel()
    features.accept(noise(9_000))
    first = features.mel(0, features.frames)
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(features.mel(0, features.frames), kept)


def test_a_long_clip_takes_little_more_than_its_frames():
    samples = noise(60 * 16_000)
    tracemalloc.start()
    try:
        features = LogMel()
        features.accept(samples)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    frames_bytes = features.frames * BINS * 4
    assert most < frames_bytes + 3 * samples.nbytes
    assert kept < frames_bytes + 100_000
