"""`models convert` and `models verify`, `doctor`, `bench` and `say` as a user of an NPU types them."""

import json
import logging
import sys
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from npu.toolkit_env import toolkit_cache, vendor_toolkit  # noqa: F401 - fixtures
from npu.voices import DATA, converted, snr_db, split_cache  # noqa: F401 - fixtures

from wyoming_rknn.cli import main

TINY = "random-tiny"


@pytest.fixture(autouse=True)
def logs_as_they_were():
    """Undo what a command does to the loggers."""
    loggers = [logging.getLogger(name) for name in ("", "wyoming_rknn")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers
    logging.captureWarnings(False)


@pytest.fixture
def run(double, converted, tmp_path, control, capsys) -> Callable[..., tuple[int, str, str]]:  # noqa: F811
    """Return a function that runs a command on the double, with one voice converted for it."""

    def run(*words: str, voice: str = TINY, runtime: str = "rknn") -> tuple[int, str, str]:
        options = {
            "data-dir": converted(voice),
            "cache-dir": tmp_path / "cache",
            "runtime": runtime,
            "soc": "rk3588",
            "rknn-library": double,
        }
        code = main([*words, *(part for name, value in options.items() for part in (f"--{name}", str(value)))])
        return (code, *capsys.readouterr())

    return run


def test_say_speaks_from_the_npu(run, tmp_path, control):
    for runtime in ("rknn", "onnx"):
        code, _, err = run(
            "say", "Good morning.", "--voice", TINY, "--output", str(tmp_path / f"{runtime}.wav"), runtime=runtime
        )
        assert (code, err) == (0, "")
        # The self-test's runs and the windows'.
        assert bool(control.calls("rknn_run"))
    spoken, expected = (soundfile.read(tmp_path / f"{runtime}.wav")[0] for runtime in ("rknn", "onnx"))
    assert snr_db(expected, spoken) > 50


def test_verify_names_the_model_and_repeats_the_self_test(run, control):
    code, out, _ = run("models", "verify")
    assert code == 0
    assert out.startswith(f"ok    model {TINY}: decoder.rknn, made for rk3588 by toolkit 2.3.2: ")
    before = len(control.calls("rknn_run"))
    control.set(output="wrong")
    code, out, _ = run("models", "verify", TINY)
    assert len(control.calls("rknn_run")) > before
    assert code == 1
    assert out.startswith(f"fail  model {TINY}: ")
    assert "differs from what ONNX Runtime computes" in out
    assert "\n      -> " in out


def test_verify_of_an_unknown_model(run):
    code, out, err = run("models", "verify", "random-tini")
    assert (code, out) == (1, "")
    assert err == "wyoming-rknn: model 'random-tini' is not installed; did you mean random-tiny?\n"


def test_doctor_shows_the_npu_and_what_its_self_tests_found(run, control):
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    states = {line["check"]: line["state"] for line in found["checks"]}
    assert (code, states[f"model {TINY}"], states["runtime"]) == (0, "ok", "ok")
    assert (found["runtime"]["chosen"], found["runtime"]["driver"]) == ("rknn", "0.9.8")
    control.set(output="nan")
    code, out, _ = run("doctor")
    assert code == 1
    assert f"fail  model {TINY}: " in out


def test_bench_measures_each_graph_on_one_core_and_on_all(run, control):
    control.set(run_ms=5)
    code, out, _ = run("bench", "npu", "--json", "--repeat", "3")
    assert code == 0
    (result,) = json.loads(out)
    assert (result["model"], result["file"], result["targets"]) == (TINY, "decoder.rknn", ["rk3588"])
    assert result["run_ms"] >= 5
    assert result["snr_db"] > 50
    assert list(result["runs_per_s"]) == ["1", "2", "3"]
    code, out, _ = run("bench", "npu", "--repeat", "1")
    assert out.startswith(f"{TINY} decoder.rknn: ")


def test_bench_of_an_npu_that_is_not_there(run):
    code, out, err = run("bench", "npu", runtime="onnx")
    assert (code, out) == (1, "")
    assert err == "wyoming-rknn: no NPU is used here; `wyoming-rknn doctor` says why\n"


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (("voice.onnx", "out", "--target", "rk3587"), 2, "did you mean rk3588"),
        (("voice.onnx", "out"), 2, "--target"),
        (("missing.onnx", "out", "--target", "rk3588"), 1, "missing.onnx does not exist"),
        (("folder", "out", "--target", "rk3588"), 1, "holds no Piper voice and no SenseVoice model"),
        (("missing.onnx", "--target", "rk3588", "out"), 1, "missing.onnx does not exist"),
        (("voice.onnx", "out", "--target", "rk3588", "--seconds", "3,x"), 2, "--seconds must be numbers from 1 to 30"),
        (("voice.onnx", "out", "--target", "rk3588", "--toolkit", "9"), 2, "2.3.2"),
    ],
)
def test_convert_refuses_what_it_cannot_do(words, code, advice, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voice.onnx").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    found = main(["models", "convert", *words, "--cache-dir", str(tmp_path / "cache")])
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert advice in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the toolkit is for Linux")
def test_convert_makes_a_folder_that_speaks(vendor_toolkit, toolkit_cache, tmp_path, capsys):  # noqa: F811
    source = DATA / "voices" / TINY / f"{TINY}.onnx"
    if not source.is_file():
        pytest.skip(f"no test voice {TINY}: set WYOMING_RKNN_TEST_DATA to the folder with voices/")
    out = tmp_path / "voices" / "converted"
    code = main(["models", "convert", str(source), str(out), "--target", "rk3588", "--cache-dir", str(toolkit_cache)])
    told, _ = capsys.readouterr()
    assert code == 0
    assert "dB in the simulator, 33 of 55 frames are used" in told
    assert f"copy {out} into the board's data folder" in told
    # On a machine without an NPU the folder is a voice like any other.
    for name, folder in (("converted", out.parent), ("original", source.parent)):
        words = ["say", "Good morning.", "--voice", TINY, "--data-dir", str(folder), "--runtime", "onnx"]
        assert main([*words, "--output", str(tmp_path / f"{name}.wav"), "--cache-dir", str(tmp_path / "cache")]) == 0
    spoken, expected = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("converted", "original"))
    np.testing.assert_array_equal(spoken, expected)
