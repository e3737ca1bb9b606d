"""Install a model that lies on this machine: copy its files, look at the copy, and let it appear in one step."""

import errno
import filecmp
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TypeAlias

from wyoming_rknn.errors import Cancelled, DiskFull, ModelError, ModelFileMissing, ModelInvalid, UsageError
from wyoming_rknn.models import record
from wyoming_rknn.models.download import lock_file, sync
from wyoming_rknn.models.fetching.archive import SUFFIXES, unpack_all
from wyoming_rknn.models.fetching.failures import of_disk
from wyoming_rknn.models.fetching.lock import locked
from wyoming_rknn.models.fetching.progress import Progress
from wyoming_rknn.models.fetching.transfer import check_space
from wyoming_rknn.models.formats import onnx_header
from wyoming_rknn.models.manifest import Detected, Manifest
from wyoming_rknn.models.store import MAX_DEPTH, Store
from wyoming_rknn.names import folded

Finish: TypeAlias = Callable[[Path, str], None]
"""Writes what else belongs into the folder of a new model, whose name is given, before it appears."""

WHAT_CAN_BE_GIVEN = (
    "give a Piper voice's .onnx with its .onnx.json beside it, a recogniser's graph with what belongs to it, the "
    "folder of such a model, or an archive of it"
)

_DOCUMENTS = ("MODEL_CARD", "README.md")
_PIPER = "piper"
"""Format of a voice whose name is that of its files."""
_LONGEST_NAME_BYTES = 200
_CHUNK_BYTES = 1 << 20
_SHOWN_BYTES = 20_000_000
"""Less is copied or unpacked before anybody has read how far it is."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A model, or several that lie together, in a data folder."""

    folder: Path
    is_new: bool
    """Whether it was not there before."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A file of a model."""

    source: Path
    target: str
    """Path below the model's folder, with slashes."""
    content: bytes | None = None
    """What to write in place of the source's."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be copied."""

    name: str
    """Of the folder."""
    items: tuple[_Item, ...]
    models: int


def is_archive(name: str) -> bool:
    """Tell from a file's name whether it is an archive that can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def check_name(name: str) -> str:
    """Return a name that can be that of a folder. Raises `UsageError`."""
    bad = not name or name.startswith(".") or name.endswith((".part", " ")) or "/" in name or not name.isprintable()
    if bad or len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
        raise UsageError(f"{name!r} cannot be a model's name; give another one with --name")
    return name


def adopt(
    path: Path,
    data_dir: Path,
    name: str | None = None,
    *,
    progress: Progress | None = None,
    finish: Finish | None = None,
    stop: threading.Event | None = None,
) -> Adopted:
    """Copy the models at `path`, a file of one, a folder or an archive, into `data_dir`, and return where they are.

    They get a folder with the name of the model, of what they lay in if there are several, or `name`. It appears when
    models were found in the copy; nothing is left otherwise. `path` is only read. Models that are in the data folder
    already stay as they are. Blocks; `progress` is told how far copying or unpacking is, if that takes its time.

    Raises `ModelError` where no model is found or another one has the name, `UsageError` for a name that is none,
    `DownloadError` for what the disk refuses, and `Cancelled` when `stop` is set.
    """
    stop = stop or threading.Event()
    if name is not None:
        check_name(name)
    path = _absolute(path.expanduser())
    if not path.exists():
        raise ModelFileMissing(f"{path} does not exist; {WHAT_CAN_BE_GIVEN}")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir = data_dir.resolve()
        if is_archive(path.name) and path.is_file():
            return _adopt_archive(path, data_dir, name, progress, finish, stop)
        if data_dir.is_relative_to(path.resolve()):
            raise ModelError(f"{path} holds the data folder {data_dir} itself; name the model's own folder in it")
        found = _found(path)
        if name is None and path.resolve().is_relative_to(data_dir):
            return Adopted(path if path.is_dir() else path.parent, False)
        return _install(_planned(path, found, name), data_dir, progress, finish, stop)
    except OSError as error:
        if isinstance(error, ModelError):
            raise
        raise _of_disk(error, data_dir) from None


def _absolute(path: Path) -> Path:
    # What a link is called counts, not what it leads to; of "." and "voices/.." there is no other name.
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _adopt_archive(
    path: Path,
    data_dir: Path,
    name: str | None,
    progress: Progress | None,
    finish: Finish | None,
    stop: threading.Event,
) -> Adopted:
    stem = next(path.name[: -len(suffix)] for suffix in SUFFIXES if path.name.lower().endswith(suffix)).strip(". ")
    stem = stem or "archive"
    with _hidden(data_dir, f"{stem}.unpacked", stop) as workspace:
        folder = workspace / stem
        folder.mkdir()
        size = path.stat().st_size
        check_space(folder, size, path.name)
        unpack_all(path, folder, stop, progress if size >= _SHOWN_BYTES else None)
        try:
            found = _found(folder)
        except ModelError as error:
            # Of the places in the archive, not of where it is unpacked.
            raise type(error)(str(error).replace(f"{folder}/", f"{path}: ").replace(str(folder), str(path))) from None
        return _install(_planned(folder, found, name), data_dir, None, finish, stop, move=True)


def _found(path: Path) -> Detected:
    """Return the models at a path. Raises `ModelError` if there is none."""
    if path.is_dir():
        detected = Store((path,), max_depth=MAX_DEPTH).scan()
        problems = detected.problems
    else:
        detected = Store((path.parent,), max_depth=0).scan()
        manifests = tuple(manifest for manifest in detected.manifests if path in manifest.files.values())
        problems = tuple(problem for problem in detected.problems if problem.path in (path, path.parent))
        # What is wrong with the file itself tells more than what is wrong with its folder.
        problems = tuple(sorted(problems, key=lambda problem: problem.path != path))
        detected = replace(detected, manifests=manifests)
    for manifest in detected.manifests:
        check_graphs(manifest)
    if detected.manifests:
        return detected
    if problems:
        raise problems[0].error()
    raise ModelError(f"{path} holds no model that can be used; {WHAT_CAN_BE_GIVEN}")


def check_graphs(manifest: Manifest) -> None:
    """Raise `ModelInvalid` if a graph for the CPU is none: a voice is found by its config alone."""
    for path in manifest.files.values():
        if path.suffix == ".onnx" and onnx_header.read(path) is None:
            raise ModelInvalid(f"{path} is not an ONNX graph, or not a whole one; fetch or copy it again")


def _planned(path: Path, found: Detected, name: str | None) -> _Plan:
    manifests = found.manifests
    files = dict.fromkeys(file for manifest in manifests for file in _files_of(manifest))
    base = path if path.is_dir() else path.parent
    for file in files:
        # A graph names its weights, and may name anything.
        if not file.is_relative_to(base) or ".." in file.parts:
            raise ModelInvalid(f"{path} holds a model that wants {file}, which lies elsewhere; put all into one folder")
    root = Path(os.path.commonpath([file.parent for file in files]))
    if len(manifests) > 1:
        if name is not None and path.is_file():
            raise UsageError(f"{path} belongs to {len(manifests)} models; give the folder, or a file of one of them")
        folder_name = check_name(name or root.name)
        return _Plan(folder_name, tuple(_Item(file, _below(root, file)) for file in files), len(manifests))
    (manifest,) = manifests
    folder_name = check_name(name or manifest.name.replace("/", "-"))
    renamed = {}
    if name is not None and manifest.format == _PIPER:
        renamed = {manifest.files["graph"]: f"{name}.onnx", manifest.files["config"]: f"{name}.onnx.json"}
    items = [_Item(file, renamed.get(file, _below(root, file))) for file in files]
    if name is not None and name != manifest.name:
        items = [changed for item in items if (changed := _called(item, name)) is not None]
    return _Plan(folder_name, tuple(items), 1)


def _files_of(manifest: Manifest) -> Iterator[Path]:
    """Return a model's files, those with the weights of its graphs, and what describes it."""
    for path in manifest.files.values():
        yield path
        if path.suffix == ".onnx" and (header := onnx_header.read(path)) is not None:
            yield from (path.parent / name for name in header.external)
    for folder in dict.fromkeys(path.parent for path in manifest.files.values()):
        if (known := record.read(folder)) is not None and record.lists(known.files, folder, manifest.files.values()):
            yield from (file for name in known.files if (file := folder / name).is_file())
            yield folder / record.MANIFEST
        yield from (file for name in _DOCUMENTS if (file := folder / name).is_file())


def _called(item: _Item, name: str) -> _Item | None:
    """Return a file as it is for a model that gets another name, None for one that does not fit it any more."""
    if item.target != record.MANIFEST or (content := record.load(item.source)) is None:
        return item
    known = record.read(item.source.parent)
    if known is not None and not known.is_converted:
        return None
    return replace(item, content=json.dumps({**content, "name": name}, indent=1).encode())


def _below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _install(
    plan: _Plan,
    data_dir: Path,
    progress: Progress | None,
    finish: Finish | None,
    stop: threading.Event,
    *,
    move: bool = False,
) -> Adopted:
    folder = data_dir / plan.name
    with locked(lock_file(folder), stop, plan.name):
        if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            if folder.is_dir() and all(_is_same(item, folder / item.target) for item in plan.items):
                return Adopted(folder, False)
            raise in_the_way(folder)
        if not move:
            check_space(data_dir, sum(_size(item) for item in plan.items), plan.name)
        with _hidden(data_dir, f"{plan.name}.added", stop) as workspace:
            # Some models have the name of their folder.
            copy = workspace / plan.name
            _copy(plan.items, copy, progress, stop, move=move)
            found = Store((copy,)).scan()
            if len(found.manifests) < plan.models:
                reason = str(found.problems[0].message).replace(str(copy), plan.name) if found.problems else "no model"
                raise ModelError(f"{plan.name} is not usable once copied: {reason}; was it changed meanwhile?")
            if finish is not None:
                finish(copy, plan.name)
            for path in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
                sync(path)
            # An empty folder gives way to it.
            copy.rename(folder)
            sync(data_dir)
    return Adopted(folder, True)


def _copy(
    items: Iterable[_Item], folder: Path, progress: Progress | None, stop: threading.Event, *, move: bool
) -> None:
    items = tuple(items)
    done, total = 0, sum(_size(item) for item in items)
    if total < _SHOWN_BYTES:
        progress = None
    for item in items:
        target = folder / item.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if move and item.content is None:
            item.source.replace(target)
            continue
        with target.open("xb") as file:
            for block in _blocks(item):
                if stop.is_set():
                    raise Cancelled
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
            file.flush()
            os.fsync(file.fileno())


def _blocks(item: _Item) -> Iterator[bytes]:
    if item.content is not None:
        yield item.content
        return
    try:
        with item.source.open("rb") as file:
            while block := file.read(_CHUNK_BYTES):
                yield block
    except OSError as error:
        raise ModelError(f"{item.source} cannot be read: {error.strerror}; check its owner and permissions") from None


def _size(item: _Item) -> int:
    return item.source.stat().st_size if item.content is None else len(item.content)


def _is_same(item: _Item, there: Path) -> bool:
    if item.target == record.MANIFEST and (known := record.read(there.parent)) is not None and not known.is_converted:
        # Tells where the model came from, which may be elsewhere.
        return True
    try:
        if item.content is not None:
            return there.read_bytes() == item.content
        return filecmp.cmp(item.source, there, shallow=False)
    except FileNotFoundError:
        return False


def in_the_way(folder: Path, called: str = "") -> ModelError:
    """Return what to tell of a folder that another model has; `called` is a name that cannot be changed."""
    if not folder.is_dir():
        return ModelError(f"{folder} is in the way: a file has the model's name; rename it, or use --name")
    names = [manifest.name for manifest in Store((folder,)).scan().manifests]
    names = [name for name in names if folded(name) == folded(called)] or names
    fix = " and ".join(f"`wyoming-rknn models remove {quote(name)}`" for name in names) or "rename or delete it"
    or_else = "move it elsewhere" if called else "give another name with --name"
    return ModelError(f"{folder} exists and holds something else; {fix} first, or {or_else}")


@contextmanager
def _hidden(data_dir: Path, name: str, stop: threading.Event) -> Iterator[Path]:
    """Give a folder where no model is looked for, which is gone afterwards, like one that a killed process left."""
    folder = data_dir / f".{name}"
    with locked(lock_file(folder), stop, name):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _of_disk(error: OSError, data_dir: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"the disk of {data_dir} is full; free some space and try again, or use --data-dir")
    return of_disk(error, data_dir)
