"""librknnrt: found, loaded, and called with every return code checked."""

import ctypes
import logging
import mmap
import os
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wyoming_rknn.errors import AcceleratorError, RuntimeUnavailable
from wyoming_rknn.runtime import rknn_abi as abi
from wyoming_rknn.runtime.accelerator import Versions

_LOGGER = logging.getLogger(__name__)

LIBRARY = "librknnrt.so"
FOLDERS = tuple(
    Path(folder)
    for folder in (
        "/usr/lib",
        "/usr/lib64",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/local/lib",
        "/usr/local/lib/aarch64-linux-gnu",
        "/lib",
        "/vendor/lib64",
    )
)
"""Where boards' systems, packages and hand-made installations keep it."""
_INSTALL = "install the board's rknpu2 runtime or name the file with --rknn-library"
_MACHINES = {3: "32-bit x86", 40: "32-bit Arm", 62: "x86-64", 183: "64-bit Arm", 243: "RISC-V"}
_VERSION = re.compile(rb"librknnrt version: ([^\x00\n]+)")


class CallFailed(AcceleratorError):
    """A function of the library returned an error; `status` is its number."""

    def __init__(self, function: str, status: int) -> None:
        self.status = status
        name = abi.ERROR_NAMES.get(status, "an error unknown to rknn_api.h")
        fix = f": {abi.FIXES[status]}" if status in abi.FIXES else ""
        super().__init__(f"{function} returned {status} ({name}){fix}")


def open_library(
    wanted: Path | None, environment: Mapping[str, str] = os.environ, folders: Sequence[Path] = FOLDERS
) -> "RknnLibrary":
    """Load `wanted`, or else the first usable library of LD_LIBRARY_PATH, the usual folders and the linker's search.

    Raises `RuntimeUnavailable` with the reason why the file that was named or found cannot be used, or that there is
    none.
    """
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        raise RuntimeUnavailable("librknnrt is used by 64-bit programs only; install a 64-bit Python")
    if wanted is not None:
        return RknnLibrary(wanted)
    searched = [Path(folder) for folder in environment.get("LD_LIBRARY_PATH", "").split(":") if folder]
    reasons = []
    for path in dict.fromkeys(folder / LIBRARY for folder in (*searched, *folders)):
        if path.is_file():
            try:
                return RknnLibrary(path)
            except RuntimeUnavailable as error:
                reasons.append(error)
    try:
        return RknnLibrary(Path(LIBRARY))
    except RuntimeUnavailable:
        pass
    if reasons:
        raise reasons[0]
    raise RuntimeUnavailable(f"{LIBRARY} was not found; {_INSTALL}")


class RknnLibrary:
    """The functions of a loaded librknnrt. Thread-safe; calls release the interpreter's lock.

    A path without a folder is left to the linker to find. Each function raises `CallFailed` unless the library
    returns 0.
    """

    def __init__(self, path: Path) -> None:
        functions = _functions(path)
        self._init = functions["rknn_init"]
        self._dup_context = functions["rknn_dup_context"]
        self._destroy = functions["rknn_destroy"]
        self._query = functions["rknn_query"]
        self._inputs_set = functions["rknn_inputs_set"]
        self._run = functions["rknn_run"]
        self._outputs_get = functions["rknn_outputs_get"]
        self._outputs_release = functions["rknn_outputs_release"]
        self._set_core_mask = functions["rknn_set_core_mask"]
        self.path = path if path.parent != Path() else _loaded_path(path.name) or path
        self.versions = Versions(_version_in(self.path), "")
        if self.versions.library:
            _LOGGER.info("%s is librknnrt %s", self.path, self.versions.library)

    def init(self, model: Path, flags: int) -> int:
        """Load a model file and return its first context.

        The library reads the file itself, so its content never passes through Python's memory.
        """
        context = abi.Context()
        _check("rknn_init", self._init(ctypes.byref(context), os.fsencode(model), 0, flags, None))
        return context.value

    def dup_context(self, context: int) -> int:
        """Return a further context of the same model, which shares its weights; only right after `init`."""
        source, duplicate = abi.Context(context), abi.Context()
        _check("rknn_dup_context", self._dup_context(ctypes.byref(source), ctypes.byref(duplicate)))
        return duplicate.value

    def destroy(self, context: int) -> None:
        """Free a context."""
        _check("rknn_destroy", self._destroy(context))

    def set_core_mask(self, context: int, mask: int) -> None:
        """Let a context compute on the cores of `mask` only; bit 0 is core 0."""
        _check("rknn_set_core_mask", self._set_core_mask(context, mask))

    def input_output_number(self, context: int) -> tuple[int, int]:
        """Return how many inputs and outputs a model has."""
        number = abi.InputOutputNumber()
        self._ask(context, abi.QUERY_IN_OUT_NUM, number)
        return number.inputs, number.outputs

    def tensor_attr(self, context: int, index: int, *, output: bool) -> abi.TensorAttr:
        """Return what is known of an input or output."""
        attr = abi.TensorAttr(index=index)
        self._ask(context, abi.QUERY_OUTPUT_ATTR if output else abi.QUERY_INPUT_ATTR, attr)
        return attr

    def custom_string(self, context: int) -> str:
        """Return what the converter noted."""
        text = abi.CustomString()
        self._ask(context, abi.QUERY_CUSTOM_STRING, text)
        return str(text.string.decode(errors="replace"))

    def learn_versions(self, context: int) -> None:
        """Ask a context for the versions of library and driver, which are known from then on."""
        text = abi.SdkVersion()
        self._ask(context, abi.QUERY_SDK_VERSION, text)
        versions = Versions(
            text.api_version.decode(errors="replace").strip(), text.drv_version.decode(errors="replace").strip()
        )
        if versions != self.versions:
            self.versions = versions
            _LOGGER.info("the NPU is driven by librknnrt %s, driver %s", versions.library, versions.driver)

    def inputs_set(self, context: int, inputs: "ctypes.Array[abi.Input]") -> None:
        """Copy inputs into a context."""
        _check("rknn_inputs_set", self._inputs_set(context, len(inputs), inputs))

    def run(self, context: int) -> None:
        """Compute; blocks until it is done."""
        _check("rknn_run", self._run(context, None))

    def outputs_get(self, context: int, outputs: "ctypes.Array[abi.Output]") -> None:
        """Fetch outputs, which `outputs_release` must follow."""
        _check("rknn_outputs_get", self._outputs_get(context, len(outputs), outputs, None))

    def outputs_release(self, context: int, outputs: "ctypes.Array[abi.Output]") -> None:
        """Free what `outputs_get` held."""
        _check("rknn_outputs_release", self._outputs_release(context, len(outputs), outputs))

    def _ask(self, context: int, query: int, answer: ctypes.Structure) -> None:
        _check("rknn_query", self._query(context, query, ctypes.byref(answer), ctypes.sizeof(answer)))


def _check(function: str, status: int) -> None:
    if status != 0:
        raise CallFailed(function, status)


def _functions(path: Path) -> "dict[str, ctypes._NamedFuncPointer]":
    if path.parent != Path() and (reason := why_not_loaded(path)):
        raise RuntimeUnavailable(reason)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeUnavailable(f"{path} cannot be loaded: {error}; {_INSTALL}") from None
    functions = {}
    for name, arguments in abi.SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise RuntimeUnavailable(f"{path} is no librknnrt that can be used, it lacks {name}; {_INSTALL}") from None
        function.argtypes = arguments
        function.restype = ctypes.c_int
        functions[name] = function
    return functions


def why_not_loaded(path: Path) -> str | None:
    """Return what is wrong with a library that can be told before it is loaded: a truncated one ends the process."""
    if not path.exists():
        return f"{path} does not exist; {_INSTALL}"
    if path.is_dir():
        return f"{path} is a folder; name the file {path / LIBRARY} with --rknn-library"
    try:
        with path.open("rb") as file:
            header = file.read(_ELF_HEADER.size)
            size = file.seek(0, os.SEEK_END)
        with Path(sys.executable).open("rb") as file:
            own = _machine(file.read(_ELF_HEADER.size))
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}; make it readable for this user"
    machine = _machine(header)
    if machine is None:
        return f"{path} is no shared library; {_INSTALL}"
    if machine != own:
        made_for, needed = (_MACHINES.get(number or 0, f"machine {number}") for number in (machine, own))
        return f"{path} is made for {made_for}, this program needs one for {needed}; {_INSTALL}"
    sections_at, section_bytes, sections = _ELF_HEADER.unpack(header)[-3:]
    if sections_at + section_bytes * sections > size:
        return f"{path} is incomplete; copy or install it again"
    return None


_ELF_HEADER = struct.Struct("<4s 12x 2x H 4x 8x 8x Q 4x 2x 2x 2x H H 2x")
"""Of 64 bits, little-endian: identification, machine, the place, size and number of the sections, which come last."""


def _machine(header: bytes) -> int | None:
    """Return the machine that an ELF file is made for, `None` for another file."""
    if len(header) < _ELF_HEADER.size or not header.startswith(b"\x7fELF"):
        return None
    machine: int = _ELF_HEADER.unpack(header)[1]
    return machine


def _loaded_path(name: str) -> Path | None:
    """Return the file that the linker found."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    paths = (Path(line.split(maxsplit=5)[5]) for line in maps.splitlines() if "/" in line)
    return next((path for path in paths if path.name.startswith(name)), None)


def _version_in(path: Path) -> str:
    """Return the version that a library's file names, so that it is known before there is a context; or ""."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _VERSION.search(content)
            return found[1].decode(errors="replace").strip() if found else ""
    except (OSError, ValueError):
        return ""
