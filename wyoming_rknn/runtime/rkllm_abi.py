"""What of librkllmrt's C interface is used: structures, constants and signatures, on 64-bit Linux.

Interface facts of rkllm.h 1.2.1 to 1.2.3, which are the same, and of 1.3.0. No function tells which of them a library
speaks, and the wrong structures end the process; so whoever uses them knows the version first. `check` compares them
with the sizes and offsets that a C compiler gives.
"""

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint8, c_uint32, c_void_p
from dataclasses import dataclass

from wyoming_rknn.errors import RuntimeUnavailable

NORMAL, WAITING, FINISH, ERROR = 0, 1, 2, 3
"""States of a callback; with WAITING comes a token that does not end a UTF-8 character."""
INPUT_EMBED = 2
MODE_GENERATE = 0
GO_ON = 0
"""What a callback returns."""


class Perf(ctypes.Structure):
    """RKLLMPerfStat: milliseconds, tokens and MB of a run."""

    _fields_ = (
        ("prefill_time_ms", c_float),
        ("prefill_tokens", c_int),
        ("generate_time_ms", c_float),
        ("generate_tokens", c_int),
        ("memory_usage_mb", c_float),
    )


class Numbers(ctypes.Structure):
    """RKLLMResultLastHiddenLayer and RKLLMResultLogits, which have the same shape."""

    _fields_ = (("values", POINTER(c_float)), ("width", c_int), ("num_tokens", c_int))


class Result(ctypes.Structure):
    """RKLLMResult."""

    _fields_ = (
        ("text", c_char_p),
        ("token_id", c_int32),
        ("last_hidden_layer", Numbers),
        ("logits", Numbers),
        ("perf", Perf),
    )


class EmbedInput(ctypes.Structure):
    """RKLLMEmbedInput: float32 [n_tokens, hidden]."""

    _fields_ = (("embed", c_void_p), ("n_tokens", c_size_t))


class ExtendParam(ctypes.Structure):
    """RKLLMExtendParam."""

    _fields_ = (
        ("base_domain_id", c_int32),
        ("embed_flash", c_int8),
        ("enabled_cpus_num", c_int8),
        ("enabled_cpus_mask", c_uint32),
        ("n_batch", c_uint8),
        ("use_cross_attn", c_int8),
        ("reserved", c_uint8 * 104),
    )


_SAMPLING = (
    ("model_path", c_char_p),
    ("max_context_len", c_int32),
    ("max_new_tokens", c_int32),
    ("top_k", c_int32),
    ("n_keep", c_int32),
    ("top_p", c_float),
    ("temperature", c_float),
    ("repeat_penalty", c_float),
    ("frequency_penalty", c_float),
    ("presence_penalty", c_float),
    ("mirostat", c_int32),
    ("mirostat_tau", c_float),
    ("mirostat_eta", c_float),
    ("skip_special_token", c_bool),
)


class Param12(ctypes.Structure):
    """RKLLMParam of 1.2.1 to 1.2.3."""

    _fields_ = (
        *_SAMPLING,
        ("is_async", c_bool),
        ("img_start", c_char_p),
        ("img_end", c_char_p),
        ("img_content", c_char_p),
        ("extend_param", ExtendParam),
    )


class Param13(ctypes.Structure):
    """RKLLMParam of 1.3.0."""

    _fields_ = (*_SAMPLING, ("ignore_eos_token", c_bool), ("is_async", c_bool), ("extend_param", ExtendParam))


class Union12(ctypes.Union):
    """What an RKLLMInput of 1.2.1 to 1.2.3 holds; the longest is for pictures."""

    _fields_ = (("embed_input", EmbedInput), ("multimodal_input", c_size_t * 6))


class Union13(ctypes.Union):
    """What an RKLLMInput of 1.3.0 holds; the longest is for pictures and films."""

    _fields_ = (("embed_input", EmbedInput), ("multimodal_input", c_size_t * 18))


_ROLE = (("role", c_char_p), ("enable_thinking", c_bool), ("input_type", c_int32))


class Input12(ctypes.Structure):
    """RKLLMInput of 1.2.1 to 1.2.3."""

    _fields_ = (*_ROLE, ("content", Union12))


class Input13(ctypes.Structure):
    """RKLLMInput of 1.3.0."""

    _fields_ = (*_ROLE, ("content", Union13))


_MODE = (("mode", c_int32), ("lora_params", c_void_p), ("prompt_cache_params", c_void_p))


class InferParam12(ctypes.Structure):
    """RKLLMInferParam of 1.2.1 to 1.2.3."""

    _fields_ = (*_MODE, ("keep_history", c_int))


class InferParam13(ctypes.Structure):
    """RKLLMInferParam of 1.3.0."""

    _fields_ = (*_MODE, ("sampling_params", c_void_p), ("keep_history", c_int), ("max_new_tokens", c_int32))


ResultCallback = ctypes.CFUNCTYPE(c_int, POINTER(Result), c_void_p, c_int)


class Callback13(ctypes.Structure):
    """RKLLMCallback of 1.3.0, what `rkllm_init` takes there instead of a function."""

    _fields_ = (
        ("result_callback", ResultCallback),
        ("result_userdata", c_void_p),
        ("tokenizer_callback", c_void_p),
        ("tokenizer_userdata", c_void_p),
        ("embed_callback", c_void_p),
        ("embed_userdata", c_void_p),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """The structures of some versions."""

    param: type[ctypes.Structure]
    input: type[ctypes.Structure]
    infer_param: type[ctypes.Structure]
    has_callback_struct: bool
    """Whether `rkllm_init` takes a `Callback13`."""
    facts: Mapping[type[ctypes.Structure], tuple[int, Mapping[str, int]]]
    """Sizes and offsets as they must be."""

    def check(self) -> None:
        """Raise `RuntimeUnavailable` if a structure is laid out otherwise here than the library expects it."""
        for structure, (size, offsets) in self.facts.items():
            actual = {name: getattr(structure, name).offset for name in offsets}
            if ctypes.sizeof(structure) != size or actual != offsets:
                raise RuntimeUnavailable(
                    f"librkllmrt cannot be used by this Python, which lays out {structure.__name__} in another way; "
                    "use a 64-bit Python on Linux"
                )


_COMMON: Mapping[type[ctypes.Structure], tuple[int, Mapping[str, int]]] = {
    Perf: (20, {"generate_tokens": 12}),
    Result: (72, {"text": 0, "token_id": 8, "last_hidden_layer": 16, "logits": 32, "perf": 48}),
    EmbedInput: (16, {"embed": 0, "n_tokens": 8}),
    ExtendParam: (
        120,
        {
            "base_domain_id": 0,
            "embed_flash": 4,
            "enabled_cpus_num": 5,
            "enabled_cpus_mask": 8,
            "n_batch": 12,
            "use_cross_attn": 13,
            "reserved": 14,
        },
    ),
}
_PARAM = {
    "model_path": 0,
    "max_context_len": 8,
    "max_new_tokens": 12,
    "top_k": 16,
    "n_keep": 20,
    "top_p": 24,
    "temperature": 28,
    "repeat_penalty": 32,
    "frequency_penalty": 36,
    "presence_penalty": 40,
    "mirostat": 44,
    "mirostat_tau": 48,
    "mirostat_eta": 52,
    "skip_special_token": 56,
}
_INPUT = {"role": 0, "enable_thinking": 8, "input_type": 12, "content": 16}
_INFER = {"mode": 0, "lora_params": 8, "prompt_cache_params": 16}

V1_2 = Layout(
    Param12,
    Input12,
    InferParam12,
    False,
    {
        **_COMMON,
        Param12: (
            208,
            {**_PARAM, "is_async": 57, "img_start": 64, "img_end": 72, "img_content": 80, "extend_param": 88},
        ),
        Input12: (64, _INPUT),
        InferParam12: (32, {**_INFER, "keep_history": 24}),
    },
)
V1_3 = Layout(
    Param13,
    Input13,
    InferParam13,
    True,
    {
        **_COMMON,
        Param13: (184, {**_PARAM, "ignore_eos_token": 57, "is_async": 58, "extend_param": 60}),
        Input13: (160, _INPUT),
        InferParam13: (40, {**_INFER, "sampling_params": 24, "keep_history": 32, "max_new_tokens": 36}),
        Callback13: (48, {"result_callback": 0, "result_userdata": 8, "tokenizer_callback": 16, "embed_callback": 32}),
    },
)
LAYOUTS: Mapping[str, Layout] = {"1.2.1": V1_2, "1.2.2": V1_2, "1.2.3": V1_2, "1.3.0": V1_3}
"""By version of the library; no other one is known."""

SIGNATURES: Mapping[str, tuple[type[c_void_p | c_int | c_char_p], ...]] = {
    "rkllm_init": (c_void_p, c_void_p, c_void_p),
    "rkllm_destroy": (c_void_p,),
    "rkllm_run": (c_void_p, c_void_p, c_void_p, c_void_p),
    "rkllm_abort": (c_void_p,),
    "rkllm_clear_kv_cache": (c_void_p, c_int, c_void_p, c_void_p),
    "rkllm_set_chat_template": (c_void_p, c_char_p, c_char_p, c_char_p),
}
"""Arguments of the functions that return an int, 0 for success; rkllm_createDefaultParam is of another kind."""
