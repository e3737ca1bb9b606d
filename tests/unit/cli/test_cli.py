import os
import subprocess
import sys
from pathlib import Path

import pytest

from wyoming_rknn import __version__, cli
from wyoming_rknn.cli import health, serve
from wyoming_rknn.errors import Cancelled, EngineError


def test_the_version(run):
    assert run("--version") == (0, f"wyoming-rknn {__version__}\n".encode(), "")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("serve",),
        ("say",),
        ("models",),
        ("models", "list"),
        ("models", "split"),
        ("bench",),
        ("bench", "tts"),
        ("health",),
    ],
)
def test_every_verb_has_help(run, words):
    code, out, err = run(*words, "--help")
    assert (code, err) == (0, "")
    assert out.decode().startswith(f"usage: wyoming-rknn {' '.join(words)}".strip())


def test_help_names_every_verb_and_what_it_does(run):
    out = " ".join(run("--help")[1].decode().split())
    for name in cli._VERBS:
        assert name in out
    assert serve.HELP in out
    assert health.HELP in out


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ((), "VERB"),
        (("sreve",), "invalid choice: 'sreve' (choose from "),
        (("serve", "--vioce", "x"), "unknown option --vioce; did you mean --voice"),
        (("serve", "--vioce=x"), "unknown option --vioce; did you mean --voice"),
        (("serve", "--thread", "2"), "unknown option --thread; did you mean --threads"),
        (("serve", "-q"), "unknown option -q"),
        (("say", "--sped", "2", "hello"), "unknown option --sped; did you mean --speed"),
        (("say", "hello", "there"), "'there' is one argument too many for 'say'"),
        (("say",), "required: TEXT"),
        (("say", "--speed", "fast", "hello"), "--speed: invalid float value: 'fast'"),
        (("say", "--speed", "0", "hello"), "--speed must be between 0.1 and 10, not 0"),
        (("say", "--voice"), "--voice: expected one argument"),
        (("models",), "ACTION"),
        (("models", "list", "--jsn"), "unknown option --jsn; did you mean --json"),
        (("bench", "tts", "--repat", "2"), "unknown option --repat; did you mean --repeat"),
        (("health", "--url", "x"), "unknown option --url; did you mean --uri"),
        (("health", "--uri", "10800"), "is no address to serve; write tcp://HOST:PORT"),
        (("serve", "--uri", "tcp://localhost"), "has no valid port"),
        (("serve", "--threads", "many"), "--threads cannot be 'many'"),
        (("serve", "--max-window", "7"), "--max-window must be between 16 and 1024"),
        (("serve", "--runtime", "cuda"), "--runtime must be one of auto, "),
        (("serve", "--config", "missing.yaml"), "cannot read missing.yaml: No such file or directory"),
        (("serve", "--tts-engine", "pipr"), "--tts-engine 'pipr' is not installed; did you mean piper"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run, one_line, words, advice):
    code, out, err = run(*words)
    assert (code, out) == (2, b"")
    assert advice in one_line(err)


def test_a_wrong_variable_is_wrong_use(run, one_line, monkeypatch):
    monkeypatch.setenv("WYOMING_RKNN_VOISE", "x")
    code, _, err = run("models", "list")
    assert code == 2
    assert "unknown variable WYOMING_RKNN_VOISE; did you mean voice" in one_line(err)


def fail_with(monkeypatch, error):
    def run(arguments):
        raise error

    monkeypatch.setattr(health, "run", run)


def test_a_failed_job_is_exit_code_1(run, one_line, monkeypatch):
    fail_with(monkeypatch, EngineError("the engine broke; mend it"))
    assert run("health") == (1, b"", "wyoming-rknn: the engine broke; mend it\n")
    fail_with(monkeypatch, ZeroDivisionError("by nothing"))
    code, _, err = run("health")
    assert code == 1
    assert "ZeroDivisionError: by nothing; --log-level debug shows where" in one_line(err)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Cancelled()])
def test_an_interruption_is_exit_code_130(run, monkeypatch, error):
    fail_with(monkeypatch, error)
    assert run("health") == (130, b"", "")


def test_where_it_happened_is_told_when_asked_for(run):
    code, _, err = run("say", "hello", "--voice", "nobody", "--log-level", "debug")
    assert code == 1
    assert "Traceback" in err
    assert "VoiceNotFound" in err
    assert err.splitlines()[-1].startswith("wyoming-rknn: voice 'nobody' is not installed")


def test_a_process_ends_with_the_exit_code(program):
    done = program("serve", "--vioce", "x")
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert program("--version").returncode == 0


@pytest.mark.parametrize("target", ["closed pipe", "full disk"])
def test_output_that_nobody_takes_is_no_reason_for_a_traceback(program, target):
    # More than a pipe holds: it fails while it is written; little fails when it is flushed at the end.
    for words in (("say", "hello " * 50, "--output", "-"), ("bench", "tts", "--json", "--repeat", "1")):
        if target == "full disk":
            with Path("/dev/full").open("wb") as full:
                done = program(*words, stdout=full, stderr=-1, capture_output=False)
        else:
            done = _into_a_closed_pipe(program, words)
        err = done.stderr.decode()
        assert "Traceback" not in err
        assert "Exception ignored" not in err
        assert done.returncode == (0 if target == "closed pipe" else 1), err


def _into_a_closed_pipe(program, words):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nowhere:
        return program(*words, stdout=nowhere, stderr=-1, capture_output=False)


def test_a_client_that_hangs_up_does_not_end_the_process():
    # With SIGPIPE at its default, as some programs set it for their output, a write to that client would.
    code = (
        "import signal, sys; from wyoming_rknn.cli import main;"
        "sys.argv = ['x', 'models', 'list']; main();"
        "print(signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
