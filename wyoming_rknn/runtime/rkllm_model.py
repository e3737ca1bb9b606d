"""A language model within librkllmrt: every return code and state looked at. Only the child process uses it."""

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wyoming_rknn.errors import AcceleratorError, RuntimeUnavailable
from wyoming_rknn.runtime import rkllm_abi as abi

_BASE_DOMAIN = 1
"""The NPU's memory domain: RKNN graphs are in 0, and both together do not fit into its 4 GB."""
_SPARE_BYTES = 256
"""Behind what rkllm_createDefaultParam returns, so that a larger structure of an unknown version does no harm."""


class RkllmModel:
    """One model. `run` blocks and releases the interpreter's lock; `abort` may be called meanwhile, from any thread.

    The constructor loads the model. It raises `RuntimeUnavailable` for a library that cannot be loaded and
    `AcceleratorError` when that refuses the model.
    """

    def __init__(self, library: Path, version: str, model: Path, context_tokens: int, cpus: Sequence[int]) -> None:
        self._layout = abi.LAYOUTS[version]
        self._layout.check()
        self.counts_tokens = hasattr(self._layout.infer_param, "max_new_tokens")
        """Whether a run ends by itself with the last token that it may have."""
        self._functions = _functions(library)
        self._hear: Callable[[int], bool] = lambda token: False
        self._has_failed = False
        # These must live as long as the model: the library keeps their addresses.
        self._result_callback = abi.ResultCallback(self._called_back)
        self._callbacks = abi.Callback13(result_callback=self._result_callback)
        self._handle = ctypes.c_void_p()
        # Its strings are the library's as long as it lives; whether it copies them is not told.
        self._kept = param = self._param(library, model, context_tokens, cpus)
        third = ctypes.byref(self._callbacks) if self._layout.has_callback_struct else self._result_callback
        self._call("rkllm_init", ctypes.byref(self._handle), ctypes.byref(param), third)
        if not self._handle:
            raise AcceleratorError("rkllm_init gave no model, though it returned 0")
        # The prompt, with all that a template would add, is made elsewhere.
        self._call("rkllm_set_chat_template", self._handle, b"", b"", b"")

    def run(
        self, rows_at: int, rows: int, max_tokens: int, hear: Callable[[int], bool], is_given_up: Callable[[], bool]
    ) -> None:
        """Read float32 [rows, hidden] at an address and generate.

        `hear` takes each token's id and returns whether to go on. Raises `AcceleratorError`, unless the run was
        given up: what the library says to that is no failure.
        """
        layout = self._layout
        self._hear, self._has_failed = hear, False
        wanted = layout.input(role=b"", enable_thinking=False, input_type=abi.INPUT_EMBED)
        wanted.content.embed_input = abi.EmbedInput(rows_at, rows)
        infer = layout.infer_param(mode=abi.MODE_GENERATE, keep_history=0)
        if self.counts_tokens:
            infer.max_new_tokens = max_tokens
        self._call("rkllm_clear_kv_cache", self._handle, 0, None, None)
        status = self._functions["rkllm_run"](self._handle, ctypes.byref(wanted), ctypes.byref(infer), None)
        if is_given_up():
            return
        if status != 0:
            raise AcceleratorError(f"rkllm_run returned {status}")
        if self._has_failed:
            raise AcceleratorError("rkllm_run ended in the state RKLLM_RUN_ERROR")

    def abort(self) -> None:
        """Let the run end soon; nothing comes of it if there is none."""
        # Its code tells whether there was a run, which may have ended just now.
        self._functions["rkllm_abort"](self._handle)

    def close(self) -> None:
        """Free the model."""
        # What it did not free goes with the process.
        self._functions["rkllm_destroy"](self._handle)

    def _called_back(self, result: Any, userdata: int | None, state: int) -> int:  # noqa: ANN401 - a ctypes pointer
        if state == abi.ERROR:
            self._has_failed = True
        elif state in (abi.NORMAL, abi.WAITING) and result and not self._hear(result.contents.token_id):
            # To return 1 would only pause it, and leave it to be resumed.
            self.abort()
        return abi.GO_ON

    def _param(self, library: Path, model: Path, context_tokens: int, cpus: Sequence[int]) -> ctypes.Structure:
        layout = self._layout
        roomy = type(
            "Roomy", (ctypes.Structure,), {"_fields_": (("param", layout.param), ("_", ctypes.c_char * _SPARE_BYTES))}
        )
        create = ctypes.CDLL(str(library)).rkllm_createDefaultParam
        create.argtypes, create.restype = (), roomy
        param = layout.param.from_buffer_copy(create())
        param.model_path = os.fsencode(model)
        param.max_context_len = param.max_new_tokens = context_tokens
        # Greedy: whatever is left to chance is a word that was not said.
        param.top_k, param.top_p, param.temperature = 1, 1.0, 1.0
        param.repeat_penalty, param.frequency_penalty, param.presence_penalty = 1.0, 0.0, 0.0
        param.mirostat = 0
        param.n_keep = -1
        param.skip_special_token = False
        param.is_async = False
        extend = param.extend_param
        extend.base_domain_id = _BASE_DOMAIN
        extend.embed_flash = 1
        extend.n_batch = 1
        extend.use_cross_attn = 0
        extend.enabled_cpus_num = len(cpus)
        extend.enabled_cpus_mask = sum(1 << number for number in cpus)
        return param

    def _call(self, name: str, *arguments: object) -> None:
        status = self._functions[name](*arguments)
        if status != 0:
            raise AcceleratorError(f"{name} returned {status}")


def _functions(path: Path) -> "dict[str, ctypes._NamedFuncPointer]":
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeUnavailable(f"{path} cannot be loaded: {error}; install librkllmrt again") from None
    functions = {}
    for name, arguments in abi.SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise RuntimeUnavailable(f"{path} is no librkllmrt that can be used, it lacks {name}") from None
        function.argtypes, function.restype = arguments, ctypes.c_int
        functions[name] = function
    return functions
