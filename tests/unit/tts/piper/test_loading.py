"""Voices that speak while they are being cut: at once from the whole graph, then from their parts."""

import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_voices import put, voice_files

from wyoming_rknn.audio import to_int16
from wyoming_rknn.errors import Cancelled, GraphNotSplittable, ModelInvalid
from wyoming_rknn.models.shelf import footprint
from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.memory import Memory
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Scheduler, Stream
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest
from wyoming_rknn.tts.piper import loading
from wyoming_rknn.tts.piper.engine import PiperEngine, create
from wyoming_rknn.tts.piper.voice import CutVoice, WholeVoice

TEXT = "a bad egg, " * 12
PATIENCE_S = 30


class Gate:
    """Stands before the cutting of voices, open or closed; what comes after is the real thing."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Semaphore(0), threading.Event()
        self.failure: Exception | None = None
        self.under_way = self.most = 0
        self._cut = loading.load_parts

    def __call__(self, *arguments: object) -> object:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            self.asked.release()
            assert self.go_on.wait(PATIENCE_S)
            if self.failure is not None:
                raise self.failure
            return self._cut(*arguments)
        finally:
            self.under_way -= 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(loading, "load_parts", gate)
    yield gate
    gate.go_on.set()


class Speaking:
    def __init__(self, folder: Path, cache: Path) -> None:
        self.memory = Memory()
        self.scheduler = Scheduler()
        settings = Settings(data_dir=(folder,), cache_dir=cache, first_window=8, noise_scale=0.0, noise_w=0.0)
        engine = create(settings, Runtimes(Board(), None, 1, memory=self.memory))
        assert isinstance(engine, PiperEngine)
        self.engine = engine

    def windows(self, voice: str = "v", text: str = TEXT, stream: Stream | None = None) -> list[np.ndarray]:
        return list(self.engine.speak(SpeechRequest(text, voice), stream or self.scheduler.stream()))

    def settle(self, voice: str = "v") -> None:
        assert self.engine._shelf.get(voice).settled.wait(PATIENCE_S)

    @property
    def one_bytes(self) -> int:
        return footprint(self.engine._store.scan("tts").manifests[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "voices", voice_files("v"))
    return tmp_path / "voices"


@pytest.fixture
def make(tmp_path: Path, folder: Path) -> Iterator[Callable[..., Speaking]]:
    made: list[Speaking] = []

    def make(folder: Path = folder) -> Speaking:
        made.append(Speaking(folder, tmp_path / "cache"))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()
        assert one.scheduler.close(10)
        one.memory.close()


def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """Tell whether two sounds are the same within one step of 16 bits."""
    left, right = (to_int16(np.concatenate(windows)).astype(int) for windows in (some, others))
    return left.size == right.size and bool(np.abs(left - right).max() <= 1)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    found = (record for record in caplog.records if record.name == loading.__name__ and record.levelno == level)
    return [record.getMessage() for record in found]


@pytest.mark.parametrize(
    ("voice", "text"), [("v", TEXT), ("random-tiny", "The lamp is on."), ("random-medium", "The lamp is on.")]
)
def test_a_voice_speaks_before_it_is_cut_and_in_windows_afterwards(make, gate, voices, voice, text):
    speak = make() if voice == "v" else make(voices(voice).parent)
    whole = speak.windows(voice, text)
    assert gate.asked.acquire(timeout=PATIENCE_S)
    assert len(whole) == 1
    assert len(speak.windows(voice, text)) == 1
    gate.go_on.set()
    speak.settle(voice)
    windows = speak.windows(voice, text)
    assert len(windows) > 1
    assert same(windows, whole)
    # Cut already, it is never loaded whole.
    again = make() if voice == "v" else make(voices(voice).parent)
    assert len(again.windows(voice, text)) == len(windows)
    assert not gate.asked.acquire(blocking=False)


def test_a_reply_goes_on_as_it_began(make, gate):
    speak = make()
    early = speak.scheduler.stream()
    whole = speak.windows(stream=early)
    old = weakref.ref(speak.engine._shelf.get("v").voice)
    gate.go_on.set()
    speak.settle()
    assert speak.windows(stream=early)[0].size == whole[0].size
    late = speak.scheduler.stream()
    assert len(speak.windows(stream=late)) > 1
    assert speak.windows(stream=early)[0].size == whole[0].size
    assert isinstance(old(), WholeVoice)
    early.cancel()
    assert len(speak.windows(stream=late)) > 1
    gc.collect()
    assert old() is None


def test_both_count_until_the_last_reply_of_the_whole_is_over(make, gate):
    speak = make()
    stream = speak.scheduler.stream()
    speak.windows(stream=stream)
    one = speak.one_bytes
    assert speak.memory.used_bytes == one
    gate.go_on.set()
    speak.settle()
    assert speak.memory.used_bytes == 2 * one
    # What only waits for its end keeps nobody out.
    assert speak.memory.names == ["v"]
    stream.cancel()
    speak.engine.voices()
    gc.collect()
    assert speak.memory.used_bytes == one


def test_a_voice_that_gives_way_while_it_is_cut_comes_back_in_parts(make, gate):
    speak = make()
    speak.windows()
    assert gate.asked.acquire(timeout=PATIENCE_S)
    speak.memory.budget_bytes = speak.one_bytes
    (lease,) = speak.memory._staying()
    gc.collect()
    assert speak.memory._let_go(lease, used_too=False)
    gate.go_on.set()
    speak.engine.prepare("v")
    assert len(speak.windows()) > 1
    assert speak.memory.used_bytes == speak.one_bytes


def test_one_voice_is_cut_at_a_time(make, gate, folder):
    put(folder, voice_files("w", seed=2))
    put(folder, voice_files("x", seed=3))
    speak = make()
    for name in "vwx":
        assert len(speak.windows(name)) == 1
    gate.go_on.set()
    for name in "vwx":
        speak.settle(name)
        assert len(speak.windows(name)) > 1
    assert gate.most == 1


def test_to_prepare_waits_for_the_parts_while_requests_do_not(make, gate):
    speak = make()
    preparing = threading.Thread(target=speak.engine.prepare, args=("v",))
    preparing.start()
    assert gate.asked.acquire(timeout=PATIENCE_S)
    assert len(speak.windows()) == 1
    assert preparing.is_alive()
    gate.go_on.set()
    preparing.join(PATIENCE_S)
    assert not preparing.is_alive()
    assert isinstance(speak.engine._shelf.get("v").voice, CutVoice)


@pytest.mark.parametrize(
    ("failure", "level", "line"),
    [
        (GraphNotSplittable("no place"), logging.INFO, "voice v cannot be cut (no place): each sentence is spoken in"),
        (ModelInvalid("of no use"), logging.WARNING, "voice v stays whole (of no use): each sentence is spoken in one"),
        (OSError("no luck"), logging.WARNING, "voice v stays whole (OSError: no luck): each sentence is spoken in"),
    ],
)
def test_what_cannot_be_cut_stays_whole_and_is_told_once(make, gate, caplog, failure, level, line):
    caplog.set_level(logging.INFO)
    speak = make()
    gate.failure = failure
    whole = speak.windows()
    gate.go_on.set()
    speak.engine.prepare("v")
    for _ in range(2):
        assert same(speak.windows(), whole)
    assert len(speak.windows()) == 1
    (told,) = messages(caplog, level)
    assert told.startswith(line)
    assert [voice.name for voice in speak.engine.voices()] == ["v"]


def test_parts_that_cannot_be_loaded_leave_the_voice_whole(make, caplog, tmp_path):
    speak = make()
    speak.engine.prepare("v")
    for part in tmp_path.glob("cache/split/*/decoder.onnx"):
        part.write_bytes(bytes(part.stat().st_size))
    again = make()
    assert same(again.windows(), speak.windows())
    assert len(again.windows()) == 1
    (told,) = messages(caplog, logging.WARNING)
    assert "decoder.onnx is not an ONNX model" in told


def test_a_voice_that_is_removed_while_it_is_cut_is_nobodys_concern(make, gate, folder, caplog):
    caplog.set_level(logging.INFO)
    speak = make()
    stream = speak.scheduler.stream()
    whole = speak.windows(stream=stream)
    assert gate.asked.acquire(timeout=PATIENCE_S)
    for path in folder.iterdir():
        path.unlink()
    assert speak.engine.voices() == []
    gate.go_on.set()
    assert same(speak.windows(stream=stream), whole)
    put(folder, voice_files("v"))
    speak.engine.prepare("v")
    assert len(speak.windows()) > 1
    assert messages(caplog, logging.WARNING) == []


def test_a_file_that_is_half_replaced_while_it_is_cut_is_no_reason_to_warn(make, gate, folder, caplog):
    speak = make()
    stream = speak.scheduler.stream()
    whole = speak.windows(stream=stream)
    held = speak.engine._shelf.get("v")
    assert gate.asked.acquire(timeout=PATIENCE_S)
    (folder / "v.onnx").write_bytes((folder / "v.onnx").read_bytes()[:-100])
    gate.go_on.set()
    assert held.settled.wait(PATIENCE_S)
    assert same(speak.windows(stream=stream), whole)
    assert messages(caplog, logging.WARNING) == []


def test_a_voice_that_is_replaced_while_it_is_cut_speaks_from_its_new_files(make, gate, folder):
    speak = make()
    old = speak.windows()
    assert gate.asked.acquire(timeout=PATIENCE_S)
    put(folder, voice_files("v", seed=2))
    new = speak.windows()
    assert not same(new, old)
    gate.go_on.set()
    speak.engine.prepare("v")
    windows = speak.windows()
    assert len(windows) > 1
    assert same(windows, new)


def test_closing_gives_up_what_is_cut_and_leaves_nothing_half(make, folder, tmp_path):
    put(folder, voice_files("w", seed=2))
    speak = make()
    for name in "vw":
        speak.windows(name)
    held = [speak.engine._shelf.get(name) for name in "vw"]
    waiting = [threading.Thread(target=one.settled.wait) for one in held]
    for thread in waiting:
        thread.start()
    speak.engine.close()
    for thread in waiting:
        thread.join(1)
        assert not thread.is_alive()
    assert speak.engine._loader._thread is None
    assert not list(tmp_path.glob("cache/split/.tmp-*"))
    # What asks for a voice all the same need not wait for what will not come.
    speak.engine.prepare("v")


def test_a_pair_is_not_loaded_by_an_engine_that_is_closed(make, voices):
    speak = make(voices("sano-kristin").parent)
    speak.engine.close()
    with pytest.raises(Cancelled):
        speak.engine.prepare("sano-kristin")


def test_a_process_that_ends_does_not_wait_for_a_cut_and_leaves_nothing_of_it(folder, tmp_path):
    cache = tmp_path / "cache"
    program = f"""
from pathlib import Path
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest
from wyoming_rknn.tts.piper.engine import create
settings = Settings(data_dir=(Path({str(folder)!r}),), cache_dir=Path({str(cache)!r}), runtime="onnx")
runtimes = Runtimes.of(settings)
assert list(create(settings, runtimes).speak(SpeechRequest("abc", "v"), runtimes.scheduler().stream()))
while not list(Path({str(cache)!r}).glob("split/.tmp-*")):
    pass
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)
    assert [path.name for path in (cache / "split").iterdir()] == ["stamps"]
