import pytest

from wyoming_rknn.errors import UsageError
from wyoming_rknn.server.ports import ports
from wyoming_rknn.settings import DEFAULT_URI, Settings


def listed(**settings):
    return [(port.kind, str(port.endpoint), port.program, port.place) for port in ports(Settings(**settings))]


def test_without_a_word_everything_is_served_at_the_usual_port():
    assert listed() == [("all", DEFAULT_URI, None, 0)]


def test_ports_of_one_kind_replace_the_usual_one():
    assert listed(tts_uri=("tcp://:1",)) == [("tts", "tcp://:1", None, 0)]
    assert listed(asr_uri=("tcp://:1",)) == [("asr", "tcp://:1", None, 0)]


def test_recognisers_take_their_ports_in_order_unless_they_are_named():
    uris = ("tcp://h:1", "tcp://h:2?program=pocketsphinx", "unix:///run/ear")
    assert listed(uri=("tcp://h:3",), asr_uri=uris) == [
        ("all", "tcp://h:3", None, 0),
        ("asr", "tcp://h:1", None, 0),
        ("asr", "tcp://h:2", "pocketsphinx", 1),
        ("asr", "unix:///run/ear", None, 2),
    ]


def test_a_program_without_a_name_is_refused():
    with pytest.raises(UsageError, match=r"program=NAME"):
        listed(asr_uri=("tcp://h:1?program=",))
