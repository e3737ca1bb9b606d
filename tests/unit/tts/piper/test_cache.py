import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.tts.piper import cache
from wyoming_rknn.tts.piper.parts import load_parts


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Return a graph whose weights lie in another file."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [300])
    weights = [numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")]
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "one", [], [value], weights)
    path = tmp_path / "v.onnx"
    onnx.save(helper.make_model(inner), path, save_as_external_data=True, location="v.onnx.data")
    return path


def test_a_voice_is_known_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "v.onnx"
    path.write_bytes(b"voice")
    assert cache.digest({"graph": path}, tmp_path / "split") == hashlib.sha256(b"voice").hexdigest()


def test_weights_in_another_file_belong_to_the_voice(graph: Path, tmp_path: Path) -> None:
    first = cache.digest({"graph": graph}, tmp_path / "split")
    assert cache.digest({"graph": graph}, tmp_path / "split") == first
    data = graph.with_name("v.onnx.data")
    data.write_bytes(data.read_bytes()[::-1])
    assert cache.digest({"graph": graph}, tmp_path / "split") != first


def test_weights_that_are_gone_or_no_file_are_told(graph: Path, tmp_path: Path) -> None:
    data = graph.with_name("v.onnx.data")
    data.unlink()
    with pytest.raises(ModelFileMissing, match=r"v\.onnx\.data does not exist; put the voice's files back"):
        load_parts({"graph": graph}, tmp_path)
    data.symlink_to("/dev/zero")
    with pytest.raises(ModelInvalid, match=r"v\.onnx\.data cannot be read \(not a file\)"):
        load_parts({"graph": graph}, tmp_path)
