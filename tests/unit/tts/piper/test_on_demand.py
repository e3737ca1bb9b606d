"""Voices of the catalogue, listed as if they were installed and fetched when first asked for."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from computing import on_cpu
from hub_voices import TEXT, catalogue, offer, put, voice_files
from serving_files import FileServer

from wyoming_rknn import plugins
from wyoming_rknn.errors import VoiceNotFound
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest, TtsEngine, Voice
from wyoming_rknn.tts.piper import on_demand
from wyoming_rknn.tts.piper.engine import PiperEngine, create

NEW = "xx_XX-new-low"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with FileServer() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., TtsEngine]]:
    made: list[TtsEngine] = []

    def make(**settings: object) -> TtsEngine:
        given = {"auto_download": True, "auto_download_language": ("xx",), **settings}
        made.append(create(Settings(data_dir=(tmp_path / "data",), cache_dir=tmp_path / "cache", **given), on_cpu()))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]


def listed(engine: TtsEngine) -> dict[str, Voice]:
    return {voice.name: voice for voice in engine.voices()}


def wait_for(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def audio(engine: TtsEngine, voice: str) -> np.ndarray:
    scheduler = Scheduler()
    try:
        return np.concatenate(list(engine.speak(SpeechRequest(TEXT, voice), scheduler.stream())))
    finally:
        assert scheduler.close(10)


def test_without_the_setting_the_engine_is_as_it_was(make, tmp_path):
    assert type(make(auto_download=False)) is PiperEngine


def test_the_catalogues_voices_of_the_languages_are_listed_but_not_here(hub, make):
    voices = listed(make(auto_download_language=("de", "en-GB")))
    assert {voice.languages[-1] for voice in voices.values()} == {"de", "en"}
    assert {voice.language for voice in voices.values()} == {"de-DE", "en-GB"}
    assert not any(voice.is_here for voice in voices.values())
    assert voices["de_DE-thorsten-medium"].description == "de_DE-thorsten-medium (de-DE, medium)"
    assert list(voices) == sorted(voices)
    assert not hub.asked


@pytest.mark.parametrize(
    ("settings", "languages"),
    [({}, {"en-US", "en-GB"}), ({"language": "de"}, {"de-DE"}), ({"language": "en_GB"}, {"en-GB"})],
)
def test_the_languages_follow_from_the_settings(hub, make, settings, languages):
    voices = make(auto_download_language=(), **settings).voices()
    assert {voice.language for voice in voices} == languages


def test_speakers_are_listed_as_those_of_installed_voices(hub, make, tmp_path):
    speakers = ("ann", "bob")
    files = voice_files(NEW, speakers=speakers, language="xx_XX")
    catalogue(tmp_path / "data", offer(hub, NEW, files, language="xx-XX", speakers=speakers))
    engine = make()
    before = listed(engine)
    assert list(before) == [NEW, f"{NEW}#ann", f"{NEW}#bob"]
    put(tmp_path / "data" / NEW, files)
    after = listed(engine)
    assert list(after) == list(before)
    for name, voice in before.items():
        assert not voice.is_here
        assert after[name].is_here
        for field in ("languages", "description", "speakers", "reads_phonemes"):
            assert getattr(voice, field) == getattr(after[name], field), field


def test_of_many_speakers_none_is_listed_apart(hub, make):
    voices = listed(make(auto_download_language=("en-US",)))
    assert len(voices["en_US-libritts-high"].speakers) > 100
    assert not any(name.startswith("en_US-libritts-high#") for name in voices)


def test_what_would_not_become_a_voice_of_its_name_is_not_listed(hub, make, tmp_path):
    files = voice_files("other")
    entries = [
        offer(hub, "alias", files, language="xx-XX"),
        offer(hub, "other", {"other.onnx": files["other.onnx"]}, language="xx-XX"),
        {**offer(hub, "other-1", {"encoder.onnx": b"x"}, language="xx-XX"), "format": "piper-pair"},
        {"name": "by-hand", "kind": "tts", "format": "piper", "languages": ["xx-XX"]},
    ]
    catalogue(tmp_path / "data", *entries)
    assert make().voices() == []


def test_a_voice_that_is_here_or_broken_is_not_listed_again(hub, make, tmp_path):
    names = ("xx_XX-a-low", "xx_XX-b-low", "xx_XX-c-low")
    files = {name: voice_files(name, language="xx_XX") for name in names}
    catalogue(tmp_path / "data", *(offer(hub, name, files[name], language="xx-XX") for name in names))
    put(tmp_path / "data" / "mine", files[names[0]])
    # The user's own voice, of which the config is still to come.
    put(tmp_path / "data" / names[1], {f"{names[1]}.onnx": files[names[1]][f"{names[1]}.onnx"]})
    engine = make()
    assert {name: voice.is_here for name, voice in listed(engine).items()} == {names[0]: True, names[2]: False}
    assert list(engine.problems()) == [names[1]]
    engine.fetch(names[1])
    engine.fetch("unknown")
    assert not hub.asked


def test_a_catalogue_that_comes_later_is_heeded(hub, make, tmp_path):
    engine = make()
    assert engine.voices() == []
    path = catalogue(tmp_path / "data", offer(hub, NEW, voice_files(NEW), language="xx-XX"))
    assert list(listed(engine)) == [NEW]
    path.unlink()
    assert engine.voices() == []


def test_a_voice_is_fetched_when_it_is_asked_for(hub, make, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    files = voice_files(NEW, language="xx_XX")
    catalogue(tmp_path / "data", offer(hub, NEW, files, language="xx-XX"))
    engine = make()
    assert isinstance(engine, plugins.Fetching)
    assert isinstance(engine, plugins.Diagnosing)
    assert not listed(engine)[NEW].is_here
    with pytest.raises(VoiceNotFound):
        engine.prepare(NEW)
    assert not hub.asked
    for _ in range(3):
        engine.fetch(NEW)
    wait_for(lambda: f"{NEW} is ready" in caplog.text)
    assert listed(engine)[NEW].is_here
    assert [path.rpartition("/")[2] for path in hub.paths() if "/resolve/" in path].count(f"{NEW}.onnx") == 1
    # It is cut already, in a folder as `models add` leaves it.
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith(f"fetching {NEW} (")
    assert lines[1].startswith(f"{NEW}.onnx split in")
    assert lines[2] == f"{NEW} is ready"
    assert {path.name for path in (tmp_path / "data" / NEW).iterdir()} == {*files, "manifest.json"}
    reference = create(Settings(data_dir=(tmp_path / "data",), cache_dir=tmp_path / "cache"), on_cpu())
    assert np.array_equal(audio(engine, NEW), audio(reference, NEW))
    reference.close()
    assert audio(engine, NEW).size > 1000


def test_a_voice_that_is_being_cut_is_not_here_yet(hub, make, tmp_path, monkeypatch):
    catalogue(tmp_path / "data", offer(hub, NEW, voice_files(NEW, language="xx_XX"), language="xx-XX"))
    cutting, go_on = threading.Event(), threading.Event()
    niceness: list[int] = []
    real = on_demand.load_parts

    def slow(files, cache_dir):
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        cutting.set()
        assert go_on.wait(20)
        return real(files, cache_dir)

    monkeypatch.setattr(on_demand, "load_parts", slow)
    engine = make()
    engine.fetch(NEW)
    assert cutting.wait(20)
    assert (tmp_path / "data" / NEW / f"{NEW}.onnx").is_file()
    assert not listed(engine)[NEW].is_here
    go_on.set()
    wait_for(lambda: listed(engine)[NEW].is_here)
    assert niceness == [os.getpriority(os.PRIO_PROCESS, 0) + 10]


def test_a_failure_leaves_the_voice_listed_and_nothing_else(hub, make, tmp_path, caplog):
    model = offer(hub, NEW, voice_files(NEW, language="xx_XX"), language="xx-XX")
    catalogue(tmp_path / "data", model)
    for served in hub.served.values():
        served.content = served.content[::-1]
    engine = make()
    engine.fetch(NEW)
    wait_for(lambda: "cannot be fetched" in caplog.text)
    assert not listed(engine)[NEW].is_here
    assert not engine.problems()
    assert not (tmp_path / "data" / NEW).exists()
    asked = len(hub.asked)
    engine.fetch(NEW)
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [(".onnx.json", b"[]", f"{NEW}.onnx.json"), (".onnx", b"no graph", f"{NEW}.onnx")],
)
def test_a_voice_that_turns_out_to_be_broken_is_told_once_and_listed_no_more(
    hub, make, tmp_path, caplog, suffix, content, reason
):
    catalogue(tmp_path / "data", offer(hub, NEW, {**voice_files(NEW), f"{NEW}{suffix}": content}, language="xx-XX"))
    engine = make()
    engine.fetch(NEW)
    wait_for(lambda: "cannot be used" in caplog.text)
    (line,) = [record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()]
    assert line.startswith(f"{NEW} was fetched but cannot be used: ")
    assert reason in line
    assert engine.voices() == []
    assert list(engine.problems()) == [NEW]
    asked = len(hub.asked)
    engine.fetch(NEW)
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("variable", "value", "level", "reason"),
    [
        ("HF_HUB_OFFLINE", "1", "INFO", "HF_HUB_OFFLINE forbids it"),
        ("HF_ENDPOINT", "nowhere", "WARNING", "HF_ENDPOINT must be an address"),
    ],
)
def test_where_nothing_can_be_fetched_nothing_is_listed(make, monkeypatch, caplog, variable, value, level, reason):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(variable, value)
    assert type(make()) is PiperEngine
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage().startswith("--auto-download is without effect: ")
    assert reason in record.getMessage()


def test_closed_while_a_voice_comes_it_ends_soon(hub, make, tmp_path):
    files = voice_files(NEW)
    model = offer(hub, NEW, files, language="xx-XX", piece=500, pause_s=0.1)
    catalogue(tmp_path / "data", model)
    engine = make()
    engine.fetch(NEW)
    wait_for(lambda: hub.sent > 1000)
    begin = time.monotonic()
    engine.close()
    assert time.monotonic() - begin < 2.0
    assert {path.name for path in (tmp_path / "data").iterdir() if not path.name.startswith(".")} == {"catalog.json"}
    assert list(listed(engine)) == [NEW]


def test_listing_is_quick(hub, make):
    engine = make(auto_download_language=("en", "de", "fr", "es"))
    begin = time.monotonic()
    for _ in range(100):
        assert len(engine.voices()) > 100
    assert time.monotonic() - begin < 2.0
