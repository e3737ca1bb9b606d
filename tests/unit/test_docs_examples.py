"""The examples of the documentation, taken from its pages and run."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wyoming_rknn.asr.engine import AsrEngine, AsrSession
from wyoming_rknn.errors import AcceleratorError, EngineError, ModelInvalid
from wyoming_rknn.npu.selftest import Golden, examine
from wyoming_rknn.runtime.accelerator import Accelerator
from wyoming_rknn.tts.engine import TtsEngine

ROOT = Path(__file__).parents[2]


def blocks(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def members(protocol):
    return {name for name in vars(protocol) if not name.startswith("_")}


def loaded(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Return a folder in which both examples are installed as pip would do it, by the metadata that the page shows."""
    folder = tmp_path_factory.mktemp("engines")
    for code in blocks("writing-an-engine.md", "python"):
        name = re.match(r'"""(\w+):', code)[1]
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    (declared,) = blocks("writing-an-engine.md", "toml")
    project = tomllib.loads(declared)["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def run(engines, cwd, *arguments):
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONPATH": f"{engines}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "wyoming_rknn", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_voice_of_the_example_speaks(engines, tmp_path):
    run(engines, tmp_path, "say", "SOS", "--tts-engine", "morse", "--output", "sos.wav")
    with wave.open(str(tmp_path / "sos.wav")) as file:
        assert file.getframerate() == 8000
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    down = np.abs(pcm.reshape(-1, 480)).max(axis=1) > 1000
    keys = "".join("=" if is_down else " " for is_down in down)
    assert keys.split("   ")[:3] == ["= = =", "=== === ===", "= = ="]
    assert np.abs(pcm).max() == pytest.approx(16384, abs=100)


def test_the_recogniser_of_the_example_hears(engines, tmp_path):
    words = "Turn on the lights. Then turn them off."
    run(engines, tmp_path, "say", words, "--tts-engine", "espeak-ng", "--output", "words.wav")
    (heard,) = json.loads(run(engines, tmp_path, "transcribe", "words.wav", "--asr-engine", "babble", "--json"))
    assert heard["engine"] == "babble"
    assert set(heard["text"].split()) == {"da"}
    assert 3 <= len(heard["pieces"]) <= 12
    samples, rate_hz = soundfile.read(tmp_path / "words.wav")
    for piece in heard["pieces"]:
        begin = round(piece["begin_s"] * rate_hz)
        before, after = samples[max(0, begin - 1000) : begin], samples[begin : begin + 1000]
        assert after.std() > (before.std() if before.size else 0.0)


def test_morse_code_is_no_speech(engines, tmp_path):
    # The page says so.
    run(engines, tmp_path, "say", "SOS", "--tts-engine", "morse", "--output", "sos.wav")
    assert run(engines, tmp_path, "transcribe", "sos.wav", "--asr-engine", "babble") == "\n"


def test_the_examples_have_all_that_the_seams_ask_for(engines):
    morse, babble = (loaded(engines, f"wyoming_rknn_{name}") for name in ("morse", "babble"))
    assert members(TtsEngine) <= set(dir(morse.MorseEngine))
    assert members(AsrEngine) <= set(dir(babble.BabbleEngine))
    assert members(AsrSession) <= set(dir(babble.BabbleSession))


@pytest.fixture
def accelerator(tmp_path):
    (code,) = blocks("writing-a-runtime.md", "python")
    (tmp_path / "matrix.py").write_text(code, encoding="utf-8")
    opened = loaded(tmp_path, "matrix").open_accelerator(cores=3)
    yield opened
    opened.close()


def test_the_accelerator_of_the_example_computes(accelerator, tmp_path):
    assert members(Accelerator) <= set(dir(accelerator))
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "graph.npy", matrix)
    graph = accelerator.load(tmp_path / "graph.npy")
    assert [(spec.name, spec.shape) for spec in (*graph.inputs, *graph.outputs)] == [("x", (1, 2)), ("y", (1, 3))]
    x = np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(graph.run({"x": x})["y"], x @ matrix)
    assert examine(graph, Golden({"x": x}, {"y": x @ matrix}), accelerator.cores).passed


def test_the_accelerator_of_the_example_is_watched(accelerator, tmp_path):
    (tmp_path / "broken.npy").write_bytes(b"no matrix")
    with pytest.raises(ModelInvalid, match="holds no matrix"):
        accelerator.load(tmp_path / "broken.npy")
    np.save(tmp_path / "graph.npy", np.zeros((2, 3), np.float32))
    graph = accelerator.load(tmp_path / "graph.npy")
    with pytest.raises(AcceleratorError, match="zeros only"):
        graph.run({"x": np.ones((1, 2), np.float32)})
    with pytest.raises(EngineError, match="has shape"):
        graph.run({"x": np.ones((1, 3), np.float32)})
