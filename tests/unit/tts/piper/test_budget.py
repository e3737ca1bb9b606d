"""Voices that share a budget of memory: they come and go, and nobody who listens notices."""

import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_piper import build_voice

from wyoming_rknn.models.shelf import WORKING_BYTES
from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.memory import MIB, Memory
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest
from wyoming_rknn.tts.piper.engine import PiperEngine, create
from wyoming_rknn.tts.piper.parts import load_parts

TEXT = "abc" * 20
COUNT = 20


class Speaking:
    def __init__(self, settings: Settings, memory: Memory) -> None:
        self.memory = memory
        self.scheduler = Scheduler()
        engine = create(settings, Runtimes(Board(), None, 1, memory=memory))
        assert isinstance(engine, PiperEngine)
        self.engine = engine

    def windows(self, voice: str) -> Iterator[np.ndarray]:
        return self.engine.speak(SpeechRequest(TEXT, voice), self.scheduler.stream())

    def __call__(self, voice: str) -> np.ndarray:
        return np.concatenate(list(self.windows(voice)))

    @property
    def loaded(self) -> int:
        """Return how many voices are in memory, whoever holds them."""
        return round(self.memory.used_bytes / self.one_bytes)

    @property
    def one_bytes(self) -> int:
        (graph, *_) = self.engine._store.scan("tts").manifests[0].files.values()
        return 2 * graph.stat().st_size + WORKING_BYTES


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Return a folder with many voices of the same sound: v00, v01 …"""
    config = {
        "audio": {"sample_rate": 8000, "quality": "medium"},
        "espeak": {"voice": "en-us"},
        "language": {"code": "en_US"},
        "inference": {"noise_scale": 0.0, "length_scale": 2.0, "noise_w": 0.0},
        "phoneme_type": "text",
        "phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [3], "b": [4], "c": [5]},
        "num_symbols": 20,
        "num_speakers": 1,
        "hop_length": 8,
    }
    folder = tmp_path / "voices"
    folder.mkdir()
    onnx.save(build_voice(), tmp_path / "graph")
    for number in range(COUNT):
        (folder / f"v{number:02}.onnx").symlink_to(tmp_path / "graph")
        (folder / f"v{number:02}.onnx.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where the voices are cut."""
    folder = tmp_path_factory.mktemp("cache")
    onnx.save(build_voice(), folder / "graph")
    load_parts({"graph": folder / "graph"}, folder)
    return folder


@pytest.fixture
def make(copies: Path, cache: Path) -> Iterator[Callable[..., Speaking]]:
    made: list[Speaking] = []

    def make(budget_voices: float | None = None, **options: float) -> Speaking:
        settings = Settings(data_dir=(copies,), cache_dir=cache, first_window=8, max_window=16)
        speaking = Speaking(settings, Memory(**options))
        if budget_voices is not None:
            speaking.memory.budget_bytes = int(budget_voices * speaking.one_bytes)
        made.append(speaking)
        return speaking

    yield make
    for one in made:
        assert one.scheduler.close(10)
        one.memory.close()
        one.engine.close()


def test_twenty_voices_in_turn_stay_within_the_budget(make):
    speak = make(3.5)
    first = speak("v00")
    for number in (*range(COUNT), *range(COUNT)):
        assert (speak(f"v{number:02}") == first).all()
        assert speak.memory.used_bytes <= speak.memory.budget_bytes
        assert speak.memory.names[-1] == f"v{number:02}"
    assert speak.memory.names == ["v17", "v18", "v19"]


def test_a_reply_goes_on_while_its_voice_is_let_go(make):
    speak = make(1.5)
    expected = speak("v00")
    windows = speak.windows("v01")
    begun = [next(windows)]
    for name in ("v02", "v03"):
        assert (speak(name) == expected).all()
    assert speak.memory.names == ["v03"]
    assert speak.loaded == 2
    assert (np.concatenate([*begun, *windows]) == expected).all()
    del windows
    # What ends is freed with its last reference, or with the frames of a thread that is about to let it go.
    gc.collect()
    assert speak.loaded == 1


def test_a_voice_that_is_let_go_while_it_speaks_is_found_again(make):
    speak = make(1.5)
    expected = speak("v00")
    windows = speak.windows("v00")
    begun = [next(windows)]
    voice = weakref.ref(speak.engine._shelf.get("v00"))
    speak("v01")
    assert speak.memory.names == ["v01"]
    assert speak.engine._load("v00")[0] is voice()
    assert speak.memory.names == ["v00"]
    assert (np.concatenate([*begun, *windows]) == expected).all()


def test_a_voice_leaves_nothing_to_the_collector(make):
    speak = make(1.5)
    speak("v00")
    gc.collect()
    gc.disable()
    try:
        list(windows := speak.windows("v01"))
        voice = weakref.ref(speak.engine._shelf.get("v01").voice)
        del windows
        speak("v02")
        assert voice() is None
    finally:
        gc.enable()


def test_many_speak_at_once_within_a_budget_that_is_too_small(make):
    speak = make(1.5)
    expected = speak("v00")
    failures = []

    def talk(begin: int) -> None:
        for number in range(begin, begin + 5):
            if not np.array_equal(speak(f"v{number % 7:02}"), expected):
                failures.append(number)

    threads = [threading.Thread(target=talk, args=(begin,)) for begin in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    speak("v10")
    assert speak.memory.names == ["v10"]


def test_an_idle_voice_goes_and_speaks_again(make):
    speak = make(idle_s=0.2)
    expected = speak("v00")
    for _ in range(1000):
        if not speak.loaded:
            break
        threading.Event().wait(0.01)
    assert speak.loaded == 0
    assert (speak("v00") == expected).all()


def test_a_voice_removed_from_the_disk_frees_its_memory_at_the_next_look(make, copies):
    speak = make()
    speak("v00")
    speak("v01")
    (copies / "v00.onnx").unlink()
    assert "v00" not in [voice.name for voice in speak.engine.voices()]
    assert speak.loaded == 1
    assert speak.memory.used_bytes < 2 * WORKING_BYTES - MIB


def test_a_reply_that_is_over_holds_no_voice(make):
    speak = make(1.5)
    stream = speak.scheduler.stream()
    list(speak.engine.speak(SpeechRequest(TEXT, "v00"), stream))
    stream.cancel()
    speak("v01")
    assert speak.loaded == 1
