import json

import numpy as np
import onnx
import pytest
import tiny_qwen3
from onnx import numpy_helper

from wyoming_rknn.convert import qwen3, qwen3_graph
from wyoming_rknn.convert.qwen3 import check_qwen3, export_qwen3
from wyoming_rknn.convert.qwen3_quantize import int4_blocks, int8_columns
from wyoming_rknn.convert.recipes import recipe_for
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.errors import ModelFileMissing, ModelInvalid, UsageError
from wyoming_rknn.runtime import onnx as cpu

RANDOM = np.random.default_rng(1)
WEIGHTS = tiny_qwen3.random_weights()
EMBEDDINGS = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_qwen3.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", WEIGHTS)


@pytest.fixture(scope="module")
def exported(checkpoint):
    out = checkpoint.parent / "out"
    export_qwen3(checkpoint, out, ConvertOptions(precisions=("fp32", "int8", "int4")))
    return out


def read_in_parts(path, rows, *counts):
    """Return the logits after each part, of a decoder that is fed so many rows at a time."""
    graph = cpu.load(path, threads=1)
    cache = np.zeros((2, len(rows), tiny_qwen3.LAYERS, tiny_qwen3.KV_HEADS, tiny_qwen3.HEAD_DIM), np.float32)
    past, found = 0, []
    for count in counts:
        mask = np.zeros((1, 1, count, past + count), np.float32)
        mask[0, 0, :, past:] = np.triu(np.full((count, count), -1e4, np.float32), 1)
        feeds = {
            "inputs_embeds": rows[None, past : past + count],
            "position_ids": np.arange(past, past + count)[None],
            "mask": mask,
            "past_k": cache[0, :past],
            "past_v": cache[1, :past],
        }
        given = graph.run(feeds)
        cache[0, past : past + count], cache[1, past : past + count] = given["new_k"], given["new_v"]
        past += count
        found.append(given["logits"][0])
    graph.close()
    return found


def test_convolutions_are_those_of_the_model(exported):
    mel = RANDOM.standard_normal((3, 128, 100), np.float32)
    features = cpu.load(exported / "audio_conv.onnx", threads=1).run({"mel": mel})["features"]
    assert features.shape == (3, 13, tiny_qwen3.WIDTH)
    np.testing.assert_allclose(features, tiny_qwen3.convolved(WEIGHTS, mel), atol=1e-4)


def test_the_transformer_is_that_of_the_model_and_padding_is_not_seen(exported):
    features = RANDOM.standard_normal((19, tiny_qwen3.WIDTH), np.float32)
    expected = tiny_qwen3.encoded(WEIGHTS, features)
    graph = cpu.load(exported / "audio_encoder.onnx", threads=1)
    for rows in (19, 26):
        padded = np.full((1, rows, tiny_qwen3.WIDTH), 3.0, np.float32)
        padded[0, :19] = features
        mask = np.zeros((1, 1, rows, rows), np.float32)
        mask[..., 19:] = -1e4
        embeddings = graph.run({"features": padded, "mask": mask})["embeddings"]
        np.testing.assert_allclose(embeddings[0, :19], expected, atol=1e-4)


@pytest.mark.parametrize("counts", [(24,), (1,) * 24, (7, 1, 1, 15)])
def test_the_decoder_is_that_of_the_model_however_it_is_fed(exported, counts):
    rows = WEIGHTS[EMBEDDINGS][RANDOM.integers(0, tiny_qwen3.VOCABULARY, 24)]
    expected = tiny_qwen3.logits(WEIGHTS, rows)
    found = read_in_parts(exported / "decoder.onnx", rows, *counts)
    for end, got in zip(np.cumsum(counts), found, strict=True):
        np.testing.assert_allclose(got, expected[end - 1], atol=1e-4)


@pytest.mark.parametrize(("precision", "alike"), [("int8", 0.99), ("int4", 0.8)])
def test_fewer_bits_are_nearly_the_same(exported, precision, alike):
    rows = WEIGHTS[EMBEDDINGS][RANDOM.integers(0, tiny_qwen3.VOCABULARY, 24)]
    expected = tiny_qwen3.logits(WEIGHTS, rows)[-1]
    found = read_in_parts(exported / f"decoder.{precision}.onnx", rows, 20, 4)[-1]
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > alike
    assert (exported / f"decoder.{precision}.onnx").stat().st_size < (exported / "decoder.onnx").stat().st_size


def test_a_first_token_out_of_all_proportion_does_not_blur_the_others_in_8_bits(tmp_path):
    weights = {name: value.copy() for name, value in WEIGHTS.items()}
    rows = weights[EMBEDDINGS][np.random.default_rng(1).integers(0, tiny_qwen3.VOCABULARY, 12)]
    # The first is alone in one dimension, to which both factors of the first layer's last product listen.
    rows[:, 0] = 0.0
    rows[0] = np.where(np.arange(tiny_qwen3.HIDDEN) == 0, 30.0, 0.0)
    layer = "model.language_model.layers.0"
    for part in ("gate", "up"):
        weights[f"{layer}.mlp.{part}_proj.weight"][:, 0] *= 6.0
    source = tiny_qwen3.write_checkpoint(tmp_path / "uneven", weights, dtype="F32")
    export_qwen3(source, tmp_path / "out", ConvertOptions())
    (found,) = read_in_parts(tmp_path / "out" / "decoder.int8.onnx", rows, 12)
    expected = tiny_qwen3.logits(weights, rows)[-1]
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.99


def test_8_bits_are_off_by_half_a_step_at_most():
    weight = RANDOM.standard_normal((5, 70), np.float32)
    weight[3] = 0
    whole, scales = int8_columns(weight)
    assert (whole.shape, whole.dtype) == ((70, 5), np.int8)
    assert (np.abs(whole.T * scales[:, None] - weight) <= scales[:, None] * 0.501).all()


def test_4_bits_are_off_by_half_a_step_but_for_the_opposite_of_the_largest():
    weight = RANDOM.standard_normal((5, 70), np.float32)
    weight[3] = 0
    packed, scales = int4_blocks(weight)
    assert (packed.shape, packed.dtype, scales.shape) == ((5, 3, 16), np.uint8, (15,))
    whole = np.stack([packed & 15, packed >> 4], -1).reshape(5, 3, 32).astype(int) - 8
    restored = (whole * scales.reshape(5, 3, 1)).reshape(5, 96)
    assert not restored[:, 70:].any()
    steps = np.repeat(np.abs(scales.reshape(5, 3)), 32, 1)[:, :70]
    error = np.abs(restored[:, :70] - weight)
    assert (error <= steps * 1.001).all()
    assert (error <= steps * 0.501).mean() > 0.95
    # The largest of each block is exact.
    largest = np.abs(weight[:, :32]).argmax(1)
    np.testing.assert_allclose(restored[range(5), largest], weight[range(5), largest], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "original"), [("F32", False), ("BF16", True), ("F16", True)])
def test_every_kind_of_checkpoint_gives_the_same(checkpoint, exported, tmp_path, dtype, original):
    source = tiny_qwen3.write_checkpoint(tmp_path / "other", WEIGHTS, dtype=dtype, original=original)
    export_qwen3(source, tmp_path / "out", ConvertOptions(precisions=("fp32",)))
    for name in ("audio_conv.onnx", "audio_encoder.onnx", "decoder.onnx"):
        ours, theirs = (
            {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(folder / name).graph.initializer}
            for folder in (tmp_path / "out", exported)
        )
        assert ours.keys() == theirs.keys()
        # What bfloat16 holds may be too small for float16.
        assert all(np.allclose(ours[key], theirs[key], atol=1e-6 if dtype == "F16" else 0) for key in ours)


def test_a_last_layer_of_its_own(tmp_path):
    weights = tiny_qwen3.random_weights(2, is_tied=False)
    source = tiny_qwen3.write_checkpoint(tmp_path / "untied", weights)
    export_qwen3(source, tmp_path / "out", ConvertOptions(precisions=("fp32",)))
    rows = weights[EMBEDDINGS][:9]
    (found,) = read_in_parts(tmp_path / "out" / "decoder.onnx", rows, 9)
    np.testing.assert_allclose(found, tiny_qwen3.logits(weights, rows)[-1], atol=1e-4)


def test_weights_of_a_large_graph_lie_beside_it(checkpoint, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(qwen3_graph, "WHOLE_BYTES", 1000)
    export_qwen3(checkpoint, tmp_path / "out", ConvertOptions(precisions=("int8",)))
    assert (tmp_path / "out" / "decoder.int8.onnx.data").stat().st_size > 50_000
    assert (tmp_path / "out" / "decoder.int8.onnx").stat().st_size < 50_000
    rows = WEIGHTS[EMBEDDINGS][:9]
    split, whole = (
        read_in_parts(folder / "decoder.int8.onnx", rows, 8, 1)[1] for folder in (tmp_path / "out", exported)
    )
    assert (split == whole).all()


def test_what_lies_in_the_folder(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in exported.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == {
        *("audio_conv.onnx", "audio_encoder.onnx", "decoder.onnx", "decoder.int8.onnx", "decoder.int4.onnx"),
        *("embeddings.npy", "vocab.json", "merges.txt", "tokenizer_config.json"),
    }
    assert (manifest["layout"], manifest["target"], manifest["name"]) == ("qwen3-onnx", "onnx", "tiny")
    model = manifest["model"]
    assert model.pop("quality") == ["fp32", "int8", "int4"]
    assert list(model.values()) == [48, 104, 64, 3, 2, 16, 96]
    assert list(model) == ["width", "window_rows", "hidden", "layers", "kv_heads", "head_dim", "vocabulary"]
    embeddings = np.load(exported / "embeddings.npy", mmap_mode="r")
    assert embeddings.dtype == np.float16
    np.testing.assert_allclose(embeddings, WEIGHTS[EMBEDDINGS], atol=1e-6)


def test_a_tokenizer_in_one_file(tmp_path):
    source = tiny_qwen3.write_checkpoint(tmp_path / "tiny", WEIGHTS)
    (source / "vocab.json").unlink()
    (source / "merges.txt").rename(source / "tokenizer.json")
    export_qwen3(source, tmp_path / "out", ConvertOptions())
    assert {"tokenizer.json", "tokenizer_config.json"} < {path.name for path in (tmp_path / "out").iterdir()}


def test_a_forced_aligner_is_no_recogniser(tmp_path):
    source = tiny_qwen3.write_checkpoint(tmp_path / "tiny", {**WEIGHTS, "score.weight": np.ones((9, 64), np.float32)})
    with pytest.raises(ModelInvalid, match="holds a forced aligner"):
        export_qwen3(source, tmp_path / "out", ConvertOptions())


def test_the_recipe_is_found(checkpoint):
    recipe = recipe_for(checkpoint)
    assert (recipe.check, recipe.export) == (check_qwen3, export_qwen3)


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("rk3587", {}, "did you mean rk3588"),
        ("onnx", {"frames": 32}, "--frames is not for Qwen3-ASR"),
        ("onnx", {"seconds": (3,)}, "--seconds is not for Qwen3-ASR"),
        ("onnx", {"precisions": ("int7",)}, "--precision int7 is not known"),
    ],
)
def test_wrong_use_is_told(checkpoint, tmp_path, target, options, told):
    with pytest.raises(UsageError, match=told):
        check_qwen3(checkpoint, target, tmp_path / "out", ConvertOptions(**options))


def test_a_checkpoint_that_is_not_whole_is_told(tmp_path):
    def source():
        return tiny_qwen3.write_checkpoint(tmp_path / "broken", WEIGHTS)

    def told(error, text):
        with pytest.raises(error, match=text):
            export_qwen3(tmp_path / "broken", tmp_path / "out", ConvertOptions())
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".tmp-*"))

    first = source() / "model-00001-of-00002.safetensors"
    (source() / "merges.txt").unlink()
    told(ModelFileMissing, "no tokenizer: download vocab.json and merges.txt")
    source()
    first.unlink()
    told(ModelInvalid, "has no weight model.audio_tower")
    for damaged in (b"\x08\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b""):
        first.write_bytes(damaged)
        told(ModelInvalid, "is not a file of safetensors")
    whole = (source() / first.name).read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    told(ModelInvalid, "is cut short")
    (source() / "config.json").write_text('{"model_type": "qwen3_asr"}')
    told(ModelInvalid, "does not describe a Qwen3-ASR model")
    (source() / "config.json").write_text(
        json.dumps(tiny_qwen3.CONFIG).replace('"intermediate_size": 72', '"intermediate_size": 73')
    )
    told(ModelInvalid, r"has the shape \[72, 64\] instead of \[73, 64\]")
    for path in source().glob("*.safetensors"):
        path.unlink()
    told(ModelFileMissing, "download the checkpoint's weights")


def test_the_name_of_a_precision():
    assert [qwen3.decoder_name(name) for name in ("fp32", "int8")] == ["decoder.onnx", "decoder.int8.onnx"]
