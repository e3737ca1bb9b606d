"""What is installed where nothing is."""

import pytest

from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import CatalogEntry, CatalogFile, CatalogSource
from wyoming_rknn.models.defaults import STRONG_SOCS, WEAK_SOCS, defaults
from wyoming_rknn.runtime.board import TARGETS


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
    assert [len(names(catalog, language)) for language in ("en", "ko-KR", "zh_CN")] == [2, 2, 2]


def test_a_language_without_a_voice(catalog):
    assert names(catalog, "tlh") == names(catalog, "he") == []
    assert names(catalog, "yue") == ["sensevoice-small-sherpa-int8"]


def test_every_language_of_the_catalogue_has_a_voice_that_can_be_fetched(catalog):
    languages = {entry.languages[0] for entry in catalog.available("tts") if entry.format == "piper"}
    for language in languages - {"he-IL", "ja-JA", "th-TH"}:
        (voice, *_) = defaults(catalog, language)
        assert language in voice.languages
        assert voice.is_fetchable


def test_voices_whose_phonemes_are_not_made_here_are_no_defaults(catalog):
    for language in ("he", "ja", "th"):
        assert all(entry.kind == "asr" for entry in defaults(catalog, language))
    for soc in (None, *WEAK_SOCS):
        assert names(catalog, "zh", soc)[0].startswith("zh_CN-huayan")


def test_every_board_is_strong_or_weak():
    assert {*STRONG_SOCS, *WEAK_SOCS} == set(TARGETS)


def entry(name, kind="tts", form="piper-pair", files=("encoder.onnx", "decoder.rknn"), sha256="0" * 64, **more):
    source = CatalogSource("me/models", None, "x")
    made = tuple(CatalogFile(file, source, sha256=sha256) for file in files)
    return CatalogEntry(
        name, kind, form, **{"languages": ("en-US", "en"), "targets": ("rk3588",), "files": made, **more}
    )


def with_these(catalog, *entries):
    return Catalog([*catalog.entries, *entries])


@pytest.mark.parametrize(
    "name", ["en_US-lessac-medium-rk3588", "en_US-lessac-medium-RK3588-w55", "en-us lessac medium"]
)
def test_a_voice_for_the_npu_is_taken_with_the_one_for_the_cpu(catalog, name):
    known = with_these(catalog, entry(name))
    assert names(known, "en", "rk3588")[:2] == [name, "en_US-lessac-medium"]
    assert names(known, "en", "rk3588s")[0] == name
    for soc in (None, "rk3576", "rk3566"):
        assert name not in names(known, "en", soc)


def test_one_with_a_decoder_for_the_cpu_comes_alone(catalog):
    name = "en_US-lessac-medium-rk3588"
    known = with_these(catalog, entry(name, files=("encoder.onnx", "decoder.onnx", "decoder.rknn")))
    assert names(known, "en", "rk3588") == [name, "sensevoice-small-sherpa-int8"]


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": None},
        {"files": ()},
        {"targets": ()},
        {"form": "sounds"},
        {"kind": "asr"},
        {"name": "en_US-lessac-high-rk3588"},
        {"name": "en_US-amy-medium-rk3588"},
        {"name": "en_US-lessac-medium-rk3588", "targets": ("rk3576",)},
    ],
)
def test_what_is_no_default(catalog, changes):
    other = entry(**{"name": "en_US-lessac-medium-rk3588", **changes})
    assert names(with_these(catalog, other), "en", "rk3588") == ["en_US-lessac-medium", "sensevoice-small-sherpa-int8"]


def test_a_recogniser_for_the_npu_and_its_spare(catalog):
    made = {"kind": "asr", "form": "sensevoice-npu", "languages": ("en", "zh")}
    known = with_these(catalog, entry("mine", files=("10s.rknn", "tokens.txt"), **made))
    assert names(known, "en", "rk3588")[1:] == ["mine", "sensevoice-small-sherpa-int8"]
    assert names(known, "ko", "rk3588")[1:] == ["sensevoice-small-sherpa-int8"]
    assert names(known, "de", "rk3588") == ["de_DE-thorsten-medium"]
    both = with_these(catalog, entry("mine", files=("10s.rknn", "model.onnx", "tokens.txt"), **made))
    assert names(both, "en", "rk3588")[1:] == ["mine"]


def test_what_the_package_lists_for_the_npu_is_not_proven(catalog):
    for soc in TARGETS:
        assert not any(entry.targets for entry in defaults(catalog, "en", soc))


def test_a_catalogue_without_anything():
    assert defaults(Catalog([])) == ()
