import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyoming_rknn.asr.engine import Piece, Transcript
from wyoming_rknn.asr.stable import UNSTABLE_S, StablePrefix, without_full_stop


def transcript(*texts, step_s=0.2):
    return Transcript(tuple(Piece(text, number * step_s) for number, text in enumerate(texts)))


def told(*hypotheses, heard_s=60.0):
    """Return what is told for each hypothesis."""
    stable = StablePrefix()
    return [stable.offer(hypothesis, heard_s) for hypothesis in hypotheses]


def test_one_hypothesis_proves_nothing():
    assert told(transcript(" turn", " on", " the")) == [""]


def test_what_two_agree_on_is_told_word_by_word():
    first = transcript(" turn", " on", " th")
    second = transcript(" turn", " on", " the", " light")
    third = transcript(" turn", " on", " the", " light", " now")
    assert told(first, second, third) == ["", "turn on", " the light"]


def test_a_word_is_told_when_it_is_complete():
    first = transcript(" liv", "ing")
    second = transcript(" liv", "ing", " room")
    third = transcript(" liv", "ing", " room", "s")
    assert told(first, first, second, third) == ["", "", "living", ""]


def test_what_was_heard_just_now_is_not_told():
    hypothesis = transcript(" a", " b", " c", " d", step_s=1.0)
    assert told(hypothesis, hypothesis, heard_s=1.0 + UNSTABLE_S) == ["", "a"]
    assert told(hypothesis, hypothesis, heard_s=1.1 + UNSTABLE_S) == ["", "a b"]


def test_punctuation_waits_for_the_next_word():
    first = transcript(" yes", ".")
    second = transcript(" yes", ".", " no", " more")
    assert told(first, first, second, second) == ["", "yes", "", ". no"]


def test_languages_without_spaces_are_told_letter_by_letter():
    first = transcript("打", "开", "客")
    second = transcript("打", "开", "客", "厅", "的", "灯", "。")
    assert told(first, second, second) == ["", "打开客", "厅的灯"]


def test_what_was_told_is_not_taken_back():
    first = transcript(" the", " cat", " sat")
    second = transcript(" the", " hat", " sat", " on")
    assert told(first, first, second, second) == ["", "the cat", "", ""]


def test_the_end_is_what_was_not_told():
    stable = StablePrefix()
    for _ in range(2):
        stable.offer(transcript(" turn", " on", " the"), 60.0)
    assert stable.conclude("turn on the light.") == ("turn on the light.", " the light.")


def test_nothing_told_leaves_the_text_alone():
    assert StablePrefix().conclude("") == ("", "")
    assert StablePrefix().conclude("Hello.") == ("Hello.", "Hello.")


@pytest.mark.parametrize(
    ("said", "text", "whole"),
    [
        ("turn off the", "turn of the light", "turn off the light"),
        ("I can", "i can handle him", "I can handle him"),
        ("hello there", "hello", "hello there"),
        ("hello", "", "hello"),
        ("abc", "xyz and on", "abc and on"),
    ],
)
def test_a_contradiction_goes_on_where_the_text_resembles_what_was_told(said, text, whole):
    stable = StablePrefix()
    pieces = [Piece(said, 0.0), Piece(" more", 1.0)]
    for _ in range(2):
        stable.offer(Transcript(tuple(pieces)), 60.0)
    assert stable.conclude(text)[0] == whole


def test_a_dictation_that_contradicts_itself_is_put_together_at_once():
    said = " ".join(f"word{number}" for number in range(700))
    stable = StablePrefix()
    for _ in range(2):
        stable.offer(Transcript((Piece(said, 0.0), Piece(" more", 1.0))), 60.0)
    begin = time.perf_counter()
    assert stable.conclude(f"W{said[1:]} and more") == (f"{said} and more", " and more")
    assert time.perf_counter() - begin < 1.0


@given(
    st.lists(st.lists(st.sampled_from([" a", "b", " c.", ",", "灯", " 7", ""]), max_size=8), max_size=6),
    st.text("abc .灯"),
)
def test_what_was_told_always_adds_up_to_the_text(hypotheses, final):
    stable = StablePrefix()
    news = [stable.offer(transcript(*texts), 60.0) for texts in hypotheses]
    text, rest = stable.conclude(final)
    assert "".join(news) + rest == text
    if not any(news):
        assert text == final


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("Turn it on.", "Turn it on"),
        ("打开灯。", "打开灯"),
        ("Well...", "Well..."),
        ("Really?", "Really?"),
        ("At 7.30", "At 7.30"),
        (".", ""),
        ("", ""),
    ],
)
def test_a_full_stop_goes_and_nothing_else(text, without):
    assert without_full_stop(text) == without
