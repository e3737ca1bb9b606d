import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wyoming_rknn.audio import PcmFormat, PcmReader, resample
from wyoming_rknn.cli import sound
from wyoming_rknn.cli.sound import SoundFeed
from wyoming_rknn.errors import Cancelled, SpeechServerError


def noise(rate_hz, channels=1, seconds=1.6, seed=0):
    rng = np.random.default_rng(seed)
    return (0.2 * rng.standard_normal((round(seconds * rate_hz), channels))).astype(np.float32)


def write(path, samples, rate_hz, subtype=None):
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def whole(path):
    return np.concatenate(list(sound.read(str(path))))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_every_rate_is_resampled_as_a_whole(tmp_path, rate_hz):
    path = write(tmp_path / "x.wav", noise(rate_hz), rate_hz, "FLOAT")
    samples, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(whole(path), resample(samples, rate_hz, 16000))


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
@pytest.mark.parametrize(("subtype", "width"), [("PCM_U8", 1), ("PCM_16", 2), ("PCM_24", 3), ("PCM_32", 4)])
def test_the_samples_are_those_the_server_makes_of_pcm(tmp_path, subtype, width, channels):
    path = write(tmp_path / "x.wav", noise(22050, channels), 22050, subtype)
    content = path.read_bytes()
    pcm = content[content.index(b"data") + 8 :]
    reader = PcmReader()
    server = np.concatenate((reader.read(pcm, PcmFormat(22050, width, channels)), reader.end()))
    np.testing.assert_array_equal(whole(path), server)


@pytest.mark.parametrize("name", ["x.flac", "x.ogg", "x.mp3", "x.aiff", "x.au", "x.caf", "x.w64"])
def test_every_format_that_the_library_knows_comes_as_a_whole(tmp_path, name):
    # Read piece by piece, an MP3 falls apart if the place in it is asked for in between.
    tone = np.sin(2 * np.pi * 440 * np.arange(48000) / 16000) / 2
    path = write(tmp_path / name, tone, 16000)
    samples = whole(path)
    np.testing.assert_allclose(samples, soundfile.read(path, dtype="float32")[0], atol=1e-6)
    assert np.sqrt(np.mean(samples[8000:40000] ** 2)) == pytest.approx(0.3535, abs=0.005)


def test_a_long_file_comes_in_pieces(tmp_path):
    path = write(tmp_path / "x.wav", noise(16000, seconds=20), 16000)
    pieces = list(sound.read(str(path)))
    assert [piece.size for piece in pieces] == [8000] * 40


def test_a_file_of_floats_may_hold_what_is_no_sample(tmp_path):
    odd = np.tile(np.array([np.nan, np.inf, -np.inf, 2, -2, 0.5], np.float32), 100)
    samples = whole(write(tmp_path / "x.wav", odd, 16000, "FLOAT"))
    assert samples[:6].tolist() == [0, 1, -1, 1, -1, 0.5]


def test_a_header_that_knows_no_length_is_read_to_the_end(tmp_path):
    # As ffmpeg and sox write it into a pipe.
    path = write(tmp_path / "x.wav", noise(16000), 16000)
    content = path.read_bytes()
    data = content.index(b"data")
    endless = b"\xff" * 4
    path.write_bytes(content[:4] + endless + content[8 : data + 4] + endless + content[data + 8 :])
    assert whole(path).size == 25600


def test_a_wrong_name_does_no_harm(tmp_path):
    path = write(tmp_path / "x.wav", noise(16000), 16000)
    assert whole(path.rename(tmp_path / "x.raw")).size == whole(tmp_path / "x.raw").size == 25600


def test_what_comes_out_of_a_pipe_is_read(tmp_path):
    content = write(tmp_path / "x.flac", noise(16000), 16000).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writing.start()
    np.testing.assert_array_equal(whole(tmp_path / "pipe"), whole(tmp_path / "x.flac"))
    writing.join()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "x.wav: it is empty; "),
        (b"Dear diary, " * 50, "x.wav: Format not recognised; convert it to WAV, FLAC, Ogg or MP3"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "x.wav: "),
    ],
)
def test_what_is_no_sound_is_told(tmp_path, content, complaint):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(SpeechServerError, match="cannot read ") as failure:
        whole(tmp_path / "x.wav")
    assert complaint in str(failure.value)


def test_a_damaged_file_is_told_when_the_damage_is_met(tmp_path):
    path = write(tmp_path / "x.flac", noise(16000, seconds=5), 16000)
    content = bytearray(path.read_bytes())
    content[60000:] = bytes(len(content) - 60000)
    path.write_bytes(content)
    pieces = sound.read(str(path))
    assert next(pieces).size == 8000
    with pytest.raises(SpeechServerError, match=r"x\.flac: .*; convert it"):
        list(pieces)


@pytest.mark.parametrize("rate_hz", [999, 500_000])
def test_a_rate_that_no_engine_can_use_is_told(tmp_path, rate_hz):
    path = write(tmp_path / "x.wav", noise(16000), rate_hz)
    with pytest.raises(SpeechServerError, match="from 1000 to 384000, not "):
        whole(path)


def test_what_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(SpeechServerError, match=r"cannot read missing\.wav: No such file or directory; name a sound"):
        whole("missing.wav")
    with pytest.raises(SpeechServerError, match="Is a directory"):
        whole(tmp_path)


def test_no_file_stays_open(tmp_path):
    path = write(tmp_path / "x.wav", noise(16000), 16000)
    (tmp_path / "y.wav").write_bytes(b"no sound")
    before = list(Path("/proc/self/fd").iterdir())
    whole(path)
    next(sound.read(str(path)))
    with pytest.raises(SpeechServerError):
        whole(tmp_path / "y.wav")
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_a_feed_gives_what_is_asked_for_and_has_ended_from_the_beginning(tmp_path):
    path = write(tmp_path / "x.wav", noise(44100, seconds=2.3), 44100)
    feed = SoundFeed(str(path))
    assert feed.ended_at is not None
    assert not feed.is_live
    taken = []
    while (samples := feed.take(10_000)) is not None:
        taken.append(samples)
    assert all(samples.size >= 10_000 for samples in taken[:-1])
    np.testing.assert_array_equal(np.concatenate(taken), whole(path))
    assert feed.take(1) is None


def test_a_feed_can_be_given_up(tmp_path):
    feed = SoundFeed(str(write(tmp_path / "x.wav", noise(16000), 16000)))
    feed.cancel()
    with pytest.raises(Cancelled):
        feed.take(512)


def test_a_feed_of_nothing_ends_at_once(tmp_path):
    assert SoundFeed(str(write(tmp_path / "x.wav", np.zeros(0), 16000))).take(512) is None
