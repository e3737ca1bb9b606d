import logging

import pytest
from computing import on_cpu

from wyoming_rknn.asr.engine import AsrModel
from wyoming_rknn.asr.programs import AsrPort, AsrPrograms, load, match_language
from wyoming_rknn.errors import ModelInvalid, ModelNotFound, UsageError
from wyoming_rknn.settings import Settings

ASIAN = ("en", "ja", "ko", "yue", "zh")


class Engine:
    description = "Hears nothing"
    partials = False

    def __init__(self, name, *models):
        self.name = name
        self.installed = list(models)
        self.closed = False

    def models(self):
        return tuple(self.installed)

    def close(self):
        self.closed = True


def model(name, languages=ASIAN, *, chosen=False):
    return AsrModel(name, languages, name, chosen)


def programs(*engines, **settings):
    return AsrPrograms(engines, Settings(**settings))


BUILT_IN = Engine("pocketsphinx", model("pocketsphinx-en-us", ("en", "en-US")))
SENSE = Engine("sensevoice", model("small"), model("small-fp32"))
OTHER = Engine("other", model("other-1", ("de", "en")))


def offered(found, port=None):
    return [engine.name for engine, _ in found.offered(port)]


def test_c14_the_built_in_recogniser_comes_last():
    assert offered(programs(BUILT_IN, SENSE, OTHER)) == ["sensevoice", "other", "pocketsphinx"]


def test_the_built_in_recogniser_listens_when_there_is_no_model():
    empty = Engine("sensevoice")
    found = programs(BUILT_IN, empty)
    assert found.choose().engine is BUILT_IN
    empty.installed.append(model("small"))
    assert found.choose().engine is empty


def test_a_setting_puts_an_engine_first():
    assert offered(programs(SENSE, OTHER, BUILT_IN, asr_engine="pocketsphinx"))[0] == "pocketsphinx"


def test_a_chosen_model_puts_its_engine_first():
    chosen = Engine("other", model("mine", chosen=True))
    assert offered(programs(SENSE, chosen, asr_model="mine")) == ["other", "sensevoice"]


def test_an_unknown_engine_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean sensevoice"):
        programs(SENSE, asr_engine="sense-voice")


def test_ports_differ_in_their_default():
    found = programs(SENSE, OTHER, BUILT_IN)
    assert offered(found, AsrPort(place=1)) == ["other", "sensevoice", "pocketsphinx"]
    assert offered(found, AsrPort(program="pocketsphinx"))[0] == "pocketsphinx"
    assert offered(found, AsrPort(place=7))[0] == "sensevoice"
    assert offered(found, AsrPort(program="gone", place=1))[0] == "sensevoice"


def test_a_request_may_name_a_model_in_any_spelling():
    found = programs(SENSE, OTHER)
    assert found.choose(model="SMALL_fp32").model.name == "small-fp32"
    assert found.choose(model="other-1").engine is OTHER


def test_a_request_may_name_a_program_instead():
    assert programs(SENSE, OTHER).choose(model="other").engine is OTHER


def test_an_unknown_model_costs_a_warning_but_not_the_utterance(caplog):
    choice = programs(SENSE, OTHER).choose(model="smal")
    assert choice.model.name == "small"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "did you mean small" in caplog.text


def test_a_missing_default_is_told_once(caplog):
    found = programs(SENSE, asr_model="smal")
    for _ in range(3):
        assert found.choose().model.name == "small"
    assert len(caplog.records) == 1
    assert "did you mean small" in caplog.text


def test_a_chosen_model_is_no_missing_default(caplog):
    found = programs(Engine("sensevoice", model("a"), model("b")), Engine("x", model("y", chosen=True)), asr_model="y")
    assert found.choose().model.name == "y"
    assert not caplog.records


def test_a_broken_model_is_no_unknown_one(caplog):
    class Diagnosing(Engine):
        def problems(self):
            return {"tiny": ModelInvalid("tiny has no tokens")}

    found = programs(Diagnosing("sensevoice", model("small")), asr_model="TINY")
    assert found.choose(model="tiny").model.name == "small"
    assert [record.getMessage() for record in caplog.records] == [
        "tiny has no tokens; small hears instead",
        "--asr-model 'TINY' cannot be used: tiny has no tokens; another one listens",
    ]
    assert found.problem("small") is None


def test_with_nothing_installed_the_error_says_what_to_do():
    with pytest.raises(ModelNotFound, match="--data-dir"):
        programs(Engine("sensevoice")).choose()


def test_c25_the_language_is_one_of_the_models_or_left_to_it():
    found = programs(SENSE)
    assert found.choose(language="en_US").language == "en"
    assert found.choose(language="xx").language is None
    assert found.choose().language is None


def test_c25_the_setting_is_for_requests_that_name_no_language():
    found = programs(SENSE, language="ja")
    assert found.choose().language == "ja"
    assert found.choose(language="ko").language == "ko"


@pytest.mark.parametrize(
    ("wanted", "tag"),
    [
        ("en", "en"),
        ("EN-us", "en"),
        ("en_GB", "en"),
        ("zh-CN", "zh"),
        ("zh-Hans-CN", "zh"),
        ("zh-TW", "zh"),
        ("zh-HK", "yue"),
        ("zh-Hant-HK", "yue"),
        ("yue-HK", "yue"),
        ("cmn", "zh"),
        ("ja-JP", "ja"),
        ("auto", None),
        ("", None),
        (None, None),
        ("english", None),
        ("de", None),
    ],
)
def test_c25_spellings_of_a_language(wanted, tag):
    assert match_language(wanted, ASIAN) == tag


def test_the_exact_tag_goes_before_the_bare_one():
    assert match_language("en-us", ("en", "en-US")) == "en-US"
    assert match_language("en-AU", ("en", "en-US")) == "en"


def test_closing_closes_all():
    engines = [Engine("a"), Engine("b")]
    programs(*engines).close()
    assert all(engine.closed for engine in engines)


def test_the_installed_programs_are_found():
    found = load(Settings(), on_cpu())
    assert found.names[0] == "sensevoice"
    assert found.names[-1] == "pocketsphinx"
