import pytest

from wyoming_rknn.asr.engine import AsrModel
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.server.service import Service
from wyoming_rknn.server.warmup import prepare_defaults
from wyoming_rknn.settings import Settings
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

    def prepare(self, model):
        self.prepared.append(model)
        if model in self.broken:
            raise ModelInvalid(f"{model} is broken")


@pytest.fixture
def prepared():
    """Return what engines have prepared, one by one, for a server with these settings."""

    def prepare(*engines, **uris):
        settings = Settings(**{name: tuple(values) for name, values in uris.items()})
        scheduler = Scheduler()
        prepare_defaults(Service(settings, scheduler, Programs((), settings), AsrPrograms(engines, settings)))
        assert scheduler.close(10)
        return [engine.prepared for engine in engines]

    return prepare


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
