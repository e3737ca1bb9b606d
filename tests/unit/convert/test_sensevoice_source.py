import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_sensevoice import VOCABULARY, build_graph, install

from wyoming_rknn.convert.sensevoice_source import read
from wyoming_rknn.errors import ConversionError, ModelFileMissing, ModelInvalid, UsageError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sense"


def test_an_export(folder):
    install(folder, model=build_graph("funasr"))
    for path in (folder, folder / "model.onnx"):
        source = read(path)
        assert (source.name, source.is_static, source.vocabulary) == ("sense", False, VOCABULARY)
        assert source.graphs == (folder / "model.onnx",)
        assert source.tokens == folder / "tokens.txt"
        assert source.cmvn is not None and source.cmvn.scale.tolist() == [1.0] * 560
        assert source.sha256 == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()


def test_a_path_from_the_current_folder(folder, monkeypatch):
    install(folder, model=build_graph("funasr"))
    monkeypatch.chdir(folder)
    for path in ("model.onnx", "."):
        assert read(Path(path)).name == "sense"


def test_the_metadata_of_sherpa(folder):
    install(folder, model=build_graph("sherpa", metadata={"lang_en": "4"}))
    (folder / "am.mvn").unlink()
    source = read(folder)
    assert source.cmvn is None
    assert source.metadata["lang_en"] == "4" and "neg_mean" in source.metadata


def test_8_bits_are_passed_over_or_refused(folder):
    install(folder, **{"model": build_graph("funasr"), "model.int8": build_graph("funasr", int8=True)})
    assert read(folder).graphs == (folder / "model.onnx",)
    with pytest.raises(ConversionError, match=r"model\.int8\.onnx is quantised to 8 bits.* take the fp32 graph"):
        read(folder / "model.int8.onnx")
    (folder / "model.onnx").unlink()
    with pytest.raises(ConversionError, match="take the fp32 graph"):
        read(folder)


def test_static_graphs_from_short_to_long(folder):
    install(folder, **{f"rknn-{s}s": build_graph("npu", frames=f) for s, f in ((10, 20), (3, 9), (5, 12))})
    source = read(folder)
    assert source.is_static
    assert [path.name for path in source.graphs] == ["rknn-3s.onnx", "rknn-5s.onnx", "rknn-10s.onnx"]
    one = read(folder / "rknn-5s.onnx")
    assert one.is_static and one.graphs == (folder / "rknn-5s.onnx",)
    assert len({source.sha256, one.sha256}) == 2


def test_a_static_graph_with_its_prompt_outside(folder):
    install(folder, **{"sense-voice-encoder": build_graph("happyme531", frames=24)})
    np.save(folder / "embedding.npy", np.ones((16, 560), np.float32))
    source = read(folder)
    assert source.is_static and source.cmvn is not None
    assert source.embedding is not None and source.embedding.tolist() == [[1.0] * 560] * 16


def test_several_models_must_be_told_apart(folder):
    install(folder, model=build_graph("funasr"), other=build_graph("sherpa"))
    with pytest.raises(UsageError, match=r"holds several models; name the graph of one: model\.onnx, other\.onnx"):
        read(folder)
    assert read(folder / "other.onnx").graphs == (folder / "other.onnx",)


def test_what_is_not_there(folder, tmp_path):
    with pytest.raises(ModelFileMissing, match=r"sense does not exist"):
        read(folder)
    install(folder)
    with pytest.raises(ModelFileMissing, match=r"no SenseVoice model; name its model\.onnx"):
        read(folder)
    install(folder, model=build_graph("funasr"))
    shutil.copyfile(folder / "model.onnx", tmp_path / "alone.onnx")
    for name in ("tokens.txt", "tokens.json"):
        (folder / name).unlink()
    with pytest.raises(ModelFileMissing, match="has no tokens"):
        read(folder)


def test_what_is_broken(folder):
    install(folder, model=build_graph("funasr"))
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-2000])
    for path in (folder, folder / "model.onnx"):
        with pytest.raises(ModelInvalid, match="not an ONNX graph, or not a whole one"):
            read(path)
