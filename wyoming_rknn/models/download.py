"""Fetch a model: offline first, continued where it ended, checked, and installed in one step.

Plain HTTPS serves hub repositories too, by their documented `resolve` addresses. `huggingface_hub` (2.4.0) would bring
20 MB in 13 packages and a cache of its own, and it begins a file anew after its process was killed.
"""

import errno
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeAlias
from urllib.parse import urlsplit

from wyoming_rknn.errors import Cancelled, DownloadError, NetworkUnavailable, UsageError
from wyoming_rknn.models.catalog_entry import HUB
from wyoming_rknn.models.fetching.archive import Member, outcome, unpack
from wyoming_rknn.models.fetching.failures import of_disk
from wyoming_rknn.models.fetching.http import Address, Client, address_of, shown
from wyoming_rknn.models.fetching.lock import locked
from wyoming_rknn.models.fetching.progress import Progress
from wyoming_rknn.models.fetching.transfer import Retries, Tally, Transfer, check_space, part_of, size_of
from wyoming_rknn.models.fetching.wanted import Facts, FetchedFile, Wanted, WantedFile, check_names, whole

_POLL_S = 0.1
_FAREWELL_S = 2.0
"""How long threads are waited for that look up a name or connect; they write nothing any more."""

Finish: TypeAlias = Callable[[Path, Sequence[FetchedFile]], None]
"""Writes what else belongs into a folder, such as a manifest, before a new model appears."""

Claim: TypeAlias = Callable[[Path], Mapping[str, Facts]]
"""Says what files in a folder that is not empty must be where nothing else tells, by name; raises `SpeechServerError`
for one whose files must not be replaced."""

_NOTHING: Mapping[str, Facts] = MappingProxyType({})
_WORKSPACE = re.compile(r"(\.[0-9a-f]{12})?\.download")
"""What a workspace is called after the model's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions:
    """From where and how models are fetched."""

    endpoint: str = HUB
    """Hub that serves repositories."""
    token: str = field(default="", repr=False)
    """For gated repositories; sent to the endpoint alone."""
    mirror: str = ""
    """Serves repositories in place of the endpoint, without the token."""
    offline: bool = False
    parallel: int = 4
    attempts: int = 5
    backoff_s: float = 1.0
    timeout_s: float = 30.0
    """How long a server may be silent."""

    def __post_init__(self) -> None:
        for what, address in (("HF_ENDPOINT", self.endpoint), ("--model-url", self.mirror)):
            if address and not _is_base(address):
                raise UsageError(
                    f"{what} must be an address such as https://mirror.example, without a password and a '?', not "
                    f"{shown(address)!r}"
                )

    @classmethod
    def of(cls, environment: Mapping[str, str], mirror: str | None = None) -> Self:
        """Heed HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. Raises `UsageError`."""
        return cls(
            endpoint=environment.get("HF_ENDPOINT") or HUB,
            token=environment.get("HF_TOKEN", "").strip(),
            mirror=mirror or "",
            offline=environment.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE"),
        )

    def address(self, file: WantedFile) -> Address:
        """Return where a file is fetched from. Raises `DownloadError`."""
        if self.mirror:
            return address_of(file.source, self.mirror, "", self.endpoint)
        return address_of(file.source, self.endpoint, self.token, self.endpoint)


def _is_base(address: str) -> bool:
    try:
        parts = urlsplit(address)
        is_of_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_of_web and not parts.query and "@" not in parts.netloc


def damaged(model: Wanted, folder: Path, proven: Mapping[str, Facts] = _NOTHING) -> tuple[str, ...]:
    """Return the names of files that are absent or not what they should be. Reads all files; asks nobody.

    `proven` is what is known of files of whom the model tells no hash.
    """
    found = _found(folder, model.files, proven)
    return tuple(file.name for file in _outcomes(model.files) if file.name not in found)


def fetch(
    model: Wanted,
    folder: Path,
    options: DownloadOptions,
    progress: Progress | None = None,
    *,
    finish: Finish | None = None,
    claim: Claim | None = None,
    key: str = "",
    unpacking: Progress | None = None,
    stop: threading.Event | None = None,
) -> tuple[FetchedFile, ...]:
    """Make `folder` hold all files of a model and return them. Blocks.

    Nothing is asked of any server if they are there. Otherwise they come into a hidden folder beside it, which takes
    its name once all are whole and `finish` is done; a folder that exists gets what it lacks, after all of that is
    whole and `claim` allows it. Another process that fetches the same is waited for. However this ends, what came stays
    to be continued, for the same `key`, 12 hexadecimal digits: models of one name from several places are not mixed.
    `progress` is told what came, `unpacking` then how much of an archive is read.

    Raises `DownloadError`, what `claim` and `finish` raise, and `Cancelled` when `stop` is set.
    """
    check_names(model)
    stop = stop or threading.Event()
    look = partial(_claimed, folder, claim)
    try:
        # A folder that is a link is mended where it really is.
        folder = folder.resolve()
        if (there := _all_whole(model, folder, look())) is not None:
            if lock_file(folder).exists() or any(_workspaces(folder)):
                with suppress(OSError):
                    discard(folder, stop)
            return there
        if options.offline:
            state = "damaged" if folder.exists() else "not installed"
            raise NetworkUnavailable(f"{model.name} is {state}, and HF_HUB_OFFLINE forbids to fetch it; unset it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_file(folder), stop, model.name):
            # Whoever was waited for may have installed it, or another one.
            if (there := _all_whole(model, folder, look())) is None:
                workspace = folder.with_name(f".{folder.name}{key and '.'}{key}.download")
                there = _fetch(model, folder, workspace, look, options, progress, unpacking, finish, stop)
            _clear(folder)
            return there
    except OSError as error:
        raise of_disk(error, folder.parent) from None


def discard(folder: Path, stop: threading.Event | None = None) -> None:
    """Remove what an interrupted download of this folder left. Waits for one that goes on. Raises `OSError`."""
    folder = folder.resolve()
    with locked(lock_file(folder), stop or threading.Event(), folder.name):
        _clear(folder)


def _clear(folder: Path) -> None:
    for workspace in list(_workspaces(folder)):
        shutil.rmtree(workspace, ignore_errors=True)


def _workspaces(folder: Path) -> Iterator[Path]:
    """Return what interrupted downloads of a folder left, from wherever they were."""
    begin = f".{folder.name}"
    for path in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if path.name.startswith(begin) and _WORKSPACE.fullmatch(path.name, len(begin)):
            yield path


def lock_file(folder: Path) -> Path:
    """Return what who writes a model into `folder` holds locked."""
    return folder.with_name(f".{folder.name}.lock")


def _claimed(folder: Path, claim: Claim | None) -> Mapping[str, Facts]:
    if claim is None or not folder.is_dir() or not any(folder.iterdir()):
        return _NOTHING
    return claim(folder)


def _all_whole(model: Wanted, folder: Path, proven: Mapping[str, Facts]) -> tuple[FetchedFile, ...] | None:
    if not folder.is_dir():
        return None
    found = _found(folder, model.files, proven)
    wanted = _outcomes(model.files)
    return tuple(found[file.name] for file in wanted) if len(found) == len(wanted) else None


def _fetch(
    model: Wanted,
    folder: Path,
    workspace: Path,
    look: Callable[[], Mapping[str, Facts]],
    options: DownloadOptions,
    progress: Progress | None,
    unpacking: Progress | None,
    finish: Finish | None,
    stop: threading.Event,
) -> tuple[FetchedFile, ...]:
    """Fetch what is missing, while nobody else does. Raises `OSError` too."""
    workspace.mkdir(exist_ok=True)
    proven = look()
    # What is mended becomes what it was; of what an archive holds by now nobody knows.
    files = [_told(file, proven) for file in model.files]
    installed = _found(folder, files, proven)
    lacking = [file for file in files if not _is_in(installed, file)]
    _prune(workspace, [workspace / file.name for file in (*lacking, *_outcomes(lacking))])
    fetched = _found(workspace, lacking)
    # An archive may have come, and the process ended before its members were out.
    missing = [file for file in lacking if not _is_in(fetched, file) and whole(workspace / file.name, file) is None]
    tally = Tally()
    for file in files:
        if file in missing:
            tally.done[file.name], tally.total[file.name] = size_of(part_of(workspace / file.name)), file.bytes
        elif _is_in(installed | fetched, file):
            size = sum((installed | fetched)[each.name].bytes for each in outcome(file))
            tally.done[file.name] = tally.total[file.name] = size
    needed = sum(max(0, (file.bytes or 0) - tally.done[file.name]) for file in missing)
    check_space(workspace, needed, model.name)
    fetched |= _transfer(missing, workspace, options, tally, progress, stop)
    for archive in [file for file in lacking if file.unpack]:
        if not _is_in(fetched, archive):
            unpack(workspace / archive.name, archive.unpack, workspace, stop, unpacking)
            fetched |= _found(workspace, [archive])
        (workspace / archive.name).unlink(missing_ok=True)
    there = tuple((installed | fetched)[file.name] for file in _outcomes(files))
    # Somebody may have put files there meanwhile.
    look()
    _install(workspace, folder, [file.name for file in _outcomes(lacking)], there, finish)
    return there


def _outcomes(files: Sequence[WantedFile]) -> list[WantedFile]:
    """Return what is to be in the model's folder."""
    return [each for file in files for each in outcome(file)]


def _found(folder: Path, files: Sequence[WantedFile], proven: Mapping[str, Facts] = _NOTHING) -> dict[str, FetchedFile]:
    """Return, by name, what is in a folder and whole."""
    wanted = (_told(file, proven) for file in _outcomes(files))
    return {each.name: found for each in wanted if (found := whole(folder / each.name, each)) is not None}


def _told(file: WantedFile, proven: Mapping[str, Facts]) -> WantedFile:
    """Return a file with what is proven of it where no hash is known."""
    facts = proven.get(file.name)
    if facts is None or file.unpack or Facts.of(file).has_hash or file.bytes not in (None, facts.bytes):
        return file
    return Member(file.name, file.source, facts.bytes, facts.sha256, facts.md5)


def _is_in(found: Mapping[str, FetchedFile], file: WantedFile) -> bool:
    return all(each.name in found for each in outcome(file))


def _prune(workspace: Path, targets: Iterable[Path]) -> None:
    """Remove what does not belong to the model as it is now."""
    kept = {path for target in targets for path in (target, part_of(target))}
    for path in [path for path in workspace.rglob("*") if not path.is_dir() or path.is_symlink()]:
        if path not in kept:
            path.unlink()
    for path in sorted((path for path in workspace.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            path.rmdir()


def _transfer(
    missing: Sequence[WantedFile],
    workspace: Path,
    options: DownloadOptions,
    tally: Tally,
    progress: Progress | None,
    stop: threading.Event,
) -> dict[str, FetchedFile]:
    """Fetch several files at once; the first that fails ends all."""
    client = Client(options.timeout_s)
    retries = Retries(options.attempts, options.backoff_s)
    halt = threading.Event()
    fetched: dict[str, FetchedFile] = {}
    errors: list[BaseException] = []
    waiting: queue.SimpleQueue[Transfer] = queue.SimpleQueue()
    # The largest first: it takes longest.
    for file in sorted(missing, key=lambda file: -(file.bytes or 0)):
        address = options.address(file)
        waiting.put(Transfer(file, workspace / file.name, address, client, retries, tally, halt))

    def work() -> None:
        try:
            while not halt.is_set():
                found = waiting.get_nowait().run()
                fetched[found.name] = found
        except (queue.Empty, Cancelled):
            return
        except BaseException as error:
            errors.append(error)
            halt.set()

    # Daemons: the program can end though one of them waits for a name server.
    threads = [
        threading.Thread(target=work, name=f"download-{number}", daemon=True)
        for number in range(min(options.parallel, len(missing)))
    ]
    told: tuple[int, int | None] | None = None
    try:
        for thread in threads:
            thread.start()
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(_POLL_S)
            if stop.is_set():
                raise Cancelled
            if progress is not None and (now := tally.sums()) != told:
                told = now
                progress(*now)
            if errors:
                break
    finally:
        halt.set()
        client.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join(_FAREWELL_S)
    if errors:
        raise errors[0]
    if progress is not None and tally.sums() != told:
        progress(*tally.sums())
    return fetched


def _install(
    workspace: Path, folder: Path, names: Sequence[str], files: Sequence[FetchedFile], finish: Finish | None
) -> None:
    """Let the model appear, or an existing one be whole again."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        if finish is not None:
            finish(workspace, files)
        for path in [workspace, *(path for path in workspace.rglob("*") if path.is_dir())]:
            sync(path)
        # An empty folder gives way to it.
        workspace.rename(folder)
        sync(folder.parent)
        return
    if not folder.is_dir():
        raise DownloadError(f"{folder} is in the way: a file has the model's name; rename it")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).replace(folder / name)
        sync((folder / name).parent)
    if finish is not None:
        finish(folder, files)


def sync(folder: Path) -> None:
    """Let names outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such thing for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
