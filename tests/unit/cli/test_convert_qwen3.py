"""`models convert` of a Qwen3-ASR checkpoint."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_qwen3
from npu.stand_in_toolkit import StandInToolkit

from wyoming_rknn.convert.toolkit import VendorToolkit

GOLDEN = Path(__file__).parents[2] / "golden" / "sensevoice"
Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_qwen3.write_checkpoint(tmp_path / "tiny", tiny_qwen3.random_weights())


@pytest.fixture
def no_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(*_: object) -> None:
        raise AssertionError("the toolkit was installed")

    monkeypatch.setattr(VendorToolkit, "prepared", prepared)


def decoders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("decoder*"))


def test_for_a_cpu(run: Run, tiny: Path, no_toolkit: None) -> None:
    words = ("--precision", "fp32, int4,fp32")
    code, out, err = run("models", "convert", tiny, "out", "--target", "onnx", *words)
    assert code == 0
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "writing the language model in fp32",
        "writing the language model in int4",
    ]
    assert out.decode() == "for ONNX Runtime on a CPU; copy out into the board's data folder\n"
    assert decoders(Path("out")) == ["decoder.int4.onnx", "decoder.onnx"]
    # What was made before is replaced, and 8 bits are what there is if nothing is said.
    assert run("models", "convert", tiny, "out", "--target", "onnx")[0] == 0
    assert decoders(Path("out")) == ["decoder.int8.onnx"]


def test_for_an_npu(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VendorToolkit, "prepared", lambda *_: StandInToolkit())
    code, out, err = run("models", "convert", tiny, "out", "--target", "rk3576")
    assert (code, err.count("\n")) == (0, 1)
    lines = [line for line in out.decode().splitlines() if not line.startswith("  ")]
    assert [line.split(":")[0] for line in lines[:-1]] == [
        "out/audio_conv.rknn",
        *(f"out/audio_encoder.{rows}.rknn" for rows in (26, 52, 104)),
    ]
    assert lines[-1] == "for rk3576, by toolkit 2.3.2; copy out into the board's data folder"
    assert decoders(Path("out")) == ["decoder.int8.onnx"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--precision", "int9"), "--precision int9 is not known"),
        (("--precision", ""), "--precision  is not known"),
        (("--seconds", "3"), "--seconds is not for Qwen3-ASR"),
        (("--target", "onx"), "--target onx is not supported"),
    ],
)
def test_wrong_use_is_told(
    words: tuple[str, ...], told: str, run: Run, tiny: Path, no_toolkit: None, one_line: Callable[[str], str]
) -> None:
    code, out, err = run("models", "convert", tiny, "out", "--target", "onnx", *words)
    assert (code, out) == (2, b"")
    assert told in one_line(err)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--target", "onnx"), "--target onnx is for a Qwen3-ASR checkpoint"),
        (("--target", "rk3588", "--precision", "int8"), "--precision is for a Qwen3-ASR checkpoint"),
    ],
)
def test_other_models_need_no_such_thing(
    words: tuple[str, ...], told: str, run: Run, tmp_path: Path, no_toolkit: None, one_line: Callable[[str], str]
) -> None:
    (tmp_path / "sense").mkdir()
    for name in ("model.onnx", "am.mvn", "tokens.txt"):
        shutil.copyfile(GOLDEN / name, tmp_path / "sense" / name)
    code, out, err = run("models", "convert", tmp_path / "sense", "out", *words)
    assert (code, out) == (2, b"")
    assert told in one_line(err)
