"""Layouts in which SenseVoice models are found."""

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from tiny_sensevoice import INPUTS, build_graph, install

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import piper
from wyoming_rknn.models.formats.sensevoice import FUNASR, LANGUAGES, NPU, SHERPA, detect, graphs
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.models.manifest import Detected, Manifest, Problem
from wyoming_rknn.models.store import Store

SENTENCEPIECE = "chn_jpn_yue_eng_ko_spectok.bpe.model"


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int | None, ...]


def by_name(found: Detected) -> dict[str, Manifest]:
    return {manifest.name: manifest for manifest in found.manifests}


def only_problem(folder: Path) -> Problem:
    found = detect(folder)
    assert found.manifests == ()
    (problem,) = found.problems
    assert str(problem.error()) == problem.message
    assert problem.model_kind == "asr"
    return problem


def keep(folder: Path, *names: str) -> Path:
    """Remove everything but graphs and `names`."""
    for path in folder.iterdir():
        if path.name not in names and path.suffix != ".onnx":
            path.unlink()
    return folder


@pytest.mark.parametrize(
    ("layout", "frames", "beside", "model_format", "roles"),
    [
        ("funasr", None, ("am.mvn", "tokens.txt"), FUNASR, {"graph", "tokens", "cmvn"}),
        ("sherpa", None, ("tokens.txt",), SHERPA, {"graph", "tokens"}),
        ("npu", 10, ("tokens.txt",), NPU, {"graph", "tokens"}),
        ("happyme531", 171, ("am.mvn", "tokens.txt", "embedding.npy"), NPU, {"graph", "tokens", "cmvn", "embedding"}),
        ("rkvoice", 344, ("am.mvn", "tokens.txt", "embedding.npy"), NPU, {"graph", "tokens", "cmvn", "embedding"}),
        ("funasr", 20, ("am.mvn", "tokens.txt"), NPU, {"graph", "tokens", "cmvn"}),
    ],
)
def test_one_graph_has_its_folders_name(
    layout: str, frames: int | None, beside: tuple[str, ...], model_format: str, roles: set[str], tmp_path: Path
) -> None:
    folder = keep(install(tmp_path / "sense", anything=build_graph(layout, frames=frames)), *beside)
    found = detect(folder)
    assert found.problems == ()
    (model,) = found.manifests
    assert (model.kind, model.format, model.name) == ("asr", model_format, "sense")
    assert (model.languages, model.rate_hz, model.quality) == (LANGUAGES, 16000, "")
    assert model.files.keys() == roles
    assert model.files["graph"] == folder / "anything.onnx"
    assert piper.detect(folder) == Detected()


def test_several_graphs_are_named_after_their_files(tmp_path: Path) -> None:
    folder = install(
        tmp_path / "sense",
        model=build_graph("funasr"),
        model_quant=build_graph("funasr", int8=True),
        **{f"rknn-{seconds}s": build_graph("npu", frames=frames) for seconds, frames in ((10, 167), (3, 50), (5, 83))},
    )
    other = build_graph("funasr")
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 80
    onnx.save(other, folder / "whisper.onnx")
    found = detect(folder)
    assert found.problems == ()
    models = by_name(found)
    assert models.keys() == {"sense/model", "sense/model_quant", "sense/rknn"}
    assert models["sense/model_quant"].quality == "int8"
    assert [path.name for path in graphs(models["sense/rknn"].files)] == [
        "rknn-3s.onnx",
        "rknn-5s.onnx",
        "rknn-10s.onnx",
    ]
    assert "3, 5, 10 s" in models["sense/rknn"].description
    assert "cmvn" not in models["sense/rknn"].files


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (("model-10-seconds", "model-20-seconds"), {"s"}),
        (("encoder_50", "encoder_83", "x"), {"s/encoder", "s/x"}),
        (("encoder.3s.rk3588.fp16", "encoder.5s.rk3588.fp16"), {"s"}),
        (("encoder.rk3588.fp16", "encoder.rk3576.fp16"), {"s/encoder.rk3588.fp16", "s/encoder.rk3576.fp16"}),
        (("3s", "5s"), {"s/3s", "s/5s"}),
        (("a-3s", "b-3s"), {"s/a", "s/b"}),
    ],
)
def test_buckets_are_told_by_their_names(stems: tuple[str, ...], expected: set[str], tmp_path: Path) -> None:
    graphs = {stem: build_graph("npu", frames=10 + number) for number, stem in enumerate(stems)}
    assert by_name(detect(install(tmp_path / "s", **graphs))).keys() == expected


def test_graphs_of_the_same_length_are_no_buckets(tmp_path: Path) -> None:
    folder = install(tmp_path / "s", **{f"v-{number}": build_graph("npu", frames=9) for number in (1, 2)})
    assert by_name(detect(folder)).keys() == {"s/v-1", "s/v-2"}


def test_buckets_have_one_layout(tmp_path: Path) -> None:
    folder = install(
        tmp_path / "s", **{"v-1": build_graph("happyme531", frames=9), "v-2": build_graph("rkvoice", frames=10)}
    )
    assert by_name(detect(folder)).keys() == {"s/v-1", "s/v-2"}


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    folder = install(tmp_path / "s")
    onnx.save(build_graph(), folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    (model,) = detect(folder).manifests
    assert model.files["weights"] == folder / "model.onnx.data"
    (folder / "model.onnx.data").unlink()
    problem = only_problem(folder)
    assert problem.kind is ModelFileMissing
    assert "model.onnx.data does not exist" in problem.message


def test_tokens_in_either_form(tmp_path: Path) -> None:
    folder = install(tmp_path / "s", model=build_graph())
    (folder / SENTENCEPIECE).write_bytes(b"pieces")
    assert detect(folder).manifests[0].files["tokens"].name == "tokens.txt"
    (folder / "tokens.txt").unlink()
    assert detect(folder).manifests[0].files["tokens"].name == "tokens.json"
    (folder / "tokens.json").unlink()
    assert f"{SENTENCEPIECE} is not read: put tokens.txt or tokens.json" in only_problem(folder).message
    (folder / SENTENCEPIECE).unlink()
    problem = only_problem(folder)
    assert "has no tokens: put the model's tokens.txt into it" in problem.message
    assert (problem.kind, problem.name) == (ModelFileMissing, "s")


@pytest.mark.parametrize(("layout", "frames"), [("funasr", None), ("happyme531", 9), ("rkvoice", 9)])
def test_without_cmvn(layout: str, frames: int | None, tmp_path: Path) -> None:
    folder = keep(install(tmp_path / "s", m=build_graph(layout, frames=frames)), "tokens.txt", "embedding.npy")
    problem = only_problem(folder)
    assert "put the model's am.mvn beside it" in problem.message
    assert problem.kind is ModelFileMissing


def test_without_prompt_rows(tmp_path: Path) -> None:
    folder = keep(install(tmp_path / "s", m=build_graph("rkvoice", frames=9)), "tokens.txt", "am.mvn")
    assert "put the model's embedding.npy beside it" in only_problem(folder).message


def test_metadata_may_stand_in_for_cmvn(tmp_path: Path) -> None:
    ones = ",".join(["1"] * 560)
    graph = build_graph("happyme531", frames=9, metadata={"neg_mean": ones, "inv_stddev": ones})
    folder = keep(install(tmp_path / "s", m=graph), "tokens.txt", "embedding.npy")
    assert "cmvn" not in detect(folder).manifests[0].files


@pytest.mark.parametrize("layout", ["sherpa", "npu", "rkvoice"])
def test_nano_is_another_model(layout: str, tmp_path: Path) -> None:
    notes = {"comment": "FunASR Nano 2512", "model_type": "sense_voice_ctc"}
    graph = build_graph(layout, frames=None if layout == "sherpa" else 9, metadata=notes)
    if layout == "npu":
        del graph.graph.input[1]
    problem = only_problem(install(tmp_path / "s", model=graph))
    assert "FunASR-Nano" in problem.message
    assert "SenseVoiceSmall" in problem.message
    assert (problem.kind, problem.name) == (ModelInvalid, "s/model")


def test_half_a_graph_is_told_where_it_surely_is_one(tmp_path: Path) -> None:
    folder = install(tmp_path / "s", model=build_graph("funasr"))
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    problem = only_problem(folder)
    assert "not a whole one" in problem.message
    assert problem.kind is ModelInvalid
    assert detect(keep(folder, "tokens.txt")) == Detected()
    assert only_problem(folder.rename(tmp_path / "sherpa-onnx-sense-voice-zh-en")).name.endswith("/model")


def test_what_is_not_sensevoice_is_no_business_of_ours(tmp_path: Path) -> None:
    folder = install(tmp_path / "paraformer")
    encoder = build_graph("rkvoice", frames=20, vocabulary=512)
    onnx.save(encoder, folder / "encoder.onnx")
    whole = build_graph("funasr")
    del whole.graph.input[2:]
    onnx.save(whole, folder / "model.onnx")
    (folder / "embedding.npy").unlink()
    (folder / "tokens.txt").unlink()
    assert detect(folder) == Detected()


def test_tokens_without_a_graph_and_an_empty_folder(tmp_path: Path) -> None:
    assert detect(install(tmp_path / "s")) == Detected()
    (tmp_path / "empty").mkdir()
    assert detect(tmp_path / "empty") == Detected()


def test_a_piper_voice_is_left_to_piper(tmp_path: Path) -> None:
    folder = install(tmp_path / "s", model=build_graph("funasr"))
    config = {"audio": {"sample_rate": 16000}, "espeak": {"voice": "en"}, "phoneme_id_map": {"_": [0]}}
    (folder / "model.onnx.json").write_text(json.dumps(config))
    assert detect(folder) == Detected()
    assert [manifest.kind for manifest in piper.detect(folder).manifests] == ["tts"]


def test_the_store_tells_each_kind_its_own(tmp_path: Path) -> None:
    keep(install(tmp_path / "lacking", model=build_graph("funasr")), "am.mvn")
    install(tmp_path / "whole", model=build_graph("funasr"))
    (tmp_path / "en_US-lonely-low.onnx").write_bytes(b"no graph")
    store = Store([tmp_path])
    assert [manifest.name for manifest in store.scan("asr").manifests] == ["whole"]
    assert [problem.name for problem in store.scan("asr").problems] == ["lacking"]
    assert [problem.name for problem in store.scan("tts").problems] == ["en_US-lonely-low"]
    assert {problem.name for problem in store.scan().problems} == {"lacking", "en_US-lonely-low"}


def layout_of(name: str, shape: tuple[int | None, ...], *outputs: tuple[int | None, ...]) -> Layout | None:
    features, *rest = INPUTS[name]
    sizes = (4,) if name == "npu" else (None,)
    inputs = [Tensor(features, shape), *(Tensor(given, sizes) for given in rest)]
    return Layout.of(inputs, [Tensor(f"output{number}", axes) for number, axes in enumerate(outputs)])


@pytest.mark.parametrize(
    ("name", "shape", "output", "vocabulary", "transposed", "capacity"),
    [
        ("funasr", (None, None, 560), (None, None, 400), 400, False, None),
        ("funasr", (1, 171, 560), (1, 175, 400), 400, False, 171),
        ("npu", (1, 83, 560), (1, 87, 25055), 25055, False, 83),
        ("npu", (1, 83, 560), (None, None, 400), 400, False, 83),
        ("npu", (1, 83, 560), (1, 25055, 87), 25055, True, 83),
        ("happyme531", (1, 171, 560), (1, 25055, 171), 25055, True, 167),
        ("rkvoice", (1, 344, 560), (1, 344, 25055), 25055, False, 340),
        ("rkvoice", (1, 171, 560), (1, 171, 171), 171, False, 167),
        ("rkvoice", (1, 171, 560), (1, 400, None), 400, True, 167),
        ("sherpa", (None, None, 560), (None, None, None), None, False, None),
    ],
)
def test_layout(
    name: str,
    shape: tuple[int | None, ...],
    output: tuple[int | None, ...],
    vocabulary: int | None,
    transposed: bool,
    capacity: int | None,
) -> None:
    layout = layout_of(name, shape, (1,), output)
    assert layout is not None
    assert (layout.vocabulary, layout.transposed, layout.capacity) == (vocabulary, transposed, capacity)
    assert layout.logits == "output1"
    assert layout.has_cmvn_inside is (name == "npu")
    assert layout.has_prompt_inside is (name not in ("happyme531", "rkvoice"))


def test_what_is_no_layout() -> None:
    logits = (1, 20, 400)
    assert layout_of("funasr", (1, 20, 80), logits) is None
    assert layout_of("funasr", (20, 560), logits) is None
    assert layout_of("funasr", (1, None, 560), (20, 400)) is None
    assert layout_of("rkvoice", (1, None, 560), logits) is None
    assert layout_of("rkvoice", (1, 4, 560), logits) is None
    assert layout_of("npu", (1, None, 560), logits) is None
    speech, lengths = Tensor("speech", (1, 20, 560)), Tensor("speech_lengths", (1,))
    assert Layout.of([speech, lengths], [Tensor("logits", logits)]) is None
    others = [lengths, Tensor("mask", (1,)), Tensor("cache", (1,))]
    assert Layout.of([speech, *others], [Tensor("logits", logits)]) is None
    assert Layout.of([speech, speech], [Tensor("logits", logits)]) is None
    assert Layout.of([], []) is None
