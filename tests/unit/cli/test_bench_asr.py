import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wyoming_rknn.asr import programs
from wyoming_rknn.asr.engine import AsrModel, Piece, Transcript
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.cli.bench import asr, asr_runs
from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.settings import each

ONCE = ("--repeat", "1")


class Session:
    def __init__(self, engine):
        self.engine = engine
        self.count = 0

    def accept(self, samples):
        self.count += samples.size

    def partial(self, stream):
        self.engine.partial_count += 1
        return Transcript()

    def finish(self, stream):
        return stream.submit(lambda: self.engine.decode(self.count), at_s=0.0).result()

    def close(self):
        pass


class Recogniser:
    """Hears the same in everything."""

    name = "fake"
    description = "Hears the same in everything"
    partials = True

    def __init__(self):
        self.names = ["fake-1", "fake-2"]
        self.broken = set()
        self.prepared = []
        self.heard = []
        self.partial_count = 0

    def models(self):
        return [AsrModel(name, ("en",), "A model") for name in self.names]

    def prepare(self, model):
        self.prepared.append(model)
        if model in self.broken:
            raise ModelInvalid(f"{model} is broken; get it anew")

    def open(self, model, language, bias):
        return Session(self)

    def decode(self, count):
        self.heard.append(count)
        return Transcript((Piece("Heard", 0.0),))

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    engine = Recogniser()
    monkeypatch.setattr(programs, "load", lambda settings, _runtimes: AsrPrograms([engine], settings))
    # Sounds are played in real time.
    monkeypatch.setattr(asr_runs, "SILENCE_S", 0.25)
    return engine


@pytest.fixture
def speech(run):
    """A file in which someone speaks, for 0.8 s."""
    assert run("say", "Turn on the light.", "--output", "speech.wav", "--tts-engine", "espeak-ng")[0] == 0
    return Path("speech.wav")


def test_a_table_is_printed(run, fake, speech):
    code, out, err = run("bench", "asr", speech, *ONCE)
    assert (code, err) == (0, "")
    heading, *rows = out.decode().splitlines()
    assert heading.split() == ["model", "sound", "load", "audio", "decode", "rtf", "latency", "vad"]
    assert [row.split()[:2] for row in rows] == [["fake-1", "speech.wav"], ["fake-2", "speech.wav"]]
    units = [[word for word in row.split()[2:] if word[-1].isalpha()] for row in rows]
    assert units == [["s", "s", "ms", "ms", "ms/s"]] * 2


def test_json_holds_the_same(run, fake, speech):
    code, out, err = run("bench", "asr", "--json", speech, "--asr-model", "fake-2", *ONCE)
    assert (code, err) == (0, "")
    (result,) = json.loads(out)
    assert (result["engine"], result["model"], result["sound"]) == ("fake", "fake-2", "speech.wav")
    info = soundfile.info(speech)
    assert result["audio_s"] == pytest.approx(info.duration, abs=0.001)
    assert 0 < result["decode_s"] <= result["total_s"]
    assert result["rtf"] == pytest.approx(result["total_s"] / result["audio_s"])
    assert 0 < result["latency_s"] < 1
    assert 0 < result["vad_s"] < 1
    assert fake.prepared == ["fake-2"]


def test_the_sound_is_played_with_silence_after_it(run, fake, speech, monkeypatch):
    monkeypatch.setattr(asr_runs, "SILENCE_S", 0.7)
    samples, rate_hz = soundfile.read(speech)
    samples = samples[: np.flatnonzero(np.abs(samples) > 0.02)[-1]]
    soundfile.write("abrupt.wav", samples, rate_hz)
    run("bench", "asr", "abrupt.wav", "--asr-model", "fake-1", *ONCE)
    # Once to warm up and once for the time; what is heard last was begun in the silence, before the audio ended.
    duration_s = samples.size / rate_hz
    warming_s, timed_s, *_, played_s = (count / 16000 for count in fake.heard)
    assert warming_s == timed_s == pytest.approx(duration_s, abs=0.001)
    assert duration_s + 0.05 < played_s < duration_s + 0.65


def test_partial_transcripts_load_it_as_in_the_server(run, fake, speech):
    run("bench", "asr", speech, "--asr-model", "fake-1", "--partial-interval", "0.05", *ONCE)
    assert fake.partial_count > 0
    fake.partial_count = 0
    run("bench", "asr", speech, "--asr-model", "fake-1", "--partial-interval", "0", *ONCE)
    assert fake.partial_count == 0


def test_it_speaks_to_itself_when_no_file_is_given(run, fake, monkeypatch):
    monkeypatch.setattr(asr_runs, "TEXTS", {"short": "Turn on the light."})
    monkeypatch.setenv("WYOMING_RKNN_VOICE", "somebody")
    code, out, err = run("bench", "asr", "--json", "--asr-model", "fake-1", *ONCE)
    assert (code, err) == (0, "")
    (result,) = json.loads(out)
    assert result["sound"] == "short"
    assert 0.3 < result["audio_s"] < 1.5
    assert result["latency_s"] is not None


def test_where_nobody_speaks_there_is_no_latency(run, fake):
    soundfile.write("silence.wav", np.zeros(4000), 16000)
    words = ("bench", "asr", "silence.wav", "--asr-model", "fake-1", *ONCE)
    assert json.loads(run(*words, "--json")[1])[0]["latency_s"] is None
    assert run(*words)[1].decode().splitlines()[1].split()[-3] == "-"


def test_a_broken_model_does_not_stop_the_others(run, one_line, fake, speech):
    fake.broken.add("fake-1")
    code, out, err = run("bench", "asr", speech, *ONCE)
    assert code == 1
    assert one_line(err) == "wyoming-rknn: fake-1 is broken; get it anew\n"
    assert [row.split()[0] for row in out.decode().splitlines()] == ["model", "fake-2"]
    code, out, err = run("bench", "asr", speech, "--asr-model", "fake-1", *ONCE)
    assert (code, out) == (1, b"")
    one_line(err)
    assert run("bench", "asr", "--json", speech, "--asr-model", "fake-1", *ONCE)[1] == b"[]\n"


def test_what_goes_wrong_is_one_line(run, one_line, fake):
    soundfile.write("nothing.wav", np.zeros(0), 16000)
    for words, code, complaint in (
        (("missing.wav",), 1, "cannot read missing.wav: No such file or directory"),
        (("nothing.wav",), 1, "nothing.wav is empty; name a file with speech in it"),
        (("--asr-model", "fake-3"), 1, "model 'fake-3' is not installed; did you mean fake-"),
        (("--asr-engine", "fak"), 2, "--asr-engine 'fak' is not installed; did you mean fake"),
        (("--repat", "2"), 2, "unknown option --repat; did you mean --repeat"),
    ):
        found, out, err = run("bench", "asr", *words)
        assert (found, out) == (code, b"")
        assert complaint in one_line(err)
    assert fake.prepared == []


def test_help_explains_the_columns(run):
    code, out, err = run("bench", "asr", "--help")
    assert (code, err) == (0, "")
    text = " ".join(out.decode().split())
    for column in ("load", "decode", "rtf", "latency", "vad"):
        assert f"{column}: " in text


def test_it_reads_only_settings_that_exist():
    assert set(asr.SETTINGS) <= {spec.name for spec in each()}
