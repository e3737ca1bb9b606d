import logging
import threading
import time

import numpy as np
import pytest

from wyoming_rknn.asr.engine import RATE_HZ, Piece, Transcript
from wyoming_rknn.asr.feed import AudioFeed
from wyoming_rknn.asr.listener import KEPT_S, Listener, Listening
from wyoming_rknn.errors import Cancelled, EngineError, ModelInvalid
from wyoming_rknn.runtime.scheduler import Scheduler

PATIENCE_S = 20.0
CHUNK = 512
CHUNK_S = CHUNK / RATE_HZ
LOUD, QUIET = 0.5, 0.0


class Loudness:
    """A detector that takes everything loud for speech."""

    def __init__(self):
        self.frames = 0

    def probability(self, frame):
        assert frame.shape == (CHUNK,)
        self.frames += 1
        return 0.95 if np.abs(frame).mean() > 0.1 else 0.02


class Session:
    """Hears how many samples it was given: transcripts are words, one per tenth of a second of loud audio."""

    def __init__(self, engine):
        self.engine = engine
        self.audio = np.zeros(0, np.float32)
        self.closed = False

    def accept(self, samples):
        self.audio = np.concatenate((self.audio, samples))

    def partial(self, stream):
        self.engine.partials += 1
        return self._decode(stream, 0.0)

    def finish(self, stream):
        number = self.engine.finishes = self.engine.finishes + 1
        self.engine.begun.set()
        if number in self.engine.failing:
            raise EngineError("the scripted failure")
        return self._decode(stream, self.engine.decode_s)

    def close(self):
        self.closed = True

    def _decode(self, stream, seconds):
        def work():
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                stream.check()
                time.sleep(0.002)
            loud = np.abs(self.audio.reshape(-1)) > 0.1
            step = RATE_HZ // 10
            words = [number for number in range(loud.size // step) if loud[number * step : (number + 1) * step].all()]
            return Transcript(tuple(Piece(f" w{number}", number / 10) for number in words), "en")

        return stream.submit(work, at_s=0.0).result()


class Engine:
    def __init__(self, decode_s=0.0, failing=()):
        self.decode_s = decode_s
        self.failing = failing
        self.sessions = []
        self.finishes = 0
        self.partials = 0
        self.begun = threading.Event()

    def open(self):
        self.sessions.append(Session(self))
        return self.sessions[-1]


class Feed(AudioFeed):
    """A feed that knows when its listener has nothing left to do."""

    def __init__(self, clock):
        super().__init__(clock)
        self.idle = threading.Semaphore(0)

    def take(self, at_least):
        self.idle.release()
        return super().take(at_least)


class Ear:
    """A listener at work on a thread of its own, spoken to chunk by chunk, in real time by a clock of its own."""

    def __init__(self, engine=None, *, live=True, **listening):
        self.engine = engine or Engine()
        self.now = 0.0
        self.live = live
        self.feed = Feed(lambda: self.now)
        self.detector = Loudness()
        self.told = []
        self.scheduler = Scheduler()
        self.heard = self.failure = None
        self.listener = Listener(
            self.engine.open, self.scheduler, Listening(**listening), self.detector, self.told.append, lambda: self.now
        )
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        assert self.feed.idle.acquire(timeout=PATIENCE_S)

    def _listen(self):
        try:
            self.heard = self.listener.listen(self.feed)
        except BaseException as error:
            self.failure = error
        self.feed.idle.release()

    def say(self, seconds, value=LOUD):
        for _ in range(round(seconds / CHUNK_S)):
            if self.heard is not None:
                return self
            if self.live:
                self.now += CHUNK_S
            self.feed.write(np.full(CHUNK, value, np.float32))
            assert self.feed.idle.acquire(timeout=PATIENCE_S)
            # The clock stands still while it computes.
            if self.listener._partial is not None:
                self.listener._partial.future.exception(PATIENCE_S)
        return self

    def pause(self, seconds):
        return self.say(seconds, QUIET)

    def settle(self, finishes):
        """Wait until so many decodings are done, none of which anybody has asked for."""
        end = time.monotonic() + PATIENCE_S
        while self.engine.finishes < finishes or not self.listener._attempt.future.done():
            assert time.monotonic() < end
            time.sleep(0.002)
        return self

    def end(self):
        self.feed.end()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        assert self.scheduler.close(PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        self.check_closed()
        return self.heard

    def check_closed(self):
        end = time.monotonic() + PATIENCE_S
        while not all(session.closed for session in self.engine.sessions):
            assert time.monotonic() < end
            time.sleep(0.002)


def words(first, last):
    return " ".join(f"w{number}" for number in range(first, last))


def test_the_text_is_there_before_it_is_asked_for():
    ear = Ear().say(0.64).pause(0.32).settle(1).pause(0.32)
    heard = ear.end()
    assert heard.ahead
    assert heard.text == words(0, 6)
    assert heard.transcript.language == "en"
    assert ear.engine.finishes == 1


def test_a_pause_too_short_to_mean_anything_is_not_decoded():
    ear = Ear().say(0.64).pause(0.096)
    assert ear.engine.finishes == 0
    assert not ear.end().ahead


def test_what_was_decoded_is_thrown_away_if_the_speaker_goes_on():
    ear = Ear().say(0.64).pause(0.32).settle(1).say(0.64).pause(0.32).settle(2)
    heard = ear.end()
    assert heard.ahead
    assert heard.text == f"{words(0, 6)} {words(10, 16)}"
    assert ear.engine.finishes == 2


def test_speech_up_to_the_very_end_is_heard():
    ear = Ear().say(0.64).pause(0.32).settle(1).say(0.32)
    heard = ear.end()
    assert not heard.ahead
    assert heard.text == f"{words(0, 6)} {words(10, 12)}"
    assert ear.engine.finishes == 2


def test_speech_within_the_last_torn_frame_is_heard():
    ear = Ear().say(0.64).pause(0.32).settle(1).say(0.32)
    ear.feed.write(np.full(CHUNK - 1, LOUD, np.float32))
    assert ear.end().text == f"{words(0, 6)} {words(10, 13)}"


def test_a_running_decoding_is_waited_for_and_not_begun_anew():
    ear = Ear(Engine(decode_s=0.3)).say(0.64).pause(0.32)
    assert ear.engine.begun.wait(PATIENCE_S)
    heard = ear.end()
    assert heard.text == words(0, 6)
    assert ear.engine.finishes == 1


def test_a_decoding_that_nobody_waits_for_is_interrupted():
    ear = Ear(Engine(decode_s=3600.0)).say(0.64).pause(0.32)
    assert ear.engine.begun.wait(PATIENCE_S)
    ear.engine.decode_s = 0.0
    ear.say(0.32)
    assert ear.end().text == f"{words(0, 6)} {words(10, 12)}"


def test_a_file_is_decoded_once_at_its_end():
    ear = Ear(live=False).say(0.64).pause(0.64).say(0.64).pause(0.64)
    assert ear.end().text
    assert ear.engine.finishes == 1


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.64, 30.0])
def test_c20_silence_is_never_decoded(seconds):
    ear = Ear().pause(seconds)
    heard = ear.end()
    assert heard.text == ""
    assert heard.news == ""
    assert ear.engine.finishes == ear.engine.partials == 0
    assert heard.audio_s == pytest.approx(seconds, abs=CHUNK_S)


def test_silence_does_not_pile_up():
    ear = Ear().pause(3 * KEPT_S)
    kept = sum(samples.size for samples in ear.listener._early)
    assert kept <= KEPT_S * RATE_HZ + CHUNK
    ear.end()


@pytest.mark.parametrize("chunk", [CHUNK, 7 * CHUNK + 13, 10**6])
def test_what_is_kept_from_before_the_first_word_is_the_same_however_it_comes(chunk):
    ear = Ear(live=False)
    audio = np.concatenate(
        [
            np.full(round(seconds / CHUNK_S) * CHUNK, value, np.float32)
            for seconds, value in ((12.0, QUIET), (0.64, LOUD))
        ]
    )
    for begin in range(0, audio.size, chunk):
        ear.feed.write(audio[begin : begin + chunk])
        assert ear.feed.idle.acquire(timeout=PATIENCE_S)
    heard = ear.end()
    kept = ear.engine.sessions[0].audio
    assert kept.size - np.flatnonzero(kept)[0] == 20 * CHUNK
    # Two frames of speech are enough for this detector, and belong to the ten seconds.
    assert np.flatnonzero(kept)[0] in (KEPT_S * RATE_HZ - CHUNK, KEPT_S * RATE_HZ - 2 * CHUNK)
    assert heard.audio_s == pytest.approx(audio.size / RATE_HZ)


def test_a_detector_that_hesitates_hears_the_last_word_too():
    class Hesitant(Loudness):
        """Sure of what it heard four frames ago."""

        def __init__(self):
            super().__init__()
            self.opinions = [0.0] * 4

        def probability(self, frame):
            self.opinions.append(super().probability(frame))
            return self.opinions[-5]

    ear = Ear()
    ear.listener._detector = Hesitant()
    assert ear.say(0.128).end().text == "w0"


def test_speech_after_long_silence_is_heard_with_times_from_the_beginning():
    heard = Ear().pause(30.4).say(0.64).end()
    assert len(heard.transcript.pieces) >= 5
    assert heard.transcript.pieces[0].begin_s == pytest.approx(30.4, abs=0.1)
    assert heard.audio_s == pytest.approx(31.04, abs=CHUNK_S)


def test_all_audio_from_the_beginning_reaches_the_engine():
    ear = Ear(live=False).pause(2.0).say(0.64).pause(0.64)
    ear.end()
    audio = ear.engine.sessions[0].audio
    assert audio.size == sum(round(seconds / CHUNK_S) for seconds in (2.0, 0.64, 0.64)) * CHUNK


def test_after_the_end_only_as_much_is_looked_at_as_is_needed():
    ear = Ear(live=False).say(0.64)
    looked_at = ear.detector.frames
    # Both at once, as a file comes over the network.
    with ear.feed._changed:
        ear.feed._waiting.append(np.full(1000 * CHUNK, LOUD, np.float32))
        ear.feed._samples += 1000 * CHUNK
        ear.feed._ended_at = 0.0
        ear.feed._changed.notify()
    assert len(ear.end().transcript.pieces) == pytest.approx(326, abs=1)
    assert ear.detector.frames == looked_at


def test_c24_beyond_the_longest_utterance_the_text_of_what_fits(caplog):
    ear = Ear(longest_s=0.512).say(0.64)
    heard = ear.settle(1).say(0.64).end()
    assert heard.text == words(0, 5)
    assert heard.ahead
    assert heard.audio_s == pytest.approx(0.512)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "--max-utterance" in warnings[0].getMessage()


def test_c28_own_end_pointing_answers_before_the_audio_ends():
    ear = Ear(endpointing_s=0.5).say(0.64).pause(0.32).settle(1).pause(0.32)
    ear.thread.join(PATIENCE_S)
    assert ear.heard.text == words(0, 6)
    assert ear.heard.ahead


def test_c28_own_end_pointing_gives_up_when_nobody_speaks():
    ear = Ear(endpointing_s=0.5).pause(15.1)
    ear.thread.join(PATIENCE_S)
    assert ear.heard.text == ""


def test_without_own_end_pointing_silence_ends_nothing():
    ear = Ear().say(0.64).pause(20)
    assert ear.heard is None
    assert ear.end().text == words(0, 6)


def test_partials_tell_what_is_certain_and_add_up():
    ear = Ear(partial_interval_s=0.3).say(3.2)
    heard = ear.end()
    assert ear.engine.partials >= 3
    assert len(ear.told) >= 1
    assert "".join(ear.told) + heard.news == heard.text == words(0, 32)


def test_partials_are_not_made_when_nobody_wants_them():
    ear = Ear().say(3.2)
    ear.end()
    assert ear.engine.partials == 0
    assert not ear.told


def test_partials_of_a_file_are_not_made():
    ear = Ear(partial_interval_s=0.3, live=False).say(3.2)
    assert ear.end().news == words(0, 32)
    assert ear.engine.partials == 0


@pytest.mark.parametrize(("full_stop", "text"), [(True, "Yes."), (False, "Yes")])
def test_the_full_stop_may_be_left_out(full_stop, text):
    class Dotted(Session):
        def finish(self, stream):
            return Transcript((Piece(" Yes", 0.0), Piece(".", 0.2)))

    class Polite(Engine):
        def open(self):
            self.sessions.append(Dotted(self))
            return self.sessions[-1]

    heard = Ear(Polite(), full_stop=full_stop).say(0.64).end()
    assert heard.text == heard.news == text


def test_an_engine_that_fails_fails_the_utterance():
    with pytest.raises(EngineError, match="scripted"):
        Ear(Engine(failing={1})).say(0.64).end()


def test_a_failure_ahead_of_time_is_made_up_for():
    ear = Ear(Engine(failing={1})).say(0.64).pause(0.32).settle(1)
    heard = ear.end()
    assert heard.text == words(0, 6)
    assert not heard.ahead


def test_a_model_that_cannot_be_loaded_fails_the_utterance():
    class Broken(Engine):
        def open(self):
            raise ModelInvalid("the model is broken")

    with pytest.raises(ModelInvalid, match="broken"):
        Ear(Broken()).say(0.64).end()


def test_audio_that_cannot_be_taken_in_fails_the_utterance():
    class Deaf(Session):
        def accept(self, samples):
            raise EngineError("cannot hear")

    class Impaired(Engine):
        def open(self):
            self.sessions.append(Deaf(self))
            return self.sessions[-1]

    with pytest.raises(EngineError, match="cannot hear"):
        Ear(Impaired()).say(0.64).end()


def test_the_engine_hears_nothing_that_was_not_said():
    ear = Ear().say(0.64)
    ear.feed.write(np.full(100, LOUD, np.float32))
    ear.end()
    assert ear.engine.sessions[0].audio.size == 20 * CHUNK + 100


def test_c29_nobody_who_left_is_waited_for():
    ear = Ear(Engine(decode_s=3600.0)).say(0.64)
    ear.feed.end()
    assert ear.engine.begun.wait(PATIENCE_S)
    ear.feed.cancel()
    with pytest.raises(Cancelled):
        ear.end()
    ear.check_closed()
