"""Piper's list of voices and what the catalogue keeps of it."""

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.models import catalog, catalog_form, piper_voices

ODD = piper_voices.paths("en_US-odd-low")
SCRIPT = Path(__file__).parents[3] / "script" / "catalog"


def voice(key: str, **more: Any) -> dict[str, Any]:
    code, name, quality = piper_voices.parts(key)
    files = {
        path: {"size_bytes": size, "md5_digest": f"{size:032x}"} for size, path in enumerate(piper_voices.paths(key), 1)
    }
    language = {"code": code, "name_english": "English", "country_english": "United States"}
    return {"key": key, "name": name, "language": language, "quality": quality, "files": files, **more}


def listed(*voices: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: one for one in voices}


@pytest.mark.parametrize("key", ["amy", "en_US-amy", "en_US--low", "-amy-low", "en_US-amy-ultra", "en/US-amy-low", ""])
def test_a_key_has_a_form(key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}$"):
        piper_voices.parts(key)


def test_parts_of_a_key() -> None:
    assert piper_voices.parts("en_US-amy-low") == ("en_US", "amy", "low")
    assert piper_voices.parts("de_DE-eva_k-x_low") == ("de_DE", "eva_k", "x_low")
    assert piper_voices.parts("de_DE-a-b-high") == ("de_DE", "a-b", "high")


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    amy = voice("en_US-amy-low", aliases=["en-us-amy-low"], num_speakers=1, speaker_id_map={})
    trio = voice("en_US-trio-medium", num_speakers=3, speaker_id_map={"a": 1, "c": 2, "b": 0})
    section, left_out = piper_voices.compact(listed(trio, amy), "a test")
    assert left_out == ()
    path = tmp_path / "catalog.json"
    path.write_text(piper_voices.dumps(section, [{"name": "mine", "kind": "tts", "format": "piper"}]), encoding="utf-8")
    first, second, mine = catalog_form.read(path)
    assert (first.name, first.aliases, first.num_speakers, first.speakers) == (
        "en_US-amy-low",
        ("en-us-amy-low",),
        1,
        (),
    )
    assert [(file.bytes, file.md5) for file in first.files] == [(size, f"{size:032x}") for size in (1, 2, 3)]
    assert first.language_name == "English (United States)"
    assert (second.num_speakers, second.speakers) == (3, ("b", "a", "c"))
    assert mine.name == "mine"
    assert json.loads(path.read_text())["piper"]["origin"] == "a test"


def test_speakers_without_names_are_counted() -> None:
    section, _ = piper_voices.compact(listed(voice("en_US-duo-low", num_speakers=2)))
    assert section["voices"]["en_US-duo-low"][6] == {"speakers": ["0", "1"]}


def test_one_line_for_each_voice_and_model() -> None:
    section, _ = piper_voices.compact(listed(voice("en_US-amy-low"), voice("en_US-bob-low")))
    lines = piper_voices.dumps(section, [{"name": "x"}, {"name": "y"}]).splitlines()
    assert sum("-low" in line for line in lines) == 2
    assert [line for line in lines if '"name"' in line] == ['{"name":"x"},', '{"name":"y"}']


def test_the_packages_list_is_as_it_would_be_written() -> None:
    text = catalog.PACKAGED.read_text(encoding="utf-8")
    document = json.loads(text)
    assert piper_voices.dumps(document["piper"], document["models"]) == text


@pytest.mark.parametrize(
    "odd",
    [
        {**voice("en_US-odd-low"), "key": "other"},
        {**voice("en_US-odd-low"), "files": {}},
        {**voice("en_US-odd-low"), "files": {"x.onnx": {"size_bytes": 1, "md5_digest": ""}}},
        {**voice("en_US-odd-low"), "files": {**voice("en_US-odd-low")["files"], "more": {}}},
        {**voice("en_US-odd-low"), "speaker_id_map": 3, "num_speakers": 2},
        {**voice("en_US-odd-low"), "files": {path: {"size_bytes": 1, "md5_digest": ""} for path in ODD}},
        {**voice("en_US-odd-low"), "files": {path: {"size_bytes": -1, "md5_digest": "a" * 32} for path in ODD}},
        {**voice("en_US-odd-low"), "files": {path: {"size_bytes": math.inf, "md5_digest": "a" * 32} for path in ODD}},
        {**voice("en_US-odd-low"), "aliases": ["two\nlines"]},
        {**voice("en_US-odd-low"), "language": {"name_english": "two\nlines"}},
        {},
        None,
    ],
    ids=range(12),
)
def test_voices_of_another_form_are_left_out_and_named(odd: Any, tmp_path: Path) -> None:
    section, left_out = piper_voices.compact({**listed(voice("en_US-amy-low")), "en_US-odd-low": odd})
    assert list(section["voices"]) == ["en_US-amy-low"]
    assert left_out == ("en_US-odd-low",)
    path = tmp_path / "catalog.json"
    path.write_text(piper_voices.dumps(section), encoding="utf-8")
    assert [entry.name for entry in catalog_form.read(path)] == ["en_US-amy-low"]


@pytest.mark.parametrize("row", [None, {}, dict.fromkeys(range(6), 1), "123456", [], [1, "a" * 32] * 2])
def test_rows_of_another_form(row: object) -> None:
    with pytest.raises(ValueError):
        piper_voices.check_row("en_US-odd-low", row)


@pytest.mark.parametrize("voices", [{}, {"error": "not found"}, [], 3, None])
def test_another_file_is_refused(voices: object) -> None:
    with pytest.raises(ModelInvalid, match=r"take voices\.json of rhasspy/piper-voices"):
        piper_voices.compact(voices)


@pytest.mark.parametrize("as_wheel", [False, True], ids=["json", "wheel"])
def test_the_script_renews_voices_and_keeps_models(tmp_path: Path, as_wheel: bool) -> None:
    voices = json.dumps(listed(voice("en_US-amy-low")))
    source = tmp_path / ("wyoming_piper-9.9.9-py3-none-any.whl" if as_wheel else "voices.json")
    if as_wheel:
        with zipfile.ZipFile(source, "w") as wheel:
            wheel.writestr("wyoming_piper/voices.json", voices)
    else:
        source.write_text(voices)
    target = tmp_path / "catalog.json"
    section, _ = piper_voices.compact(listed(voice("en_US-old-low")))
    target.write_text(piper_voices.dumps(section, [{"name": "mine", "kind": "tts", "format": "piper"}]))
    subprocess.run([sys.executable, SCRIPT, source, "--catalog", target], check=True, capture_output=True)
    assert [entry.name for entry in catalog_form.read(target)] == ["en_US-amy-low", "mine"]
    origin = json.loads(target.read_text())["piper"]["origin"]
    assert origin == ("wyoming_piper 9.9.9" if as_wheel else "voices.json")
