"""Which models can be had."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wyoming_rknn.errors import ModelNotFound, NotInCatalog
from wyoming_rknn.models import catalog, catalog_form
from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import SUPPORTED_FORMATS, CatalogEntry, CatalogFile, CatalogSource
from wyoming_rknn.models.fetching.wanted import Wanted, check_names
from wyoming_rknn.models.formats import qwen3, sensevoice
from wyoming_rknn.models.formats.piper_config import bcp47
from wyoming_rknn.names import folded

FILE: dict[str, Any] = {"name": "a.onnx", "repo": "me/models"}
MODEL: dict[str, Any] = {"name": "mine", "kind": "tts", "format": "piper", "files": [FILE]}
VOICE = [1, "0" * 32, 2, "1" * 32, 3, "2" * 32]


@pytest.fixture(scope="module")
def packaged() -> Catalog:
    return Catalog.load()


def write(path: Path, *models: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"models": models, **more}))
    return path


def names(entries: tuple[CatalogEntry, ...]) -> list[str]:
    return [entry.name for entry in entries]


def test_every_voice_of_piper(packaged: Catalog) -> None:
    voices = [entry for entry in packaged.entries if entry.home == "rhasspy/piper-voices"]
    assert len(voices) == 176
    for voice in voices:
        code, name, quality = voice.name.split("-")
        folder = f"{code[:2]}/{code}/{name}/{quality}"
        assert voice.languages == (bcp47(code), code[:2])
        assert [file.source for file in voice.files] == [
            CatalogSource("rhasspy/piper-voices", "main", f"{folder}/{file}")
            for file in (f"{voice.name}.onnx", f"{voice.name}.onnx.json", "MODEL_CARD")
        ]
        assert all(file.md5 and file.bytes for file in voice.files)
        assert voice.quality == quality and voice.language_name and voice.licence == "see MODEL_CARD"
        assert voice.bytes is not None and voice.bytes > 5_000_000
        assert voice.is_supported and voice.is_fetchable and voice.has_exact_size and not voice.targets


def test_facts_of_one_voice(packaged: Catalog) -> None:
    voice = packaged.find("cy_GB-bu_tts-medium")
    assert (voice.num_speakers, len(voice.speakers)) == (7, 7)
    assert voice.speakers[0] == "benyw-de-pro"
    assert voice.language_name == "Welsh (Great Britain)"
    amy = packaged.find("ar_JO-kareem-low").files[0]
    assert (amy.bytes, amy.md5) == (63_201_294, "d335cd06fe4045a7ee9d8fb0712afaa9")


def test_what_the_package_lists_is_sound(packaged: Catalog) -> None:
    assert packaged.entries
    for entry in packaged.entries:
        assert entry.kind in ("tts", "asr"), entry.name
        assert entry.home_url.startswith("https://"), entry.name
        assert entry.is_fetchable or entry.remark, entry.name
        assert entry.licence or "licence" in entry.remark, entry.name
        assert entry.has_exact_size or "size" in entry.remark or "not known" in entry.remark, entry.name
        assert not (entry.targets and not entry.toolkit), entry.name
        for file in entry.files:
            assert file.source.url or (file.source.repo and file.source.path), entry.name
            assert file.source.url is None or file.source.url.startswith("https://"), entry.name
    # Whoever asks for a name or alias gets one model.
    spelt = [name for entry in packaged.entries for name in {folded(name) for name in (entry.name, *entry.aliases)}]
    assert len(set(spelt)) == len(spelt)


def test_all_that_can_be_fetched_suits_the_downloads(packaged: Catalog) -> None:
    for entry in packaged.entries:
        model: Wanted = entry
        if entry.is_fetchable:
            check_names(model)


def test_formats_are_those_of_the_engines() -> None:
    assert {*sensevoice.FORMATS, *qwen3.FORMATS, "piper", "piper-pair"} == SUPPORTED_FORMATS


def test_a_file_that_several_projects_pin(packaged: Catalog) -> None:
    model = packaged.find("sensevoice")
    assert names((model,)) == ["sensevoice-small-sherpa-int8"]
    assert model.files[0] == CatalogFile(
        "model.int8.onnx",
        CatalogSource(
            "csukuangfj/sherpa-onnx-sense-voice-zh-en-ja-ko-yue-2024-07-17",
            "2365baeacb507f821a0c8120fcee3d484dba7a07",
            "model.int8.onnx",
        ),
        bytes=239_233_841,
        sha256="c71f0ce00bec95b07744e116345e33d8cbbe08cef896382cf907bf4b51a2cd51",
    )


def test_an_archive_says_so(packaged: Catalog) -> None:
    model = packaged.find("sensevoice-small-sherpa-rk3576-10s")
    assert model.needs_unpacking and model.bytes is None
    assert [member.rpartition("/")[2] for member in model.files[0].unpack] == ["model.rknn", "tokens.txt"]


@pytest.mark.parametrize(
    "wanted",
    ["en_US-lessac-medium", "en-us-lessac-medium", "EN us LESSAC medium", "en_us_lessac_medium"],
)
def test_names_in_any_spelling(packaged: Catalog, wanted: str) -> None:
    assert packaged.find(wanted).name == "en_US-lessac-medium"
    assert packaged.find("de-de thorsten EMOTIONAL medium").name == "de_DE-thorsten_emotional-medium"


def test_old_names(packaged: Catalog) -> None:
    assert packaged.find("it-riccardo_fasol-x-low").name == "it_IT-riccardo-x_low"
    assert packaged.find("IT riccardo fasol x low").name == "it_IT-riccardo-x_low"


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("en_US-lesac-medium", "en_US-lessac-medium"),
        ("lessac", "en_US-lessac-high or"),
        ("sensvoice-small", "sensevoice"),
    ],
)
def test_close_names_are_suggested(packaged: Catalog, wanted: str, meant: str) -> None:
    with pytest.raises(ModelNotFound, match=f"called '{wanted}'; did you mean .*{meant}"):
        packaged.find(wanted)


@pytest.mark.parametrize("wanted", ["", "\ud800", "§§§", "xyzzy", "e" * 10_000])
def test_names_without_sense(packaged: Catalog, wanted: str) -> None:
    with pytest.raises(NotInCatalog, match=r"models list --available"):
        packaged.find(wanted)


def test_by_purpose(packaged: Catalog) -> None:
    assert {entry.kind for entry in packaged.available("asr")} == {"asr"}
    assert {entry.kind for entry in packaged.available("tts")} == {"tts"}
    assert len(packaged.available()) == len(packaged.entries)


@pytest.mark.parametrize("language", ["en-GB", "en_gb", "EN-gb"])
def test_by_language_with_region(packaged: Catalog, language: str) -> None:
    found = packaged.available("tts", language)
    assert found and {entry.languages[0] for entry in found} == {"en-GB"}


@pytest.mark.parametrize(
    ("language", "bare"), [("de-AT", "de"), ("de", "de"), ("ja-JP", "ja"), ("nb-NO", "no"), ("cmn", "zh")]
)
def test_by_language_of_which_the_region_is_not_there(packaged: Catalog, language: str, bare: str) -> None:
    found = packaged.available("tts", language)
    assert found and {entry.languages[-1] for entry in found} == {bare}


def test_recognisers_know_no_regions(packaged: Catalog) -> None:
    assert {entry.kind for entry in packaged.available(language="en-GB")} == {"asr", "tts"}
    assert {entry.kind for entry in packaged.available(language="en-ZA")} == {"asr", "tts"}
    assert packaged.available("asr", "en-GB") == packaged.available("asr", "en")
    assert "sensevoice-small-sherpa-int8" in names(packaged.available("asr", "zh-TW"))


def test_a_user_may_name_languages_otherwise(tmp_path: Path) -> None:
    found = Catalog.load([write(tmp_path / "catalog.json", {**MODEL, "languages": ["nb-NO"]})])
    assert names(found.available("tts", "nb-NO")) == ["mine"]
    assert "mine" in names(found.available("tts", "nb")) and "mine" in names(found.available("tts", "no"))


def test_by_a_language_that_nobody_speaks(packaged: Catalog) -> None:
    assert packaged.available(language="tlh") == ()


def test_by_board(packaged: Catalog) -> None:
    found = packaged.available("asr", soc="rk3566")
    made_for = {target for entry in found for target in entry.targets}
    assert made_for == {"rk3566", "rk3568"}
    assert any(not entry.targets for entry in found)
    assert not {target for entry in packaged.available(soc="rk1808") for target in entry.targets}


def test_models_of_a_user(tmp_path: Path, packaged: Catalog) -> None:
    more = {"languages": ["de_de", "de"], "aliases": ["meins"], "targets": ["RK3588"], "speakers": ["a", "b"]}
    found = Catalog.load([write(tmp_path / "catalog.json", {**MODEL, **more})])
    assert len(found.entries) == len(packaged.entries) + 1
    assert found.find("meins") == CatalogEntry(
        name="mine",
        kind="tts",
        format="piper",
        languages=("de-DE", "de"),
        num_speakers=2,
        speakers=("a", "b"),
        targets=("rk3588",),
        files=(CatalogFile("a.onnx", CatalogSource("me/models", None, "a.onnx")),),
        aliases=("meins",),
    )


def test_the_first_of_several_files_wins_and_all_win_over_the_package(tmp_path: Path) -> None:
    ours = {**MODEL, "name": "en_US-amy-low"}
    first = write(tmp_path / "1.json", {**ours, "remark": "first"})
    second = write(tmp_path / "2.json", {**ours, "remark": "second"})
    assert Catalog.load([first, second]).find("en_US-amy-low").remark == "first"
    assert Catalog.load([second, first]).find("en_US-amy-low").remark == "second"


def test_repository_and_revision_stand_once_or_at_a_file(tmp_path: Path) -> None:
    model = {
        **MODEL,
        "repo": "me/one",
        "revision": "v1",
        "files": [
            {"name": "a"},
            {"name": "b/c", "path": "d/e", "revision": "v2"},
            {"name": "f", "repo": "me/two"},
            {"name": "g", "url": "https://example.org/g", "about_bytes": 7, "unpack": ["x/y"]},
        ],
    }
    (entry,) = catalog_form.read(write(tmp_path / "catalog.json", model))
    assert [file.source for file in entry.files] == [
        CatalogSource("me/one", "v1", "a"),
        CatalogSource("me/one", "v2", "d/e"),
        CatalogSource("me/two", "v1", "f"),
        CatalogSource(url="https://example.org/g"),
    ]
    assert entry.home == "me/one"
    assert entry.bytes is None and entry.needs_unpacking


def test_sizes_add_up_exactly_or_roughly(tmp_path: Path) -> None:
    files = [{**FILE, "bytes": 10}, {**FILE, "name": "b", "about_bytes": 5}]
    rough, exact = catalog_form.read(
        write(tmp_path / "catalog.json", {**MODEL, "files": files}, {**MODEL, "name": "b", "files": files[:1]})
    )
    assert (rough.bytes, rough.has_exact_size) == (15, False)
    assert (exact.bytes, exact.has_exact_size) == (10, True)


def test_piper_voices_of_a_user(tmp_path: Path) -> None:
    piper = {
        "repo": "me/voices",
        "voices": {"de_DE-ich-high": VOICE, "sw_CD-x-y-low": [*VOICE, {"speakers": ["a", "b"]}]},
    }
    first, second = catalog_form.read(write(tmp_path / "catalog.json", piper=piper))
    assert first.files[0].source == CatalogSource("me/voices", "main", "de/de_DE/ich/high/de_DE-ich-high.onnx")
    assert (first.languages, first.language_name, first.bytes, first.num_speakers) == (("de-DE", "de"), "", 6, 1)
    assert (second.quality, second.num_speakers) == ("low", 2)
    assert second.files[2].source.path == "sw/sw_CD/x-y/low/MODEL_CARD"


def test_a_file_that_is_not_there_is_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Catalog.load([tmp_path / "catalog.json", tmp_path / "no" / "catalog.json"]).entries
    assert caplog.records == []


BROKEN = [
    ('{"models": [\n{"name": "a",}]}', "line 2"),
    ("", "line 1"),
    ("[]", "the file is no object"),
    ('"text"', "the file is no object"),
    ("\ud800", "no JSON in UTF-8"),
    ('{"modles": []}', "'modles' of the file must be left out"),
    ('{"models": {}}', "'models' of the file must be a list"),
    ('{"models": [3]}', "model 1 is no object"),
    ('{"models": [' + "1" * 5000 + "]}", "no JSON"),
    ("[" * 100_000, "no JSON"),
]


@pytest.mark.parametrize(("text", "told"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_one_warning(
    tmp_path: Path, packaged: Catalog, caplog: pytest.LogCaptureFixture, text: str, told: str
) -> None:
    path = tmp_path / "catalog.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    found = Catalog.load([path])
    assert names(found.entries) == names(packaged.entries)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage() and told in record.getMessage()


WRONG = [
    ({"name": None}, "'name' of model 1 must be a text"),
    ({"name": "a/b"}, "'name' of model 'a/b' must be a name that a folder can have"),
    ({"name": ".."}, "'name' of model '..' must"),
    ({"kind": "stt"}, "'kind' of model 'mine' must be tts or asr"),
    ({"format": " "}, "'format' of model 'mine' must be a text"),
    ({"colour": "red"}, "'colour' of model 'mine' must be left out"),
    ({"languages": "de"}, "'languages' of model 'mine' must be a list"),
    ({"languages": [""]}, "'languages' of model 'mine' must be a list of texts"),
    ({"remark": "a\nb"}, "'remark' of model 'mine' must be a text of one line"),
    ({"num_speakers": 0}, "'num_speakers' of model 'mine' must be a whole number from 1 on"),
    ({"num_speakers": True}, "'num_speakers' of model 'mine' must"),
    ({"repo": "https://example.org"}, "'repo' of model 'mine' must be like OWNER/NAME"),
    ({"files": [3]}, "file 1 of model 'mine' is no object"),
    ({"files": [FILE, FILE]}, "'files' of model 'mine' must be files with different names"),
    ({"files": [{**FILE, "name": "../a"}]}, "'name' of file 1 of model 'mine' must be a path below"),
    ({"files": [{**FILE, "name": "/a"}]}, "'name' of file 1 of model 'mine' must be a path below"),
    ({"files": [{**FILE, "name": "a/.b"}]}, "'name' of file 1 of model 'mine' must be a path below"),
    ({"files": [{"name": "a"}]}, "'url' of file 1 of model 'mine' must be given, or a repo"),
    ({"files": [{"name": "a", "url": "file:///etc/passwd"}]}, "'url' of file 1 of model 'mine' must be an address"),
    ({"files": [{"name": "a", "url": "https://me:SECRET@a/a"}]}, "with https:// and has no password"),
    ({"files": [FILE, {**FILE, "name": "b", "sha256": "AB"}]}, "'sha256' of file 2 of model 'mine' must be 64"),
    ({"files": [{**FILE, "md5": 5}]}, "'md5' of file 1 of model 'mine' must be 32"),
    ({"files": [{**FILE, "bytes": -1}]}, "'bytes' of file 1 of model 'mine' must be a whole number"),
    ({"files": [{**FILE, "bytes": 1.5}]}, "'bytes' of file 1 of model 'mine' must be a whole number"),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_field_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any], told: str
) -> None:
    Catalog.load([write(tmp_path / "catalog.json", {**MODEL, **change})])
    (record,) = caplog.records
    assert told in record.getMessage()


@pytest.mark.parametrize(
    "piper",
    [
        3,
        {"voices": []},
        {"voices": {"amy": VOICE}},
        {"voices": {"en_US-amy-huge": VOICE}},
        {"voices": {"en_US-a/b-low": VOICE}},
        {"voices": {"en_US-amy-low": VOICE[:5]}},
        {"voices": {"en_US-amy-low": "text"}},
        {"voices": {"en_US-amy-low": {}}},
        {"voices": {"en_US-amy-low": 7}},
        {"voices": {"en_US-amy-low": ["1", *VOICE[1:]]}},
        {"voices": {"en_US-amy-low": [1, "x", *VOICE[2:]]}},
        {"voices": {"en_US-amy-low": [*VOICE, []]}},
        {"voices": {"en_US-amy-low": [*VOICE, {}, {}]}},
        {"voices": {"en_US-amy-low": [*VOICE, {"speakers": [1]}]}},
        {"voices": {"en_US-amy-low": [*VOICE, {"aliases": 1}]}},
        {"languages": []},
        {"languages": {"en_US": 1}},
        {"voice": {}},
    ],
    ids=str,
)
def test_wrong_piper_voices_are_one_warning(
    tmp_path: Path, packaged: Catalog, caplog: pytest.LogCaptureFixture, piper: Any
) -> None:
    found = Catalog.load([write(tmp_path / "catalog.json", piper=piper)])
    assert len(found.entries) == len(packaged.entries)
    (record,) = caplog.records
    assert "piper" in record.getMessage()


def test_a_folder_and_a_huge_file_are_one_warning_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "huge.json").write_bytes(b" " * (8 * 1024 * 1024 + 1))
    assert Catalog.load([tmp_path / "folder.json", tmp_path / "huge.json"]).entries
    assert ["cannot be read" in record.getMessage() for record in caplog.records] == [False, True]
    assert "too long" in caplog.records[0].getMessage()


def test_without_the_packages_own_list_a_user_has_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalog, "PACKAGED", tmp_path / "gone.json")
    assert names(Catalog.load([write(tmp_path / "catalog.json", MODEL)]).entries) == ["mine"]
    assert len(caplog.records) == 1


def test_small_and_read_when_asked_for_only() -> None:
    assert catalog.PACKAGED.stat().st_size < 200_000
    code = (
        "import sys, builtins, io; seen = []; opened = io.open\n"
        "sys.addaudithook(lambda event, what: seen.append(str(what[0])) if event == 'open' else None)\n"
        "import wyoming_rknn.models.catalog, wyoming_rknn.models.catalog_pages\n"
        "print(any(name.endswith('catalog.json') for name in seen))\n"
        "wyoming_rknn.models.catalog.Catalog.load()\n"
        "print(any(name.endswith('catalog.json') for name in seen))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_loading_takes_next_to_no_time() -> None:
    # A few milliseconds; the bound only excludes what would be felt.
    begin = time.process_time()
    Catalog.load()
    assert time.process_time() - begin < 0.2
