"""The Piper engine: voices on disk come and go, requests get the right one, mistakes are told."""

import gc
import json
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from computing import on_cpu
from tiny_piper import VoiceShape, build_voice

from wyoming_rknn.errors import Cancelled, EngineError, ModelFileMissing, ModelInvalid, VoiceNotFound
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import Prosody, SpeechRequest
from wyoming_rknn.tts.piper import loading
from wyoming_rknn.tts.piper.engine import MAX_LISTED_SPEAKERS, PiperEngine, create
from wyoming_rknn.tts.programs import Programs, Wanted

RATE_HZ = 8000
LETTERS = {letter: [3 + index] for index, letter in enumerate("abcdefghijklmno ")}


def install(folder: Path, name: str, speakers: dict[str, int] | None = None, **config: object) -> Path:
    """Put a voice with a made-up alphabet into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = folder / f"{name}.onnx"
    count = len(speakers or {"": 0})
    onnx.save(build_voice(VoiceShape(speakers=count)), graph)
    content = {
        "audio": {"sample_rate": RATE_HZ, "quality": "medium"},
        "espeak": {"voice": "en-us"},
        "language": {"code": "en_US"},
        "inference": {"noise_scale": 0.0, "length_scale": 2.0, "noise_w": 0.0},
        "phoneme_type": "text",
        "phoneme_id_map": {"_": [0], "^": [1], "$": [2], **LETTERS},
        "num_symbols": 20,
        "num_speakers": count,
        "speaker_id_map": speakers or {},
        "hop_length": 8,
        **config,
    }
    graph.with_suffix(".onnx.json").write_text(json.dumps(content))
    return graph


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    assert scheduler.close(10)


@pytest.fixture
def make(tmp_path: Path, scheduler: Scheduler) -> Iterator[Callable[..., "Speaking"]]:
    made: list[Speaking] = []

    def make(**settings: object) -> Speaking:
        merged = {"data_dir": (tmp_path / "voices",), "cache_dir": tmp_path / "cache", **settings}
        made.append(Speaking(create(Settings(**merged), on_cpu()), scheduler))
        return made[-1]

    yield make
    for speaking in made:
        speaking.engine.close()


class Speaking:
    def __init__(self, engine: PiperEngine, scheduler: Scheduler) -> None:
        self.engine = engine
        self.scheduler = scheduler

    def __call__(self, text: str, voice: str, **kwargs: object) -> np.ndarray:
        stream = self.scheduler.stream()
        audio = list(self.engine.speak(SpeechRequest(text, voice, **kwargs), stream))
        assert stream.reserved_s == pytest.approx(sum(map(len, audio)) / RATE_HZ)
        return np.concatenate([np.zeros(0, np.float32), *audio])


def test_voices_come_and_go(make, tmp_path):
    speak = make()
    assert speak.engine.voices() == []
    graph = install(tmp_path / "voices", "b")
    install(tmp_path / "voices" / "deeper", "a")
    assert [voice.name for voice in speak.engine.voices()] == ["a", "b"]
    graph.unlink()
    assert [voice.name for voice in speak.engine.voices()] == ["a"]


def test_speakers_are_voices_of_their_own(make, tmp_path):
    install(tmp_path / "voices", "duo", {"ann": 1, "bob": 0})
    speak = make()
    assert [voice.name for voice in speak.engine.voices()] == ["duo", "duo#ann", "duo#bob"]
    assert speak.engine.voices()[0].speakers == ("bob", "ann")
    ann, bob, default = (speak("abc", name) for name in ("duo#ann", "duo#bob", "duo"))
    assert (ann != bob).any()
    assert (bob == default).all()
    assert (speak("abc", "duo", speaker="ann") == ann).all()


def test_a_crowd_of_speakers_is_one_voice(make, tmp_path):
    crowd = {f"s{index}": index for index in range(MAX_LISTED_SPEAKERS + 1)}
    install(tmp_path / "voices", "crowd", crowd)
    speak = make()
    assert [voice.name for voice in speak.engine.voices()] == ["crowd"]
    assert (speak("abc", "crowd#s3") == speak("abc", "crowd", speaker="s3")).all()


def test_length_comes_from_voice_settings_and_request(make, tmp_path):
    install(tmp_path / "voices", "v")
    usual = speak = make()("abc", "v").size
    assert make(length_scale=2.0)("abc", "v").size == 2 * usual
    assert make()("abc", "v", prosody=Prosody(length_scale=0.5)).size == usual / 2
    assert speak == 6 * 8 * (2 * 3 + 3)


def test_noise_comes_from_voice_settings_and_request(make, tmp_path):
    install(tmp_path / "voices", "v")
    quiet = make()
    assert (quiet("abc", "v") == quiet("abc", "v")).all()
    noisy = make(noise_scale=0.7)
    assert (noisy("abc", "v") != noisy("abc", "v")).any()
    assert (noisy("abc", "v", prosody=Prosody(noise_scale=0.0)) == quiet("abc", "v")).all()


def test_volume_is_a_fixed_gain(make, tmp_path):
    install(tmp_path / "voices", "v")
    usual, quieter = make()("abc", "v"), make(volume=0.25)("abc", "v")
    np.testing.assert_allclose(quieter, usual / 4, atol=1e-6)
    assert np.abs(make(volume=10.0)("abc", "v")).max() < 1.0


def test_unknown_voice(make, tmp_path):
    install(tmp_path / "voices", "kristin")
    with pytest.raises(VoiceNotFound, match="kristin"):
        make()("abc", "kristine")


def test_nothing_speakable_has_no_audio(make, tmp_path):
    install(tmp_path / "voices", "v")
    assert make()("...", "v").size == 0


def test_missing_phonemes_are_logged_once_per_voice(make, tmp_path, caplog):
    install(tmp_path / "voices", "v")
    speak = make()
    for _ in range(3):
        assert speak("axbyc", "v").size == speak("abc", "v").size
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == ["voice v has no sound for 'x' 'y'; left out"]


def test_broken_voice_is_told_and_the_others_speak(make, tmp_path):
    install(tmp_path / "voices", "good")
    install(tmp_path / "voices", "bad").write_bytes(b"nothing of a graph")
    speak = make()
    with pytest.raises(ModelInvalid, match=r"bad\.onnx"):
        speak("abc", "bad")
    assert speak("abc", "good").size


@pytest.fixture
def splits(monkeypatch):
    """Count how often a voice's parts are asked for."""
    asked = []
    original = loading.load_parts
    monkeypatch.setattr(loading, "load_parts", lambda *args: asked.append(args) or original(*args))
    return asked


def test_broken_voice_is_left_out_until_its_files_change(make, tmp_path, splits):
    install(tmp_path / "voices", "aaa").write_bytes(b"nothing of a graph")
    install(tmp_path / "voices", "bbb")
    speak = make()
    programs = Programs([speak.engine], Settings())
    assert programs.choose(Wanted()).voice.name == "aaa"
    for _ in range(3):
        with pytest.raises(ModelInvalid, match=r"aaa\.onnx"):
            speak("abc", "aaa")
        assert programs.choose(Wanted()).voice.name == "bbb"
        with pytest.raises(ModelInvalid, match=r"aaa\.onnx"):
            programs.choose(Wanted("AAA"))
    assert [voice.name for voice in speak.engine.voices()] == ["bbb"]
    assert len(splits) == 1
    install(tmp_path / "voices", "aaa")
    assert speak.engine.problems() == {}
    assert programs.choose(Wanted()).voice.name == "aaa"
    assert speak("abc", "aaa").size


def test_config_that_changes_is_reason_to_look_again(make, tmp_path):
    graph = install(tmp_path / "voices", "v")
    config = graph.with_suffix(".onnx.json")
    whole = config.read_text()
    config.write_text(whole.replace('"text"', '"signs"'))
    speak = make()
    for _ in range(2):
        with pytest.raises((ModelInvalid, VoiceNotFound)):
            speak("abc", "v")
    config.write_text(whole)
    assert speak("abc", "v").size


@pytest.mark.parametrize("listed", [True, False])
def test_replaced_voice_speaks_from_its_new_files(make, tmp_path, listed):
    graph = install(tmp_path / "voices", "v")
    speak = make()
    before = speak("abc", "v")
    onnx.save(build_voice(VoiceShape(dilations=(1,)), seed=2), graph)
    install_config = json.loads(graph.with_suffix(".onnx.json").read_text())
    install_config["inference"]["length_scale"] = 1.0
    graph.with_suffix(".onnx.json").write_text(json.dumps(install_config))
    if listed:
        assert speak.engine.voices()
    after = speak("abc", "v")
    assert 0 < after.size < before.size


def test_reply_keeps_its_voice_and_the_last_one_frees_it(make, tmp_path):
    graph = install(tmp_path / "voices", "v")
    speak = make(first_window=8, max_window=16)
    speak.engine.prepare("v")
    stream = speak.scheduler.stream()

    request = SpeechRequest("abc", "v")
    whole = np.concatenate(list(speak.engine.speak(request, stream)))
    running = speak.engine.speak(request, stream)
    begun = [next(running)]
    old = weakref.ref(speak.engine._shelf.get("v").voice)
    onnx.save(build_voice(seed=2), graph)
    assert (speak("abc", "v") != whole).any()
    assert (np.concatenate([*begun, *running]) == whole).all()
    assert (np.concatenate(list(speak.engine.speak(request, stream))) == whole).all()
    graph.unlink()
    assert speak.engine.voices() == []
    assert (np.concatenate(list(speak.engine.speak(request, stream))) == whole).all()
    assert speak.engine._shelf.get("v") is None
    assert old() is not None
    del stream, running
    gc.collect()
    assert old() is None


def test_voice_of_a_name_that_another_folder_has_too(make, tmp_path):
    install(tmp_path / "b", "v")
    speak = make(data_dir=(tmp_path / "a", tmp_path / "b"))
    usual = speak("abc", "v").size
    install(tmp_path / "a", "v", inference={"length_scale": 1.0})
    assert speak.engine.voices()
    assert speak("abc", "v").size < usual


def test_what_is_wrong_with_half_voices_is_known_by_name(make, tmp_path):
    folder = tmp_path / "voices"
    install(folder, "amy").with_suffix(".onnx.json").unlink()
    install(folder, "bob").with_suffix(".onnx.json").write_text("{}")
    install(folder, "eve").with_suffix(".onnx.json").write_text("{")
    install(folder, "gus").unlink()
    engine = make().engine
    found = engine.problems()
    assert {name: type(error) for name, error in found.items()} == {
        "amy": ModelFileMissing,
        "bob": ModelInvalid,
        "eve": ModelInvalid,
        "gus": ModelFileMissing,
    }
    assert "put amy.onnx.json beside it" in str(found["amy"])
    with pytest.raises(ModelFileMissing, match=r"put amy\.onnx\.json beside it"):
        Programs([engine], Settings()).choose(Wanted("amy"))


def test_the_separator_may_be_part_of_names(make, tmp_path):
    install(tmp_path / "voices", "x", {"a#b": 1, "y": 0})
    install(tmp_path / "voices", "x#y", inference={"length_scale": 1.0})
    speak = make()
    assert [voice.name for voice in speak.engine.voices()] == ["x", "x#a#b", "x#y"]
    programs = Programs([speak.engine], Settings())
    for name in ("x", "x#a#b", "x#y"):
        assert programs.choose(Wanted(name)).voice.name == name
        speak.engine.prepare(name)
    assert speak("abc", "x#y").size < speak("abc", "x").size
    assert (speak("abc", "x#a#b") == speak("abc", "x", speaker="a#b")).all()
    assert (speak("abc", "x#a#b") != speak("abc", "x")).any()


def test_config_of_another_voice_is_told(make, tmp_path, caplog):
    install(tmp_path / "voices", "v", hop_length=16)
    for is_cut in (False, True):
        caplog.clear()
        speak = make(first_window=8, max_window=16)
        assert (tmp_path / "cache").exists() == is_cut
        speak.engine.prepare("v")
        stream = speak.scheduler.stream()
        for _ in range(2):
            (audio,) = speak.engine.speak(SpeechRequest("abc" * 20, "v"), stream)
            assert audio.any()
        (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert "v.onnx.json says 16 samples per frame, the graph makes 8; take the config that belongs" in line


def test_half_voices_are_told_once(make, tmp_path, caplog):
    install(tmp_path / "voices", "good")
    install(tmp_path / "voices", "bad").with_suffix(".onnx.json").write_text("{}")
    speak = make()
    for _ in range(3):
        assert [voice.name for voice in speak.engine.voices()] == ["good"]
    assert len([record for record in caplog.records if "bad.onnx.json" in record.getMessage()]) == 1


def test_voice_that_cannot_be_cut_is_spoken_in_one_go(make, voices, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = voices("sano-duo").parent
    speak = make(data_dir=(folder,))
    speak.engine.prepare("sano-duo")
    stream = speak.scheduler.stream()
    audio = list(speak.engine.speak(SpeechRequest("Hello.", "sano-duo"), stream))
    assert len(audio) == 1
    assert audio[0].any()
    list(speak.engine.speak(SpeechRequest("Hello.", "sano-duo"), stream))
    assert len([record for record in caplog.records if "cannot be cut" in record.getMessage()]) == 1


def test_split_pair_speaks(make, voices):
    speak = make(data_dir=(voices("sano-kristin").parent,))
    stream = speak.scheduler.stream()
    audio = list(speak.engine.speak(SpeechRequest("Turn on the living room lights.", "sano-kristin"), stream))
    assert len(audio) > 2
    assert np.concatenate(audio).std() > 0.01


def test_first_window_does_not_wait_for_the_sentence(make, tmp_path):
    install(tmp_path / "voices", "v")
    speak = make(first_window=8, max_window=16)
    speak.engine.prepare("v")
    stream = speak.scheduler.stream()
    audio = speak.engine.speak(SpeechRequest("abc" * 60, "v"), stream)
    assert next(audio).size == 8 * 8
    stream.cancel()
    with pytest.raises(Cancelled):
        list(audio)


def test_encoder_is_queued_by_the_call(make, tmp_path):
    install(tmp_path / "voices", "v")
    speak = make()
    speak.engine.prepare("v")
    stream = speak.scheduler.stream()
    audio = speak.engine.speak(SpeechRequest("abc", "v"), stream)
    # One device, one queue: what is queued afterwards runs afterwards.
    speak.scheduler.stream().submit(lambda: None, at_s=0).result(10)
    stream.cancel()
    with pytest.raises(Cancelled):
        list(audio)


def test_voices_are_loaded_once(make, tmp_path, splits):
    install(tmp_path / "voices", "duo", {"ann": 0, "bob": 1})
    speak = make()
    for name in ("duo", "duo#ann", "duo#bob"):
        speak.engine.prepare(name)
        speak("abc", name)
    assert len(splits) == 1


def test_numbers_that_are_none_do_not_become_noise(make, tmp_path, monkeypatch):
    from wyoming_rknn.tts.piper.voice import CutUtterance

    install(tmp_path / "voices", "v")
    speak = make()
    speak.engine.prepare("v")
    monkeypatch.setattr(CutUtterance, "_decode", lambda self, window: np.full(window.frames * 8, np.nan, np.float32))
    with pytest.raises(EngineError, match="NaN"):
        speak("abc", "v")
