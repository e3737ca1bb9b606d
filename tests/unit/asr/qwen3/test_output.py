import json
import random
from pathlib import Path

import pytest

from wyoming_rknn.asr.qwen3.languages import tag_of
from wyoming_rknn.asr.qwen3.output import Output, collapse, is_echo, loop, parse
from wyoming_rknn.asr.qwen3.tokenizer import TEXT, read

GOLDEN = Path(__file__).parents[3] / "golden" / "qwen3"
TOKENIZER = read(GOLDEN / "tokenizer")
CONTENT = json.loads((GOLDEN / "text.json").read_text(encoding="utf-8"))
MARK = TOKENIZER.special(TEXT)
ROOMS = ("Kitchen", "Living room", "Bedroom", "Küche", "Wohnzimmer", "客厅", "厨房", "卧室", "交易")


def answer(language, text):
    return [*TOKENIZER.encode(f"language {language}"), MARK, *TOKENIZER.encode(text)]


@pytest.mark.parametrize("golden", CONTENT["answers"], ids=lambda golden: ascii(golden["answer"])[:50])
def test_reads_what_transformers_reads(golden):
    output = parse(golden["ids"], TOKENIZER)
    # Where the mark comes a second time, theirs is seen in the text.
    assert output.text == golden["transcription"].replace(TEXT, "")
    assert output.language == tag_of(golden["language"] or "")


@pytest.mark.parametrize("text", ["", " Turn on the light.", "打开客厅的灯"])
def test_a_forced_answer_is_all_text(text):
    ids = TOKENIZER.encode(text)
    assert parse(ids, TOKENIZER, "German") == parse(ids, TOKENIZER, "de") == Output(text.strip(), "de")


def test_an_answer_that_names_its_language_though_it_was_forced():
    assert parse(answer("English", "Hello."), TOKENIZER, "de").text == "Hello."
    assert parse(answer("English", "Hello."), TOKENIZER, "de").language == "de"


def test_an_answer_that_has_not_come_to_its_text_is_empty():
    ids = answer("Vietnamese", "x")
    for count in range(ids.index(MARK) + 2):
        assert parse(ids[:count], TOKENIZER).text == ""
    assert parse(TOKENIZER.encode("language"), TOKENIZER, "de").text == "language"
    assert parse(TOKENIZER.encode("language is hard"), TOKENIZER).text == "language is hard"


def test_what_is_no_whole_character_yet_is_left_out():
    ids = answer("English", "ok 👍")
    assert parse(ids[:-1], TOKENIZER).text == "ok"


def test_collapses_what_the_official_parser_does():
    assert len(CONTENT["repeats"]) > 80
    assert any(text != collapsed for text, collapsed in CONTENT["repeats"])
    for text, collapsed in CONTENT["repeats"]:
        assert collapse(text) == collapsed, text


def test_a_loop_is_collapsed_within_an_answer():
    assert parse(answer("English", "no" + " no" * 40), TOKENIZER).text in ("no no", "no")


@pytest.mark.parametrize("size", range(1, 9))
def test_finds_loops_and_leaves_one_round(size):
    before, around = [100, 101, 102], list(range(1, size + 1))
    ids = before + around * 40
    first = next(count for count in range(len(ids)) if loop(ids[:count]) is not None)
    repeats = (first - len(before)) // size
    assert repeats * size == first - len(before)
    assert repeats >= 6
    assert first - len(before) >= 18
    assert first - len(before) <= max(18, 6 * size)
    assert ids[: loop(ids[:first])] == before + around


@pytest.mark.parametrize("size", [9, 12])
def test_what_is_longer_is_no_loop(size):
    assert loop(list(range(size)) * 10) is None


@pytest.mark.parametrize(
    "text",
    [
        "no no no no",
        "No, no, no, no, no!",
        "0 0 0 0 0 0 0",
        "0000000",
        "000 000 000 000",
        "1 000 000 000 000",
        "ha ha ha ha ha",
        "turn it off turn it off turn it off",
        "bla bla bla bla bla",
        "哈哈哈哈",
        "one two three four five six seven eight nine ten",
        "",
    ],
)
def test_what_people_say_is_no_loop(text):
    ids = TOKENIZER.encode(text)
    assert all(loop(ids[:count]) is None for count in range(len(ids) + 1))


def test_random_tokens_are_no_loop():
    source = random.Random(0)
    ids = [source.randrange(3) for _ in range(500)]
    assert all(loop(ids[:count]) is None for count in range(len(ids)))


@pytest.mark.parametrize(
    "text",
    [
        "Kitchen Living room Bedroom",
        "kitchen, living ROOM, bedroom.",
        "Well: Living room Bedroom Küche and so on for a long while",
        "客厅厨房卧室",
        "客厅 厨房 卧室",
        "Wohnzimmer客厅厨房",
    ],
)
def test_terms_in_the_order_of_the_context_are_an_echo(text):
    assert is_echo(text, ROOMS, speech_s=9.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Turn on the light in the kitchen and the living room.",
        "Kitchen, bedroom, living room",
        "Bedroom, living room, kitchen",
        "Kitchen living room and bedroom",
        "Bedroom, but kitchen, living room",
        "打开客厅和厨房的灯",
        "kitchens living roomy bedrooms",
    ],
)
def test_what_is_said_of_them_is_none(text):
    assert not is_echo(text, ROOMS, speech_s=9.0)


def test_hardly_any_speech_cannot_be_many_terms():
    assert is_echo("Bedroom kitchen", ROOMS, speech_s=0.5)
    assert not is_echo("Bedroom kitchen", ROOMS, speech_s=1.5)
    assert not is_echo("Bedroom", ROOMS, speech_s=0.5)
    assert not is_echo("Bedroom or kitchen", ROOMS, speech_s=0.5)
    assert is_echo("Living room, Living room or kitchen", ROOMS, speech_s=0.5)


def test_without_a_context_nothing_is_an_echo():
    assert not is_echo("Kitchen Living room Bedroom", (), speech_s=0.1)
    assert not is_echo("?!", ("?", "!", "..."), speech_s=0.1)
    assert not is_echo("Yes please", ("?", "!", "..."), speech_s=0.1)
