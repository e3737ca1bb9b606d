"""The C interface of librknnrt.so by plain ctypes, as thin as can be: what a test needs to drive the double itself."""

import ctypes
from ctypes import POINTER, byref, c_char, c_float, c_int8, c_int32, c_uint8, c_uint32, c_uint64, c_void_p, sizeof
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TYPES = {
    "float32": 0,
    "float16": 1,
    "int8": 2,
    "uint8": 3,
    "int16": 4,
    "uint16": 5,
    "int32": 6,
    "uint32": 7,
    "int64": 8,
}
UNDEFINED = 3


class TensorAttr(ctypes.Structure):
    """What `rknn_query` tells of a tensor."""

    _fields_ = (
        ("index", c_uint32),
        ("n_dims", c_uint32),
        ("dims", c_uint32 * 16),
        ("name", c_char * 256),
        ("n_elems", c_uint32),
        ("size", c_uint32),
        ("fmt", c_int32),
        ("type", c_int32),
        ("qnt_type", c_int32),
        ("fl", c_int8),
        ("zp", c_int32),
        ("scale", c_float),
        ("w_stride", c_uint32),
        ("size_with_stride", c_uint32),
        ("pass_through", c_uint8),
        ("h_stride", c_uint32),
    )


class Input(ctypes.Structure):
    """An argument of `rknn_inputs_set`."""

    _fields_ = (
        ("index", c_uint32),
        ("buf", c_void_p),
        ("size", c_uint32),
        ("pass_through", c_uint8),
        ("type", c_int32),
        ("fmt", c_int32),
    )


class Output(ctypes.Structure):
    """An argument of `rknn_outputs_get`."""

    _fields_ = (
        ("want_float", c_uint8),
        ("is_prealloc", c_uint8),
        ("index", c_uint32),
        ("buf", c_void_p),
        ("size", c_uint32),
    )


class Library:
    """The double; its functions return the C functions' codes."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        self.c.rknn_init.argtypes = (POINTER(c_uint64), c_void_p, c_uint32, c_uint32, c_void_p)
        for name in ("destroy", "run", "query", "inputs_set", "outputs_get", "outputs_release", "set_core_mask"):
            getattr(self.c, f"rknn_{name}").argtypes = (c_uint64, *{
                "run": (c_void_p,),
                "query": (c_int32, c_void_p, c_uint32),
                "inputs_set": (c_uint32, POINTER(Input)),
                "outputs_get": (c_uint32, POINTER(Output), c_void_p),
                "outputs_release": (c_uint32, POINTER(Output)),
                "set_core_mask": (c_int32,),
            }.get(name, ()))  # fmt: skip

    @property
    def contexts(self) -> int:
        """Return how many contexts are alive."""
        return int(self.c.rknn_double_contexts())

    def init(self, model: Path | bytes, flag: int = 0) -> tuple[int, "Context"]:
        """Call `rknn_init` with a path or with a model's bytes."""
        handle = c_uint64()
        given = str(model).encode() if isinstance(model, Path) else model
        size = 0 if isinstance(model, Path) else len(model)
        return self.c.rknn_init(byref(handle), given, size, flag, None), Context(self.c, handle)

    def open(self, model: Path | bytes) -> "Context":
        """Return a context of a model that must be accepted."""
        rc, context = self.init(model)
        assert rc == 0
        return context


class Context:
    """A context and the calls on it."""

    def __init__(self, c: ctypes.CDLL, handle: c_uint64) -> None:
        self.c, self.handle = c, handle

    def dup(self) -> tuple[int, "Context"]:
        """Call `rknn_dup_context`."""
        handle = c_uint64()
        return self.c.rknn_dup_context(byref(self.handle), byref(handle)), Context(self.c, handle)

    def destroy(self) -> int:
        """Call `rknn_destroy`."""
        return int(self.c.rknn_destroy(self.handle))

    def query(self, command: int, answer: ctypes.Structure | ctypes.Array, size: int | None = None) -> int:  # type: ignore[type-arg]
        """Call `rknn_query`, by default with the answer's size."""
        return int(self.c.rknn_query(self.handle, command, byref(answer), sizeof(answer) if size is None else size))

    def mask(self, mask: int) -> int:
        """Call `rknn_set_core_mask`."""
        return int(self.c.rknn_set_core_mask(self.handle, mask))

    def set(self, *arrays: NDArray[np.generic], pass_through: bool = False) -> int:
        """Call `rknn_inputs_set` with all inputs in their order."""
        inputs = (Input * len(arrays))(
            *(
                Input(index, array.ctypes.data, array.nbytes, pass_through, TYPES[array.dtype.name], UNDEFINED)
                for index, array in enumerate(arrays)
            )
        )
        return int(self.c.rknn_inputs_set(self.handle, len(arrays), inputs))

    def run(self) -> int:
        """Call `rknn_run`."""
        return int(self.c.rknn_run(self.handle, None))

    def get(self, array: NDArray[np.generic], index: int = 0) -> int:
        """Call `rknn_outputs_get` for one output, preallocated: float32, or the output's own type."""
        outputs = (Output * 1)(Output(array.dtype == np.float32, True, index, array.ctypes.data, array.nbytes))
        return int(self.c.rknn_outputs_get(self.handle, 1, outputs, None))
