import threading
import time

import numpy as np
import pytest

from wyoming_rknn.errors import Cancelled, EngineError
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.text.sentences import FLUSH_AFTER_S, SentenceSplitter
from wyoming_rknn.tts.engine import Prosody, Voice
from wyoming_rknn.tts.narrator import Manner, Narrator, TextFeed

RATE_HZ = 1000
WINDOW = 100
WAIT_S = 10.0
VOICE = Voice("tester", ("en-US", "en"), "for tests", RATE_HZ)
STORY = "The first one is here. Then comes the second one. The third one is the last."
SENTENCES = ["The first one is here.", "Then comes the second one.", "The third one is the last."]


class Engine:
    """Speaks each sentence as two windows whose samples are the number of the sentence; notes what it is asked."""

    def __init__(self, windows=2):
        self.requests = []
        self.log = []
        self._windows = windows

    def speak(self, request, stream):
        self.requests.append(request)
        number = len(self.requests)
        self.log.append(f"ask {number}")
        if request.text.startswith("Fail"):
            raise EngineError("it broke")
        return self._play(number, stream)

    def _play(self, number, stream):
        stream.reserve(self._windows * WINDOW / RATE_HZ)
        for window in range(self._windows):
            stream.check()
            self.log.append(f"give {number}.{window}")
            yield np.full(WINDOW, number, np.float32)


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def stream():
    scheduler = Scheduler()
    yield scheduler.stream()
    scheduler.close(WAIT_S)


def feed(*texts, ended=True, **kwargs):
    made = TextFeed("en-US", **kwargs)
    for text in texts:
        made.write(text)
    if ended:
        made.end()
    return made


def all_of(text_feed):
    passages = []
    while (passage := text_feed.next()) is not None:
        passages.append(passage)
    return passages


def texts(text_feed):
    return [passage.text for passage in all_of(text_feed)]


def runs(audio):
    """Return [value, samples] for each run of equal samples."""
    samples = np.concatenate([np.zeros(0, np.float32), *audio])
    edges = np.flatnonzero(np.diff(samples)) + 1
    return [[int(run[0]), run.size] for run in np.split(samples, edges) if run.size]


def narrate(engine, stream, text_feed, voice=VOICE, **manner):
    return runs(Narrator(engine, voice, Manner(**manner), stream).narrate(text_feed))


class TestTextFeed:
    def test_a_whole_text_comes_as_sentences(self):
        assert texts(feed(STORY)) == SENTENCES

    def test_it_does_not_matter_how_the_text_arrives(self):
        assert texts(feed(*STORY)) == SENTENCES
        assert texts(feed(STORY[:7], "", STORY[7:])) == SENTENCES

    def test_nothing_gives_nothing_and_the_end_stays_the_end(self):
        nothing = feed()
        assert [nothing.next(), nothing.next(), nothing.poll()] == [None, None, None]
        assert texts(feed("", "")) == []

    def test_the_end_may_be_told_twice(self):
        made = feed(STORY)
        made.end()
        assert texts(made) == SENTENCES
        assert made.next() is None

    def test_poll_never_waits(self):
        made = feed("Only half a sen", ended=False)
        assert made.poll() is None
        made.write("tence. And more")
        assert made.poll().text == "Only half a sentence."
        assert made.poll() is None
        made.end()
        assert made.poll().text == "And more"
        assert made.poll() is None

    def test_next_waits_for_the_text(self):
        made = feed(ended=False)
        threading.Timer(0.05, lambda: (made.write("Here I am. Then"), made.end())).start()
        assert texts(made) == ["Here I am.", "Then"]

    def test_a_sentence_at_the_end_of_the_text_is_spoken_when_the_text_pauses(self):
        made = feed("A whole sentence.", ended=False)
        rescue = threading.Timer(WAIT_S, made.end)
        rescue.start()
        begin = time.monotonic()
        assert made.next().text == "A whole sentence."
        assert FLUSH_AFTER_S * 0.9 < time.monotonic() - begin < FLUSH_AFTER_S + 5
        rescue.cancel()
        made.write(" Another one.")
        made.end()
        assert texts(made) == ["Another one."]

    def test_poll_notices_the_pause_too(self):
        made = feed("A whole sentence.", ended=False)
        assert made.poll() is None
        time.sleep(FLUSH_AFTER_S * 1.2)
        assert made.poll().text == "A whole sentence."

    def test_a_long_text_gives_its_first_sentence_before_all_of_it_is_split(self, monkeypatch):
        taken = 0

        split = SentenceSplitter.feed

        def count(splitter, text):
            nonlocal taken
            taken += len(text)
            return split(splitter, text)

        monkeypatch.setattr(SentenceSplitter, "feed", count)
        made = feed(STORY * 1000)
        assert made.next().text == SENTENCES[0]
        assert taken <= 1000

    def test_ssml_is_read_when_it_is_whole(self):
        made = feed(
            "<speak>One thing. <break time='500", "ms'/><prosody rate='200%'>Two</prosody>", is_ssml=True, ended=False
        )
        assert made.poll() is None
        made.write("</speak>")
        made.end()
        one, two = all_of(made)
        assert (one.text, one.rate, one.pause_s) == ("One thing.", 1.0, 0.0)
        assert (two.text, two.rate, two.pause_s) == ("Two", 2.0, 0.5)

    def test_a_passage_of_several_sentences_pauses_once(self):
        made = feed(f"<speak><break time='1s'/>{STORY}<break time='2s'/></speak>", is_ssml=True)
        assert [(passage.text, passage.pause_s) for passage in all_of(made)] == [
            (SENTENCES[0], 1.0),
            (SENTENCES[1], 0.0),
            (SENTENCES[2], 0.0),
            ("", 2.0),
        ]


class TestNarrator:
    def test_sentences_are_spoken_in_order(self, engine, stream):
        assert narrate(engine, stream, feed(STORY)) == [[1, 200], [2, 200], [3, 200]]
        assert [request.text for request in engine.requests] == SENTENCES
        assert {request.voice for request in engine.requests} == {"tester"}

    def test_silence_lies_between_sentences_exactly(self, engine, stream):
        spoken = narrate(engine, stream, feed(STORY), sentence_silence_s=0.123)
        assert spoken == [[1, 200], [0, 123], [2, 200], [0, 123], [3, 200]]

    def test_what_cannot_be_said_makes_no_pause(self, engine, stream):
        silent = feed("---\n\n🙂\n\nHello there.\n\n🙂\n\n***\n\nGood bye then.\n\n🙂")
        assert narrate(engine, stream, silent, sentence_silence_s=0.05) == [[1, 200], [0, 50], [2, 200]]
        for nothing in ("", " ", "\n", "🙂", "\ud800", "\x00\x07"):
            assert narrate(Engine(), stream, feed(nothing), sentence_silence_s=0.05) == []

    def test_an_engine_may_have_nothing_to_say(self, stream):
        assert narrate(Engine(windows=0), stream, feed(STORY)) == []

    def test_the_next_sentence_is_encoded_while_this_one_is_decoded(self, engine, stream):
        narrate(engine, stream, feed(STORY))
        assert engine.log == [
            "ask 1", "give 1.0", "ask 2", "give 1.1", "give 2.0", "ask 3", "give 2.1", "give 3.0", "give 3.1",
        ]  # fmt: skip

    def test_what_comes_next_is_not_begun_before_this_sentence_sounds(self, engine, stream):
        list(Narrator(engine, VOICE, Manner(sentence_silence_s=0.2), stream).narrate(feed(STORY)))
        for sentence in (1, 2):
            assert engine.log.index(f"ask {sentence + 1}") > engine.log.index(f"give {sentence}.0")

    def test_a_sentence_that_arrives_while_another_is_spoken_is_encoded_at_once(self, engine, stream):
        arriving = feed("The first one is here. Th", ended=False)
        audio = Narrator(engine, VOICE, Manner(), stream).narrate(arriving)
        next(audio)
        assert engine.log == ["ask 1", "give 1.0"]
        arriving.write("e second one. And")
        next(audio)
        next(audio)
        assert engine.log == ["ask 1", "give 1.0", "ask 2", "give 1.1", "give 2.0"]
        arriving.end()
        assert runs(audio) == [[2, 100], [3, 200]]

    def test_positions_on_the_stream_follow_the_audio(self, engine, stream):
        narrate(engine, stream, feed(STORY), sentence_silence_s=0.05)
        assert stream.reserved_s == pytest.approx(0.7)

    def test_ssml_pauses_and_rates(self, engine, stream):
        text = "<speak>One. <break time='300ms'/><prosody rate='200%'>Two.</prosody><break time='50ms'/></speak>"
        assert narrate(engine, stream, feed(text, is_ssml=True), sentence_silence_s=0.02) == [
            [1, 200],
            [0, 320],
            [2, 200],
            [0, 50],
        ]
        assert [request.prosody.length_scale for request in engine.requests] == [1.0, 0.5]

    def test_the_replys_prosody_goes_to_every_sentence(self, engine, stream):
        text = "<speak>One. <prosody rate='200%'>Two.</prosody></speak>"
        narrate(engine, stream, feed(text, is_ssml=True), prosody=Prosody(3.0, 0.25, 0.0))
        assert [request.prosody for request in engine.requests] == [Prosody(3.0, 0.25, 0.0), Prosody(1.5, 0.25, 0.0)]

    def test_a_break_alone_is_silence(self, engine, stream):
        assert narrate(engine, stream, feed("<speak><break time='1s'/></speak>", is_ssml=True)) == [[0, 1000]]
        assert engine.requests == []

    def test_the_speaker_is_told(self, engine, stream):
        narrate(engine, stream, feed("Hello there."), speaker="anna")
        assert engine.requests[0].speaker == "anna"

    def test_text_is_made_speakable_in_the_voices_language(self, engine, stream):
        german = Voice("tester", ("de-DE",), "", RATE_HZ)
        narrate(engine, stream, feed("**Es** sind 3 Katzen."), voice=german)
        assert engine.requests[0].text == "Es sind drei Katzen."

    @pytest.mark.parametrize(("reads", "text"), [(True, "Say [[h 2]] now."), (False, "Say [[h two]] now.")])
    def test_phonemes_stay_for_who_reads_them(self, engine, stream, reads, text):
        voice = Voice("tester", ("en-US",), "", RATE_HZ, reads_phonemes=reads)
        narrate(engine, stream, feed("Say [[h 2]] now."), voice=voice)
        assert engine.requests[0].text == text

    def test_a_cancelled_reply_ends(self, engine, stream):
        audio = Narrator(engine, VOICE, Manner(), stream).narrate(feed(STORY))
        next(audio)
        stream.cancel()
        with pytest.raises(Cancelled):
            list(audio)
        assert len(engine.requests) <= 2

    def test_cancelling_ends_who_waits_for_text(self, engine, stream):
        waiting = feed(ended=False)
        results = []
        thread = threading.Thread(
            target=lambda: results.extend(Narrator(engine, VOICE, Manner(), stream).narrate(waiting))
        )
        thread.start()
        stream.cancel()
        waiting.end()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert results == []

    def test_what_an_engine_raises_comes_after_the_audio_before_it(self, engine, stream):
        audio = Narrator(engine, VOICE, Manner(), stream).narrate(feed("The first one is here. Fail in the second."))
        heard = [next(audio)]
        with pytest.raises(EngineError, match="it broke"):
            heard.extend(audio)
        assert heard[0].size == WINDOW
