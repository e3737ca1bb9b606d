"""`models verify`: whether files are those that were converted."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from npu import stand_in
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.cli.doctor.lines import Line
from wyoming_rknn.cli.doctor.verify import check_models
from wyoming_rknn.convert import output
from wyoming_rknn.convert.report import GraphReport
from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

CONFIG = {"audio": {"sample_rate": 16000}, "espeak": {"voice": "en"}, "phoneme_id_map": {"_": [0], "^": [1], "$": [2]}}
STAGE = {"input": "z", "output": "y", "conditions": [], "context_frames": 1}


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """Return the folder of a converted voice."""
    folder = tmp_path / "voices" / "sano"
    with output.workspace(folder) as made:
        (made / "encoder.onnx").write_bytes(b"input_lengths scales")
        (made / "decoder.onnx").write_bytes(b"decoder")
        (made / "config.json").write_text(json.dumps(CONFIG))
        stand_in.write(made / "decoder.rknn", graph_bytes())
        (made / "decoder.golden.npz").write_bytes(b"golden")
        report = GraphReport("decoder.rknn", "decoder.golden.npz", 4, 50.0, 0.0, 1.0, (), 0, 9, made, 1)
        parts = {"latents": "z", "hop": 1, "channels": 1, "max_diff": 0.0, "stages": {"decoder": STAGE}}
        output.write_manifest(
            made, kind="tts", layout="piper-parts", name="sano", source=("sano.onnx", "ab"), target="rk3588",
            toolkit="2.3.2", graphs=(report,), more={"parts": parts},
        )  # fmt: skip
    return folder


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., list[Line]]:
    def check(whole: bool = False, names: Sequence[str] = (), catalog: Catalog | None = None) -> list[Line]:
        settings = Settings(data_dir=(tmp_path / "voices",), cache_dir=tmp_path / "cache")
        catalog = catalog or Catalog(()) if whole else None
        return list(check_models(settings, Runtimes(Board(), None, 1, ()), names, catalog=catalog))

    return check


def graph_bytes() -> bytes:
    """Return y = 2 z."""
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4]) for name in "zy")
    weights = [numpy_helper.from_array(np.array(2, np.float32), "two")]
    inner = helper.make_graph([helper.make_node("Mul", ["z", "two"], ["y"])], "double", [first], [last], weights)
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_what_is_whole_is_no_line(voice: Path, check: Callable[..., list[Line]]) -> None:
    assert [line.state for line in check(whole=True)] == ["ok"]


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.golden.npz"])
def test_a_file_that_is_not_what_was_converted_fails(name: str, voice: Path, check: Callable[..., list[Line]]) -> None:
    (voice / name).write_bytes((voice / name).read_bytes()[::-1])
    damage, graph = check(whole=True)
    assert (damage.check, damage.state, graph.state) == ("model sano", "fail", "ok")
    assert damage.text == f"{voice / name} is not what was converted: its sha256 is not the one in manifest.json"
    assert damage.fix.startswith("copy it again, or convert the model anew")
    # The doctor, who is to be quick, does not read all files.
    assert [line.state for line in check()] == ["ok"]


def test_the_command_does_so(voice: Path, tmp_path: Path, run: Callable[..., tuple[int, bytes, str]]) -> None:
    words = ("models", "verify", "--data-dir", tmp_path / "voices", "--runtime", "onnx")
    assert run(*words)[0] == 0
    (voice / "decoder.onnx").write_bytes(b"redoced")
    code, out, _ = run(*words)
    assert code == 1 and out.startswith(f"fail  model sano: {voice / 'decoder.onnx'} is not what".encode())


def test_a_file_that_was_cut_short_is_told_once(voice: Path, check: Callable[..., list[Line]]) -> None:
    (voice / "decoder.golden.npz").write_bytes(b"gold")
    assert [line.state for line in check(whole=True) if "golden" in line.text] == ["fail"]


def test_a_damaged_graph_is_not_given_to_the_npu(voice: Path, check: Callable[..., list[Line]]) -> None:
    content = bytearray((voice / "decoder.rknn").read_bytes())
    content[80] ^= 1
    (voice / "decoder.rknn").write_bytes(content)
    (damage,) = check(whole=True)
    assert (damage.state, str(voice / "decoder.rknn") in damage.text) == ("fail", True)
    assert [line.state for line in check()] == ["ok"]


def test_a_model_of_which_only_the_record_is_left(voice: Path, check: Callable[..., list[Line]]) -> None:
    files = sorted(path for path in voice.iterdir() if path.name != "manifest.json")
    for path in files:
        path.unlink()
    assert [line.text for line in check(whole=True, names=["SANO"])] == [f"{path} is missing" for path in files]


def test_a_file_that_cannot_be_read_fails(
    voice: Path, check: Callable[..., list[Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(hashlib, "file_digest", broken)
    assert check(whole=True)[0].text == f"{voice / 'config.json'} cannot be read (Input/output error)"
