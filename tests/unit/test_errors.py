import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

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

PACKAGE = Path(errors.__file__).parent
CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]
TREE = [value for value in CLASSES if issubclass(value, SpeechServerError)]


@pytest.fixture(scope="module")
def whole_tree():
    """Return the tree of a fresh interpreter that loaded every module, as the names of a class's ancestors and it."""
    code = (
        "import importlib, pkgutil, wyoming_rknn\n"
        "for module in pkgutil.walk_packages(wyoming_rknn.__path__, 'wyoming_rknn.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "from wyoming_rknn.errors import SpeechServerError\n"
        "def walk(base, above):\n"
        "    yield (*above, base.__name__)\n"
        "    for each in base.__subclasses__(): yield from walk(each, (*above, base.__name__))\n"
        "print(list(walk(SpeechServerError, ())))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_the_tree_is_drawn_as_it_is_at_the_top(whole_tree):
    drawn, above = [], []
    for line in errors.__doc__.split("`Cancelled` stands")[0].splitlines():
        if name := re.match(r"    ([ │├└─]*)([A-Z]\w+)", line):
            above = [*above[: len(name[1]) // 4], name[2]]
            drawn.append(tuple(above))
    assert sorted(drawn) == sorted(whole_tree)


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
