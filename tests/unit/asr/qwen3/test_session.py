"""What a session makes of audio that arrives: nothing is lost, nothing is decided twice."""

import numpy as np
import pytest
from qwen3_doubles import continued, counted, numbers_in, oracle

from wyoming_rknn.asr.engine import RATE_HZ, Bias
from wyoming_rknn.asr.qwen3.prompt import Context
from wyoming_rknn.asr.qwen3.session import LONGEST_S, Qwen3Session, Streaming
from wyoming_rknn.errors import Cancelled
from wyoming_rknn.runtime.scheduler import Scheduler

HALF = RATE_HZ // 2
LENGTHS_S = (0.5, 1.0, 2.0, 4.0, 5.0, 7.9, 8.0, 8.1, 9.0, 12.0, 16.0, 17.0, 20.0, 24.5, 30.0, 30.1, 31.0, 45.0, 60.0)


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.close()


def expected(seconds):
    return list(range(int(np.ceil(seconds))))


@pytest.mark.parametrize("seconds", LENGTHS_S)
def test_every_second_is_heard_once_in_one_go(seconds, scheduler):
    model, _, _ = oracle()
    session = Qwen3Session(model, None, Bias())
    session.accept(counted(seconds))
    assert numbers_in(session.finish(scheduler.stream()).text) == expected(seconds)


@pytest.mark.parametrize("seconds", LENGTHS_S)
def test_every_second_is_heard_once_while_it_is_spoken(seconds, scheduler):
    model, encoder, _ = oracle()
    session = Qwen3Session(model, None, Bias())
    samples = counted(seconds)
    told = []
    for begin in range(0, samples.size, HALF):
        session.accept(samples[begin : begin + HALF])
        told.append(session.partial(scheduler.stream()).text)
    transcript = session.finish(scheduler.stream())
    assert numbers_in(transcript.text) == expected(seconds)
    assert transcript.language == "en"
    # What is told early is true, and comes to nearly all.
    assert all(transcript.text.startswith(partial) for partial in told)
    assert seconds < 5 or len(told[-1]) >= len(transcript.text) - 16
    # A window is encoded when it is full, and when it is known that nothing changes it any more; but for those that a
    # cut goes through.
    assert encoder.encoded_frames.count(800) <= 2 * (seconds // 8) + 2 * (seconds // 15)


def test_what_cannot_be_cut_at_a_pause_is_heard_all_the_same(scheduler, monkeypatch):
    """Each row of audio is in one of the prompts that count, and no sample is left out where it is cut."""
    model, _, _ = oracle()
    session = Qwen3Session(model, None, Bias())
    samples = counted(2.5 * LONGEST_S, pauses=False)
    session.accept(samples)
    text = session.finish(scheduler.stream()).text
    assert sorted(set(numbers_in(text))) == expected(2.5 * LONGEST_S)
    # A second that was cut is heard on either side.
    assert len(numbers_in(text)) <= len(expected(2.5 * LONGEST_S)) + 2


def test_most_of_a_hypothesis_begins_the_next_one(scheduler):
    model, _, prompts = oracle()
    session = Qwen3Session(model, None, Bias())
    samples = counted(8.0)
    kept = []
    for begin in range(0, samples.size, HALF):
        session.accept(samples[begin : begin + HALF])
        session.partial(scheduler.stream())
        kept.append(len(continued(model.tokenizer, prompts[-1])))
    session.finish(scheduler.stream())
    kept.append(len(continued(model.tokenizer, prompts[-1])))
    # Up to 2 s everything is decided anew.
    assert kept[:4] == [0] * 4
    assert kept[4] > 0
    assert kept == sorted(kept)
    rollback = Streaming().rollback
    whole = len(session._stretch.hypothesis.ids)
    assert whole - rollback >= kept[-1] > whole - 3 * rollback


def test_too_little_new_audio_gives_no_new_hypothesis(scheduler):
    model, _, prompts = oracle()
    session = Qwen3Session(model, None, Bias())
    samples = counted(3.0)
    session.accept(samples[: 2 * RATE_HZ])
    first = session.partial(scheduler.stream())
    session.accept(samples[2 * RATE_HZ : 2 * RATE_HZ + HALF - 1])
    assert session.partial(scheduler.stream()) == first
    assert len(prompts) == 1
    session.accept(samples[2 * RATE_HZ + HALF - 1 :])
    session.partial(scheduler.stream())
    assert len(prompts) == 2


def test_to_finish_again_costs_nothing(scheduler):
    model, encoder, prompts = oracle()
    session = Qwen3Session(model, None, Bias())
    session.accept(counted(3.0))
    first = session.finish(scheduler.stream())
    done = len(encoder.encoded_frames), len(prompts)
    assert session.finish(scheduler.stream()) == first
    assert (len(encoder.encoded_frames), len(prompts)) == done
    session.accept(np.zeros(1, np.float32))
    assert numbers_in(session.finish(scheduler.stream()).text) == [0, 1, 2]
    assert len(prompts) > done[1]


def test_a_hypothesis_that_is_given_up_leaves_the_former_one(scheduler):
    model, _, _ = oracle()
    session = Qwen3Session(model, None, Bias())
    samples = counted(4.0)
    session.accept(samples[: 2 * RATE_HZ])
    session.partial(scheduler.stream())
    former = session._stretch.hypothesis
    session.accept(samples[2 * RATE_HZ :])
    given_up = scheduler.stream()
    given_up.cancel()
    with pytest.raises(Cancelled):
        session.partial(given_up)
    assert session._stretch.hypothesis == former
    assert numbers_in(session.finish(scheduler.stream()).text) == [0, 1, 2, 3]


def test_nothing_accepted_is_nothing_said(scheduler):
    model, encoder, prompts = oracle()
    session = Qwen3Session(model, "de", Bias())
    session.accept(np.empty(0, np.float32))
    assert session.partial(scheduler.stream()).text == session.finish(scheduler.stream()).text == ""
    assert not encoder.encoded_frames
    assert not prompts


def test_a_partial_is_short_and_the_end_is_whole(scheduler):
    model, _, _ = oracle()
    session = Qwen3Session(model, None, Bias())
    session.accept(counted(28.0))
    session.partial(scheduler.stream())
    assert len(session._stretch.hypothesis.ids) == Streaming().tokens
    assert numbers_in(session.finish(scheduler.stream()).text) == expected(28.0)


@pytest.mark.parametrize("terms", [0, 40], ids=lambda count: f"{count}-terms")
@pytest.mark.parametrize("seconds", [8.0, 16.0, 23.0, 24.5, 30.0, 45.0])
def test_a_language_model_with_little_room_hears_everything(seconds, terms, scheduler):
    model, _, prompts = oracle(context_tokens=512)
    session = Qwen3Session(model, None, Bias(tuple(f"name{number}" for number in range(terms))))
    samples = counted(seconds)
    for begin in range(0, samples.size, RATE_HZ):
        session.accept(samples[begin : begin + RATE_HZ])
        session.partial(scheduler.stream())
    assert numbers_in(session.finish(scheduler.stream()).text) == expected(seconds)
    assert prompts


def test_what_has_no_room_for_its_words_is_cut_once_more(scheduler):
    model, _, _ = oracle(context_tokens=200)
    words = model.tokenizer.encode(" ".join(f"n{number:02}" for number in range(6)))
    # Room for the rows, and for a few of the words.
    model.context_tokens = len(model.prompt(Context(), 6 * 13, None, ())) + len(words) // 2
    session = Qwen3Session(model, None, Bias())
    session._stretch.accept(counted(6.0))
    while not session._conclude(session._stretch, scheduler.stream()):
        session._cut(session._stretch.seconds / 2)
        session._conclude_heads(scheduler.stream())
    assert len(session._heads) >= 1
    assert numbers_in(session.finish(scheduler.stream()).text) == expected(6.0)


def test_what_was_cut_off_goes_on_where_it_was_given_up(scheduler):
    """People pause, and each pause ends what was being decoded."""
    model, _, prompts = oracle()
    session = Qwen3Session(model, None, Bias())
    session.accept(counted(31.0))
    given = []

    def interrupted():
        stream = scheduler.stream()
        count = 0
        generate = session._generator.generate

        def some(*arguments):
            nonlocal count
            for token in generate(*arguments):
                count += 1
                if count > 20:
                    stream.cancel()
                    raise Cancelled
                yield token

        session._generator.generate = some
        try:
            session.partial(stream)
        finally:
            session._generator.generate = generate
        given.append(count)

    for attempt in range(1, 4):
        with pytest.raises(Cancelled):
            interrupted()
        assert len(session._heads[0].hypothesis.ids) == 20 * attempt
    assert [len(continued(model.tokenizer, prompt)) for prompt in prompts] == [0, 20, 40]
    assert numbers_in(session.finish(scheduler.stream()).text) == expected(31.0)


def test_a_pause_at_the_end_is_not_decoded_by_itself(scheduler):
    model, _, prompts = oracle()
    session = Qwen3Session(model, None, Bias())
    session.accept(np.concatenate((counted(29.4), np.zeros(RATE_HZ, np.float32))))
    assert numbers_in(session.finish(scheduler.stream()).text) == expected(29.4)
    assert len(prompts) == len(session._heads)


class Scripted:
    """A generator that says what a test wants."""

    def __init__(self, model, *answers):
        self.tokenizer = model.tokenizer
        self.answers = [self.tokenizer.encode(answer) for answer in answers]
        self.prompts = []

    def generate(self, ids, audio, max_tokens, stream):
        self.prompts.append(self.tokenizer.decode(ids))
        yield from self.answers[min(len(self.prompts), len(self.answers)) - 1][:max_tokens]

    def close(self):
        pass


def scripted(language, bias, *answers, seconds=3.0):
    model, _, _ = oracle()
    generator = Scripted(model, *answers)
    model.open_generator = lambda: generator
    session = Qwen3Session(model, language, bias)
    session.accept(counted(seconds))
    return session, generator


def test_a_language_that_is_given_is_in_the_prompt_and_in_the_transcript(scheduler):
    session, generator = scripted("de", Bias(), "Guten Tag")
    transcript = session.finish(scheduler.stream())
    assert (transcript.text, transcript.language) == ("Guten Tag", "de")
    assert generator.prompts[0].endswith("language German")


def test_words_to_expect_are_in_the_prompt(scheduler):
    session, generator = scripted(None, Bias(("Küche",), ("Rolladen",)), "Die Rolladen hoch")
    assert session.finish(scheduler.stream()).text == "Die Rolladen hoch"
    assert "Küche Rolladen" in generator.prompts[0]


def test_an_answer_that_lists_the_words_to_expect_is_not_believed(scheduler):
    names = ("Wohnzimmer", "Küche", "Bad", "Flur")
    session, generator = scripted("de", Bias(names), "Wohnzimmer Küche Bad Flur", "ja")
    assert session.finish(scheduler.stream()).text == "ja"
    assert "Küche" in generator.prompts[0]
    assert "Küche" not in generator.prompts[1]


def test_a_list_of_the_words_to_expect_is_not_told_early(scheduler):
    names = ("Wohnzimmer", "Küche", "Bad", "Flur")
    echo = "Wohnzimmer Küche Bad Flur und noch etwas mehr"
    session, generator = scripted("de", Bias(names), echo, "das Licht im Bad einschalten")
    assert session.partial(scheduler.stream()).text == ""
    assert session._context == Context()
    assert session.finish(scheduler.stream()).text == "das Licht im Bad einschalten"
    assert "Küche" not in generator.prompts[-1]


def test_words_to_expect_are_left_out_of_what_is_too_short(scheduler):
    model, _, _ = oracle()
    generator = Scripted(model, "ja")
    model.open_generator = lambda: generator
    session = Qwen3Session(model, "de", Bias(("Küche",)))
    quiet = np.random.default_rng(0).normal(0, 1e-4, 2 * RATE_HZ).astype(np.float32)
    quiet[RATE_HZ : RATE_HZ + 4000] += counted(0.25)
    session.accept(quiet)
    assert session.finish(scheduler.stream()).text == "ja"
    assert "Küche" not in generator.prompts[0]


def test_a_first_guess_does_not_bind_a_command(scheduler):
    session, _ = scripted("en", Bias(), "thank you for watching and do not forget", "turn on the light", seconds=1.5)
    session.partial(scheduler.stream())
    session.accept(counted(1.0))
    assert session.finish(scheduler.stream()).text == "turn on the light"


def test_languages_of_many_tokens_have_room(scheduler):
    answer = " ".join(f"w{number}" for number in range(60))
    session, generator = scripted("hi", Bias(), answer)
    assert len(generator.answers[0]) > 100  # in 3 s
    assert session.finish(scheduler.stream()).text == answer[: len(session.finish(scheduler.stream()).text)]
    assert len(session._stretch.hypothesis.ids) == 32 + 25 * 3


def test_a_loop_is_cut(scheduler):
    session, _ = scripted("en", Bias(), "turn it" + " on and" * 40)
    assert session.finish(scheduler.stream()).text == "turn it on and"


def test_closing_forgets(scheduler):
    model, _, prompts = oracle()
    session = Qwen3Session(model, None, Bias())
    session.accept(counted(1.0))
    session.close()
    assert prompts == [[]]
    assert session.finish(scheduler.stream()).text == ""
