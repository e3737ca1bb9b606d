import json
import random

from wyoming.info import Info

from wyoming_rknn import __version__
from wyoming_rknn.asr.engine import AsrModel
from wyoming_rknn.server import info as server_info
from wyoming_rknn.server.framing import encode
from wyoming_rknn.server.info import InfoCache, Manners
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import Voice


class Engine:
    def __init__(self, name, *, partials=False):
        self.name = name
        self.partials = partials
        self.description = f"{name}, for tests"


VOICES = [
    Voice("b", ("de-DE", "de"), "Bee", 22050),
    Voice("a", ("en-US", "en"), "Ay", 16000, ("anna", "berta")),
    Voice("a#anna", ("en-US", "en"), "Ay, anna", 16000),
]


MODELS = [AsrModel("small", ("zh", "en"), "Small"), AsrModel("large", ("en", "de"), "Large")]
USUAL = Manners(partials=True, needs_vad=True)


def info(*offered):
    return server_info.info(offered, (), USUAL)


def heard(*offered, manners=USUAL):
    return server_info.info((), offered, manners)


def test_all_that_wyoming_demands_is_there():
    event = info((Engine("piper"), VOICES)).event()
    (program,) = event.data["tts"]
    assert {"name", "description", "attribution", "installed", "version", "voices"} <= set(program)
    for voice in program["voices"]:
        assert {"name", "description", "attribution", "installed", "version", "languages"} <= set(voice)
        assert {"name", "url"} <= set(voice["attribution"])
    assert Info.from_event(event) == info((Engine("piper"), VOICES))


def test_programs_keep_their_order_and_voices_are_sorted():
    described = info((Engine("piper"), VOICES), (Engine("espeak-ng"), VOICES[:1]), (Engine("another"), []))
    assert [program.name for program in described.tts] == ["piper", "espeak-ng", "another"]
    assert [voice.name for voice in described.tts[0].voices] == ["a", "a#anna", "b"]


def test_the_answer_is_the_same_bytes_every_time():
    def answer():
        shuffled = random.sample(VOICES, len(VOICES))
        return encode(info((Engine("piper"), shuffled)).event())

    assert len({answer() for _ in range(10)}) == 1


def test_capabilities_are_told():
    (program,) = info((Engine("piper"), VOICES)).tts
    assert (program.description, program.version, program.installed) == ("piper, for tests", __version__, True)
    assert program.supports_synthesize_streaming is True
    several, *_, one = program.voices
    assert (several.languages, several.description) == (["en-US", "en"], "Ay")
    assert [speaker.name for speaker in several.speakers] == ["anna", "berta"]
    assert one.speakers is None
    assert all(voice.installed for voice in program.voices)


def test_without_programs_there_is_an_answer_all_the_same():
    event = info().event()
    assert event.data["tts"] == []
    assert event.data["asr"] == []
    json.loads(encode(event).split(b"\n", 1)[1])


def test_the_same_offer_is_described_once_and_another_one_anew():
    class Engine:
        name, description = "e", "an engine"

    voices = [Voice("a", ("en-US", "en"), "A", 22050)]
    cache = InfoCache()
    first = cache.describe(1, [(Engine(), voices)], (), USUAL)
    assert cache.describe(1, [(Engine(), list(voices))], (), USUAL) is first
    voices.append(Voice("b", ("de-DE", "de"), "B", 22050))
    second = cache.describe(1, [(Engine(), voices)], (), USUAL)
    assert [voice["name"] for voice in second.data["tts"][0]["voices"]] == ["a", "b"]
    assert cache.describe(1, (), (), USUAL).data["tts"] == []


def test_every_port_has_a_description_of_its_own():
    cache = InfoCache()
    one, other = (Engine("sensevoice"), MODELS), (Engine("pocketsphinx"), MODELS)
    first = cache.describe("a", (), (one, other), USUAL)
    second = cache.describe("b", (), (other, one), USUAL)
    assert cache.describe("a", (), (one, other), USUAL) is first
    assert [program["name"] for program in first.data["asr"]] == ["sensevoice", "pocketsphinx"]
    assert [program["name"] for program in second.data["asr"]] == ["pocketsphinx", "sensevoice"]


def test_all_that_wyoming_demands_of_a_recogniser_is_there():
    event = heard((Engine("sensevoice"), MODELS)).event()
    (program,) = event.data["asr"]
    assert {"name", "description", "attribution", "installed", "version", "models"} <= set(program)
    for model in program["models"]:
        assert {"name", "description", "attribution", "installed", "version", "languages"} <= set(model)
        assert model["installed"] is True
        assert model["languages"] == sorted(model["languages"])
    assert [model["name"] for model in program["models"]] == ["large", "small"]
    assert Info.from_event(event) == heard((Engine("sensevoice"), MODELS))


def test_c16_flags_are_truthful():
    for partials in (False, True):
        for wanted in (0.0, 0.5):
            manners = Manners.of(Settings(partial_interval=wanted))
            (program,) = heard((Engine("x", partials=partials), MODELS), manners=manners).asr
            assert program.supports_transcript_streaming is (partials and wanted > 0)
    for silence, external in ((0.0, True), (0.5, False)):
        (program,) = heard((Engine("x"), MODELS), manners=Manners.of(Settings(vad_endpointing=silence))).asr
        assert program.requires_external_vad is external
