"""A tiny Qwen3-ASR of random weights: its checkpoint, written without safetensors, and what it computes, in numpy."""

import json
import math
from pathlib import Path

import numpy as np

WIDTH, HIDDEN, VOCABULARY = 48, 64, 96
ENCODER_LAYERS, ENCODER_HEADS, ENCODER_UNITS, CHANNELS, BANDS = 2, 3, 80, 8, 16
LAYERS, HEADS, KV_HEADS, HEAD_DIM, UNITS = 3, 4, 2, 16, 72
THETA, EPSILON = 1e6, 1e-6
CONFIG = {
    "model_type": "qwen3_asr",
    "audio_config": {
        "d_model": WIDTH,
        "encoder_layers": ENCODER_LAYERS,
        "encoder_attention_heads": ENCODER_HEADS,
        "encoder_ffn_dim": ENCODER_UNITS,
        "downsample_hidden_size": CHANNELS,
        "output_dim": HIDDEN,
    },
    "text_config": {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": UNITS,
        "vocab_size": VOCABULARY,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
        "rms_norm_eps": EPSILON,
    },
}
ORIGINAL = (
    ("model.multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
    ("model.multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
    ("model.audio_tower.", "thinker.audio_tower."),
    ("model.language_model.", "thinker.model."),
    ("lm_head.", "thinker.lm_head."),
)


def random_weights(seed: int = 0, *, is_tied: bool = True) -> dict[str, np.ndarray]:
    """Return weights by transformers' names, float32 that are exact in bfloat16."""
    shapes: dict[str, tuple[int, ...]] = {}
    tower, model = "model.audio_tower", "model.language_model"

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    for number, into in ((1, 1), (2, CHANNELS), (3, CHANNELS)):
        shapes[f"{tower}.conv2d{number}.weight"] = (CHANNELS, into, 3, 3)
        shapes[f"{tower}.conv2d{number}.bias"] = (CHANNELS,)
    shapes[f"{tower}.conv_out.weight"] = (WIDTH, CHANNELS * BANDS)
    for layer in range(ENCODER_LAYERS):
        name = f"{tower}.layers.{layer}"
        for part in ("q", "k", "v", "out"):
            linear(f"{name}.self_attn.{part}_proj", WIDTH, WIDTH)
        linear(f"{name}.fc1", ENCODER_UNITS, WIDTH)
        linear(f"{name}.fc2", WIDTH, ENCODER_UNITS)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{name}.{norm}.weight"] = shapes[f"{name}.{norm}.bias"] = (WIDTH,)
    shapes[f"{tower}.ln_post.weight"] = shapes[f"{tower}.ln_post.bias"] = (WIDTH,)
    linear("model.multi_modal_projector.linear_1", WIDTH, WIDTH)
    linear("model.multi_modal_projector.linear_2", HIDDEN, WIDTH)
    shapes[f"{model}.embed_tokens.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        name = f"{model}.layers.{layer}"
        for part, out in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (out * HEAD_DIM, HIDDEN)
        shapes[f"{name}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        shapes[f"{name}.self_attn.q_norm.weight"] = shapes[f"{name}.self_attn.k_norm.weight"] = (HEAD_DIM,)
        for part in ("gate", "up"):
            shapes[f"{name}.mlp.{part}_proj.weight"] = (UNITS, HIDDEN)
        shapes[f"{name}.mlp.down_proj.weight"] = (HIDDEN, UNITS)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{name}.{norm}.weight"] = (HIDDEN,)
    shapes[f"{model}.norm.weight"] = (HIDDEN,)
    if not is_tied:
        shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        value = random.standard_normal(shape) * 0.25 + ("norm" in name and name.endswith("weight"))
        weights[name] = (value.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return weights


def write_checkpoint(
    folder: Path, weights: dict[str, np.ndarray], *, dtype: str = "BF16", original: bool = False
) -> Path:
    """Write config, weights in two files, and something for a tokenizer; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "qwen3_asr", "thinker_config": CONFIG} if original else CONFIG)
    )
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        header, data = {"__metadata__": {"format": "pt"}}, b""
        for name in part:
            raw = stored(weights[name], dtype)
            told = name
            if original:
                told = next((new + name.removeprefix(old) for old, new in ORIGINAL if name.startswith(old)), name)
            offsets = [len(data), len(data) + len(raw)]
            header[told] = {"dtype": dtype, "shape": list(weights[name].shape), "data_offsets": offsets}
            data += raw
        text = json.dumps(header).encode()
        path = folder / f"model-{number:05}-of-00002.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def stored(value: np.ndarray, dtype: str) -> bytes:
    """Return the bytes of a weight."""
    if dtype == "BF16":
        return (value.view(np.uint32) >> 16).astype("<u2").tobytes()
    return value.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def convolved(weights: dict[str, np.ndarray], mel: np.ndarray) -> np.ndarray:
    """Return what the convolutions make of seconds: [n, 128, 100] -> [n, 13, width]."""
    value = mel[:, None].astype(np.float64)
    for number in (1, 2, 3):
        name = f"model.audio_tower.conv2d{number}"
        padded = np.pad(value, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
        value = np.einsum("nchwyx,ocyx->nohw", windows, weights[f"{name}.weight"])
        value = gelu(value + weights[f"{name}.bias"][:, None, None])
    rows = value.transpose(0, 3, 1, 2).reshape(len(mel), value.shape[3], -1)
    rows = rows @ weights["model.audio_tower.conv_out.weight"].T
    steps = np.exp(-math.log(10_000) / (WIDTH // 2 - 1) * np.arange(WIDTH // 2))
    angles = np.arange(rows.shape[1])[:, None] * steps
    return rows + np.concatenate((np.sin(angles), np.cos(angles)), 1)


def encoded(weights: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return what the transformer makes of a window: [T, width] -> [T, hidden]."""

    def linear(name: str, value: np.ndarray) -> np.ndarray:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, value: np.ndarray) -> np.ndarray:
        value = value - value.mean(1, keepdims=True)
        value = value / np.sqrt((value**2).mean(1, keepdims=True) + 1e-5)
        return value * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    value = features.astype(np.float64)
    for layer in range(ENCODER_LAYERS):
        name = f"model.audio_tower.layers.{layer}"
        normed = norm(f"{name}.self_attn_layer_norm", value)
        query, key, content = (
            linear(f"{name}.self_attn.{part}_proj", normed).reshape(len(value), ENCODER_HEADS, -1) for part in "qkv"
        )
        shares = softmax(np.einsum("thd,shd->hts", query, key) / math.sqrt(query.shape[2]))
        mixed = np.einsum("hts,shd->thd", shares, content).reshape(len(value), -1)
        value = value + linear(f"{name}.self_attn.out_proj", mixed)
        inner = gelu(linear(f"{name}.fc1", norm(f"{name}.final_layer_norm", value)))
        value = value + linear(f"{name}.fc2", inner)
    value = gelu(linear("model.multi_modal_projector.linear_1", norm("model.audio_tower.ln_post", value)))
    return linear("model.multi_modal_projector.linear_2", value)


def logits(weights: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return what follows each row: [S, hidden] -> [S, vocabulary]."""
    model, count = "model.language_model", len(rows)
    angles = np.arange(count)[:, None] / THETA ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    cosines, sines = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def norm(name: str, value: np.ndarray) -> np.ndarray:
        return value / np.sqrt((value**2).mean(-1, keepdims=True) + EPSILON) * weights[f"{name}.weight"]

    def rotated(name: str, value: np.ndarray) -> np.ndarray:
        first, second = np.split(norm(name, value.reshape(count, -1, HEAD_DIM)), 2, axis=2)
        return np.concatenate((first * cosines - second * sines, second * cosines + first * sines), 2)

    value = rows.astype(np.float64)
    for layer in range(LAYERS):
        name = f"{model}.layers.{layer}"
        normed = norm(f"{name}.input_layernorm", value)
        query, key, content = (normed @ weights[f"{name}.self_attn.{part}_proj.weight"].T for part in "qkv")
        query, key = rotated(f"{name}.self_attn.q_norm", query), rotated(f"{name}.self_attn.k_norm", key)
        key, content = (
            np.repeat(part.reshape(count, KV_HEADS, HEAD_DIM), HEADS // KV_HEADS, 1) for part in (key, content)
        )
        scores = np.einsum("thd,shd->hts", query, key) / math.sqrt(HEAD_DIM)
        shares = softmax(np.where(np.tri(count, dtype=bool), scores, -np.inf))
        mixed = np.einsum("hts,shd->thd", shares, content).reshape(count, -1)
        value = value + mixed @ weights[f"{name}.self_attn.o_proj.weight"].T
        normed = norm(f"{name}.post_attention_layernorm", value)
        gate, up = (normed @ weights[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        value = value + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{name}.mlp.down_proj.weight"].T
    head = weights.get("lm_head.weight", weights[f"{model}.embed_tokens.weight"])
    return norm(f"{model}.norm", value) @ head.T


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return shares of the last axis."""
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def gelu(value: np.ndarray) -> np.ndarray:
    """Return x (1 + erf(x / sqrt 2)) / 2."""
    return value * (1 + np.vectorize(math.erf, otypes=[float])(value / math.sqrt(2))) / 2
