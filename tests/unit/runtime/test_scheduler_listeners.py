"""Many listeners at once, in simulated time: who starts when, and does anybody run dry?"""

import heapq
import itertools
import threading
from dataclasses import dataclass, field

import pytest

from wyoming_rknn.runtime.scheduler import PATIENCE_S, Scheduler
from wyoming_rknn.tts.piper.windows import Growth, plan

FRAME_S = 256 / 22050
AHEAD = 2


class World:
    """A clock that computations move, and things that happen at given times, also during a computation."""

    def __init__(self):
        self.now = 0.0
        self.scheduler = Scheduler(clock=lambda: self.now)
        self._plans = []
        self._numbers = itertools.count()
        self._pending = 0
        self._idle = threading.Condition()

    def at(self, time_s, action):
        heapq.heappush(self._plans, (time_s, next(self._numbers), action))

    def submit(self, stream, cost_s, at_s, then):
        """Queue a computation; `then` is called in the device's own thread, so all happens in one order."""

        def done(future):
            future.result()
            then()
            with self._idle:
                self._pending -= 1
                self._idle.notify_all()

        with self._idle:
            self._pending += 1
        stream.submit(lambda: self._compute(cost_s), at_s=at_s).add_done_callback(done)

    def run(self):
        while True:
            with self._idle:
                assert self._idle.wait_for(lambda: self._pending == 0, 20)
            if not self._plans:
                break
            # Once the device is idle time leaps; what happens at one moment is queued before it goes on.
            self.scheduler.stream().submit(self._leap, at_s=0).result(20)
        assert self.scheduler.close(20)

    def _leap(self):
        time_s = self._plans[0][0]
        while self._plans and self._plans[0][0] <= time_s:
            self.now, _, action = heapq.heappop(self._plans)
            action()

    def _compute(self, cost_s):
        end = self.now + cost_s
        while self._plans and self._plans[0][0] <= end:
            self.now, _, action = heapq.heappop(self._plans)
            action()
        self.now = end


@dataclass(frozen=True)
class Sentence:
    first_job_s: float
    windows: tuple  # (seconds of audio, seconds of computing) each
    text_gap_s: float = 0.0
    """How long after the end of the sentence before its text arrives; 0: it is there all the time."""

    @property
    def audio_s(self):
        return sum(audio_s for audio_s, _ in self.windows)

    @property
    def cost_s(self):
        return self.first_job_s + sum(cost_s for _, cost_s in self.windows)


def sentence(seconds, first_job_s, cost_s, growth=Growth(), **kwargs):  # noqa: B008 - frozen
    """Return a sentence in windows that grow; `cost_s` tells what a window of so many seconds costs."""
    frames = round(seconds / FRAME_S)
    lengths = [window.frames * FRAME_S for window in plan(frames, 11, growth)]
    return Sentence(first_job_s, tuple((length, cost_s(length)) for length in lengths), **kwargs)


@dataclass
class Listener:
    """A request as the narrator makes it: two windows ahead, the next sentence encoded while this one is decoded."""

    world: World
    arrival_s: float
    sentences: list
    first_s: float | None = None
    dry_s: float = 0.0
    played_until_s: float = 0.0
    encoded: set = field(default_factory=set)
    current: int = -1

    def __post_init__(self):
        self.world.at(self.arrival_s, self.arrive)

    @property
    def latency_s(self):
        return self.first_s - self.arrival_s

    def arrive(self):
        self.stream = self.world.scheduler.stream()
        self.encode(0)

    def encode(self, number):
        job_s = self.sentences[number].first_job_s
        self.world.submit(self.stream, job_s, self.stream.reserved_s, lambda: self.have_encoded(number))

    def have_encoded(self, number):
        self.encoded.add(number)
        if self.current == -1:
            self.decode(number)

    def decode(self, number):
        self.current = number
        begin_s = self.stream.reserve(self.sentences[number].audio_s)
        positions = itertools.accumulate((audio_s for audio_s, _ in self.sentences[number].windows), initial=begin_s)
        self.waiting = list(zip(positions, self.sentences[number].windows, strict=False))
        self.left = len(self.waiting)
        for _ in range(AHEAD):
            self.next_window()

    def next_window(self):
        if self.waiting:
            at_s, (audio_s, cost_s) = self.waiting.pop(0)
            self.world.submit(self.stream, cost_s, at_s, lambda: self.deliver(audio_s))

    def deliver(self, audio_s):
        now = self.world.now
        begun = self.left == len(self.sentences[self.current].windows)
        following = self.current + 1 if self.current + 1 < len(self.sentences) else None
        if self.first_s is None:
            self.first_s = self.played_until_s = now
            self.stream.started()
        if begun and self.sentences[self.current].text_gap_s:
            self.played_until_s = max(self.played_until_s, now)
        self.dry_s += max(0.0, now - self.played_until_s)
        self.played_until_s = max(self.played_until_s, now) + audio_s
        if begun and following is not None:
            if gap_s := self.sentences[following].text_gap_s:
                end_s = self.played_until_s + self.sentences[self.current].audio_s - audio_s
                self.world.at(end_s + gap_s, lambda: self.encode(following))
            else:
                self.encode(following)
        self.left -= 1
        self.next_window()
        if self.left == 0:
            self.current = -1
            if following in self.encoded:
                self.decode(following)


def listen(*requests):
    """Run requests (arrival, sentences) and return their listeners."""
    world = World()
    listeners = [Listener(world, 10 + arrival_s, sentences) for arrival_s, sentences in requests]
    world.run()
    assert all(listener.left == 0 and not listener.waiting for listener in listeners)
    return listeners


def load(sentences, count):
    return count * sum(each.cost_s for each in sentences) / sum(each.audio_s for each in sentences)


def medium(audio_s):
    # What a window of a medium voice costs on two x86 cores: 11 ms for 0.19 s, 20 for 0.37, 47 for 1.5.
    return 0.006 + 0.033 * audio_s


REQUESTS = {
    "35 ms, then windows of 20 ms": [sentence(6, 0.035, lambda _: 0.020)] * 3,
    "windows that do not grow": [sentence(6, 0.035, lambda _: 0.020, Growth(16, 1.0))] * 2,
    "a medium voice": [sentence(6, 0.029, medium)] * 3,
    "short sentences": [sentence(1.5, 0.009, medium)] * 6,
    "one short sentence": [sentence(0.8, 0.009, medium)],
    "a voice that cannot be cut": [Sentence(0.3, ((6.0, 0.0001),))] * 3,
}


def test_one_listener_starts_after_the_first_job_and_window():
    (listener,) = listen((0, REQUESTS["a medium voice"]))
    assert listener.latency_s == pytest.approx(0.029 + medium(16 * FRAME_S))
    assert listener.dry_s == 0


@pytest.mark.parametrize("gap_s", [0.0, 0.001, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_eight_listeners_start_soon_and_none_runs_dry(request_name, gap_s):
    sentences = REQUESTS[request_name]
    assert load(sentences, 8) < 1
    (single,) = listen((0, sentences))
    listeners = listen(*((number * gap_s, sentences) for number in range(8)))
    assert max(listener.latency_s for listener in listeners) <= 8 * single.latency_s + 1e-9
    assert [listener.dry_s for listener in listeners] == [0] * 8


def test_newcomers_disturb_nobody_who_listens_and_do_not_starve():
    # Somebody comes every quarter of a second, for a load of almost 1 in the long run.
    sentences = [sentence(3, 0.03, lambda audio_s: 0.01 + 0.04 * audio_s)] * 2
    assert 0.85 < sum(each.cost_s for each in sentences) / 0.4 < 1
    listeners = listen(*((number * 0.4, sentences) for number in range(60)))
    assert sum(listener.dry_s for listener in listeners) == 0
    assert max(listener.latency_s for listener in listeners) < PATIENCE_S


def test_after_a_pause_in_the_text_others_do_not_wait_until_all_is_caught_up():
    # A slow machine: a quarter of the time goes into one listener.
    def cost_s(audio_s):
        return 0.03 + 0.2 * audio_s

    def newcomer_s(gap_s):
        talker = [sentence(3, 0.1, cost_s), sentence(20, 0.1, cost_s, text_gap_s=gap_s)]
        newcomer = [sentence(1, 0.1, cost_s)]
        # Until the text goes on the talker has heard 3 s and waited.
        return listen((0, talker), (0.17 + 3 + gap_s + 0.5, newcomer))[1].latency_s

    assert newcomer_s(20) <= newcomer_s(1) + 0.05 < 0.7
