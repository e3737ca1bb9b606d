import logging

import pytest

from wyoming_rknn.asr.engine import AsrModel
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.cli.recognisers import loaded, named
from wyoming_rknn.errors import ModelInvalid, ModelNotFound, SpeechServerError, UsageError
from wyoming_rknn.settings import Settings

ASIAN = ("en", "ja", "ko", "yue", "zh")


class Session:
    def __init__(self, opened):
        self.opened = opened

    def close(self):
        self.opened.append("closed")


class Engine:
    """Has models, of which some turn out to be broken when they are loaded."""

    description = "Hears nothing"
    partials = False

    def __init__(self, name, *models, broken=(), languages=ASIAN, chosen=None, forgets=True):
        self.name = name
        self.names = list(models)
        self.broken = set(broken)
        self.languages = languages
        self.chosen = chosen
        self.forgets = forgets
        self.opened = []

    def models(self):
        names = sorted(self.names, key=lambda name: name != self.chosen)
        return [AsrModel(name, self.languages, name, name == self.chosen) for name in names]

    def open(self, model, language, bias):
        self.opened.append((model, language))
        if model in self.broken:
            if self.forgets:
                self.names.remove(model)
            raise ModelInvalid(f"{model} is broken; get it anew")
        return Session(self.opened)


def engines(**kwargs):
    sense = Engine("sensevoice", "small", "small-fp32", **kwargs)
    return sense, Engine("pocketsphinx", "pocketsphinx-en-us", languages=("en", "en-US"))


def choose(*found, **wanted):
    settings = Settings(**wanted)
    return [(choice.engine.name, choice.model.name, choice.language) for choice in named(
        AsrPrograms(found, settings), settings)]  # fmt: skip


def load(*found, **wanted):
    settings = Settings(**wanted)
    choice = loaded(AsrPrograms(found, settings), settings)
    return choice.model.name, choice.language


def test_without_names_all_are_meant_the_default_first():
    assert choose(*engines()) == [
        ("sensevoice", "small", None),
        ("sensevoice", "small-fp32", None),
        ("pocketsphinx", "pocketsphinx-en-us", None),
    ]


def test_a_program_means_its_models():
    assert choose(*engines(), asr_engine="pocketsphinx") == [("pocketsphinx", "pocketsphinx-en-us", None)]


@pytest.mark.parametrize("name", ["small-fp32", "Small-FP32", "pocketsphinx-en-us"])
def test_a_model_is_found_by_its_name(name):
    assert [model for _, model, _ in choose(*engines(), asr_model=name)] == [name.lower()]


def test_the_engine_knows_which_model_a_path_means():
    assert choose(*engines(chosen="small-fp32"), asr_model="somewhere/model.onnx") == [
        ("sensevoice", "small-fp32", None)
    ]


def test_the_language_is_one_of_the_models_own():
    assert [language for *_, language in choose(*engines(), language="en_US")] == ["en", "en", "en-US"]
    assert [language for *_, language in choose(*engines(), language="zh-HK")] == ["yue", "yue", None]


def test_an_unknown_model_is_an_error():
    with pytest.raises(ModelNotFound, match="model 'smal' is not installed; did you mean small"):
        choose(*engines(), asr_model="smal")
    with pytest.raises(ModelNotFound, match="model 'small' is not installed; there is pocketsphinx-en-us"):
        choose(*engines(), asr_model="small", asr_engine="pocketsphinx")


def test_an_unknown_program_is_wrong_use():
    with pytest.raises(UsageError, match="--asr-engine 'sensvoice' is not installed; did you mean sensevoice"):
        choose(*engines(), asr_engine="sensvoice")


def test_a_program_without_a_model_is_an_error():
    with pytest.raises(SpeechServerError, match="sensevoice has no model; put one into a folder named by --data-dir"):
        choose(Engine("sensevoice"), engines()[1], asr_engine="sensevoice")


def test_no_model_at_all_is_an_error():
    with pytest.raises(ModelNotFound, match="no speech-to-text model is installed"):
        choose(Engine("sensevoice"))


def test_the_default_is_loaded():
    sense, other = engines()
    assert load(sense, other, language="ja") == ("small", "ja")
    assert sense.opened == [("small", "ja"), "closed"]
    assert other.opened == []


def test_a_broken_default_gives_way_to_the_next_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert load(*engines(broken=["small"])) == ("small-fp32", None)
    assert caplog.messages == ["small is broken; get it anew; another model listens"]
    assert load(*engines(broken=["small", "small-fp32"])) == ("pocketsphinx-en-us", None)


def test_a_model_that_is_named_is_loaded_or_none():
    with pytest.raises(ModelInvalid, match="small is broken"):
        load(*engines(broken=["small"]), asr_model="small")


def test_an_engine_that_offers_a_broken_model_again_is_no_endless_loop():
    with pytest.raises(ModelInvalid, match="small is broken"):
        load(*engines(broken=["small"], forgets=False))


def test_a_program_that_is_named_is_not_left_for_another():
    with pytest.raises(SpeechServerError, match="sensevoice has no model"):
        load(*engines(broken=["small", "small-fp32"]), asr_engine="sensevoice")


def test_a_language_that_the_model_does_not_know_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert load(*engines(), language="fr") == ("small", None)
    assert caplog.messages == ["small does not know the language 'fr', but en, ja, ko, yue, zh"]
