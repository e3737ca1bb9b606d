"""Layouts in which Qwen3-ASR models are found, and what is told of those that are not whole."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from qwen3_doubles import TOKENIZER
from tiny_rknn import write_rknn

from wyoming_rknn.asr.qwen3.languages import name_of
from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import piper, sensevoice
from wyoming_rknn.models.formats.qwen3 import LANGUAGES, ONNX, RKLLM, SHERPA, detect, numbered, tokenizer_files
from wyoming_rknn.models.manifest import Detected, Manifest, Problem
from wyoming_rknn.models.store import Store

OURS = ("audio_conv.onnx", "audio_encoder.onnx", "decoder.onnx", "embeddings.npy")


def graph(path: Path, *, external: bool = False) -> Path:
    """Write a graph that adds a weight, which may lie in a file of its own."""
    weight = numpy_helper.from_array(numpy_helper.np.ones(64, "float32"), "weight")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in ("x", "y")]
    node = helper.make_node("Add", ["x", "weight"], ["y"])
    made = helper.make_model(helper.make_graph([node], "g", tensors[:1], tensors[1:], [weight]))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(made, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for path in TOKENIZER.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def ours(folder: Path, *decoders: str, external: bool = False) -> Path:
    for name in (*OURS[:2], *(decoders or OURS[2:3])):
        graph(folder / name, external=external)
    (folder / "embeddings.npy").write_bytes(b"\x93NUMPY")
    return tokenizer(folder)


def sherpa(folder: Path, *graphs: str) -> Path:
    for name in ("conv_frontend.onnx", *(graphs or ("encoder.int8.onnx", "decoder.int8.onnx"))):
        graph(folder / name)
    tokenizer(folder / "tokenizer")
    return folder


def encoder(path: Path, *targets: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mel, rows = {"input_features": (1, 128, 200), "attention_mask": (1, 1, 26, 26)}, {"audio_embeds": (1, 26, 8)}
    return write_rknn(path, mel, rows, targets=targets or ("rk3588",))


def rkvoice(
    folder: Path,
    socs: Sequence[str] = ("rk3588",),
    seconds: Sequence[str] = ("2s", "4s", "15s"),
    precision: str = "w8a8",
) -> Path:
    """Write what rkvoice-stream takes, for some SoCs."""
    for soc in socs:
        for length in seconds:
            encoder(folder / "encoder" / soc / f"qwen3_asr_encoder_merged.fp16.{length}.{soc}.rknn", soc)
        (folder / "decoder").mkdir(parents=True, exist_ok=True)
        (folder / "decoder" / f"decoder_qwen3.{precision}.{soc}.rkllm").write_bytes(b"weights")
    (folder / "embd").mkdir()
    (folder / "embd" / "qwen3_embed_tokens.fp32.npy").write_bytes(b"\x93NUMPY")
    tokenizer(folder / "decoder_hf")
    return folder


def only(folder: Path, soc: str | None = None) -> Manifest:
    """Return the one model of a folder, which no other format claims."""
    found = Store((folder,), soc=soc).scan()
    assert found.problems == ()
    (manifest,) = found.manifests
    assert (manifest.kind, manifest.languages, manifest.rate_hz) == ("asr", LANGUAGES, 16_000)
    assert all(path.is_file() for path in manifest.files.values())
    return manifest


def only_problem(folder: Path) -> Problem:
    found = Store((folder,)).scan()
    assert found.manifests == ()
    (problem,) = found.problems
    assert problem.model_kind == "asr"
    assert problem.name.startswith("qwen")
    return problem


def names(paths: Sequence[Path]) -> list[str]:
    return [path.name for path in paths]


def test_our_layout(tmp_path: Path) -> None:
    model = only(ours(tmp_path / "qwen"))
    assert (model.name, model.format, model.quality, model.targets) == ("qwen", ONNX, "fp32", ())
    assert model.description == "qwen (Qwen3-ASR, fp32)"
    roles = ("convolution", "attention", "decoder", "embeddings")
    assert [model.files[role].name for role in roles] == list(OURS)
    assert {"vocab.json", "merges.txt"} <= tokenizer_files(model.files).keys()


def test_each_decoder_is_a_model(tmp_path: Path) -> None:
    found = detect(ours(tmp_path / "qwen", "decoder.onnx", "decoder.int8.onnx", "decoder.int4.onnx"))
    assert found.problems == ()
    assert {manifest.name: manifest.quality for manifest in found.manifests} == {
        "qwen/decoder": "fp32",
        "qwen/decoder.int8": "int8",
        "qwen/decoder.int4": "int4",
    }
    assert len({manifest.files["attention"] for manifest in found.manifests}) == 1


def test_one_decoder_that_is_broken_leaves_the_others(tmp_path: Path) -> None:
    folder = ours(tmp_path / "qwen", "decoder.int8.onnx", "decoder.int4.onnx", "decoder.onnx")
    for name in ("decoder.int4.onnx", "decoder.onnx"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    found = detect(folder)
    assert [manifest.name for manifest in found.manifests] == ["qwen/decoder.int8"]
    assert [(problem.name, problem.path) for problem in found.problems] == [
        (f"qwen/{name.removesuffix('.onnx')}", folder / name) for name in ("decoder.int4.onnx", "decoder.onnx")
    ]


def test_weights_beside_graphs_belong_to_the_model(tmp_path: Path) -> None:
    folder = ours(tmp_path / "qwen", external=True)
    assert names(numbered(only(folder).files, "weights")) == sorted(f"{name}.data" for name in OURS[:3])
    (folder / "decoder.onnx.data").unlink()
    assert only_problem(folder).kind is ModelFileMissing


@pytest.mark.parametrize("missing", [*OURS, "merges.txt"])
def test_our_layout_lacks_a_file(missing: str, tmp_path: Path) -> None:
    folder = ours(tmp_path / "qwen")
    (folder / missing).unlink()
    problem = only_problem(folder)
    assert problem.kind is ModelFileMissing
    assert missing in problem.message


@pytest.mark.parametrize("name", OURS[:3])
def test_a_graph_that_is_cut_short(name: str, tmp_path: Path) -> None:
    folder = ours(tmp_path / "qwen")
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    problem = only_problem(folder)
    assert problem.kind is ModelInvalid
    assert str(folder / name) in problem.message
    assert "download it again" in problem.message


def test_pieces_for_an_npu(tmp_path: Path) -> None:
    folder = ours(tmp_path / "qwen", "decoder.int8.onnx")
    for name in ("audio_conv", "audio_encoder.104", "audio_encoder.26", "audio_encoder.52"):
        encoder(folder / f"{name}.rknn", "rk3566")
    model = only(folder)
    assert names(numbered(model.files, "npu-attention")) == [f"audio_encoder.{rows}.rknn" for rows in (26, 52, 104)]
    assert model.files["npu-convolution"].name == "audio_conv.rknn"
    assert (model.targets, model.has_npu) == (("rk3566",), True)
    assert model.description == "qwen (Qwen3-ASR, int8, rk3566)"


@pytest.mark.parametrize("fault", ["cut", "another SoC"])
def test_a_piece_for_an_npu_that_is_broken_leaves_the_cpus(fault: str, tmp_path: Path) -> None:
    folder = ours(tmp_path / "qwen")
    encoder(folder / "audio_encoder.26.rknn")
    broken = encoder(folder / "audio_encoder.52.rknn", "rk3576")
    if fault == "cut":
        broken.write_bytes(broken.read_bytes()[:-9])
    found = detect(folder)
    assert [manifest.targets for manifest in found.manifests] == [()]
    (problem,) = found.problems
    assert str(broken) in problem.message
    assert problem.message.endswith("until then the CPU encodes audio")


def test_convolutions_alone_are_of_no_use_to_an_npu(tmp_path: Path) -> None:
    folder = ours(tmp_path / "qwen")
    encoder(folder / "audio_conv.rknn")
    assert not only(folder).has_npu


def test_sherpa(tmp_path: Path) -> None:
    model = only(sherpa(tmp_path / "qwen"))
    assert (model.name, model.format, model.quality) == ("qwen", SHERPA, "int8")
    roles = ("convolution", "attention", "decoder")
    assert [model.files[role].name for role in roles] == [
        "conv_frontend.onnx",
        "encoder.int8.onnx",
        "decoder.int8.onnx",
    ]
    assert {path.parent.name for path in tokenizer_files(model.files).values()} == {"tokenizer"}
    assert model.folder == tmp_path / "qwen"


def test_sherpas_smaller_files_are_taken(tmp_path: Path) -> None:
    full = ("encoder.onnx", "decoder.onnx")
    assert only(sherpa(tmp_path / "qwen", *full)).quality == "fp32"
    model = only(sherpa(tmp_path / "qwen", *full, "encoder.int8.onnx", "decoder.int8.onnx"))
    assert (model.quality, model.files["attention"].name) == ("int8", "encoder.int8.onnx")


@pytest.mark.parametrize("missing", ["encoder.int8.onnx", "decoder.int8.onnx", "tokenizer/vocab.json"])
def test_sherpas_package_lacks_a_file(missing: str, tmp_path: Path) -> None:
    folder = sherpa(tmp_path / "qwen")
    (folder / missing).unlink()
    problem = only_problem(folder)
    assert problem.kind is ModelFileMissing
    assert Path(missing).name in problem.message


def test_rkvoice(tmp_path: Path) -> None:
    model = only(rkvoice(tmp_path / "qwen"))
    assert (model.name, model.format, model.quality, model.targets) == ("qwen", RKLLM, "w8a8", ("rk3588",))
    lengths = [name.split(".")[2] for name in names(numbered(model.files, "encoder"))]
    assert lengths == ["2s", "4s", "15s"]
    assert model.files["decoder"].name == "decoder_qwen3.w8a8.rk3588.rkllm"
    assert model.files["embeddings"].parent.name == "embd"
    assert tokenizer_files(model.files)["vocab.json"].parent.name == "decoder_hf"
    assert model.has_npu


def test_rkvoice_for_several_socs(tmp_path: Path) -> None:
    folder = rkvoice(tmp_path / "qwen", ("rk3588", "rk3576"))
    for soc in ("rk3588", "rk3576"):
        model = only(folder, soc)
        assert (model.name, model.targets) == ("qwen", (soc,))
        assert {path.parent.name for path in numbered(model.files, "encoder")} == {soc}
        assert soc in model.files["decoder"].name


def test_rkvoice_in_several_precisions(tmp_path: Path) -> None:
    folder = rkvoice(tmp_path / "qwen", ("rk3588", "rk3576"))
    for soc in ("rk3588", "rk3576"):
        (folder / "decoder" / f"decoder_qwen3.w4a16_g128.{soc}.rkllm").write_bytes(b"fewer weights")
    found = Store((folder,), soc="rk3576").scan()
    assert found.problems == ()
    assert [(manifest.name, manifest.targets) for manifest in found.manifests] == [
        ("qwen/decoder_qwen3.w4a16_g128", ("rk3576",)),
        ("qwen/decoder_qwen3.w8a8", ("rk3576",)),
    ]


def test_a_tree_with_a_folder_for_each_soc(tmp_path: Path) -> None:
    folder = tmp_path / "qwen"
    for soc in ("rk3588", "rv1126b"):
        encoder(folder / soc / "audio_encoder.2s.rknn", soc)
        (folder / soc / "qwen3-asr.rkllm").write_bytes(b"weights")
    tokenizer(folder / "shared" / "decoder_hf")
    (folder / "shared" / "decoder_hf" / "embed_tokens.npy").write_bytes(b"\x93NUMPY")
    for soc in ("rk3588", "rv1126b"):
        model = only(folder, soc)
        assert (model.name, model.targets) == ("qwen", (soc,))
        assert model.files["decoder"].parent.name == soc


def test_rkvoice_in_two_parts(tmp_path: Path) -> None:
    folder = rkvoice(tmp_path / "qwen", seconds=())
    for length in ("15s", "4s"):
        for part in ("frontend", "backend"):
            encoder(folder / "encoder" / "rk3588" / f"qwen3_asr_encoder_{part}.fp16.{length}.rk3588.rknn")
    encoder(folder / "encoder_int8" / "rk3588" / "qwen3_asr_encoder_merged.int8.4s.rk3588.rknn")
    found = names(numbered(only(folder).files, "encoder"))
    order = [(name.split("_")[3].split(".")[0], name.split(".")[2]) for name in found]
    assert order == [("frontend", "4s"), ("backend", "4s"), ("frontend", "15s"), ("backend", "15s")]
    encoder(folder / "encoder" / "rk3588" / "qwen3_asr_encoder_merged.fp16.4s.rk3588.rknn")
    assert names(numbered(only(folder).files, "encoder")) == ["qwen3_asr_encoder_merged.fp16.4s.rk3588.rknn"]


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("decoder", "no language model"),
        ("encoder", "no audio encoder"),
        ("embd", "no embeddings"),
        ("decoder_hf", "no tok"),
    ],
)
def test_a_model_of_rkvoice_lacks_a_part(missing: str, told: str, tmp_path: Path) -> None:
    folder = rkvoice(tmp_path / "qwen-asr")
    shutil.rmtree(folder / missing)
    problem = only_problem(folder)
    assert problem.kind is ModelFileMissing
    assert told in problem.message


def test_an_encoder_of_rkvoice_that_is_cut_short(tmp_path: Path) -> None:
    folder = rkvoice(tmp_path / "qwen", seconds=("4s",))
    path = folder / "encoder" / "rk3588" / "qwen3_asr_encoder_merged.fp16.4s.rk3588.rknn"
    path.write_bytes(path.read_bytes()[:-9])
    assert str(path) in only_problem(folder).message


@pytest.mark.parametrize("make", [ours, sherpa, rkvoice])
def test_other_formats_do_not_claim_these_folders(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "qwen")
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        assert piper.detect(path) == sensevoice.detect(path) == Detected()
        assert path == folder or detect(path) == Detected()


def test_these_do_not_claim_what_is_of_others(tmp_path: Path) -> None:
    for name in ("encoder.onnx", "decoder.onnx", "flow.onnx", "model.onnx", "decoder.int8.onnx"):
        graph(tmp_path / name)
    for name in ("vision.rknn", "model.rknn"):
        encoder(tmp_path / "encoder" / name)
    (tmp_path / "chat.rkllm").write_bytes(b"weights")
    (tmp_path / "embed_tokens.npy").write_bytes(b"\x93NUMPY")
    assert detect(tmp_path) == Detected()


@pytest.mark.parametrize("make", [ours, sherpa, rkvoice])
def test_a_model_is_found_when_it_is_whole_in_whatever_order_it_is_copied(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    whole, data = make(tmp_path / "qwen-asr"), tmp_path / "data"
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    for order in (files, files[::-1]):
        store = Store((data,))
        for file in order:
            store.scan()
            (data / "qwen-asr" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(whole / file, data / "qwen-asr" / file)
        found = store.scan()
        assert found.problems == ()
        assert found.manifests == Store((data,)).scan().manifests
        assert len(found.manifests[0].files) == len(files)
        shutil.rmtree(data)


def test_all_languages_have_a_name_in_prompts() -> None:
    assert len({name_of(tag) for tag in LANGUAGES}) == 30
