"""Stand-in models: an ONNX graph in a container that looks like a `.rknn` file from outside.

Only the test double computes them; a real librknnrt.so refuses them.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import onnx

MARKER = b"RKNN-TEST-DOUBLE"
"""Stands in the container's body before two u64, the lengths of what follows: the custom string and the graph."""
_HEADER_BYTES = 64
_FORMAT = 6
_CUSTOM_STRING_BYTES = 1024
_VERSION, _TARGET, _CUSTOM_STRING, _FIELDS = 7, 8, 11, 12
"""Fields of the root table of a real body, which is a flatbuffer."""


def write(
    path: Path,
    onnx_bytes: bytes,
    *,
    target: str | Sequence[str] = "rk3588",
    toolkit: str = "2.3.2",
    custom_string: str = "",
) -> Path:
    """Write a stand-in model and return its path.

    Raises `ValueError` if the graph has an input or output without a fixed shape, or the custom string is too long.
    """
    path.write_bytes(container(onnx_bytes, target=target, toolkit=toolkit, custom_string=custom_string))
    return path


def container(
    onnx_bytes: bytes, *, target: str | Sequence[str] = "rk3588", toolkit: str = "2.3.2", custom_string: str = ""
) -> bytes:
    """Return what `write` writes."""
    graph = onnx.load_from_string(onnx_bytes).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_tensor(value) for value in graph.input if value.name not in constants]
    outputs = [_tensor(value) for value in graph.output]
    custom = custom_string.encode()
    if len(custom) >= _CUSTOM_STRING_BYTES:
        raise ValueError(f"a custom string has {_CUSTOM_STRING_BYTES - 1} bytes at most, not {len(custom)}")
    version = f"{toolkit}(compiler version: {toolkit} (0000000000@2025-01-01T00:00:00))"
    graph_record = MARKER + struct.pack("<QQ", len(custom), len(onnx_bytes)) + custom + onnx_bytes
    targets = [target] if isinstance(target, str) else list(target)
    texts = {_VERSION: version.encode(), _TARGET: ",".join(targets).encode(), _CUSTOM_STRING: custom}
    body = _flatbuffer(texts) + graph_record
    header = struct.pack("<8sQQ", b"RKNN", _FORMAT, len(body)).ljust(_HEADER_BYTES, b"\0")
    trailer = json.dumps(_trailer(graph.name, inputs, outputs, targets, toolkit), sort_keys=True).encode()
    return header + body + struct.pack("<Q", len(trailer)) + trailer


def fix_shapes(onnx_bytes: bytes, shapes: dict[str, Sequence[int]]) -> bytes:
    """Give a graph's inputs fixed shapes, and its outputs those that follow from them."""
    model = onnx.load_from_string(onnx_bytes)
    for value in model.graph.input:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return bytes(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).SerializeToString())


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    element_type = value.type.tensor_type.elem_type
    value.type.CopyFrom(onnx.helper.make_tensor_type_proto(element_type, shape))


def _tensor(value: onnx.ValueInfoProto) -> tuple[str, list[int]]:
    kind = value.type.tensor_type
    shape = [axis.dim_value for axis in kind.shape.dim]
    if not kind.HasField("shape") or any(length <= 0 for length in shape):
        raise ValueError(f"{value.name} has no fixed shape, which a stand-in model needs")
    return value.name, shape


def _flatbuffer(texts: dict[int, bytes]) -> bytes:
    """Return a flatbuffer whose root table has these strings."""
    vtable = 8
    table = vtable + 4 + 2 * _FIELDS
    head = bytearray(struct.pack("<I4sHH", table, b"RKNN", 4 + 2 * _FIELDS, 4 + 4 * len(texts)).ljust(table, b"\0"))
    head += struct.pack("<i", table - vtable) + bytes(4 * len(texts))
    for number, (field, text) in enumerate(texts.items(), 1):
        place = table + 4 * number
        struct.pack_into("<H", head, vtable + 4 + 2 * field, 4 * number)
        struct.pack_into("<I", head, place, len(head) - place)
        head += struct.pack("<I", len(text)) + text + bytes(4 - len(text) % 4)
    return bytes(head)


def _trailer(
    name: str,
    inputs: Sequence[tuple[str, list[int]]],
    outputs: Sequence[tuple[str, list[int]]],
    targets: Sequence[str],
    toolkit: str,
) -> dict[str, object]:
    dtype = {"qnt_method": "", "qnt_type": "", "vx_type": ""}
    tensors = [
        {"url": url, "size": shape, "dim_num": len(shape), "tensor_id": number, "dtype": dtype}
        for number, (url, shape) in enumerate([*inputs, *outputs])
    ]
    ends = [
        {"left": kind, "left_tensor_id": place, "right": "norm_tensor", "right_tensor_id": number}
        for kind, numbers in (("input", range(len(inputs))), ("output", range(len(inputs), len(tensors))))
        for place, number in enumerate(numbers)
    ]
    return {
        "version": toolkit,
        "target_platform": list(targets),
        "network_platform": "ONNX",
        "ori_network_platform": "ONNX",
        "name": name or "stand-in",
        "node_num": 1,
        "input_num": len(inputs),
        "output_num": len(outputs),
        "norm_tensor_num": len(tensors),
        "norm_tensor": tensors,
        "graph": ends,
        "connection": [],
        "nodes": [{"input_num": len(inputs), "output_num": len(outputs), "name": "stand-in", "op": MARKER.decode()}],
        "const_tensor": [],
        "virtual_tensor": [],
    }
