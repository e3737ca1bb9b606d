"""`.rknn` files with a real header and trailer and, for a body, nothing but names and a custom string.

Nothing runs them; `npu.stand_in` makes those that the test double computes.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

Shapes = Mapping[str, Sequence[int]]

CUSTOM_STRING_FIELD = 11


def write_rknn(
    path: Path,
    inputs: Shapes,
    outputs: Shapes,
    *,
    targets: Sequence[str] = ("rk3588",),
    custom_string: str = "",
    names: Sequence[str] = (),
    toolkit: str = "2.3.2",
    size: int = 0,
    **trailer: object,
) -> Path:
    """Write a file that takes and gives tensors of these shapes and return its path.

    `names` are those of its layers; `size` is the least that its body has, in bytes; `trailer` replaces entries.
    """
    path.write_bytes(
        container(
            body(custom_string, names).ljust(size, b"\0"),
            {**trailer_of(inputs, outputs, targets, toolkit), **trailer},
        )
    )
    return path


def container(content: bytes, trailer: Mapping[str, object] | bytes, version: int = 6) -> bytes:
    """Return a whole file."""
    end = trailer if isinstance(trailer, bytes) else json.dumps(trailer).encode()
    header = struct.pack("<8sQQ", b"RKNN", version, len(content)).ljust(64, b"\0")
    return header + content + struct.pack("<Q", len(end)) + end


def body(custom_string: str, names: Sequence[str] = ()) -> bytes:
    """Return a flatbuffer whose root table has a custom string alone, and names after it."""
    fields = CUSTOM_STRING_FIELD + 1
    vtable = struct.pack("<HH", 4 + 2 * fields, 8) + bytes(2 * CUSTOM_STRING_FIELD) + struct.pack("<H", 4)
    root = 8 + len(vtable)
    text = custom_string.encode()
    table = struct.pack("<iII", len(vtable), 4, len(text)) + text
    return struct.pack("<I", root) + b"RKNN" + vtable + table + b"\0" + b"\0".join(name.encode() for name in names)


def trailer_of(
    inputs: Shapes, outputs: Shapes, targets: Sequence[str] = ("rk3588",), toolkit: str = "2.3.2"
) -> dict[str, object]:
    """Return a trailer as toolkit 2.3.2 writes it."""
    tensors = [
        {"dim_num": len(shape), "dtype": {"qnt_method": ""}, "size": list(shape), "tensor_id": number, "url": name}
        for number, (name, shape) in enumerate([*inputs.items(), *outputs.items()])
    ]
    return {
        "connection": [],
        "const_tensor": [],
        "graph": [],
        "input_num": len(inputs),
        "name": "rknn model",
        "network_platform": "ONNX",
        "node_num": 1,
        "nodes": [{"lid": "npu_network_bin_graph", "name": "nnbg", "op": "RKNN_OP_NNBG"}],
        "norm_tensor": tensors,
        "norm_tensor_num": len(tensors),
        "ori_network_platform": "ONNX",
        "output_num": len(outputs),
        "target_platform": list(targets),
        "version": toolkit,
        "virtual_tensor": [],
    }


DECODER: tuple[Shapes, Shapes] = ({"z": (1, 192, 55), "y_mask": (1, 1, 55)}, {"output": (1, 1, 1, 14_080)})
"""What Paroli's decoders take and give."""
