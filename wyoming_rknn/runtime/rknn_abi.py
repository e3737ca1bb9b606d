"""What of librknnrt's C interface is used: structures, constants and signatures, on 64-bit Linux.

Interface facts of rknn_api.h 2.3.2; the sizes and offsets are asserted in the tests.
"""

import ctypes

MAX_DIMS = 16
MAX_NAME_BYTES = 256

INIT_DISABLE_PROC_HIGH_PRIORITY = 0x2000
"""Without it the library sets the whole process to nice -19."""

QUERY_IN_OUT_NUM = 0
QUERY_INPUT_ATTR = 1
QUERY_OUTPUT_ATTR = 2
QUERY_SDK_VERSION = 5
QUERY_CUSTOM_STRING = 7

FLOAT32 = 0
FLOAT16 = 1
INT8 = 2
UINT8 = 3
INT16 = 4
UINT16 = 5
INT32 = 6
UINT32 = 7
INT64 = 8
BOOL = 9
BFLOAT16 = 11

FORMAT_UNDEFINED = 3
QUANTIZATION_NONE = 0

FAIL = -1
TIMEOUT = -2
DEVICE_UNAVAILABLE = -3
MALLOC_FAIL = -4
PARAM_INVALID = -5
MODEL_INVALID = -6
CTX_INVALID = -7
INPUT_INVALID = -8
OUTPUT_INVALID = -9
DEVICE_UNMATCH = -10
INCOMPATIBLE_PRE_COMPILE_MODEL = -11
INCOMPATIBLE_OPTIMIZATION_LEVEL_VERSION = -12
TARGET_PLATFORM_UNMATCH = -13

ERROR_NAMES = {
    FAIL: "RKNN_ERR_FAIL",
    TIMEOUT: "RKNN_ERR_TIMEOUT",
    DEVICE_UNAVAILABLE: "RKNN_ERR_DEVICE_UNAVAILABLE",
    MALLOC_FAIL: "RKNN_ERR_MALLOC_FAIL",
    PARAM_INVALID: "RKNN_ERR_PARAM_INVALID",
    MODEL_INVALID: "RKNN_ERR_MODEL_INVALID",
    CTX_INVALID: "RKNN_ERR_CTX_INVALID",
    INPUT_INVALID: "RKNN_ERR_INPUT_INVALID",
    OUTPUT_INVALID: "RKNN_ERR_OUTPUT_INVALID",
    DEVICE_UNMATCH: "RKNN_ERR_DEVICE_UNMATCH",
    # Spelled as the header does.
    INCOMPATIBLE_PRE_COMPILE_MODEL: "RKNN_ERR_INCOMPATILE_PRE_COMPILE_MODEL",
    INCOMPATIBLE_OPTIMIZATION_LEVEL_VERSION: "RKNN_ERR_INCOMPATILE_OPTIMIZATION_LEVEL_VERSION",
    TARGET_PLATFORM_UNMATCH: "RKNN_ERR_TARGET_PLATFORM_UNMATCH",
}

FIXES = {
    FAIL: "`wyoming-rknn doctor` shows whether the driver is there and may be opened, the kernel's log what it says",
    TIMEOUT: "the NPU hangs; if it stays so, reboot the board",
    DEVICE_UNAVAILABLE: "the NPU's driver is missing or may not be opened; `wyoming-rknn doctor` names the fix",
    MALLOC_FAIL: "the NPU is out of memory; use fewer or smaller models",
    MODEL_INVALID: "the file is broken, or made by a toolkit newer than the library; update librknnrt or convert again",
    DEVICE_UNMATCH: "library and kernel driver do not go together; update librknnrt and the driver",
    INCOMPATIBLE_PRE_COMPILE_MODEL: "the file was made for another driver; convert the model again",
    INCOMPATIBLE_OPTIMIZATION_LEVEL_VERSION: "the file was made for another driver; convert the model again",
    TARGET_PLATFORM_UNMATCH: "the file was made for another SoC; convert the model with --target for this board",
}
"""What to do about an error, where that is known."""

MODEL_ERRORS = frozenset(
    {
        MODEL_INVALID,
        INCOMPATIBLE_PRE_COMPILE_MODEL,
        INCOMPATIBLE_OPTIMIZATION_LEVEL_VERSION,
        TARGET_PLATFORM_UNMATCH,
    }
)
"""Errors that are the file's fault."""

Context = ctypes.c_uint64


class InputOutputNumber(ctypes.Structure):
    """`rknn_input_output_num`: how many inputs and outputs a model has."""

    _fields_ = (("inputs", ctypes.c_uint32), ("outputs", ctypes.c_uint32))


class TensorAttr(ctypes.Structure):
    """`rknn_tensor_attr`: an input or output; `index` is set before the query."""

    _fields_ = (
        ("index", ctypes.c_uint32),
        ("n_dims", ctypes.c_uint32),
        ("dims", ctypes.c_uint32 * MAX_DIMS),
        ("name", ctypes.c_char * MAX_NAME_BYTES),
        ("n_elems", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("fmt", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("qnt_type", ctypes.c_int32),
        ("fl", ctypes.c_int8),
        ("zp", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("w_stride", ctypes.c_uint32),
        ("size_with_stride", ctypes.c_uint32),
        ("pass_through", ctypes.c_uint8),
        ("h_stride", ctypes.c_uint32),
    )


class Input(ctypes.Structure):
    """`rknn_input`: data for one input, copied by `rknn_inputs_set`."""

    _fields_ = (
        ("index", ctypes.c_uint32),
        ("buf", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
        ("pass_through", ctypes.c_uint8),
        ("type", ctypes.c_int32),
        ("fmt", ctypes.c_int32),
    )


class Output(ctypes.Structure):
    """`rknn_output`: where one output goes."""

    _fields_ = (
        ("want_float", ctypes.c_uint8),
        ("is_prealloc", ctypes.c_uint8),
        ("index", ctypes.c_uint32),
        ("buf", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
    )


class SdkVersion(ctypes.Structure):
    """`rknn_sdk_version`: the versions of library and kernel driver, as text."""

    _fields_ = (("api_version", ctypes.c_char * 256), ("drv_version", ctypes.c_char * 256))


class CustomString(ctypes.Structure):
    """`rknn_custom_string`: what the converter noted in the file."""

    _fields_ = (("string", ctypes.c_char * 1024),)


SIGNATURES: dict[str, tuple[type, ...]] = {
    "rknn_init": (
        ctypes.POINTER(Context),
        ctypes.c_char_p,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_void_p,
    ),
    "rknn_dup_context": (ctypes.POINTER(Context), ctypes.POINTER(Context)),
    "rknn_destroy": (Context,),
    "rknn_query": (Context, ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint32),
    "rknn_inputs_set": (Context, ctypes.c_uint32, ctypes.c_void_p),
    "rknn_run": (Context, ctypes.c_void_p),
    "rknn_outputs_get": (Context, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p),
    "rknn_outputs_release": (Context, ctypes.c_uint32, ctypes.c_void_p),
    "rknn_set_core_mask": (Context, ctypes.c_int32),
}
"""Argument types of the functions used; all return an int, 0 or an error."""
