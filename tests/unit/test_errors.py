import inspect
import re

import pytest

from wyoming_rknn import errors
from wyoming_rknn.errors import (
    Cancelled,
    ModelFileMissing,
    ProgramNotFound,
    ShuttingDown,
    SpeechServerError,
    UsageError,
    VoiceNotFound,
    did_you_mean,
)

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]
TREE = [value for value in CLASSES if issubclass(value, SpeechServerError)]


def test_the_tree_is_drawn_in_full_at_the_top():
    drawn = re.findall(r"^[ │├└─]*([A-Z]\w+)", errors.__doc__.split("`Cancelled` stands")[0], re.MULTILINE)
    assert sorted(name for name in drawn if name != "Every") == sorted(value.__name__ for value in TREE)


def test_only_cancellation_stands_outside():
    assert set(CLASSES) - set(TREE) == {Cancelled}


def test_every_error_has_a_code_of_its_own():
    codes = [value.code for value in TREE]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_the_codes_are_stable():
    assert {value.code for value in TREE} >= {
        "protocol-error", "invalid-request", "voice-not-found", "program-not-found", "busy", "shutting-down",
        "model-error", "model-file-missing", "model-invalid", "graph-not-splittable", "engine-error", "usage-error",
        "internal-error",
    }  # fmt: skip


def test_errors_can_be_caught_by_their_builtin_meaning():
    assert issubclass(UsageError, ValueError)
    assert issubclass(VoiceNotFound, LookupError)
    assert issubclass(ProgramNotFound, LookupError)
    assert issubclass(ModelFileMissing, FileNotFoundError)


def test_messages_name_the_fix():
    assert str(VoiceNotFound("sano-hfk", ["sano-hfc", "x"])) == (
        "voice 'sano-hfk' is not installed; did you mean sano-hfc?"
    )
    assert str(ProgramNotFound("pipr", ["piper"])) == "program 'pipr' is not served here; did you mean piper?"
    assert "try again" in str(ShuttingDown())
    assert str(ModelFileMissing("voice.onnx does not exist")) == "voice.onnx does not exist"


@pytest.mark.parametrize(
    ("name", "known", "clause"),
    [
        ("abc", [], ""),
        ("qqq", ["b", "a", "a"], "; there is a, b"),
        ("qqq", [str(number) for number in range(9)], ""),
        ("EN_us", ["en-US", "de-DE"], "; did you mean en-US?"),
        ("voice", ["voice1", "voice2", "voice3", "voice4"], "; did you mean voice3 or voice2 or voice1?"),
        ("", ["a"], "; there is a"),
    ],
)
def test_close_names_are_proposed(name, known, clause):
    said = did_you_mean(name, known)
    assert sorted(re.findall(r"\w+", said)) == sorted(re.findall(r"\w+", clause)) or (
        clause.count(" or ") == said.count(" or ") == 2
    )


def test_names_may_come_from_an_iterator():
    assert did_you_mean("voise", iter(["voice"])) == "; did you mean voice?"
