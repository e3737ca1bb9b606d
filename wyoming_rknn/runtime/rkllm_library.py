"""librkllmrt: which file it is, and which version, known without loading it."""

import ctypes
import logging
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.errors import RuntimeUnavailable
from wyoming_rknn.runtime import rkllm_abi as abi
from wyoming_rknn.runtime.rknn_library import FOLDERS, why_not_loaded

_LOGGER = logging.getLogger(__name__)

LIBRARY = "librkllmrt.so"
_KNOWN = "1.2.1 to 1.2.3 and 1.3.0"
_INSTALL = "install librkllmrt 1.2.3 from the board's rknn-llm package, or name the file with --rkllm-library"
_SINCE_1_2_1 = b"\0rkllm_get_kv_cache_size\0"
"""A name among the exported ones. Before it there was another interface, whatever else the file says."""
_TOLD = re.compile(rb"rkllm-runtime version: v?(\d+\.\d+\.\d+\w*)")
_ALONE = re.compile(rb"(?<=\0)v?(1\.(?:2\.[1-9]|[3-9]\.\d)(?:b\d+)?)(?=\0)")
"""A version as a string of its own, as where it is put into the words above when they are printed. Older ones are left
out: other libraries that are linked into it have such numbers, and it is no older."""


@dataclass(frozen=True, slots=True)
class RkllmLibrary:
    """A library that can be used: its file, and the version that tells its interface."""

    path: Path
    version: str

    @property
    def layout(self) -> abi.Layout:
        """Return the structures that it takes."""
        return abi.LAYOUTS[self.version]


def find_library(
    wanted: Path | None,
    version: str | None = None,
    environment: Mapping[str, str] = os.environ,
    folders: Sequence[Path] = FOLDERS,
) -> RkllmLibrary:
    """Return `wanted`, or else the first usable library of LD_LIBRARY_PATH and the usual folders.

    `version`, if set, is believed. Loads nothing. Raises `RuntimeUnavailable` with the reason why the file that was
    named or found cannot be used, or that there is none.
    """
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        raise RuntimeUnavailable("librkllmrt is used by 64-bit programs only; install a 64-bit Python")
    if version is not None and version not in abi.LAYOUTS:
        raise RuntimeUnavailable(f"--rkllm-version {version} is no version that can be used; {_KNOWN} are")
    if wanted is not None:
        return _checked(wanted, version)
    searched = [Path(folder) for folder in environment.get("LD_LIBRARY_PATH", "").split(":") if folder]
    reasons = []
    for path in dict.fromkeys(folder / LIBRARY for folder in (*searched, *folders)):
        if path.is_file():
            try:
                return _checked(path, version)
            except RuntimeUnavailable as error:
                reasons.append(error)
    raise reasons[0] if reasons else RuntimeUnavailable(f"{LIBRARY} was not found; {_INSTALL}")


def _checked(path: Path, version: str | None) -> RkllmLibrary:
    if reason := why_not_loaded(path):
        # What to do about it is told there for another library.
        raise RuntimeUnavailable(f"{reason.partition('; ')[0]}; {_INSTALL}")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            is_recent = content.find(_SINCE_1_2_1) >= 0
            found = _versions_in(content)
    except (OSError, ValueError) as error:
        raise RuntimeUnavailable(f"{path} cannot be read: {error}; make it readable for this user") from None
    if not is_recent:
        raise RuntimeUnavailable(f"{path} is older than 1.2.1, or no librkllmrt; {_INSTALL}")
    if version is None:
        version = _only(path, found)
    elif found and version not in found:
        _LOGGER.warning("%s says that it is %s, but --rkllm-version says %s", path, " or ".join(found), version)
    library = RkllmLibrary(path, version)
    library.layout.check()
    return library


def _only(path: Path, found: Sequence[str]) -> str:
    name = "name the version of its package with --rkllm-version"
    if not found:
        raise RuntimeUnavailable(f"{path} does not tell its version; {name}")
    if len(found) > 1:
        raise RuntimeUnavailable(f"{path} may be version {' or '.join(found)}; {name}")
    if found[0] not in abi.LAYOUTS:
        raise RuntimeUnavailable(f"{path} is version {found[0]}, and only {_KNOWN} can be used; {_INSTALL}")
    return found[0]


def _versions_in(content: mmap.mmap) -> tuple[str, ...]:
    """Return the versions that a file's bytes may mean: one if all is well."""
    for pattern in (_TOLD, _ALONE):
        if found := {match[1].decode() for match in pattern.finditer(content)}:
            return tuple(sorted(found))
    return ()
