import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyoming_rknn.audio import apply_gain, from_int16, silence, to_bytes, to_int16

GAINS = st.floats(0, 10, width=32)


def samples(*values):
    return np.array(values, np.float32)


def test_int16_is_truncated_and_clipped():
    values = to_int16(samples(0, 1, -1, 1.5, -7, 0.99999, 1.9 / 32767, -1.9 / 32767))
    assert values.dtype == np.int16
    assert values.tolist() == [0, 32767, -32767, 32767, -32767, 32766, 1, -1]


def test_bytes_are_little_endian():
    assert to_bytes(samples(2.5 / 32767, -1)) == b"\x02\x00\x01\x80"
    assert to_bytes(samples()) == b""


@given(st.lists(st.integers(-32768, 32767)))
def test_int16_survives_the_way_through_float(values):
    pcm = np.array(values, np.int16)
    back = to_int16(from_int16(pcm))
    assert back.dtype == np.int16
    # Down and up are scaled by 32768 and 32767, as piper does it.
    assert np.all(np.abs(back.astype(int) - pcm) <= 1)
    assert np.all(np.abs(from_int16(pcm)) <= 1)


@pytest.mark.parametrize(("seconds", "count"), [(0.2, 4410), (0, 0), (-1, 0), (0.00003, 1), (0.00002, 0)])
def test_silence_is_rounded_to_a_sample(seconds, count):
    quiet = silence(seconds, 22050)
    assert (quiet.size, quiet.dtype) == (count, np.float32)
    assert not quiet.any()


def test_no_gain_leaves_the_samples_alone():
    given_samples = samples(-3, 0.9, 3)
    assert apply_gain(given_samples, 1.0) is given_samples


@given(st.floats(-1, 1, width=32), GAINS)
def test_nothing_reaches_full_scale(value, gain):
    if gain == 1.0:
        return
    louder = apply_gain(samples(value, -value), gain)
    assert louder.dtype == np.float32
    assert np.all(np.abs(louder) < 1.0)
    assert np.all(np.abs(to_int16(louder)) < 32767)
    assert louder[0] == -louder[1]


def test_quiet_samples_are_scaled_exactly():
    assert apply_gain(samples(0.1, -0.3), 2.0).tolist() == samples(0.2, -0.6).tolist()
    mixed = apply_gain(samples(0.1, 0.9), 2.0)
    assert mixed[0] == np.float32(0.2)


def test_the_limiter_has_no_corner_and_keeps_the_order():
    ramp = np.linspace(-1, 1, 20001, dtype=np.float32)
    limited = apply_gain(ramp, 4.0).astype(np.float64)
    slope = np.diff(limited) / np.diff(ramp.astype(np.float64))
    assert np.all(slope > -0.02)
    # A kink would be a jump of the slope from 4 to less.
    assert np.abs(np.diff(slope)).max() < 0.1
