import importlib.metadata
import logging
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
from computing import on_cpu

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid, RequestError, UsageError, VoiceNotFound
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts import programs
from wyoming_rknn.tts.engine import Voice
from wyoming_rknn.tts.programs import Programs, Wanted


class Engine:
    description = "for tests"

    def __init__(self, name, *voices):
        self.name = name
        self.found = list(voices)
        self.closed = False

    def voices(self):
        return self.found

    def close(self):
        self.closed = True


def voice(name, *languages, speakers=()):
    return Voice(name, languages, name, 22050, tuple(speakers))


AMY = voice("en_US-amy-medium", "en-US", "en")
ALAN = voice("en_GB-alan-low", "en-GB", "en")
THORSTEN = voice("de_DE-thorsten-high", "de-DE", "de", speakers=("Neutral", "wütend", "amüsiert"))
ROBOT_EN, ROBOT_DE, ROBOT_FR = (
    voice("espeak-en-us", "en-US", "en"),
    voice("espeak-de", "de"),
    voice("espeak-fr", "fr-FR"),
)


@pytest.fixture
def piper():
    return Engine("piper", ALAN, THORSTEN, AMY)


@pytest.fixture
def espeak():
    return Engine("espeak-ng", ROBOT_DE, ROBOT_EN, ROBOT_FR)


@pytest.fixture
def serve(piper, espeak):
    def serve(**settings):
        return Programs([piper, espeak], Settings(**settings))

    return serve


def names(offered):
    return [engine.name for engine, _ in offered]


def test_programs_are_offered_in_order_and_the_default_first(serve):
    assert names(serve().offered()) == ["piper", "espeak-ng"]
    assert names(serve(tts_engine="espeak-ng").offered()) == ["espeak-ng", "piper"]


def test_a_program_without_voices_is_not_offered(serve, piper):
    found = serve()
    piper.found.clear()
    assert names(found.offered()) == ["espeak-ng"]
    assert found.choose(Wanted()).voice is ROBOT_EN
    piper.found.append(AMY)
    assert found.choose(Wanted()).voice is AMY


def test_an_unknown_default_program_is_wrong_use(serve):
    with pytest.raises(UsageError, match="--tts-engine 'pipr' is not installed; did you mean piper"):
        serve(tts_engine="pipr")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted("de_DE-thorsten-high"), THORSTEN),
        (Wanted("DE-de_Thorsten High"), THORSTEN),
        (Wanted("espeak-de"), ROBOT_DE),
        (Wanted("ESPEAK_DE", "en"), ROBOT_DE),
        (Wanted(language="en-GB"), ALAN),
        (Wanted(language="en_gb"), ALAN),
        (Wanted(language="de"), THORSTEN),
        (Wanted(language="de-CH"), THORSTEN),
        (Wanted(language="fr-CA"), ROBOT_FR),
        (Wanted(language="fr"), ROBOT_FR),
        (Wanted(language="EN"), AMY),
        (Wanted(), AMY),
        (Wanted("", "", ""), AMY),
    ],
)
def test_a_request_gets_the_voice_it_means(serve, wanted, expected):
    assert serve().choose(wanted).voice is expected


def test_an_exact_name_beats_one_that_looks_alike(piper, espeak):
    alike = voice("espeak_de", "de")
    piper.found.append(alike)
    found = Programs([piper, espeak], Settings())
    assert found.choose(Wanted("espeak-de")).voice is ROBOT_DE
    assert found.choose(Wanted("espeak_de")).voice is alike


def test_the_default_voice_is_the_settings(serve):
    assert serve(voice="alan").choose(Wanted()).voice is AMY
    assert serve(voice="en_GB-alan-low").choose(Wanted()).voice is ALAN
    assert serve(voice="EN-gb-alan_low").choose(Wanted()).voice is ALAN
    assert serve(voice="espeak-fr").choose(Wanted()).voice is ROBOT_FR
    assert serve(language="de").choose(Wanted()).voice is THORSTEN
    assert serve(tts_engine="espeak-ng").choose(Wanted()).voice is ROBOT_EN
    assert serve(tts_engine="espeak-ng", language="fr").choose(Wanted()).voice is ROBOT_FR


def test_a_default_voice_speaks_its_languages(serve):
    found = serve(voice="en_GB-alan-low")
    assert found.choose(Wanted(language="en")).voice is ALAN
    assert found.choose(Wanted(language="en-US")).voice is AMY
    assert found.choose(Wanted(language="de")).voice is THORSTEN


def test_a_default_voice_that_is_not_installed_is_logged_with_close_names(serve, caplog):
    assert serve(voice="en_US-any-medium").choose(Wanted()).voice is AMY
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "did you mean en_US-amy-medium" in caplog.text
    caplog.clear()
    assert serve(voice="en_US-any-medium").choose(Wanted("espeak-de")).voice is ROBOT_DE
    assert not caplog.records


def test_a_selected_program_goes_first_but_others_are_found_too(serve):
    found = serve(voice="en_GB-alan-low")
    assert found.choose(Wanted(), "espeak-ng").voice is ROBOT_EN
    assert found.choose(Wanted(language="de"), "espeak-ng").voice is ROBOT_DE
    assert found.choose(Wanted("en_US-amy-medium"), "espeak-ng").voice is AMY
    assert found.choose(Wanted(), "piper").voice is ALAN


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted("en_US-army-medium"), "voice 'en_US-army-medium' is not installed; did you mean en_US-amy-medium"),
        (Wanted(language="xx"), "no installed voice speaks 'xx'; there is de, de-DE, en, en-GB, en-US, fr-FR"),
        (Wanted("amy", "en"), "voice 'amy' is not installed"),
        (Wanted("en_US-amy-medium#nobody"), "is not installed"),
    ],
)
def test_an_unknown_voice_is_refused_with_close_names(serve, wanted, message):
    with pytest.raises(VoiceNotFound, match=message):
        serve().choose(wanted)


def test_what_resembles_no_voice_is_answered_with_how_to_see_them_all(piper, espeak):
    espeak.found += [voice(f"espeak-{tag}", tag) for tag in ("nog", "aa", "bb", "cc")]
    with pytest.raises(VoiceNotFound) as caught:
        Programs([piper, espeak], Settings()).choose(Wanted("en_US-nope"))
    assert str(caught.value) == (
        "voice 'en_US-nope' is not installed; `wyoming-rknn models list` and `describe` show what is"
    )


class Diagnosed(Engine):
    broken: ClassVar = {"amy": ModelFileMissing("put amy.onnx.json beside it"), "bob": ModelInvalid("download bob")}

    def problems(self):
        return self.broken


@pytest.mark.parametrize(
    ("name", "error"),
    [("amy", ModelFileMissing), ("AMY", ModelFileMissing), ("amy#1", ModelFileMissing), ("bob", ModelInvalid)],
)
def test_a_voice_that_cannot_be_used_is_refused_with_what_is_wrong(espeak, caplog, name, error):
    for good in (), (AMY,):
        engines = [espeak, Diagnosed("piper", *good)]
        with pytest.raises(error, match=r"put amy|download bob"):
            Programs(engines, Settings()).choose(Wanted(name))
    choice = Programs(engines, Settings(fallback_voice=True)).choose(Wanted(name))
    assert choice.voice is ROBOT_EN
    assert "; espeak-en-us speaks instead" in caplog.text
    assert "not installed" not in caplog.text


def test_a_default_voice_that_cannot_be_used_is_logged_once_with_what_is_wrong(caplog):
    found = Programs([Diagnosed("piper", AMY)], Settings(voice="bob"))
    for _ in range(2):
        assert found.choose(Wanted()).voice is AMY
    assert [record.getMessage() for record in caplog.records] == [
        "--voice 'bob' cannot be used: download bob; another one speaks"
    ]


def test_where_no_voice_can_be_used_what_is_wrong_is_told():
    found = Programs([Diagnosed("piper")], Settings())
    for wanted in (Wanted(), Wanted(language="en")):
        with pytest.raises(ModelFileMissing):
            found.choose(wanted)
    with pytest.raises(VoiceNotFound):
        found.choose(Wanted("nobody"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x#y", ("x#y", None)),
        ("x", ("x", None)),
        ("x#y#z", ("x#y", "z")),
        ("x#a#b", ("x", "a#b")),
        ("x#0", ("x", "a#b")),
    ],
)
def test_the_separator_may_be_part_of_names(name, expected):
    engine = Engine("piper", voice("x", "en", speakers=("a#b", "c")), voice("x#y", "en", speakers=("z", "w")))
    choice = Programs([engine], Settings()).choose(Wanted(name))
    assert (choice.voice.name, choice.speaker) == expected


def test_an_unknown_voice_may_fall_back(serve, caplog):
    choice = serve(fallback_voice=True).choose(Wanted("nobody", speaker="x"))
    assert (choice.voice, choice.speaker) == (AMY, None)
    assert "voice 'nobody' is not installed; en_US-amy-medium speaks instead" in caplog.text


def test_without_any_voice_a_request_is_refused(piper, espeak):
    found = Programs([piper, espeak], Settings(fallback_voice=True))
    piper.found.clear()
    espeak.found.clear()
    for wanted in (Wanted(), Wanted("a"), Wanted(language="en")):
        with pytest.raises(VoiceNotFound):
            found.choose(wanted)
    assert Programs([], Settings()).offered() == []


@pytest.mark.parametrize(
    ("name", "speaker", "expected"),
    [
        ("de_DE-thorsten-high", "wütend", "wütend"),
        ("de_DE-thorsten-high", "WÜTEND", "wütend"),
        ("de_DE-thorsten-high", "2", "amüsiert"),
        ("de_DE-thorsten-high", "", None),
        ("de_DE-thorsten-high", None, None),
        ("de_DE-thorsten-high#wütend", None, "wütend"),
        ("de-de-thorsten-high#0", None, "Neutral"),
        ("de_DE-thorsten-high#wütend", "Neutral", "Neutral"),
    ],
)
def test_speakers_by_name_number_or_as_part_of_the_voice(serve, name, speaker, expected):
    choice = serve().choose(Wanted(name, speaker=speaker))
    assert (choice.voice, choice.speaker) == (THORSTEN, expected)


@pytest.mark.parametrize("speaker", ["müde", "3", "-1", "²"])
def test_an_unknown_speaker_is_logged_and_the_default_speaks(serve, caplog, speaker):
    choice = serve().choose(Wanted("de_DE-thorsten-high", speaker=speaker))
    assert (choice.voice, choice.speaker) == (THORSTEN, None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_speaker_counts_for_a_language_too(serve):
    assert serve().choose(Wanted(language="de", speaker="1")).speaker == "wütend"


def test_the_default_voice_may_be_a_speaker(serve):
    found = serve(voice="de_DE-thorsten-high#amüsiert")
    for wanted in (Wanted(), Wanted(language="de"), Wanted(speaker="nobody")):
        assert (found.choose(wanted).voice, found.choose(wanted).speaker) == (THORSTEN, "amüsiert")
    assert found.choose(Wanted(speaker="wütend")).speaker == "wütend"
    assert found.choose(Wanted(language="en")).speaker is None


def test_a_selected_program_without_a_voice_is_passed_over(serve, espeak):
    espeak.found.clear()
    assert serve(voice="en_GB-alan-low").choose(Wanted(), "espeak-ng").voice is ALAN
    assert serve().choose(Wanted(), "espeak-ng").voice is AMY


def test_closing_closes_all(serve, piper, espeak):
    serve().close()
    assert piper.closed
    assert espeak.closed


def install(monkeypatch, **factories):
    for name, factory in factories.items():
        monkeypatch.setattr(f"{__name__}.{name}", factory, raising=False)
    points = tuple(EntryPoint(name.replace("_", "-"), f"plug_ins:{name}", programs.ENTRY_POINTS) for name in factories)
    monkeypatch.setattr(EntryPoint, "load", lambda self: factories[self.name.replace("-", "_")])

    def entry_points(*, group):
        assert group == programs.ENTRY_POINTS
        return points

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_built_in_programs_come_first_and_plug_ins_after_them(monkeypatch):
    settings, runtimes = Settings(), on_cpu()

    def factory(name):
        def create(*given):
            assert given == (settings, runtimes)
            return Engine(name, voice(name, "en"))

        return create

    install(
        monkeypatch,
        another=factory("another"),
        espeak_ng=factory("espeak-ng"),
        piper=factory("piper"),
        abc=factory("abc"),
    )
    assert names(programs.load(settings, runtimes).offered()) == ["piper", "espeak-ng", "abc", "another"]


def test_a_broken_plug_in_is_left_out_with_one_warning(monkeypatch, caplog):
    def broken(settings, runtimes):
        raise ImportError("no module named such")

    install(monkeypatch, broken=broken, piper=lambda settings, runtimes: Engine("piper", AMY))
    assert names(programs.load(Settings(), on_cpu()).offered()) == ["piper"]
    assert [record.getMessage() for record in caplog.records] == [
        "text-to-speech engine broken cannot be used: ImportError: no module named such"
    ]


def test_a_programs_own_name_is_that_of_its_entry_point():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, target in project["entry-points"][programs.ENTRY_POINTS].items():
        engine = EntryPoint(name, target, programs.ENTRY_POINTS).load()(Settings(), on_cpu())
        assert engine.name == name
        engine.close()


class Fetching(Engine):
    """Lists voices that are not here."""

    def __init__(self, name, *voices):
        super().__init__(name, *voices)
        self.fetched = []

    def fetch(self, voice):
        self.fetched.append(voice)


def absent(name, *languages, speakers=()):
    return Voice(name, languages, name, 0, tuple(speakers), is_here=False)


NEW_DE, NEW_FR, NEW_US, NEW_GB = (
    absent("de_DE-eva-low", "de-DE", "de", speakers=("Eva",)),
    absent("fr_FR-siwis-low", "fr-FR", "fr"),
    absent("en_US-aaa-low", "en-US", "en"),
    absent("en_GB-vctk-low", "en-GB", "en"),
)


@pytest.fixture
def fetching(espeak):
    """Return programs that could fetch voices, and where what is fetched is noted."""

    def serve(*installed, **settings):
        piper = Fetching("piper", *installed, NEW_DE, NEW_FR, NEW_GB, NEW_US)
        return Programs([piper, espeak], Settings(**settings)), piper.fetched

    return serve


@pytest.mark.parametrize(
    ("settings", "installed", "wanted", "expected"),
    [
        # The default speaks the language,
        ({}, (ALAN, AMY), NEW_US, AMY),
        ({}, (ALAN, AMY), NEW_GB, AMY),
        ({"voice": "en_GB-alan-low"}, (ALAN, AMY), NEW_US, ALAN),
        ({"voice": "espeak-de"}, (THORSTEN,), NEW_DE, ROBOT_DE),
        # another installed voice does,
        ({}, (AMY, THORSTEN), NEW_DE, THORSTEN),
        ({"voice": "espeak-fr"}, (AMY, THORSTEN), NEW_DE, THORSTEN),
        ({}, (ALAN,), NEW_US, ALAN),
        # the robot does,
        ({}, (AMY,), NEW_DE, ROBOT_DE),
        ({}, (), NEW_FR, ROBOT_FR),
        ({}, (), NEW_US, ROBOT_EN),
    ],
)
def test_until_a_voice_is_here_another_one_of_its_language_speaks(
    fetching, caplog, settings, installed, wanted, expected
):
    caplog.set_level(logging.INFO)
    found, fetched = fetching(*installed, **settings)
    choice = found.choose(Wanted(wanted.name.upper(), speaker="Eva"))
    assert (choice.voice, choice.speaker) == (expected, None)
    assert fetched == [wanted.name]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"voice {wanted.name} is not here yet; {expected.name} speaks instead")
    ]


def test_where_nobody_speaks_its_language_the_default_does(fetching, espeak):
    espeak.found.clear()
    found, fetched = fetching(AMY)
    assert found.choose(Wanted(NEW_DE.name)).voice is AMY
    assert fetched == [NEW_DE.name]


def test_where_nobody_else_can_speak_it_is_fetched_and_told(fetching, espeak):
    espeak.found.clear()
    found, fetched = fetching()
    with pytest.raises(RequestError, match=r"'de_DE-eva-low' is being fetched, and no other one .* try again later"):
        found.choose(Wanted(NEW_DE.name))
    assert fetched == [NEW_DE.name]
    for wanted in (Wanted(), Wanted(language="de")):
        with pytest.raises(VoiceNotFound):
            found.choose(wanted)
    assert fetched == [NEW_DE.name]


def test_where_nobody_can_speak_the_default_voice_is_fetched_and_told(fetching, espeak):
    espeak.found.clear()
    found, fetched = fetching(voice=NEW_DE.name)
    for wanted in (Wanted(), Wanted(language="en")):
        with pytest.raises(RequestError, match="'de_DE-eva-low' is being fetched"):
            found.choose(wanted)
    assert set(fetched) == {NEW_DE.name}


def test_once_it_is_here_it_speaks(fetching, espeak):
    here = voice(NEW_DE.name, "de-DE", "de")
    found, fetched = fetching(AMY)
    espeak.found.clear()
    found.choose(Wanted(NEW_DE.name))
    found, fetched = Programs([Fetching("piper", AMY, here)], Settings()), []
    assert found.choose(Wanted(NEW_DE.name)).voice is here
    assert not fetched


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(),
        Wanted(language="de"),
        Wanted(language="en-US"),
        Wanted(language="fr-FR"),
        Wanted("espeak-fr"),
        Wanted("nobody"),
    ],
)
def test_what_is_not_named_is_not_fetched_and_does_not_speak(fetching, wanted):
    found, fetched = fetching(fallback_voice=True)
    for program in (None, "piper", "espeak-ng"):
        assert found.choose(wanted, program).voice.is_here
    assert not fetched


def test_an_unknown_name_is_told_with_what_could_be_fetched(fetching):
    found, fetched = fetching(AMY)
    with pytest.raises(VoiceNotFound, match="did you mean de_DE-eva-low"):
        found.choose(Wanted("de_DE-eve-low"))
    assert not fetched


def test_a_default_voice_that_is_not_here_is_fetched_and_one_of_its_language_speaks(fetching, caplog):
    found, fetched = fetching(AMY, voice="DE_de-eva-low")
    assert found.choose(Wanted()).voice is ROBOT_DE
    assert set(fetched) == {NEW_DE.name}
    assert found.choose(Wanted(language="en")).voice is AMY
    assert found.choose(Wanted(language="de")).voice is ROBOT_DE
    assert found.choose(Wanted(NEW_FR.name)).voice is ROBOT_FR
    assert NEW_FR.name in fetched
    assert not caplog.records


def test_a_default_voice_that_is_not_here_may_be_a_speaker(fetching):
    found, fetched = fetching(AMY, voice="de_DE-eva-low#Eva")
    choice = found.choose(Wanted())
    assert (choice.voice, choice.speaker) == (ROBOT_DE, None)
    assert fetched == [NEW_DE.name]


def test_who_selects_another_program_causes_no_download(fetching):
    found, fetched = fetching(AMY, voice=NEW_DE.name)
    assert found.choose(Wanted(), "espeak-ng").voice is ROBOT_EN
    assert not fetched


def test_a_selected_program_speaks_in_place_of_what_is_not_here(fetching):
    found, fetched = fetching(AMY)
    assert found.choose(Wanted(NEW_US.name), "espeak-ng").voice is ROBOT_EN
    assert fetched == [NEW_US.name]


def test_voices_that_are_not_here_are_offered(fetching):
    found, _ = fetching()
    assert names(found.offered()) == ["piper", "espeak-ng"]
