import importlib
import pkgutil

import pytest

from wyoming_rknn.text import languages
from wyoming_rknn.text.languages import language_of
from wyoming_rknn.text.languages.base import Language
from wyoming_rknn.text.numerals import Number

CODES = [
    info.name
    for info in pkgutil.iter_modules(languages.__path__)
    if hasattr(importlib.import_module(f"{languages.__name__}.{info.name}"), "LANGUAGE")
]
EVERY_MINUTE = [(hour, minute) for hour in range(25) for minute in (0, 1, 5, 21, 30, 59)]


def language(code: str) -> Language:
    found = language_of(code)
    assert found is not None
    return found


@pytest.mark.parametrize("tag", ["de", "DE", "de-AT", "de_AT", "de-Latn-AT"])
def test_a_language_is_found_by_any_spelling_of_its_tag(tag):
    assert language_of(tag).point == "Komma"


@pytest.mark.parametrize("tag", ["", "base", "slavic", "x", "xx", "../de", "de.AT", "d\u00e9"])
def test_other_tags_find_none(tag):
    assert language_of(tag) is None


@pytest.mark.parametrize("code", CODES)
def test_every_table_can_be_said(code):
    known = language(code)
    for noun in known.unit_nouns.values():
        for number in (Number(0), Number(1), Number(2), Number(5), Number(21), Number(1, "5"), Number(3, "", True)):
            spoken = known.quantity(number, noun)
            assert spoken == spoken.strip() and "{}" not in spoken and "|" not in spoken and ":" not in spoken
    for currency in known.currency_nouns.values():
        assert "{}" not in known.money(Number(1, "05"), currency) and known.money(Number(0, "99"), currency)
    assert {"%", "°C", "km"} <= set(known.unit_nouns) and {"€", "$"} <= set(known.currency_nouns)


@pytest.mark.parametrize("code", CODES)
def test_the_longest_number_has_words(code):
    assert language(code).number(Number(10**15 - 1, "", True))


@pytest.mark.parametrize("code", CODES)
def test_times_and_dates_are_said_without_digits_or_left(code):
    known = language(code)
    spoken = [known.clock(hour, minute) for hour, minute in EVERY_MINUTE]
    spoken += [known.date(day, month, 2026, "") for day in range(1, 32) for month in range(1, 13)]
    assert not any(char.isdigit() for text in spoken for char in text)
    assert len(set(spoken)) in (1, len(spoken))
