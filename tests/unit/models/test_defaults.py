"""What is installed where nothing is."""

import pytest

from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.defaults import WEAK_SOCS, defaults


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load()


def names(catalog, *wanted):
    return [entry.name for entry in defaults(catalog, *wanted)]


def test_a_strong_board_gets_medium_voices_and_a_weak_one_low_ones(catalog):
    recogniser = "sensevoice-small-sherpa-int8"
    assert names(catalog) == names(catalog, "en-US", "rk3588") == ["en_US-lessac-medium", recogniser]
    for soc in WEAK_SOCS:
        assert names(catalog, "en-US", soc) == ["en_US-lessac-low", recogniser]


@pytest.mark.parametrize(
    ("language", "voice"),
    [
        ("de", "de_DE-thorsten-medium"),
        ("de_AT", "de_DE-thorsten-medium"),
        ("en-GB", "en_GB-alan-medium"),
        ("fr", "fr_FR-siwis-medium"),
        ("uk", "uk_UA-mykyta-high"),
        ("sr-RS", "sr_RS-serbski_institut-medium"),
    ],
)
def test_each_language_has_its_voice(catalog, language, voice):
    assert names(catalog, language)[:1] == [voice]


def test_only_who_knows_the_language_listens(catalog):
    assert len(names(catalog, "de")) == 1
    assert [len(names(catalog, language)) for language in ("en", "ja", "ko-KR", "zh_CN")] == [2, 2, 2, 2]


def test_a_language_without_a_voice(catalog):
    assert names(catalog, "tlh") == []
    assert names(catalog, "yue") == ["sensevoice-small-sherpa-int8"]


def test_every_language_of_the_catalogue_has_a_voice_that_can_be_fetched(catalog):
    languages = {entry.languages[0] for entry in catalog.available("tts") if entry.format == "piper"}
    for language in languages:
        (voice, *_) = defaults(catalog, language)
        assert language in voice.languages
        assert voice.is_fetchable
