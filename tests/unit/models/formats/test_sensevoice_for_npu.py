"""SenseVoice graphs for the NPU: whose they are, which are buckets of one model, what lies beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_rknn import DECODER, Shapes, write_rknn
from tiny_sensevoice import build_graph, install

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import piper
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.formats.sensevoice import NPU, detect, graphs
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.models.manifest import Detected, Manifest

VOCABULARY = 25_055
SHERPA_NOTES = "model_type=sense_voice_ctc;vocab_size=25055;lang_auto=0;with_itn=14"
OUTSIDE = {"cmvn", "embedding"}


def shapes(layout: str, rows: int, vocabulary: int = VOCABULARY) -> tuple[Shapes, Shapes]:
    """Return what graphs of a layout take and give."""
    return {
        "happyme531": ({"speech": (1, rows, 560)}, {"logits": (1, vocabulary, rows)}),
        "rkvoice": ({"speech": (1, rows, 560)}, {"logits": (1, rows, vocabulary)}),
        "sherpa": ({"x": (1, rows, 560), "prompt": (4,)}, {"logits": (1, rows + 4, vocabulary)}),
    }[layout]


def put(folder: Path, files: Mapping[str, int], layout: str = "sherpa", targets: Sequence[str] = ("rk3588",)) -> Path:
    """Put graphs, by name and rows, and all that can lie beside them into a folder."""
    install(folder)
    for name, rows in files.items():
        write_rknn(folder / name, *shapes(layout, rows), targets=targets)
    return folder


def by_name(found: Detected) -> dict[str, Manifest]:
    assert found.problems == ()
    return {manifest.name: manifest for manifest in found.manifests}


def file_names(model: Manifest) -> list[str]:
    return [path.name for path in graphs(model.files)]


@pytest.mark.parametrize(
    ("layout", "rows", "transposed", "capacity", "roles"),
    [
        ("happyme531", 171, True, 167, OUTSIDE),
        ("rkvoice", 344, False, 340, OUTSIDE),
        ("sherpa", 167, False, 167, set()),
    ],
)
def test_layouts(layout: str, rows: int, transposed: bool, capacity: int, roles: set[str], tmp_path: Path) -> None:
    folder = put(tmp_path / "sense", {"model.rknn": rows}, layout)
    (model,) = by_name(detect(folder)).values()
    assert (model.kind, model.format, model.name) == ("asr", NPU, "sense")
    assert (model.has_npu, model.targets) == (True, ("rk3588",))
    assert model.files.keys() == {"graph", "tokens"} | roles
    assert f"rk3588, {capacity * 0.06:.0f} s" in model.description
    file = RknnFile.read(model.files["graph"])
    found = Layout.of(file.inputs, file.outputs)
    assert found is not None
    assert (found.transposed, found.capacity, found.vocabulary) == (transposed, capacity, VOCABULARY)
    assert found.has_cmvn_inside is (layout == "sherpa")
    assert piper.detect(folder) == Detected()


@pytest.mark.parametrize(
    ("files", "name", "ordered"),
    [
        ({"encoder-10s.rknn": 167, "encoder-3s.rknn": 50, "encoder-5s.rknn": 83}, "s", [50, 83, 167]),
        ({"model-10-seconds.rknn": 167, "model-20-seconds.rknn": 333}, "s", [167, 333]),
        ({"sense.rk3588.fp16.3s.rknn": 50, "sense.rk3588.fp16.5s.rknn": 83}, "s", [50, 83]),
        ({"model.rknn": 83}, "s", [83]),
    ],
)
def test_buckets(files: dict[str, int], name: str, ordered: list[int], tmp_path: Path) -> None:
    model = by_name(detect(put(tmp_path / "s", files)))[name]
    assert [files[file] for file in file_names(model)] == ordered


def test_graphs_for_several_socs(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for soc in ("rk3588", "rk3576"):
        put(folder, {f"encoder-{length}s.{soc}.rknn": length * 17 for length in (3, 5)}, targets=[soc])
    models = by_name(detect(folder))
    assert {name: model.targets for name, model in models.items()} == {
        "s/encoder.rk3588": ("rk3588",),
        "s/encoder.rk3576": ("rk3576",),
    }
    assert file_names(models["s/encoder.rk3576"]) == ["encoder-3s.rk3576.rknn", "encoder-5s.rk3576.rknn"]


def test_rescaled_graphs_are_preferred(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for soc in ("rk3576", "rk3588"):
        names = (f"sense-voice-encoder.{soc}.{precision}.rknn" for precision in ("fp16", "fp16-scaled"))
        put(folder, dict.fromkeys(names, 344), "rkvoice", [soc])
    models = by_name(detect(folder))
    assert {name: file_names(model) for name, model in models.items()} == {
        f"s/sense-voice-encoder.{soc}": [f"sense-voice-encoder.{soc}.fp16-scaled.rknn"] for soc in ("rk3576", "rk3588")
    }


def test_graphs_of_the_same_length_are_no_buckets(tmp_path: Path) -> None:
    models = by_name(detect(put(tmp_path / "s", {"v-1.rknn": 50, "v-2.rknn": 50})))
    assert models.keys() == {"s/v-1", "s/v-2"}


def test_layouts_are_not_mixed(tmp_path: Path) -> None:
    folder = put(tmp_path / "s", {"e-3s.rknn": 50})
    put(folder, {"e-5s.rknn": 83}, "rkvoice")
    put(folder, {"e-10s.rknn": 171}, "happyme531")
    assert by_name(detect(folder)).keys() == {"s/e-3s", "s/e-5s", "s/e-10s"}


def test_graphs_for_npu_and_cpu_are_different_models(tmp_path: Path) -> None:
    folder = put(tmp_path / "s", {"encoder-3s.rknn": 50, "encoder-5s.rknn": 83})
    static = {f"encoder-{name}": build_graph("npu", frames=rows) for name, rows in (("3s", 50), ("5s", 83))}
    install(folder, model_quant=build_graph("funasr", int8=True), **static)
    models = by_name(detect(folder))
    assert {name: (model.has_npu, file_names(model)) for name, model in models.items()} == {
        "s/model_quant": (False, ["model_quant.onnx"]),
        "s/encoder": (False, ["encoder-3s.onnx", "encoder-5s.onnx"]),
        "s/encoder.rk3588": (True, ["encoder-3s.rknn", "encoder-5s.rknn"]),
    }


def test_names_that_differ_in_their_suffix_alone(tmp_path: Path) -> None:
    folder = put(tmp_path / "s", {"model.rknn": 50})
    install(folder, model=build_graph("npu", frames=50))
    assert {name: model.has_npu for name, model in by_name(detect(folder)).items()} == {
        "s/model": False,
        "s/model.rk3588": True,
    }


def test_notes_in_the_custom_string(tmp_path: Path) -> None:
    folder = install(tmp_path / "s")
    (folder / "embedding.npy").unlink()
    (folder / "am.mvn").unlink()
    ones = ",".join(["1"] * 90)
    write_rknn(folder / "m.rknn", *shapes("sherpa", 83), custom_string=SHERPA_NOTES)
    assert by_name(detect(folder)).keys() == {"s"}
    write_rknn(folder / "m.rknn", *shapes("rkvoice", 83), custom_string=f"{SHERPA_NOTES};neg_mean={ones}")
    (problem,) = detect(folder).problems
    assert "m.rknn has no CMVN" in problem.message
    write_rknn(folder / "m.rknn", *shapes("sherpa", 83), custom_string=f"{SHERPA_NOTES};comment=FunASR-Nano")
    (problem,) = detect(folder).problems
    assert "FunASR-Nano" in problem.message


def test_what_has_to_lie_beside(tmp_path: Path) -> None:
    folder = put(tmp_path / "s", {"model.rknn": 171}, "happyme531")
    (folder / "embedding.npy").unlink()
    (problem,) = detect(folder).problems
    assert (problem.kind, problem.model_kind) == (ModelFileMissing, "asr")
    assert "model.rknn has no prompt rows: put the model's embedding.npy beside it" in problem.message


def test_half_a_graph_is_told_where_it_surely_is_one(tmp_path: Path) -> None:
    folder = put(tmp_path / "s", {"model.rknn": 171}, "happyme531")
    (folder / "model.rknn").write_bytes((folder / "model.rknn").read_bytes()[:-1])
    found = detect(folder)
    (problem,) = found.problems
    assert found.manifests == ()
    assert (problem.kind, problem.name) == (ModelInvalid, "s/model")
    assert "model.rknn is cut short; download it or convert the model again" in problem.message
    (folder / "am.mvn").unlink()
    assert detect(folder) == Detected()


def test_other_graphs_for_the_npu_are_no_business_of_ours(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    write_rknn(folder / "decoder.rknn", *DECODER)
    write_rknn(folder / "vad.rknn", {"x": (1, 83, 560)}, {"y": (1, 83, 2)})
    assert detect(folder) == Detected()


def converted(folder: Path, layout: str = "sherpa", **changes: Any) -> Path:
    """Make a folder as `models convert` does."""
    rows = {"encoder-10s.rknn": 167, "encoder-3s.rknn": 50}
    put(folder, rows, layout)
    (folder / "tokens.json").unlink()
    for name in rows:
        (folder / name).with_suffix(".golden.npz").write_bytes(b"golden")
    manifest = {
        "format": 1,
        "kind": "asr",
        "layout": "sensevoice-rknn",
        "name": "small",
        "target": "rk3588",
        "files": {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()},
        "graphs": [
            {"file": name, "golden": name.replace(".rknn", ".golden.npz"), "frames": length}
            for name, length in rows.items()
        ],
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


@pytest.mark.parametrize(("layout", "roles"), [("sherpa", set()), ("happyme531", OUTSIDE)])
def test_converted_model(layout: str, roles: set[str], tmp_path: Path) -> None:
    model = by_name(detect(converted(tmp_path / "folder", layout)))["small"]
    assert (model.format, model.targets, model.has_npu) == (NPU, ("rk3588",), True)
    assert model.files.keys() == {"graph-1", "graph-2", "tokens"} | roles
    assert file_names(model) == ["encoder-3s.rknn", "encoder-10s.rknn"]


def test_converted_model_beside_others(tmp_path: Path) -> None:
    folder = install(converted(tmp_path / "small"), model=build_graph("funasr"))
    assert {name: model.has_npu for name, model in by_name(detect(folder)).items()} == {
        "small": True,
        "small/model": False,
    }


def test_converted_model_that_lacks_a_bucket(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    whole = (folder / "encoder-3s.rknn").read_bytes()
    for content in (whole[:-1], b"x" * len(whole), None):
        if content is None:
            (folder / "encoder-3s.rknn").unlink()
        else:
            (folder / "encoder-3s.rknn").write_bytes(content)
        found = detect(folder)
        assert [file_names(model) for model in found.manifests] == [["encoder-10s.rknn"]]
        (problem,) = found.problems
        assert (problem.name, problem.model_kind) == ("small", "asr")
        assert "encoder-3s.rknn" in problem.message
    (folder / "encoder-10s.rknn").unlink()
    found = detect(folder)
    assert found.manifests == ()
    assert len(found.problems) == 2


def test_converted_model_that_lacks_other_files(tmp_path: Path) -> None:
    folder = converted(tmp_path, "happyme531")
    (folder / "encoder-3s.golden.npz").unlink()
    found = detect(folder)
    assert [model.name for model in found.manifests] == ["small"]
    assert ["encoder-3s.golden.npz does not exist" in problem.message for problem in found.problems] == [True]
    converted(folder, "happyme531")
    (folder / "am.mvn").write_bytes(b"half")
    found = detect(folder)
    assert found.manifests == ()
    (problem,) = found.problems
    assert "am.mvn has 4 bytes" in problem.message


def test_converted_model_with_a_manifest_of_no_use(tmp_path: Path) -> None:
    found = detect(converted(tmp_path / "folder", format=2))
    assert [model.name for model in found.manifests] == ["folder"]
    (problem,) = found.problems
    assert "has format 2" in problem.message
