"""What a `.rknn` file says of itself, read without its weights.

Layout, all numbers little-endian: `RKNN` and four zero bytes; u64 version of the container, 6; u64 length of the body;
zeros up to byte 64; the body; u64 length of the trailer; the trailer, JSON. The body is a flatbuffer
(https://flatbuffers.dev/internals/) whose root table holds the custom string; it begins with the names of tensors and
layers, the weights follow.
"""

import json
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeGuard

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid

_MAGIC, _ENCRYPTED = b"RKNN\0\0\0\0", b"CYPTRKNN"
_VERSION = 6
_HEADER_BYTES = 64
_U64 = struct.Struct("<Q")
_MAX_TRAILER_BYTES = 4 * 1024 * 1024
_MAX_AXES = 16
_FIELD_OF_CUSTOM_STRING = 11
_MAX_CUSTOM_BYTES = 1024
_ROOT_BYTES = 64 * 1024
_HEAD_BYTES = 512 * 1024
"""Names of a voice's flow and decoder are found in the first 150 KiB."""
_RELEASE = re.compile(r"\d+\.\d+\.\d+")
_ALIKE = (("rk3588", "rk3588s", "rk3582"), ("rk3568", "rk3566"))
"""SoCs that run what is made for each other; toolkit 2.3.2 makes the same code for the last two, byte for byte."""


@dataclass(frozen=True, slots=True)
class RknnTensor:
    """An input or output; its type is known to the runtime only."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RknnFile:
    """What is known of a graph for the NPU before it is loaded."""

    path: Path
    size: int
    """Bytes of the whole file."""
    targets: tuple[str, ...]
    """SoCs it is made for, in lower case: ("rk3588",)."""
    toolkit: str
    """Version of the toolkit that made it, for example "2.3.2"."""
    inputs: tuple[RknnTensor, ...]
    outputs: tuple[RknnTensor, ...]
    custom_string: str
    """What its maker noted in it."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read header and trailer.

        Raises `ModelFileMissing` if there is no such file, `ModelInvalid` if it is no RKNN file, not a whole one, or of
        a version that is not known.
        """
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                body = _body(path, file, size)
                trailer = _trailer(path, file, size, _HEADER_BYTES + body)
                file.seek(_HEADER_BYTES)
                custom = _custom_string(file.read(min(body, _ROOT_BYTES)))
        except FileNotFoundError:
            raise ModelFileMissing(f"{path} does not exist; put the model's .rknn there") from None
        except OSError as error:
            raise ModelInvalid(f"{path} cannot be read: {error.strerror}; check its owner and permissions") from error
        inputs, outputs = _count(path, trailer, "input_num"), _count(path, trailer, "output_num")
        tensors = _tensors(path, trailer, inputs + outputs)
        targets = trailer.get("target_platform")
        if not isinstance(targets, list) or not targets or not all(map(_is_text, targets)):
            raise _unknown(path, "target_platform")
        toolkit = trailer.get("version")
        return cls(
            path=path,
            size=size,
            targets=tuple(target.lower() for target in targets),
            toolkit=toolkit if _is_text(toolkit) else "",
            inputs=tensors[:inputs],
            outputs=tensors[inputs:],
            custom_string=custom,
        )

    @property
    def metadata(self) -> Mapping[str, str]:
        """Return the custom string's entries, which sherpa-onnx and others write as "k=v;k=v"."""
        entries = (entry.partition("=") for entry in self.custom_string.split(";"))
        return {key.strip(): value.strip() for key, is_entry, value in entries if is_entry and key.strip()}

    def head(self) -> bytes:
        """Return the body's beginning, which names tensors and layers; nothing if it cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(_HEADER_BYTES)
                return file.read(_HEAD_BYTES)
        except OSError:
            return b""

    def runs_on(self, soc: str | None) -> bool:
        """Tell whether a board's SoC is one it is made for; an unknown one may be."""
        return soc is None or runs_on(self.targets, soc)

    def check_soc(self, soc: str | None) -> None:
        """Raise `ModelInvalid` if it is made for other SoCs than the board's."""
        if not self.runs_on(soc):
            name = _alike(str(soc))[0]
            raise ModelInvalid(
                f"{self.path} is made for {' and '.join(self.targets)}, this board is an {soc}; "
                f"take the one for {name}, or convert the model with `wyoming-rknn models convert --target {name}`"
            )

    def toolkit_remark(self, library: str) -> str | None:
        """Return a warning if toolkit and library, whose version is given, do not go together."""
        made, known = _RELEASE.search(self.toolkit), _RELEASE.search(library)
        if made is None or known is None or made[0] == known[0]:
            return None
        was_made = f"{self.path} was converted with toolkit {made[0]}, but librknnrt is {known[0]}"
        if _release(made[0]) > _release(known[0]):
            return f"{was_made}, which is older: update librknnrt, or convert the model with a toolkit not newer"
        return f"{was_made}: should it fail or give nonsense, convert it with that version or take librknnrt {made[0]}"


def runs_on(targets: Collection[str], soc: str) -> bool:
    """Tell whether an SoC runs what is made for `targets`."""
    return not set(_alike(soc)).isdisjoint(targets)


def _alike(soc: str) -> tuple[str, ...]:
    return next((alike for alike in _ALIKE if soc.lower() in alike), (soc.lower(),))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _body(path: Path, file: BinaryIO, size: int) -> int:
    """Return the body's length."""
    file.seek(0)
    header = file.read(_HEADER_BYTES)
    if header.startswith(_ENCRYPTED):
        raise ModelInvalid(f"{path} is encrypted; take one that is not")
    if not header.startswith(_MAGIC):
        # An interrupted download may be shorter than the first eight bytes.
        fault = "is empty or cut short" if _MAGIC.startswith(header) else "is no RKNN file"
        raise ModelInvalid(f"{path} {fault}; download it or convert the model again")
    if len(header) < _HEADER_BYTES:
        raise _truncated(path)
    version, body = struct.unpack_from("<QQ", header, len(_MAGIC))
    if version != _VERSION:
        raise ModelInvalid(
            f"{path} is an RKNN file of version {version}, {_VERSION} is known; convert the model with toolkit 2.3.2"
        )
    if _HEADER_BYTES + body + _U64.size > size:
        raise _truncated(path)
    return int(body)


def _trailer(path: Path, file: BinaryIO, size: int, begin: int) -> Mapping[str, Any]:
    file.seek(begin)
    (length,) = _U64.unpack(file.read(_U64.size))
    if begin + _U64.size + length > size:
        raise _truncated(path)
    if length > _MAX_TRAILER_BYTES:
        raise _unknown(path, "a trailer of sensible length")
    try:
        trailer = json.loads(file.read(length).decode())
    except (ValueError, RecursionError):
        raise _unknown(path, "a trailer in JSON") from None
    if not isinstance(trailer, dict):
        raise _unknown(path, "an object in its trailer")
    return trailer


def _tensors(path: Path, trailer: Mapping[str, Any], count: int) -> tuple[RknnTensor, ...]:
    """Return inputs, then outputs, in which order the trailer has them."""
    tensors = trailer.get("norm_tensor")
    if not isinstance(tensors, list) or len(tensors) < count:
        raise _unknown(path, "norm_tensor")
    return tuple(_tensor(path, tensor) for tensor in tensors[:count])


def _tensor(path: Path, tensor: object) -> RknnTensor:
    if isinstance(tensor, dict):
        name, shape = tensor.get("url"), tensor.get("size")
        if _is_text(name) and isinstance(shape, list) and len(shape) <= _MAX_AXES and all(map(_is_axis, shape)):
            return RknnTensor(name, tuple(shape))
    raise _unknown(path, "a tensor's url or size")


def _is_axis(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 32


def _is_text(value: object) -> TypeGuard[str]:
    # Half a surrogate pair, which JSON can hold, could be neither printed nor given to a library.
    return isinstance(value, str) and value.isprintable()


def _count(path: Path, trailer: Mapping[str, Any], key: str) -> int:
    count = trailer.get(key)
    if not _is_axis(count):
        raise _unknown(path, key)
    return count


def _custom_string(head: bytes) -> str:
    """Return the string that the body's root table holds; empty if it is not found there."""
    try:
        (root,) = struct.unpack_from("<I", head, 0)
        table = root - struct.unpack_from("<i", head, root)[0]
        slot = 4 + 2 * _FIELD_OF_CUSTOM_STRING
        if table < 0 or slot >= struct.unpack_from("<H", head, table)[0]:
            return ""
        (field,) = struct.unpack_from("<H", head, table + slot)
        if not field:
            return ""
        begin = root + field + struct.unpack_from("<I", head, root + field)[0]
        (length,) = struct.unpack_from("<I", head, begin)
        text = head[begin + 4 : begin + 4 + length]
        if length > _MAX_CUSTOM_BYTES or len(text) < length:
            return ""
        return text.decode().rstrip("\0")
    except (struct.error, UnicodeDecodeError):
        return ""


def _truncated(path: Path) -> ModelInvalid:
    return ModelInvalid(f"{path} is cut short; download it or convert the model again")


def _unknown(path: Path, what: str) -> ModelInvalid:
    return ModelInvalid(f"{path} lacks {what}, as a damaged file does; download it or convert the model again")
