import ctypes

import pytest

from wyoming_rknn.runtime import rknn_abi as abi

# Measured with a C compiler on rknn_api.h 2.3.2, LP64.
LAYOUTS = [
    (abi.InputOutputNumber, 8, {"inputs": 0, "outputs": 4}),
    (
        abi.TensorAttr,
        376,
        {
            "index": 0,
            "n_dims": 4,
            "dims": 8,
            "name": 72,
            "n_elems": 328,
            "size": 332,
            "fmt": 336,
            "type": 340,
            "qnt_type": 344,
            "fl": 348,
            "zp": 352,
            "scale": 356,
            "w_stride": 360,
            "size_with_stride": 364,
            "pass_through": 368,
            "h_stride": 372,
        },
    ),
    (abi.Input, 32, {"index": 0, "buf": 8, "size": 16, "pass_through": 20, "type": 24, "fmt": 28}),
    (abi.Output, 24, {"want_float": 0, "is_prealloc": 1, "index": 4, "buf": 8, "size": 16}),
    (abi.SdkVersion, 512, {"api_version": 0, "drv_version": 256}),
    (abi.CustomString, 1024, {"string": 0}),
]


@pytest.mark.parametrize(("struct", "size", "offsets"), LAYOUTS, ids=lambda value: getattr(value, "__name__", ""))
def test_structures_lie_in_memory_as_the_library_expects(struct, size, offsets):
    assert ctypes.sizeof(struct) == size
    assert {name: getattr(struct, name).offset for name, *_ in struct._fields_} == offsets


def test_every_structure_is_checked():
    structs = {value for value in vars(abi).values() if isinstance(value, type) and issubclass(value, ctypes.Structure)}
    assert structs == {struct for struct, *_ in LAYOUTS}


def test_a_context_has_64_bits():
    assert ctypes.sizeof(abi.Context) == 8


def test_errors_from_1_to_13_have_names_and_fixes_only_where_they_are_errors():
    assert sorted(abi.ERROR_NAMES) == list(range(-13, 0))
    assert len(set(abi.ERROR_NAMES.values())) == 13
    assert abi.FIXES.keys() | abi.MODEL_ERRORS <= abi.ERROR_NAMES.keys()
    assert abi.FIXES.keys() >= abi.MODEL_ERRORS
