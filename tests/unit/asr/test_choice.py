"""Which of the models on disk is meant."""

from pathlib import Path

import pytest

from wyoming_rknn.asr.choice import Wanted, folder_of, located, merged, named
from wyoming_rknn.models.manifest import Manifest


def manifest(name: str, folder: Path, *files: str) -> Manifest:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return Manifest("asr", "some", name, {file: folder / file for file in files}, ("en",), 16_000)


@pytest.fixture
def models(tmp_path: Path) -> list[Manifest]:
    """Return two models that share an encoder, and one with files in folders of their own."""
    return [
        manifest("pair/int8", tmp_path / "pair", "encoder.onnx", "decoder.int8.onnx", "text/vocab.json"),
        manifest("pair/fp32", tmp_path / "pair", "encoder.onnx", "decoder.onnx", "text/vocab.json"),
        manifest("Tree", tmp_path / "tree", "encoder/rk3588/e.rknn", "decoder/d.rkllm", "embd/e.npy"),
    ]


def test_a_model_lies_where_all_its_files_do(models: list[Manifest], tmp_path: Path) -> None:
    assert [folder_of(model).name for model in models] == ["pair", "pair", "tree"]
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    assert folder_of(manifest("x", tmp_path / "link", "a.onnx")) == (tmp_path / "tree").resolve()


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("pair/fp32", "pair/fp32"),
        ("Pair FP32", "pair/fp32"),
        ("pair", "pair/int8"),
        ("tree", "Tree"),
        ("{}/pair", "pair/int8"),
        ("{}/pair/decoder.onnx", "pair/fp32"),
        ("{}/pair/encoder.onnx", "pair/int8"),
        ("{}/tree/decoder/d.rkllm", "Tree"),
        ("{}/tree/encoder/rk3588/e.rknn", "Tree"),
        ("{}/tree/", "Tree"),
        ("{}/tree/decoder", None),
        ("{}", None),
        ("fp32", None),
    ],
)
def test_by_name_or_by_path(wanted: str, chosen: str | None, models: list[Manifest], tmp_path: Path) -> None:
    found = Wanted(wanted.format(tmp_path)).choose(models)
    assert (found and found.name) == chosen


def test_what_is_surely_a_path_is_read_as_one_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        manifest("a/model", tmp_path / "b", "model.onnx"),
        manifest("other", tmp_path / "a" / "model", "model.onnx"),
    ]
    monkeypatch.chdir(tmp_path)
    assert Wanted("a/model").is_path
    assert Wanted("a/model").choose(models) is models[1]
    assert Wanted("other.rkllm").is_path
    assert Wanted("other.rkllm").folder == Path()
    assert not Wanted("other").is_path
    assert named("a/model", models) is models[0]
    assert located(Path("b"), models) is models[0]


def test_one_that_is_found_twice_is_listed_once(models: list[Manifest], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "pair")
    again = manifest("link", tmp_path / "link", "encoder.onnx", "decoder.onnx", "text/vocab.json")
    namesake = manifest("Tree", tmp_path / "elsewhere", "d.rkllm")
    new = manifest("new", tmp_path / "pair", "encoder.onnx", "decoder.int4.onnx")
    assert merged(models, [again, namesake, new]) == [*models, new]
    assert merged([again], models) == [again, models[0], models[2]]
