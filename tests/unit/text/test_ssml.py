import logging

import pytest

from wyoming_rknn.text.passage import Passage
from wyoming_rknn.text.ssml import parse


def test_plain_speech_is_one_passage():
    assert parse("<speak>Hello &amp; <b>good</b>\n bye</speak>", phonemes=False) == [Passage("Hello & good bye")]


def test_breaks_pause_before_what_follows_them():
    passages = parse(
        '<speak>a<break time="500ms"/>b<break time="1.5s"/>c<break strength="strong"/>d<break/>e</speak>',
        phonemes=False,
    )
    assert [(passage.text, passage.pause_s) for passage in passages] == [
        ("a", 0),
        ("b", 0.5),
        ("c", 1.5),
        ("d", 0.75),
        ("e", 0.5),
    ]


def test_breaks_add_up_to_ten_seconds_and_a_last_one_stays():
    assert parse('<speak><break time="9s"/><break time="99s"/>a<break time="1s"/></speak>', phonemes=False) == [
        Passage("a", pause_s=10.0),
        Passage("", pause_s=1.0),
    ]


def test_paragraphs_pause_longer_than_sentences():
    one, two, three = parse("<speak><p><s>One.</s><s>Two.</s></p><p>Three.</p></speak>", phonemes=False)
    assert [one.text, two.text, three.text] == ["One.", "Two.", "Three."]
    assert one.pause_s == 0 < two.pause_s < three.pause_s


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("slow", 0.75),
        ("x-fast", 1.5),
        ("80%", 0.8),
        ("1.2", 1.2),
        ("+10%", 1.1),
        ("-20%", 0.8),
        ("9", 4.0),
        ("1%", 0.25),
        ("odd", 1.0),
        ("", 1.0),
    ],
)
def test_rates(rate, expected):
    passages = parse(f'<speak>a <prosody rate="{rate}">b</prosody> c</speak>', phonemes=False)
    assert [(p.text, p.rate) for p in passages] == [("a", 1.0), ("b", pytest.approx(expected)), ("c", 1.0)]


def test_nested_rates_multiply():
    (passage,) = parse('<speak><prosody rate="50%"><prosody rate="fast">x</prosody></prosody></speak>', phonemes=False)
    assert passage.rate == pytest.approx(0.625)


def test_phonemes_only_for_voices_that_read_them():
    ssml = '<speak>a <phoneme alphabet="ipa" ph="təˈmeɪtoʊ">tomato</phoneme> b</speak>'
    assert parse(ssml, phonemes=True) == [Passage("a [[təˈmeɪtoʊ]] b")]
    assert parse(ssml, phonemes=False) == [Passage("a tomato b")]
    assert parse(ssml.replace("ipa", "x-sampa"), phonemes=True) == [Passage("a tomato b")]


def test_other_elements():
    ssml = (
        '<speak><sub alias="World Wide Web">WWW</sub> <say-as interpret-as="date">1 May</say-as> '
        '<amazon:effect name="w">x</amazon:effect><audio src="a"><desc>no</desc></audio></speak>'
    )
    assert parse(ssml, phonemes=False) == [Passage("World Wide Web 1 May x")]


@pytest.mark.parametrize(
    ("ssml", "expected"),
    [
        ('Hi <break time="1s"/>Tom & &nbsp;Jo', [Passage("Hi"), Passage("Tom & Jo", pause_s=1.0)]),
        ("", []),
        ("<speak/>", []),
        ("<?xml version='1.0' encoding='utf-16'?><speak>ü \ud800x\x00</speak>", [Passage("ü x")]),
    ],
)
def test_lenient_reading(ssml, expected):
    assert parse(ssml, phonemes=False) == expected


@pytest.mark.parametrize(
    ("ssml", "expected"),
    [
        ("<speak>broken <b>text</speak>", "broken text"),
        ("<speak>cut <break", "cut"),
        ("5 < 6", "5 < 6"),
        ('<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><speak>&z; hi</speak>', "hi"),
        ('<!DOCTYPE s SYSTEM "file:///etc/passwd"><speak>hi</speak>', "hi"),
        ("<speak>" + "<a>" * 100 + "deep" + "</a>" * 100 + "</speak>", "deep"),
    ],
)
def test_broken_ssml_is_read_as_text(ssml, expected, caplog):
    with caplog.at_level(logging.DEBUG):
        assert parse(ssml, phonemes=False) == [Passage(expected)]
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.DEBUG
