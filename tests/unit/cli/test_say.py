import io
import json
import subprocess
import sys
import wave

import numpy as np
import pytest

ESPEAK = ("--tts-engine", "espeak-ng")


def samples(pcm):
    return np.frombuffer(pcm, "<i2")


def seconds(pcm, rate_hz=22050):
    return len(pcm) / 2 / rate_hz


def test_a_text_becomes_a_wav_file(run, tmp_path):
    assert run("say", "Hello there.", "--output", "hello.wav", *ESPEAK) == (0, b"", "")
    with wave.open(str(tmp_path / "hello.wav")) as wav:
        assert wav.getparams()[:3] == (1, 2, 22050)
        pcm = wav.readframes(wav.getnframes())
    assert 0.4 < seconds(pcm) < 3
    assert np.abs(samples(pcm)).max() > 2000


def test_the_file_has_a_default_name(run, tmp_path):
    assert run("say", "Hello.", *ESPEAK)[0] == 0
    assert (tmp_path / "output.wav").stat().st_size > 10_000


def test_raw_samples_go_to_stdout(run, tmp_path):
    code, out, err = run("say", "Hello there.", "--output", "-", *ESPEAK)
    assert (code, err) == (0, "")
    assert 0.4 < seconds(out) < 3
    assert np.abs(samples(out)).max() > 2000
    assert list(tmp_path.glob("*.wav")) == []


def test_the_text_may_come_from_stdin(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello there.\nAnd good bye.\n"))
    code, out, _ = run("say", "-", "--output", "-", *ESPEAK)
    assert code == 0
    short = run("say", "Hello there.", "--output", "-", *ESPEAK)[1]
    assert len(out) > 1.5 * len(short)


def test_a_process_reads_a_pipe_and_writes_only_sound(program):
    done = program("say", "-", "--output", "-", *ESPEAK, input=b"Hello there.\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert 0.4 < seconds(done.stdout) < 3


def test_a_pipe_may_hold_what_is_no_text(program):
    done = program("say", "-", "--output", "-", *ESPEAK, input=b"Hello \xff\xfe there.\n")
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_faster_and_longer(run):
    def length(*words):
        return seconds(run("say", "A sentence that takes a while to say.", "--output", "-", *ESPEAK, *words)[1])

    usual = length()
    assert length("--speed", "2") == pytest.approx(usual / 2, rel=0.25)
    assert length("--length-scale", "2") == pytest.approx(usual * 2, rel=0.25)
    assert length("--length-scale", "2", "--speed", "2") == pytest.approx(usual, rel=0.05)


def test_silence_between_sentences(run):
    def length(silence_s):
        words = ("One is here. Two is there.", "--output", "-", "--sentence-silence", str(silence_s))
        return seconds(run("say", *words, *ESPEAK)[1])

    assert length(2.5) - length(0.5) == pytest.approx(2.0, abs=0.1)


def test_ssml(run):
    text = "<speak>Hello.<break time='3s'/></speak>"
    assert seconds(run("say", text, "--ssml", "--output", "-", *ESPEAK)[1]) > 3
    assert seconds(run("say", "Hello.", "--output", "-", *ESPEAK)[1]) < 3


def test_a_language_chooses_the_voice(run):
    def said(*words):
        return seconds(run("say", "77 77 77 77", "--output", "-", *ESPEAK, *words)[1])

    # Finnish takes almost twice as long to say it; espeak-ng varies a little from time to time.
    finnish = said("--language", "fi")
    assert finnish > 1.5 * said("--language", "fr")
    assert said("--voice", "espeak-fi") == pytest.approx(finnish, rel=0.05)


@pytest.mark.parametrize("text", ["", "🙂", "---"])
def test_nothing_to_say_is_an_empty_file(run, tmp_path, text):
    assert run("say", "--output", "x.wav", *ESPEAK, "--", text) == (0, b"", "")
    with wave.open(str(tmp_path / "x.wav")) as wav:
        assert wav.getnframes() == 0


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("--voice", "espeak-xq"), 1, "voice 'espeak-xq' is not installed; did you mean espeak-"),
        (("--language", "xq"), 1, "no installed voice speaks 'xq'"),
        (
            ("--output", "missing/x.wav"),
            2,
            "cannot write missing/x.wav: No such file or directory; choose another file",
        ),
        (("--output", "."), 2, "cannot write .: Is a directory"),
        (("--output", "/dev/full"), 2, "cannot write /dev/full: No space left on device"),
        (("--speed", "11"), 2, "--speed must be between 0.1 and 10, not 11"),
        (("--speed", "nan"), 2, "--speed must be between 0.1 and 10, not nan"),
        (("--speed", "0.1", "--length-scale", "5"), 2, "--length-scale must be between 0.1 and 10"),
    ],
)
def test_what_goes_wrong_is_one_line(run, one_line, words, code, complaint):
    found, out, err = run("say", "Hello.", *ESPEAK, *words)
    assert (found, out) == (code, b"")
    assert complaint in one_line(err)


def test_an_unknown_speaker_is_a_warning(run):
    code, out, err = run("say", "Hello.", "--speaker", "anna", "--output", "-", *ESPEAK)
    assert code == 0
    assert len(out) > 10_000
    assert "has no speaker 'anna'" in err
    assert err.count("\n") == 1


def test_who_reads_only_the_beginning_sees_no_complaint(program):
    words = ("say", "A long story. " * 60, "--output", "-", *ESPEAK)
    done = program(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, capture_output=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_text_that_cannot_be_spoken_leaves_an_older_file_as_it_is(run, tmp_path):
    config = {
        "audio": {"sample_rate": 22050},
        "espeak": {"voice": "en-us"},
        "phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [3]},
        "num_symbols": 4,
        "num_speakers": 1,
    }
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    (tmp_path / "broken.onnx.json").write_text(json.dumps(config))
    old = tmp_path / "old.wav"
    old.write_bytes(b"something older")
    words = ("--data-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache"), "--voice", "broken")
    code, _, err = run("say", "Hello.", "--output", "old.wav", *words)
    assert (code, "broken.onnx" in err) == (1, True)
    assert old.read_bytes() == b"something older"


def test_what_a_library_prints_is_no_sound(tmp_path):
    """Some write to stdout from C while they load."""
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import os, sys\n"
        "from wyoming_rknn import cli\n"
        "from wyoming_rknn.runtime.runtimes import Runtimes\n"
        "report = Runtimes.report\n"
        "Runtimes.report = lambda self: (os.write(1, b'noise'), report(self))\n"
        "sys.exit(cli.main())\n"
    )
    words = ["say", "Hello.", "--output", "-", *ESPEAK]
    done = subprocess.run([sys.executable, noisy, *words], capture_output=True, cwd=tmp_path)
    assert done.returncode == 0
    assert b"noise" in done.stderr
    assert b"noise" not in done.stdout
    assert 0.2 < seconds(done.stdout) < 3
