"""What is written beside a model when it is installed: its record."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from wyoming_rknn import __version__
from wyoming_rknn.errors import ModelError
from wyoming_rknn.models import record
from wyoming_rknn.models.catalog_entry import CatalogEntry
from wyoming_rknn.models.download import Finish
from wyoming_rknn.models.fetching.archive import outcome
from wyoming_rknn.models.fetching.http import shown
from wyoming_rknn.models.fetching.wanted import FetchedFile, Source, Wanted, WantedFile
from wyoming_rknn.models.formats.piper_npu import npu_decoder
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.models.manifest import NPU_SUFFIX, Manifest
from wyoming_rknn.models.record import MANIFEST, Origin, Record, RecordedFile, RecordedGraph
from wyoming_rknn.models.store import DETECTORS

_UNKNOWN = "unknown"
"""Layout of files that no engine reads."""

_LOGGER = logging.getLogger(__name__)


def finish_for(model: Wanted, origin: Origin | None = None) -> Finish:
    """Return what writes the record of a model that is fetched, for `download.fetch`; `origin` if of no catalogue.

    To be called once more with what `fetch` returns: nothing is written then if the record is there, and it is for a
    model that was whole already. A manifest of somebody else, one that is among the model's files, and that of a model
    which was converted or came from elsewhere stay. Where none can be written the model is as good without.
    """

    def finish(folder: Path, files: Sequence[FetchedFile]) -> None:
        if any(file.name == MANIFEST for file in files) or not record.is_ours_to_write(folder):
            return
        made = _fetched(model, folder, files, origin)
        known = record.read(folder)
        if known is None or (known != made and known.origin.catalog == made.origin.catalog):
            _write(folder, made)

    return finish


def record_copied(folder: Path, name: str, origin: Origin) -> None:
    """Write the record of a model whose files were put into `folder`, all of which are read.

    One that came with them stays, and so does a manifest of somebody else. Raises `OSError` if a file cannot be read.
    """
    if record.read(folder) is not None or not record.is_ours_to_write(folder):
        return
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    files = {
        each: _facts(folder / each)
        for each in names
        if each != MANIFEST and not any(part.startswith(".") for part in each.split("/"))
    }
    _write(folder, _described(Record(name, files=MappingProxyType(files), origin=origin), folder))


def _write(folder: Path, made: Record) -> None:
    try:
        record.write(folder, made, __version__)
    except (OSError, UnicodeEncodeError) as error:
        # As in a folder that belongs to somebody else, or of files with names that are no text.
        _LOGGER.debug("no manifest can be written to %s: %s", folder, error)


def _facts(path: Path) -> RecordedFile:
    with path.open("rb") as file:
        return RecordedFile(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _fetched(model: Wanted, folder: Path, files: Iterable[FetchedFile], origin: Origin | None) -> Record:
    places = {each.name: _place(file) for file in model.files for each in outcome(file)}
    known = set(places.values())
    # What all have in common is said once.
    repos = {(place.repo, place.revision) for place in known}
    repo, revision = repos.pop() if len(repos) == 1 else ("", "")
    url = next(iter(known)).url if len(known) == 1 else ""
    found = {
        file.name: RecordedFile(
            file.bytes, file.sha256, _without(places.get(file.name, record.NOWHERE), repo, revision, url)
        )
        for file in files
    }
    if origin is None:
        origin = Origin(catalog=model.name if isinstance(model, CatalogEntry) else "", url=url)
    made = Record(model.name, files=MappingProxyType(found), origin=replace(origin, repo=repo, revision=revision))
    if isinstance(model, CatalogEntry):
        made = replace(
            made, kind=model.kind, layout=model.format, languages=model.languages, licence=model.licence,
            targets=model.targets, toolkit=model.toolkit,
        )  # fmt: skip
    return _described(made, folder)


def _place(file: WantedFile) -> Origin:
    source: Source = file.source
    if source.url:
        return Origin(url=shown(source.url))
    return Origin(repo=source.repo or "", revision=source.revision or "", path=source.path or "")


def _without(place: Origin, repo: str, revision: str, url: str) -> Origin:
    if repo:
        return replace(place, repo="", revision="")
    return replace(place, url="") if url else place


def _described(made: Record, folder: Path) -> Record:
    """Add what the files themselves tell, which is right where a catalogue may not be."""
    found = _detected(folder, made.files)
    graphs = {name: _npu_graph(folder, name, made) for name in made.files if name.endswith(NPU_SUFFIX)}
    read = [file for file, _ in filter(None, graphs.values())]
    toolkits = dict.fromkeys(file.toolkit for file in read if file.toolkit)
    targets = tuple(dict.fromkeys(target for file in read for target in file.targets))
    return replace(
        made,
        kind=found.kind if found else made.kind,
        layout=made.layout or (found.format if found else _UNKNOWN),
        languages=found.languages if found else made.languages,
        rate_hz=found.rate_hz if found else 0,
        targets=targets or made.targets,
        toolkit=" ".join(toolkits) or made.toolkit,
        graphs=tuple(graph for _, graph in filter(None, graphs.values())),
    )


def _detected(folder: Path, files: Mapping[str, RecordedFile]) -> Manifest | None:
    manifests = (manifest for detect in DETECTORS for manifest in detect(folder).manifests)
    return next((manifest for manifest in manifests if record.lists(files, folder, manifest.files.values())), None)


def _npu_graph(folder: Path, name: str, made: Record) -> tuple[RknnFile, RecordedGraph] | None:
    """Return what a graph for the NPU says of itself; None if it cannot be read."""
    path = folder / name
    try:
        file = RknnFile.read(path)
    except ModelError:
        return None
    golden = str(PurePosixPath(name).with_suffix(".golden.npz"))
    graph = RecordedGraph(name, golden if golden in made.files else None)
    layout = Layout.of(file.inputs, file.outputs)
    if layout is not None:
        return file, replace(graph, frames=layout.frames)
    with suppress(ModelError):
        decoder = npu_decoder(path)
        return file, replace(graph, frames=decoder.frames, context_frames=decoder.context_frames)
    return file, graph
