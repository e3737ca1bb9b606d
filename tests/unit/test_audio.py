import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from wyoming_rknn.audio import (
    PcmFormat,
    PcmReader,
    apply_gain,
    from_int16,
    resample,
    silence,
    to_bytes,
    to_int16,
)
from wyoming_rknn.errors import InvalidRequest

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


RATES_HZ = [8000, 11025, 22050, 44100, 48000, 96000]
WIDTHS = st.integers(1, 4)
CHANNELS = st.integers(1, 8)


def encode(values, width):
    """Return signed integers as PCM; one byte is unsigned."""
    if width == 1:
        return bytes(value + 128 for value in values)
    return b"".join(value.to_bytes(width, "little", signed=True) for value in values)


def pcm_of(frames, width, channels, seed=0):
    """Return random PCM and its mono mix as it is to be read, before it is resampled."""
    full_scale = 2 ** (8 * width - 1)
    values = np.random.default_rng(seed).integers(-full_scale, full_scale, frames * channels)
    fractions = (values.astype(np.float32) / np.float32(full_scale)).reshape(frames, channels)
    # Added up in order, so that what is read can be equal to the bit.
    return encode(values.tolist(), width), sum(fractions.T) / np.float32(channels)


def read(pcm, layout, pieces=()):
    """Return the whole of what is read when the bytes come in pieces of these sizes, the rest at once."""
    reader = PcmReader()
    parts = []
    for size in pieces:
        parts.append(reader.read(pcm[:size], layout))
        pcm = pcm[size:]
    parts += [reader.read(pcm, layout), reader.end()]
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    return np.concatenate(parts)


def cut(pcm, size):
    return [size] * (len(pcm) // size)


def level_db(samples):
    """Return the power of a tone against one of full scale, without the ends."""
    middle = samples[1000:-1000].astype(np.float64)
    return 10 * np.log10(2 * np.mean(middle**2))


@pytest.mark.parametrize(
    ("width", "values", "expected"),
    [
        (1, [-128, -1, 0, 127], [-1, -1 / 128, 0, 127 / 128]),
        (2, [-32768, -1, 0, 32767], [-1, -1 / 32768, 0, 32767 / 32768]),
        (3, [-(2**23), -1, 0, 1, 0x123456, 2**23 - 1], [-1, -(2**-23), 0, 2**-23, 0x123456 / 2**23, 1 - 2**-23]),
        (4, [-(2**31), -256, 0, 2**24, 2**31 - 1], [-1, -(2**-23), 0, 2**-7, 1]),
    ],
)
def test_integers_of_all_widths_become_fractions(width, values, expected):
    samples = read(encode(values, width), PcmFormat(16_000, width, 1))
    assert samples.tolist() == expected


def test_silence_of_all_widths_is_zero():
    for width, zero in ((1, b"\x80"), (2, b"\0\0"), (3, b"\0\0\0"), (4, b"\0\0\0\0")):
        assert read(zero * 6, PcmFormat(16_000, width, 2)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", range(1, 9))
def test_channels_are_averaged(width, channels):
    pcm, mono = pcm_of(500, width, channels)
    samples = read(pcm, PcmFormat(16_000, width, channels))
    assert np.array_equal(samples, mono)


def test_all_of_eight_channels_count_the_same():
    for channel in range(8):
        pcm = encode([8 * 1000 * (number == channel) for number in range(8)], 2)
        assert read(pcm, PcmFormat(16_000, 2, 8)).tolist() == [1000 / 32768]


def test_channels_in_opposite_phase_cancel_out():
    left = np.arange(-3000, 3000, 7)
    pcm = encode(np.stack((left, -left), axis=1).ravel().tolist(), 2)
    assert not read(pcm, PcmFormat(16_000, 2, 2)).any()


def test_a_command_as_home_assistant_sends_it_is_only_scaled():
    pcm, _ = pcm_of(16_000, 2, 1)
    reader = PcmReader()
    layout = PcmFormat(16_000, 2, 1)
    parts = [reader.read(pcm[begin : begin + 320], layout) for begin in range(0, len(pcm), 320)]
    assert {part.size for part in parts} == {160}
    assert reader.end().size == 0
    assert np.array_equal(np.concatenate(parts), from_int16(np.frombuffer(pcm, "<i2")))


@settings(deadline=None, max_examples=150)
@given(
    pcm=st.binary(max_size=600),
    rate_hz=st.sampled_from([16_000, *RATES_HZ]),
    width=WIDTHS,
    channels=CHANNELS,
    pieces=st.lists(st.integers(0, 60), max_size=30),
)
def test_samples_do_not_depend_on_how_the_bytes_are_cut(pcm, rate_hz, width, channels, pieces):
    layout = PcmFormat(rate_hz, width, channels)
    assert np.array_equal(read(pcm, layout, pieces), read(pcm, layout))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("size", [1, 320, 4099, 10**9])
def test_the_stream_is_the_whole_resampled(rate_hz, size):
    # As many bytes for each rate, so that single bytes do not take long; the filter is full long before.
    pcm, mono = pcm_of(12_347, 2, 1)
    samples = read(pcm, PcmFormat(rate_hz, 2, 1), cut(pcm, size))
    whole = soxr.resample(mono, rate_hz, 16_000, "HQ")
    assert samples.size == round(mono.size * 16_000 / rate_hz)
    assert np.array_equal(samples, whole)
    assert np.array_equal(resample(mono, rate_hz, 16_000), whole)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_mixed_before_the_rate_changes(width, channels):
    pcm, mono = pcm_of(5000, width, channels)
    samples = read(pcm, PcmFormat(44_100, width, channels), cut(pcm, 997))
    assert np.array_equal(samples, soxr.resample(mono, 44_100, 16_000, "HQ"))


def test_most_of_the_audio_is_there_at_once():
    reader = PcmReader()
    pcm, _ = pcm_of(48_000, 2, 1)
    assert reader.read(pcm, PcmFormat(48_000, 2, 1)).size > 0.95 * 16_000


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("tone_hz", "rate_hz"), [(10_000, 48_000), (9000, 44_100), (8800, 96_000), (20_000, 48_000)])
def test_what_would_alias_is_gone(tone_hz, rate_hz, channels):
    tone = np.sin(2 * np.pi * tone_hz * np.arange(rate_hz) / rate_hz)
    pcm = encode(np.repeat(np.rint(tone * (2**23 - 1)).astype(int), channels).tolist(), 3)
    samples = read(pcm, PcmFormat(rate_hz, 3, channels), cut(pcm, 480))
    assert samples.size == 16_000
    assert level_db(samples) < -100


@pytest.mark.parametrize(("tone_hz", "rate_hz"), [(7000, 48_000), (1000, 44_100), (3500, 8000), (440, 11_025)])
def test_what_speech_is_made_of_is_kept(tone_hz, rate_hz):
    tone = np.sin(2 * np.pi * tone_hz * np.arange(rate_hz) / rate_hz)
    samples = read(encode(np.rint(tone * 32767).astype(int).tolist(), 2), PcmFormat(rate_hz, 2, 1))
    seconds = np.arange(16_000) / 16_000
    assert abs(level_db(samples)) < 0.01
    # In time too: the filter's delay is made up for.
    assert np.abs(samples - np.sin(2 * np.pi * tone_hz * seconds))[1000:-1000].max() < 1e-3


def test_a_new_format_begins_where_the_old_one_ended():
    formats = [PcmFormat(48_000, 2, 1), PcmFormat(16_000, 3, 2), PcmFormat(44_100, 1, 1), PcmFormat(44_100, 4, 3)]
    reader = PcmReader()
    parts, expected = [], []
    for number, layout in enumerate(formats):
        pcm, mono = pcm_of(2000, layout.width, layout.channels, seed=number)
        # The torn frame at the end is no beginning of what follows.
        pcm += b"\x55" * (layout.frame_bytes - 1)
        parts += [reader.read(pcm[begin : begin + 1001], layout) for begin in range(0, len(pcm), 1001)]
        expected.append(resample(mono, layout.rate_hz, 16_000))
    parts.append(reader.end())
    assert np.array_equal(np.concatenate(parts), np.concatenate(expected))


def test_an_empty_piece_changes_nothing():
    layout, other = PcmFormat(8000, 2, 1), PcmFormat(48_000, 4, 2)
    pcm, mono = pcm_of(1000, 2, 1)
    reader = PcmReader()
    parts = [reader.read(pcm[:999], layout), reader.read(b"", other), reader.read(pcm[999:], layout), reader.end()]
    assert np.array_equal(np.concatenate(parts), resample(mono, 8000, 16_000))


def test_a_reader_begins_anew_after_the_end():
    layout = PcmFormat(22_050, 2, 2)
    pcm, mono = pcm_of(3000, 2, 2)
    reader = PcmReader()
    for _ in range(2):
        samples = np.concatenate((reader.read(pcm + b"\x01", layout), reader.end()))
        assert np.array_equal(samples, resample(mono, 22_050, 16_000))
    assert reader.end().size == 0


def test_audio_can_be_read_at_other_rates():
    pcm, mono = pcm_of(3000, 2, 1)
    reader = PcmReader(22_050)
    samples = np.concatenate((reader.read(pcm, PcmFormat(16_000, 2, 1)), reader.end()))
    assert np.array_equal(samples, resample(mono, 16_000, 22_050))
    assert np.array_equal(reader.read(pcm, PcmFormat(22_050, 2, 1)), mono)


@pytest.mark.parametrize("rate_hz", [1000, 384_000])
def test_the_slowest_and_the_fastest_rate_are_read(rate_hz):
    pcm, mono = pcm_of(5000, 1, 1)
    samples = read(pcm, PcmFormat(rate_hz, 1, 1), cut(pcm, 100))
    assert samples.size == round(5000 * 16_000 / rate_hz)
    assert np.array_equal(samples, resample(mono, rate_hz, 16_000))


def test_a_whole_at_its_own_rate_is_left_alone():
    given_samples = samples(0, 1, -1)
    assert resample(given_samples, 16_000, 16_000) is given_samples
    assert resample(samples(), 48_000, 16_000).size == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0, 2, 1), "audio rate in Hz must be a whole number from 1000 to 384000, not 0"),
        ((384_001, 2, 1), "audio rate .*, not 384001"),
        ((999, 2, 1), "audio rate .*, not 999"),
        ((16_000.0, 2, 1), r"audio rate .*, not 16000\.0"),
        ((None, 2, 1), "audio rate .*, not None"),
        ((16_000, 0, 1), "audio width in bytes must be a whole number from 1 to 4, not 0"),
        ((16_000, 5, 1), "audio width .*, not 5"),
        ((16_000, True, 1), "audio width .*, not True"),
        ((16_000, "2" * 99, 1), "audio width .*, not '2{39}$"),
        ((16_000, 2, 0), "audio number of channels must be a whole number from 1 to 8, not 0"),
        ((16_000, 2, -1), "audio number of channels .*, not -1"),
        ((16_000, 2, 9), "audio number of channels .*, not 9"),
    ],
)
def test_a_format_that_cannot_be_read_is_refused(fields, message):
    with pytest.raises(InvalidRequest, match=message):
        PcmFormat(*fields)
