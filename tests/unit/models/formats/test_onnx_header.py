"""What an ONNX file says of itself is read without loading it, and rubbish is not taken for one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_sensevoice import build_graph

from wyoming_rknn.models.formats.onnx_header import TensorHeader, is_cut_off, read


def save(path: Path, model: onnx.ModelProto, **options: object) -> Path:
    onnx.save(model, path, **options)
    return path


def test_inputs_outputs_and_metadata(tmp_path: Path) -> None:
    header = read(save(tmp_path / "a.onnx", build_graph("sherpa", metadata={"comment": "größer"})))
    assert header is not None
    assert header.inputs == (
        TensorHeader("x", (1, None, 560)),
        TensorHeader("x_length", (None,)),
        TensorHeader("language", (None,)),
        TensorHeader("text_norm", (None,)),
    )
    assert header.outputs == (TensorHeader("logits", (1, None, 12)),)
    assert header.metadata["comment"] == "größer"
    assert header.metadata["neg_mean"].count(",") == 559
    assert (header.external, header.is_int8) == ((), False)


def test_weights_of_8_bits_and_weights_elsewhere(tmp_path: Path) -> None:
    model = build_graph("funasr", int8=True)
    path = save(tmp_path / "a.onnx", model, save_as_external_data=True, location="a.bin", size_threshold=64)
    header = read(path)
    assert header is not None
    assert (header.external, header.is_int8) == (("a.bin",), True)


def test_a_table_of_bytes_is_no_matrix(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["o"])],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("o", TensorProto.UINT8, [2])],
        [numpy_helper.from_array(np.zeros(256, np.uint8), "table")],
    )
    header = read(save(tmp_path / "a.onnx", helper.make_model(graph)))
    assert header is not None
    assert not header.is_int8


def test_weights_among_the_inputs_are_none(tmp_path: Path) -> None:
    model = build_graph("funasr")
    model.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [560, 12]))
    header = read(save(tmp_path / "a.onnx", model))
    assert header is not None
    assert [given.name for given in header.inputs] == ["speech", "speech_lengths", "language", "textnorm"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"PK\x03\x04" * 100,
        b"\x08\x08\x3a\x7f" + bytes(8),
        b"\x08" + b"\xff" * 20,
        b"\x08\x08\x3b\x00",
        b"\x08\x08\x00\x00",
        b"\x08\x08\x3a\x06\x5a\x04\x0a\x02\xff\xfe",
        b"\x08\x08\x3a\x10\x2a\x0e\x4a\x0c" + bytes(4),
    ],
    ids=["empty", "no number", "other", "too long", "long number", "group", "field 0", "not UTF-8", "weights cut off"],
)
def test_rubbish(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    assert read(tmp_path / "a.onnx") is None


def test_half_a_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", build_graph("npu", frames=5))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert read(path) is None


def test_a_file_that_ends_before_its_model_does(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", build_graph("npu", frames=5))
    content = path.read_bytes()
    assert not is_cut_off(path)
    for size in (0, 1, 2, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert is_cut_off(path), size
    path.write_bytes(b"PK" + content)
    assert not is_cut_off(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a.onnx")
