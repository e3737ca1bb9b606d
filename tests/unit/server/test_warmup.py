import logging

import numpy as np
import pytest

from wyoming_rknn.asr.engine import AsrModel
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.errors import ModelInvalid, UsageError
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.server.service import Service
from wyoming_rknn.server.warmup import preload
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import Voice
from wyoming_rknn.tts.programs import Programs


class Engine:
    description = "for tests"
    partials = False

    def __init__(self, name, *models, broken=()):
        self.name = name
        self.installed = [AsrModel(model, ("en",), model) for model in models]
        self.broken = broken
        self.prepared = []

    def models(self):
        return [model for model in self.installed if model.name not in self.broken or model.name not in self.prepared]

    def problems(self):
        return {name: ModelInvalid(f"{name} is broken") for name in self.broken if name in self.prepared}

    def prepare(self, model):
        self.prepared.append(model)
        if model in self.broken:
            raise ModelInvalid(f"{model} is broken")


class Speaker:
    description = "for tests"

    def __init__(self, name, *voices, elsewhere=(), broken=()):
        self.name = name
        self.installed = [Voice(voice, ("en",), voice, 8000, is_here=voice not in elsewhere) for voice in voices]
        self.broken = broken
        self.prepared = []
        self.spoken = []

    def voices(self):
        return self.installed

    def prepare(self, voice):
        self.prepared.append(voice)
        if voice in self.broken:
            raise ModelInvalid(f"{voice} is broken")

    def speak(self, request, stream):
        if request.voice not in self.spoken:
            self.spoken.append(request.voice)
        return iter([np.zeros(8, np.float32)])


@pytest.fixture
def prepared():
    """Return what engines have prepared, one by one, for a server with these settings."""

    def prepare(*engines, speakers=(), **given):
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        settings = Settings(**given)
        scheduler = Scheduler()
        preload(Service(settings, scheduler, Programs(speakers, settings), AsrPrograms(engines, settings)))
        assert scheduler.close(10)
        return [engine.prepared for engine in (*engines, *speakers)]

    return prepare


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_one_port_prepares_one_model(prepared):
    assert prepared(Engine("a", "a1", "a2"), Engine("b", "b1")) == [["a1"], []]


def test_every_port_prepares_its_own_default(prepared):
    assert prepared(Engine("a", "a1"), Engine("b", "b1"), asr_uri=["tcp://h:1", "tcp://h:2"]) == [["a1"], ["b1"]]
    assert prepared(Engine("a", "a1"), Engine("b", "b1"), asr_uri=["tcp://h:1?program=b"]) == [[], ["b1"]]


def test_nothing_listens_where_only_speech_is_served(prepared):
    assert prepared(Engine("a", "a1"), tts_uri=["tcp://h:1"]) == [[]]


def test_a_broken_model_gives_way_to_the_next(prepared, caplog):
    assert prepared(Engine("a", "a1", "a2", broken=["a1"])) == [["a1", "a2"]]
    assert "the default model cannot be loaded: a1 is broken" in caplog.text


def test_without_a_model_the_log_says_so(prepared, caplog):
    assert prepared(Engine("a")) == [[]]
    assert "nothing listens" in caplog.text


def test_by_default_the_defaults_are_loaded_and_the_voice_speaks_once(prepared):
    speaker = Speaker("s", "v", "w")
    assert prepared(Engine("a", "a1", "a2"), speakers=[speaker]) == [["a1"], ["v"]]
    assert speaker.spoken == ["v"]
    assert prepared(Engine("a", "a1", "a2"), speakers=[Speaker("s", "v", "w")], preload=["default"]) == [["a1"], ["v"]]


def test_nothing_is_loaded_where_nothing_is_wanted(prepared, caplog):
    caplog.set_level(logging.INFO)
    assert prepared(Engine("a", "a1"), speakers=[Speaker("s", "v")], preload=["none"]) == [[], []]
    assert not caplog.records


def test_nothing_excludes_everything_else():
    with pytest.raises(UsageError, match="--preload none excludes everything else"):
        Settings(preload=("none", "default"))


def test_all_are_loaded_the_defaults_first_and_last_each_file_once(prepared):
    engines = Engine("a", "a1", "a2"), Engine("b", "b1")
    speaker = Speaker("s", "duo", "duo#ann", "duo#bob", "v", "w", elsewhere=["w"])
    found = prepared(*engines, speakers=[speaker], preload=["all"])
    assert found == [["a1", "a1", "a2", "a1"], ["b1"], ["duo", "duo", "v", "duo"]]
    assert speaker.spoken == ["duo"]


def test_all_are_those_of_what_is_served(prepared):
    found = prepared(Engine("a", "a1"), speakers=[Speaker("s", "v")], preload=["all"], tts_uri=["tcp://h:1"])
    assert found == [[], ["v", "v", "v"]]


def test_what_is_named_is_loaded_and_nothing_else(prepared, caplog):
    caplog.set_level(logging.INFO)
    speaker = Speaker("s", "en_US-v", "w")
    assert prepared(Engine("a", "a1", "A2"), speakers=[speaker], preload=["en-us-V", "a2"]) == [["A2"], ["en_US-v"]]
    assert speaker.spoken == ["en_US-v"]
    assert [record.getMessage() for record in caplog.records] == ["en_US-v is loaded", "A2 is loaded"]


def test_the_default_can_be_loaded_beside_what_is_named(prepared):
    assert prepared(Engine("a", "a1", "a2"), preload=["a2", "default"], asr_uri=["tcp://h:1"]) == [["a1", "a2"]]


def test_an_unknown_name_is_told_with_what_is_like_it(prepared, caplog):
    speaker = Speaker("s", "kristin", "alan", broken=["alan"])
    assert prepared(Engine("a", "small"), speakers=[speaker], preload=["kristen", "small"]) == [["small"], []]
    assert warnings(caplog) == [
        "--preload 'kristen': no voice or model of that name is installed; did you mean kristin?"
    ]


def test_what_cannot_be_loaded_is_told_and_the_rest_is_loaded(prepared, caplog):
    engine, speaker = Engine("a", "a1", broken=["a1"]), Speaker("s", "alan", "v", broken=["alan"])
    assert prepared(engine, speakers=[speaker], preload=["alan", "a1", "v"]) == [["a1"], ["alan", "v"]]
    assert warnings(caplog) == ["alan cannot be loaded: alan is broken", "a1 cannot be loaded: a1 is broken"]
    assert speaker.spoken == ["v"]
    caplog.clear()
    prepared(engine, preload=["a1"])
    assert warnings(caplog) == ["--preload 'a1': a1 is broken"]
