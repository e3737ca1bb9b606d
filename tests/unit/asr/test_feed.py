import threading

import numpy as np
import pytest

from wyoming_rknn.asr.engine import RATE_HZ
from wyoming_rknn.asr.feed import AudioFeed
from wyoming_rknn.errors import Cancelled


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def audio(seconds, value=0.5):
    return np.full(round(seconds * RATE_HZ), value, np.float32)


def spoken(seconds, *, speed, chunk_s=0.01):
    """Return a feed that was given audio at `speed` times the speed at which it was spoken."""
    clock = Clock()
    feed = AudioFeed(clock)
    for _ in range(round(seconds / chunk_s)):
        clock.now += chunk_s / speed
        feed.write(audio(chunk_s))
    return feed


def test_takes_all_there_is_once_enough_is_there():
    feed = AudioFeed()
    feed.write(np.arange(3, dtype=np.float32))
    feed.write(np.arange(3, 7, dtype=np.float32))
    assert feed.take(5).tolist() == list(range(7))
    assert feed.backlog_s == 0


def test_takes_less_at_the_end_and_then_nothing():
    feed = AudioFeed()
    feed.write(audio(0.001))
    feed.end()
    assert feed.take(512).size == 16
    assert feed.take(512) is None
    assert feed.take(512) is None


def test_waits_for_enough():
    feed = AudioFeed()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(feed.take(512).size))
    thread.start()
    for _ in range(4):
        assert not taken
        feed.write(np.zeros(128, np.float32))
    thread.join(10)
    assert taken == [512]


def test_empty_audio_is_no_audio():
    feed = AudioFeed()
    feed.write(np.zeros(0, np.float32))
    feed.end()
    assert feed.take(1) is None


def test_remembers_the_first_end():
    clock = Clock()
    feed = AudioFeed(clock)
    assert feed.ended_at is None
    clock.now = 3.0
    feed.end()
    clock.now = 4.0
    feed.end()
    assert feed.ended_at == 3.0


def test_counts_what_waits():
    feed = AudioFeed()
    feed.write(audio(1.5))
    assert feed.backlog_s == 1.5


def test_cancelling_wakes_who_waits():
    feed = AudioFeed()
    raised = threading.Event()

    def take():
        with pytest.raises(Cancelled):
            feed.take(512)
        raised.set()

    thread = threading.Thread(target=take)
    thread.start()
    feed.cancel()
    assert raised.wait(10)
    thread.join()


def test_cancelled_audio_is_forgotten():
    feed = AudioFeed()
    feed.write(audio(1))
    feed.cancel()
    assert feed.backlog_s == 0
    with pytest.raises(Cancelled):
        feed.take(1)


@pytest.mark.parametrize("chunk_s", [0.01, 0.064, 0.5, 2.0])
def test_audio_from_a_microphone_is_live(chunk_s):
    feed = spoken(4, speed=1, chunk_s=chunk_s)
    feed.take(1)
    assert feed.is_live


@pytest.mark.parametrize("chunk_s", [0.01, 0.064, 0.5, 2.0])
def test_audio_from_a_file_is_not(chunk_s):
    feed = spoken(4, speed=20, chunk_s=chunk_s)
    feed.take(1)
    assert not feed.is_live


def test_it_is_live_again_after_a_burst():
    """Home Assistant first sends what it buffered while it waited for the wake word."""
    clock = Clock()
    feed = AudioFeed(clock)
    feed.write(audio(2))
    for number in range(60):
        clock.now += 0.01
        feed.write(audio(0.01))
        feed.take(1)
        assert feed.is_live or number < 30


def test_a_chunk_that_waits_while_another_one_is_looked_at_changes_nothing():
    feed = spoken(4, speed=1)
    feed.take(1)
    feed.write(audio(0.01))
    assert feed.is_live


def test_what_waits_is_not_live():
    feed = spoken(4, speed=1)
    assert not feed.is_live
