import json
import os
from pathlib import Path

import pytest
from tiny_sensevoice import build_graph, install

DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")


@pytest.fixture
def voices():
    if not (voices := DATA / "voices").is_dir():
        pytest.skip(f"no test data in {DATA}")
    return voices


def test_without_models_the_folders_are_named(run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = run("models", "list", "--data-dir", "empty")
    assert (code, out) == (0, b"")
    assert err == ("no models in empty; name folders with --data-dir, or fetch one of `models list --available`\n")
    assert str(tmp_path / "data/wyoming-rknn") in run("models", "list")[2]


def test_without_models_json_is_empty(run):
    assert run("models", "list", "--json", "--data-dir", "missing") == (0, b"[]\n", "")


def test_a_broken_voice_is_told(run, tmp_path):
    (tmp_path / "en_US-lonely-medium.onnx").write_bytes(b"no graph")
    code, out, err = run("models", "list", "--data-dir", ".")
    assert (code, out) == (0, b"")
    assert "put en_US-lonely-medium.onnx.json beside it" in err
    assert "Traceback" not in err


def test_installed_voices_are_listed(run, voices):
    code, out, err = run("models", "list", "--data-dir", voices)
    assert (code, err) == (0, "")
    lines = out.decode().splitlines()
    assert len(lines) == 7
    assert any(line.startswith("sano-hfc ") and "en-US" in line for line in lines)
    assert any("2 speakers" in line for line in lines)


def test_installed_voices_as_json(run, voices):
    models = {model["name"]: model for model in json.loads(run("models", "list", "--json", "--data-dir", voices)[1])}
    assert len(models) == 7
    assert models["sano-hfc"]["rate_hz"] == 22050
    assert models["sano-hfc"]["kind"] == "tts"
    assert all(Path(path).is_file() for model in models.values() for path in model["files"].values())


def test_speech_to_text_models_are_listed(run, tmp_path):
    install(tmp_path / "sense", model=build_graph("funasr"), quant=build_graph("funasr", int8=True))
    (install(tmp_path / "lacking", model=build_graph("funasr")) / "am.mvn").unlink()
    code, out, err = run("models", "list", "--data-dir", ".")
    assert code == 0
    assert [line.split() for line in out.decode().splitlines()] == [
        ["sense/model", "asr", "sensevoice-funasr", "en,ja,ko,yue,zh"],
        ["sense/quant", "asr", "sensevoice-funasr", "en,ja,ko,yue,zh", "int8"],
    ]
    assert "put the model's am.mvn beside it" in err
    models = {model["name"]: model for model in json.loads(run("models", "list", "--json", "--data-dir", ".")[1])}
    assert models["sense/quant"]["languages"] == ["en", "ja", "ko", "yue", "zh"]
    assert models["sense/quant"]["files"].keys() == {"graph", "tokens", "cmvn"}


def test_the_first_folder_wins(run, voices, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/sano-hfc").symlink_to(voices / "sano-hfc")
    out = run("models", "list", "--json", "--data-dir", "own", "--data-dir", voices)[1]
    models = {model["name"]: model for model in json.loads(out)}
    assert len(models) == 7
    assert "own/sano-hfc" in models["sano-hfc"]["files"]["graph"]


def test_a_voice_is_split_by_hand(run, voices):
    code, out, _ = run("models", "split", next((voices / "random-tiny").glob("*.onnx")), "parts")
    assert code == 0
    written = [Path(line) for line in out.decode().splitlines()]
    assert {path.name for path in written} >= {"encoder.onnx", "decoder.onnx", "config.json"}
    assert all(path.is_file() for path in written)


def test_what_cannot_be_split_is_one_line(run, one_line):
    code, out, err = run("models", "split", "missing.onnx", "parts")
    assert (code, out) == (1, b"")
    assert "missing.onnx" in one_line(err)
