"""What an ONNX file says of itself: inputs, outputs, metadata, files with weights; read without loading a weight.

Field numbers are from onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), the encoding is that of
https://protobuf.dev/programming-guides/encoding/.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_IR_VERSION = b"\x08"
"""How every ONNX file begins: field 1, a number."""
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 7, 8, 14
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 2, 8, 13
_UINT8, _INT8 = 2, 3


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """An input or output; `None` marks a free axis."""

    name: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """What is known of a graph before it is loaded."""

    inputs: tuple[TensorHeader, ...]
    outputs: tuple[TensorHeader, ...]
    metadata: Mapping[str, str]
    external: tuple[str, ...]
    """Names of files with weights, relative to the graph's folder."""
    is_int8: bool
    """Whether it has matrices of 8-bit weights."""


def read(path: Path) -> OnnxHeader | None:
    """Return the header of an ONNX file, or `None` if it is not one. Raises `OSError`."""
    with path.open("rb") as file:
        if file.read(len(_IR_VERSION)) != _IR_VERSION:
            return None
        file.seek(0)
        try:
            return _model(file, path.stat().st_size)
        except (ValueError, EOFError):
            return None


def is_cut_off(path: Path) -> bool:
    """Tell whether an ONNX file ends before its model does, as while it is being copied; `False` for other files.

    Looks at a few places only, however long the file is. Raises `OSError`.
    """
    with path.open("rb") as file:
        if file.read(len(_IR_VERSION)) not in (b"", _IR_VERSION):
            return False
        file.seek(0)
        try:
            found = {field for field, _ in _fields(file, path.stat().st_size)}
        except (ValueError, EOFError):
            return True
    # Fields stand in the order of their numbers: what follows the graph shows that all of it is there.
    return not found >= {_MODEL_GRAPH, _MODEL_OPSET}


def _model(file: BinaryIO, size: int) -> OnnxHeader:
    inputs: list[TensorHeader] = []
    outputs: list[TensorHeader] = []
    metadata: dict[str, str] = {}
    weights: set[str] = set()
    external: set[str] = set()
    is_int8 = False
    for field, length in _fields(file, size):
        if field == _MODEL_METADATA:
            metadata.update([_entry(file.read(length))])
        elif field == _MODEL_GRAPH:
            for part, part_length in _fields(file, file.tell() + length):
                if part == _GRAPH_INPUT:
                    inputs.append(_value(file.read(part_length)))
                elif part == _GRAPH_OUTPUT:
                    outputs.append(_value(file.read(part_length)))
                elif part == _GRAPH_INITIALIZER:
                    name, location, is_int8_matrix = _initializer(file, file.tell() + part_length)
                    weights.add(name)
                    external |= {location} if location else set()
                    is_int8 |= is_int8_matrix
    # Files of the oldest kind list their weights among the inputs.
    given = tuple(value for value in inputs if value.name not in weights)
    return OnnxHeader(given, tuple(outputs), metadata, tuple(sorted(external)), is_int8)


def _initializer(file: BinaryIO, end: int) -> tuple[str, str, bool]:
    """Return name, file of the weights if they lie elsewhere, and whether it is a matrix of 8-bit numbers."""
    name, location, axes, dtype = "", "", 0, 0
    for field, value in _fields(file, end):
        if field == _TENSOR_DIMS:
            axes += 1
        elif field == _TENSOR_TYPE:
            dtype = value
        elif field == _TENSOR_NAME:
            name = file.read(value).decode()
        elif field == _TENSOR_EXTERNAL:
            key, text = _entry(file.read(value))
            location = text if key == "location" else location
    return name, location, axes >= 2 and dtype in (_UINT8, _INT8)


def _value(content: bytes) -> TensorHeader:
    """Read a ValueInfoProto."""
    name, shape = "", tuple[int | None, ...]()
    for field, part in _messages(content):
        if field == 1:
            name = part.decode()
        elif field == 2:
            # TypeProto > tensor_type > shape > dim*
            for tensor_type in _parts(part, 1):
                for tensor_shape in _parts(tensor_type, 2):
                    shape = tuple(_axis(axis) for axis in _parts(tensor_shape, 1))
    return TensorHeader(name, shape)


def _axis(content: bytes) -> int | None:
    for field, value in _fields(io.BytesIO(content), len(content)):
        if field == 1:
            return value
    return None


def _entry(content: bytes) -> tuple[str, str]:
    """Read a StringStringEntryProto."""
    parts = dict(_messages(content))
    return parts.get(1, b"").decode(), parts.get(2, b"").decode()


def _parts(content: bytes, number: int) -> Iterator[bytes]:
    return (part for field, part in _messages(content) if field == number)


def _messages(content: bytes) -> Iterator[tuple[int, bytes]]:
    file = io.BytesIO(content)
    for field, length in _fields(file, len(content), _BYTES):
        yield field, file.read(length)


def _fields(file: BinaryIO, end: int, only: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield number and value of each field up to `end`; of bytes their length, with the file at their beginning.

    Raises `ValueError` or `EOFError` if it is no message.
    """
    while (begin := file.tell()) < end:
        key = _varint(file)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, size = _varint(file), 0
        elif kind == _BYTES:
            value = size = _varint(file)
        elif kind in (_FIXED64, _FIXED32):
            value = size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind} at {begin}")
        begin = file.tell()
        if not field or begin + size > end:
            raise ValueError(f"a field ends beyond its message at {begin}")
        if only in (None, kind):
            yield field, value
        file.seek(begin + size)


def _varint(file: BinaryIO) -> int:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        if not (byte := file.read(1)):
            raise EOFError
        value |= (byte[0] & 0x7F) << 7 * place
        if byte[0] < 0x80:
            return value
    raise ValueError("a number has too many bytes")
