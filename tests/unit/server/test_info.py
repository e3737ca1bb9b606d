import json
import random

from wyoming.info import Info

from wyoming_rknn import __version__
from wyoming_rknn.server.framing import encode
from wyoming_rknn.server.info import InfoCache, tts_info
from wyoming_rknn.tts.engine import Voice


class Engine:
    def __init__(self, name):
        self.name = name
        self.description = f"{name}, for tests"


VOICES = [
    Voice("b", ("de-DE", "de"), "Bee", 22050),
    Voice("a", ("en-US", "en"), "Ay", 16000, ("anna", "berta")),
    Voice("a#anna", ("en-US", "en"), "Ay, anna", 16000),
]


def info(*offered):
    return tts_info(offered)


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
    first = cache.describe([(Engine(), voices)])
    assert cache.describe([(Engine(), list(voices))]) is first
    voices.append(Voice("b", ("de-DE", "de"), "B", 22050))
    second = cache.describe([(Engine(), voices)])
    assert [voice["name"] for voice in second.data["tts"][0]["voices"]] == ["a", "b"]
    assert cache.describe([]).data["tts"] == []
