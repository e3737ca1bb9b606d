"""Greedy generation: what is read, in which portions, and who gets a turn between two."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from wyoming_rknn.asr.qwen3.greedy import CHUNK, GreedyGenerator
from wyoming_rknn.asr.qwen3.kv_cache import KvCache
from wyoming_rknn.errors import Cancelled, EngineError
from wyoming_rknn.runtime.scheduler import PATIENCE_S, Scheduler

AUDIO, END = 90, 99
NOTHING = np.empty((0, 4), np.float32)


class Counting:
    """Answers each token with the next one; keeps what it read."""

    def __init__(self, before=lambda: None):
        self.read = []
        self.calls = []
        self.logits = np.zeros(100, np.float32)
        self.before = before

    @property
    def length(self):
        return len(self.read)

    def prefill(self, ids, audio, cancellation=None):
        self.before()
        assert (np.asarray(ids) == AUDIO).sum() == len(audio)
        rows = iter(audio)
        self.read += [(int(token), next(rows).tolist() if token == AUDIO else None) for token in ids]
        self.calls.append(len(ids))
        self.logits = np.eye(100, dtype=np.float32)[(int(ids[-1]) + 1) % 100]

    def step(self, token, cancellation=None):
        self.prefill([token], NOTHING)

    def truncate(self, length):
        del self.read[length:]


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.close()


def generator(decoder):
    return GreedyGenerator(decoder, AUDIO, frozenset((END,)))


def test_tokens_come_until_the_end_or_the_budget(scheduler):
    made = generator(Counting())
    assert list(made.generate([1, 95], NOTHING, 10, scheduler.stream())) == [96, 97, 98]
    assert list(made.generate([1, 5], NOTHING, 3, scheduler.stream())) == [6, 7, 8]


def test_the_last_token_is_not_read_for_nothing(scheduler):
    decoder = Counting()
    assert list(generator(decoder).generate([1, 5], NOTHING, 3, scheduler.stream())) == [6, 7, 8]
    assert decoder.calls == [2, 1, 1]


def test_what_is_before_the_audio_is_read_by_itself_and_the_rest_in_portions(scheduler):
    decoder = Counting()
    audio = np.ones((150, 4), np.float32)
    list(generator(decoder).generate([1, 2, 3, *[AUDIO] * 150, 4], audio, 1, scheduler.stream()))
    assert decoder.calls == [3, CHUNK, CHUNK, 151 - 2 * CHUNK]


def test_only_what_differs_is_read_again(scheduler):
    decoder = Counting()
    made = generator(decoder)
    audio = np.arange(40, dtype=np.float32).reshape(10, 4)
    ids = [1, 2, *[AUDIO] * 10, 4]
    list(made.generate(ids, audio, 3, scheduler.stream()))
    decoder.calls.clear()
    # The same, with tokens that were generated before: of those the last had not been read.
    list(made.generate([*ids, 5, 6], audio, 1, scheduler.stream()))
    assert decoder.calls == [1]
    decoder.calls.clear()
    # The same again: the last row is read, for its answer.
    list(made.generate([*ids, 5, 6], audio, 1, scheduler.stream()))
    assert decoder.calls == [1]
    decoder.calls.clear()
    changed = audio.copy()
    changed[6] += 1
    list(made.generate(ids, changed, 1, scheduler.stream()))
    assert decoder.calls == [len(ids) - 2 - 6]
    assert decoder.read[8] == (AUDIO, changed[6].tolist())


def test_a_prompt_without_the_audio_it_speaks_of_is_refused(scheduler):
    with pytest.raises(EngineError, match="2 places for 1 rows"):
        list(generator(Counting()).generate([1, AUDIO, AUDIO], np.ones((1, 4), np.float32), 1, scheduler.stream()))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_no_word_is_made_of_what_is_no_number(wrong, scheduler):
    decoder = Counting()
    decoder.prefill = lambda *_: setattr(decoder, "logits", np.full(100, wrong, np.float32))
    with pytest.raises(EngineError, match="NaN or infinity"):
        list(generator(decoder).generate([1], NOTHING, 1, scheduler.stream()))


def test_a_cancelled_call_leaves_what_was_read(scheduler):
    decoder = Counting()
    made = generator(decoder)
    stream = scheduler.stream()
    tokens = made.generate([1, 5], NOTHING, 9, stream)
    assert [next(tokens), next(tokens)] == [6, 7]
    stream.cancel()
    with pytest.raises(Cancelled):
        next(tokens)
    decoder.calls.clear()
    assert list(made.generate([1, 5, 6, 7], NOTHING, 2, scheduler.stream())) == [8, 9]
    assert decoder.calls == [1, 1]


def test_sounds_come_between_the_steps_of_any_number_of_decodings():
    """Long ones are not overdue, or two of them would have the device for themselves."""
    now = 0.0
    ran = []

    def spend():
        nonlocal now
        now += 0.25
        ran.append("step")
        # The other decoding has queued its next step by then.
        time.sleep(0.005)

    scheduler = Scheduler(clock=lambda: now)
    go_on = threading.Event()
    scheduler.stream().submit(go_on.wait, at_s=0.0)
    streams = [scheduler.stream(), scheduler.stream()]
    threads = [
        threading.Thread(
            target=lambda stream=stream: list(generator(Counting(spend)).generate([1, 5], NOTHING, 40, stream))
        )
        for stream in streams
    ]
    for thread in threads:
        thread.start()
    go_on.set()
    places = []
    for _ in range(3):
        # Long after both began.
        while len(ran) < 4 * PATIENCE_S / 0.25 * (len(places) + 1) and any(thread.is_alive() for thread in threads):
            time.sleep(0.001)
        before = len(ran)
        scheduler.stream().submit(lambda: ran.append("sound"), at_s=0.0).result(timeout=10)
        places.append(ran.index("sound", before) - before)
    for thread in threads:
        thread.join(10)
    scheduler.close()
    assert ran.count("sound") == 3
    # One step is under way, and perhaps another has begun.
    assert max(places) <= 3


def test_a_cache_grows_and_forgets():
    cache = KvCache([(2, 3), (5,)])
    random = np.random.default_rng(0)
    whole = [random.normal(size=(600, *shape)).astype(np.float32) for shape in ((2, 3), (5,))]
    for begin, end in pairwise((0, 1, 200, 257, 600)):
        cache.append([array[begin:end] for array in whole])
        assert cache.length == end
        for view, array in zip(cache.views(), whole, strict=True):
            assert view.flags.c_contiguous
            np.testing.assert_array_equal(view, array[:end])
    cache.truncate(100)
    cache.truncate(300)
    assert cache.length == 100
    cache.append([array[100:101] for array in whole])
    np.testing.assert_array_equal(cache.views()[0], whole[0][:101])


def test_an_empty_cache_shows_zeros_where_a_graph_wants_a_row():
    for view in KvCache([(2, 3)]).views(minimum=1):
        assert view.shape == (1, 2, 3)
        assert not view.any()
