"""Install a model from an address that a user gives. Nothing is known of it before it is there."""

import hashlib
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from wyoming_rknn.errors import ModelError, RemoteFileMissing
from wyoming_rknn.models import record
from wyoming_rknn.models.address import Given
from wyoming_rknn.models.adopt import Adopted, adopt, check_graphs, in_the_way
from wyoming_rknn.models.catalog_entry import CatalogSource
from wyoming_rknn.models.damage import facts_of, since_installed
from wyoming_rknn.models.download import Claim, DownloadOptions, Finish, discard, fetch, lock_file
from wyoming_rknn.models.fetching.failures import of_disk
from wyoming_rknn.models.fetching.http import shown
from wyoming_rknn.models.fetching.lock import locked
from wyoming_rknn.models.fetching.progress import Progress
from wyoming_rknn.models.fetching.wanted import Facts, FetchedFile
from wyoming_rknn.models.installing import finish_for, record_copied
from wyoming_rknn.models.record import Origin
from wyoming_rknn.models.store import Store


def install(
    given: Given,
    data_dir: Path,
    options: DownloadOptions,
    name: str | None = None,
    *,
    progress: Progress | None = None,
    unpacking: Progress | None = None,
    stop: threading.Event | None = None,
) -> Adopted:
    """Fetch what was given and return where it is in `data_dir`.

    It appears when a model was found in it; if none was, nothing is left. What was installed from there before is only
    asked for again where a file is damaged. `name` is the one that the user wants. An interrupted download is
    continued the next time. Blocks.

    Raises `DownloadError`; `ModelError` where no model is found, or another one has the name; `UsageError` for a name
    in an archive that cannot be a folder's; and `Cancelled` when `stop` is set.
    """
    origin = _origin(given.source)
    if not given.is_archive:
        return _install_voice(given, data_dir / given.name, origin, options, progress, stop)
    if (there := _installed(origin, name, data_dir)) is not None:
        return there
    place = data_dir / f"{given.name}.{_key(given.source)}"
    holder = place.with_name(f".{place.name}.fetched")
    stop = stop or threading.Event()
    with ExitStack() as stack:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            # Until it is unpacked, for whoever has waited finds it installed then.
            stack.enter_context(locked(lock_file(place), stop, given.name))
        except OSError as error:
            raise of_disk(error, data_dir) from None
        if (there := _installed(origin, name, data_dir)) is not None:
            return there
        _fetch(given, holder, options, progress, stop)
        try:
            return adopt(
                holder / given.file,
                data_dir,
                name,
                progress=unpacking,
                finish=lambda folder, called: record_copied(folder, called, origin),
                stop=stop,
            )
        except ModelError as error:
            raise type(error)(str(error).replace(f"{holder}/", "")) from None
        finally:
            shutil.rmtree(holder, ignore_errors=True)


def _installed(origin: Origin, name: str | None, data_dir: Path) -> Adopted | None:
    """Return what came from an archive before, if it is whole."""
    for folder, known in Store((data_dir,)).scan().records.items():
        if known.origin == origin and name in (None, folder.name) and not any(since_installed(folder, known)):
            return Adopted(folder, False)
    return None


def _install_voice(
    given: Given,
    folder: Path,
    origin: Origin,
    options: DownloadOptions,
    progress: Progress | None,
    stop: threading.Event | None,
) -> Adopted:
    is_new = not (folder.exists() and (not folder.is_dir() or any(folder.iterdir())))
    if not is_new and not folder.is_dir():
        raise in_the_way(folder)
    write = finish_for(given.model(), replace(origin, repo="", revision=""))

    def claim(there: Path) -> Mapping[str, Facts]:
        known = record.read(there)
        if known is None or known.origin != origin:
            raise in_the_way(there)
        return facts_of(known)

    def finish(workspace: Path, files: Sequence[FetchedFile]) -> None:
        _check(workspace)
        write(workspace, files)

    try:
        _fetch(given, folder, options, progress, stop, finish, claim)
    except ModelError:
        # Where nothing can be written nothing was left.
        with suppress(OSError):
            discard(folder)
        raise
    return Adopted(folder, is_new)


def _fetch(
    given: Given,
    folder: Path,
    options: DownloadOptions,
    progress: Progress | None,
    stop: threading.Event | None,
    finish: Finish | None = None,
    claim: Claim | None = None,
) -> None:
    model = given.model()
    try:
        fetch(model, folder, options, progress, finish=finish, claim=claim, key=_key(given.source), stop=stop)
    except RemoteFileMissing as error:
        discard(folder)
        beside = ", and that a voice's .onnx.json lies beside its .onnx" if len(model.files) > 1 else ""
        raise RemoteFileMissing(f"{str(error).partition(';')[0]}; check the address{beside}") from None


def _check(workspace: Path) -> None:
    """Raise `ModelError` if there is no voice."""
    found = Store((workspace,), max_depth=0).scan()
    try:
        for manifest in found.manifests:
            check_graphs(manifest)
        if not found.manifests:
            raise found.problems[0].error() if found.problems else ModelError("what was fetched is no Piper voice")
    except ModelError as error:
        raise type(error)(str(error).replace(f"{workspace}/", "")) from None


def _key(source: CatalogSource) -> str:
    """Return what tells one address from others that end in the same name."""
    return hashlib.sha256(repr(source).encode(errors="surrogatepass")).hexdigest()[:12]


def _origin(source: CatalogSource) -> Origin:
    # A signature in an address is secret, and another one the next time.
    url = shown(source.url) if source.url else ""
    return Origin(repo=source.repo or "", revision=source.revision or "", path=source.path or "", url=url)
