import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wyoming_rknn.asr import programs
from wyoming_rknn.asr.engine import AsrModel, Piece, Transcript
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.audio import resample
from wyoming_rknn.cli import transcribe
from wyoming_rknn.errors import EngineError, ModelInvalid
from wyoming_rknn.settings import each

DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
LAYOUTS = Path(__file__).parents[3] / "script" / "sensevoice-layouts"
OVERFIT = DATA / "asr" / "sensevoice-overfit"
UNSEEN = {"en_jfk.flac", "en_beckett.flac", "en_librispeech_1995_1837_0001.wav"}
"""Clips whose text is known, but not to the model that has learnt the others by heart."""
FORMATS = {
    "funasr": ["model.onnx"],
    "funasr-int8": ["model_quant.onnx"],
    "sherpa": ["sherpa.onnx"],
    "npu": ["rknn-3s.onnx", "rknn-5s.onnx", "rknn-10s.onnx"],
}


class Session:
    def __init__(self, engine):
        self.engine = engine
        self.samples = []

    def accept(self, samples):
        time.sleep(self.engine.accept_s)
        self.samples.append(samples)

    def finish(self, stream):
        time.sleep(0.001)
        heard = np.concatenate(self.samples)
        self.engine.heard.append(heard)
        if heard.size in self.engine.fails_at:
            raise EngineError("the recogniser broke; mend it")
        return Transcript((Piece(" Heard", 0.5), Piece(" é灯.", 0.75)), "en")

    def close(self):
        self.engine.open_sessions -= 1


class Recogniser:
    """Hears the same in everything, but keeps the audio."""

    name = "fake"
    description = "Hears the same in everything"
    partials = True

    def __init__(self):
        self.heard = []
        self.asked = []
        self.fails_at = set()
        self.accept_s = 0.0
        self.opens = 1000
        self.open_sessions = 0
        self.closed = False

    def models(self):
        return [AsrModel("fake-1", ("en", "zh"), "A model")]

    def open(self, model, language, bias):
        self.asked.append((model, language))
        if len(self.asked) > self.opens:
            raise ModelInvalid("the model is broken; get it anew")
        self.open_sessions += 1
        return Session(self)

    def close(self):
        self.closed = True


@pytest.fixture
def fake(monkeypatch):
    engine = Recogniser()
    monkeypatch.setattr(programs, "load", lambda settings, _runtimes: AsrPrograms([engine], settings))
    return engine


@pytest.fixture
def speech(run):
    """A file in which someone speaks."""
    words = ("say", "Turn on the light in the living room.", "--output", "speech.wav", "--tts-engine", "espeak-ng")
    assert run(*words)[0] == 0
    return Path("speech.wav")


@pytest.fixture
def clips():
    """The clips that the model knows, with their texts."""
    if not OVERFIT.is_dir():
        pytest.skip(f"no test data in {DATA}")
    lines = (DATA / "speech" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    found = {line["file"]: line["text"] for line in map(json.loads, lines) if line["text"]}
    return {str(DATA / "speech" / name): text for name, text in found.items() if name not in UNSEEN}


def lamp(clips):
    return next(name for name in clips if "living_room_lamp" in name)


def plain(text):
    """Return a text without case and punctuation."""
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter == " ").strip()


def test_the_text_of_one_file_is_printed_alone(run, fake, speech):
    assert run("transcribe", speech) == (0, "Heard é灯.\n".encode(), "")
    assert (fake.closed, fake.open_sessions) == (True, 0)


def test_each_of_several_files_is_named(run, fake, speech):
    shutil.copy(speech, "again.wav")
    code, out, err = run("transcribe", speech, "again.wav", speech)
    assert (code, err) == (0, "")
    assert out.decode().splitlines() == [f"{name}\tHeard é灯." for name in ("speech.wav", "again.wav", "speech.wav")]


def test_the_engine_hears_all_of_the_sound_as_the_server_makes_it(run, fake, speech):
    samples, rate_hz = soundfile.read(speech, dtype="float32")
    run("transcribe", speech)
    np.testing.assert_array_equal(fake.heard[0], resample(samples, rate_hz, 16000))


def test_a_file_is_never_too_long_and_ends_by_itself(run, fake, speech, monkeypatch):
    monkeypatch.setenv("WYOMING_RKNN_MAX_UTTERANCE", "1")
    monkeypatch.setenv("WYOMING_RKNN_VAD_ENDPOINTING", "0.3")
    samples, rate_hz = soundfile.read(speech)
    parts = [samples, np.zeros(80 * rate_hz)] * 4
    soundfile.write("long.wav", np.concatenate(parts), rate_hz)
    assert run("transcribe", "long.wav") == (0, "Heard é灯.\n".encode(), "")
    assert [heard.size / 16000 for heard in fake.heard] == [pytest.approx(4 * (samples.size / rate_hz + 80), abs=0.01)]


@pytest.mark.parametrize("level", [0, 0.01])
def test_where_nobody_speaks_the_line_is_empty(run, fake, level):
    noise = level * np.random.default_rng(1).standard_normal(16000 * 5)
    soundfile.write("noise.wav", noise, 16000)
    assert run("transcribe", "noise.wav") == (0, b"\n", "")
    soundfile.write("nothing.wav", np.zeros(0), 16000)
    assert run("transcribe", "nothing.wav", "noise.wav") == (0, b"nothing.wav\t\nnoise.wav\t\n", "")
    assert fake.heard == []


def test_json_tells_more(run, fake, speech):
    soundfile.write("silence.wav", np.zeros(8000), 8000)
    code, out, err = run("transcribe", "--json", speech, "silence.wav", "--language", "EN_us")
    assert (code, err) == (0, "")
    spoken, silent = json.loads(out)
    duration_s = soundfile.info(speech).duration
    assert spoken.pop("audio_s") == pytest.approx(duration_s, abs=0.01)
    assert spoken.pop("decode_s") > 0
    assert spoken == {
        "file": "speech.wav",
        "text": "Heard é灯.",
        "language": "en",
        "engine": "fake",
        "model": "fake-1",
        "pieces": [{"text": " Heard", "begin_s": 0.5}, {"text": " é灯.", "begin_s": 0.75}],
    }
    assert (silent["text"], silent["audio_s"], silent["decode_s"], silent["pieces"]) == ("", 1.0, 0.0, [])
    assert silent["language"] == "en"
    assert fake.asked[-1] == ("fake-1", "en")


def test_times_count_from_the_beginning_of_the_file(run, fake, speech, monkeypatch):
    # What would end an utterance after 15 s without a word.
    monkeypatch.setenv("WYOMING_RKNN_VAD_ENDPOINTING", "0.3")
    samples, rate_hz = soundfile.read(speech)
    soundfile.write("late.wav", np.concatenate((np.zeros(30 * rate_hz), samples)), rate_hz)
    (late,) = json.loads(run("transcribe", "--json", "late.wav")[1])
    assert late["audio_s"] == pytest.approx(30 + samples.size / rate_hz, abs=0.01)
    forgotten_s = late["audio_s"] - fake.heard[0].size / 16000
    assert 15 < forgotten_s < 30
    assert [piece["begin_s"] for piece in late["pieces"]] == [
        pytest.approx(forgotten_s + begin_s, abs=0.01) for begin_s in (0.5, 0.75)
    ]


def test_a_full_stop_can_be_left_out(run, fake, speech):
    assert run("transcribe", speech, "--no-full-stop")[1] == "Heard é灯\n".encode()


def test_one_file_that_cannot_be_read_does_not_stop_the_others(run, one_line, fake, speech):
    Path("notes.txt").write_text("Dear diary")
    for bad, reason in (("missing.wav", "No such file or directory"), ("notes.txt", "Format not recognised; convert")):
        code, out, err = run("transcribe", bad, speech)
        assert (code, out.decode()) == (1, "speech.wav\tHeard é灯.\n")
        assert f"cannot read {bad}: {reason}" in one_line(err)
    code, out, err = run("transcribe", "--json", "missing.wav", speech)
    assert (code, [one["file"] for one in json.loads(out)]) == (1, ["speech.wav"])
    one_line(err)
    code, out, err = run("transcribe", "missing.wav")
    assert (code, out) == (1, b"")
    one_line(err)


def test_one_file_that_the_engine_fails_on_does_not_stop_the_others(run, one_line, fake, speech):
    samples, rate_hz = soundfile.read(speech)
    soundfile.write("longer.wav", np.concatenate((samples, np.zeros(rate_hz))), rate_hz)
    fake.fails_at.add(round(samples.size * 16000 / rate_hz))
    code, out, err = run("transcribe", speech, "longer.wav")
    assert (code, out.decode()) == (1, "longer.wav\tHeard é灯.\n")
    assert one_line(err) == "wyoming-rknn: speech.wav: the recogniser broke; mend it\n"


def test_nothing_is_computed_any_more_when_it_ends(run, one_line, fake, speech):
    # The interpreter would be taken away under a library that computes.
    samples, rate_hz = soundfile.read(speech)
    soundfile.write("damaged.flac", np.concatenate((samples, *[np.zeros(rate_hz)] * 20, samples)), rate_hz)
    content = Path("damaged.flac").read_bytes()
    Path("damaged.flac").write_bytes(content[:-10_000] + bytes(10_000))
    fake.accept_s = 0.2
    begin = time.monotonic()
    code, out, err = run("transcribe", "damaged.flac")
    assert (code, out, fake.open_sessions) == (1, b"", 0)
    assert "cannot read damaged.flac: " in one_line(err)
    # Each of the 50 blocks would have taken as long.
    assert time.monotonic() - begin < 8
    assert fake.heard == []


def test_a_model_that_breaks_meanwhile_ends_it_at_once(run, one_line, fake, speech):
    fake.opens = 2
    begin = time.monotonic()
    code, out, err = run("transcribe", speech, speech, speech)
    assert (code, out.decode()) == (1, "speech.wav\tHeard é灯.\n")
    assert one_line(err) == "wyoming-rknn: the model is broken; get it anew\n"
    assert time.monotonic() - begin < 4


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("--asr-model", "fake-2"), 1, "model 'fake-2' is not installed; did you mean fake-1?"),
        (("--asr-engine", "fak"), 2, "--asr-engine 'fak' is not installed; did you mean fake?"),
        (("--asr-modle", "x"), 2, "unknown option --asr-modle; did you mean --asr-model"),
        (("--threads", "many"), 2, "--threads cannot be 'many'"),
    ],
)
def test_what_goes_wrong_is_one_line(run, one_line, fake, words, code, complaint):
    found, out, err = run("transcribe", "x.wav", *words)
    assert (found, out) == (code, b"")
    assert complaint in one_line(err)


def test_a_file_must_be_named(run, one_line):
    code, _, err = run("transcribe")
    assert code == 2
    assert "required: FILE" in one_line(err)


def test_help_tells_what_is_printed(run):
    code, out, err = run("transcribe", "--help")
    assert (code, err) == (0, "")
    assert "the line begins with the file's name and a tab" in " ".join(out.decode().split())


def test_it_reads_only_settings_that_exist():
    assert set(transcribe._SETTINGS) <= {spec.name for spec in each()}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_a_model_hears_what_it_has_learnt(run, clips, tmp_path, form):
    folder = tmp_path / "models" / form
    folder.mkdir(parents=True)
    for name in (*FORMATS[form], "am.mvn", "tokens.txt"):
        shutil.copy(OVERFIT / name, folder)
    code, out, err = run("transcribe", "--data-dir", folder, *clips)
    assert (code, err) == (0, "")
    assert dict(line.split("\t") for line in out.decode().splitlines()) == clips


@pytest.mark.parametrize("layout", ["happyme531", "rkvoice"])
def test_every_layout_of_an_npu_hears_what_the_model_has_learnt(run, clips, layout):
    subprocess.run([sys.executable, LAYOUTS, layout, OVERFIT / "model.onnx", "made"], check=True)
    code, out, err = run("transcribe", "--data-dir", "made", *clips)
    assert (code, err) == (0, "")
    assert dict(line.split("\t") for line in out.decode().splitlines()) == clips


@pytest.mark.parametrize("place", [".", "sherpa.onnx", "rknn-5s.onnx"])
def test_a_model_can_be_named_by_its_path(run, clips, place):
    code, out, err = run("transcribe", lamp(clips), "--asr-model", OVERFIT / place)
    assert (code, out.decode(), err) == (0, "Turn on the living room lamp.\n", "")


def test_a_model_can_be_named_by_its_name(run, clips):
    (one,) = json.loads(run("transcribe", lamp(clips), "--data-dir", OVERFIT, "--json")[1])
    assert (one["engine"], one["language"], one["text"]) == ("sensevoice", "en", "Turn on the living room lamp.")
    words = ("--data-dir", OVERFIT, "--asr-model", one["model"].upper())
    assert run("transcribe", lamp(clips), *words)[1].decode() == "Turn on the living room lamp.\n"


def test_a_model_that_is_not_there_is_one_line(run, one_line, clips):
    code, out, err = run("transcribe", lamp(clips), "--asr-model", "missing/model.onnx", "--data-dir", OVERFIT)
    assert (code, out) == (1, b"")
    assert "model 'missing/model.onnx' is not installed" in one_line(err)


def test_with_nothing_installed_english_is_heard_all_the_same(run, clips):
    pytest.importorskip("pocketsphinx", reason="there is no wheel of pocketsphinx for this machine")
    code, out, err = run("transcribe", DATA / "speech" / "en_whats_the_weather_like.wav")
    assert (code, out, err) == (0, b"what's the weather like\n", "")
    (one,) = json.loads(run("transcribe", "--json", DATA / "speech" / "en_one_two_three.wav")[1])
    assert (one["engine"], one["text"]) == ("pocketsphinx", "one two three")


def test_times_lie_where_it_was_said(run, clips):
    (one,) = json.loads(run("transcribe", "--json", lamp(clips), "--data-dir", OVERFIT)[1])
    begins = [piece["begin_s"] for piece in one["pieces"]]
    assert begins == sorted(begins)
    assert 0 <= begins[0] < begins[-1] < one["audio_s"]
    assert "".join(piece["text"] for piece in one["pieces"]).strip() == one["text"]


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels", "subtype"),
    [
        ("x.wav", 22050, 1, "PCM_16"),
        ("x.wav", 44100, 2, "PCM_24"),
        ("x.flac", 48000, 2, "PCM_16"),
        ("x.ogg", 44100, 1, "VORBIS"),
        ("x.mp3", 44100, 2, "MPEG_LAYER_III"),
        ("x.aiff", 96000, 1, "PCM_16"),
    ],
)
def test_the_same_is_heard_from_any_kind_of_file(run, clips, name, rate_hz, channels, subtype):
    samples, source_hz = soundfile.read(lamp(clips), dtype="float32")
    louder = resample(samples, source_hz, rate_hz)
    soundfile.write(name, np.stack([louder] * channels, axis=1), rate_hz, subtype=subtype)
    code, out, err = run("transcribe", name, "--data-dir", OVERFIT)
    assert (code, err) == (0, "")
    assert plain(out.decode()) == "turn on the living room lamp"


def test_a_pipe_is_heard(program, clips):
    sound = Path(lamp(clips)).read_bytes()
    done = program("transcribe", "-", "--data-dir", OVERFIT, input=sound)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "Turn on the living room lamp.\n", b"")
    done = program("transcribe", "-", "--data-dir", OVERFIT, input=b"")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("wyoming-rknn: cannot read stdin: it is empty; ")


def test_the_output_is_utf_8_wherever_it_goes(program, clips, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    chinese = next(name for name in clips if "tts_zh" in name)
    done = program("transcribe", chinese, "--data-dir", OVERFIT)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, clips[chinese] + "\n", b"")


def test_who_reads_only_the_beginning_sees_no_complaint(program, clips):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nowhere:
        words = ("transcribe", *clips, "--data-dir", OVERFIT)
        done = program(*words, stdout=nowhere, stderr=-1, capture_output=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interruption_is_quiet(clips):
    samples, rate_hz = soundfile.read(lamp(clips), dtype="float32")
    soundfile.write("long.wav", np.tile(samples, 200), rate_hz)
    command = [sys.executable, "-m", "wyoming_rknn", "transcribe", lamp(clips), *["long.wav"] * 100]
    with subprocess.Popen([*command, "--data-dir", OVERFIT], stdout=-1, stderr=-1) as process:
        assert process.stdout.readline().decode().endswith("\tTurn on the living room lamp.\n")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")
