"""The `manifest.json` beside an installed model: what its files must be, where they came from, and what is known of it.

`models add` writes one for what it installs, `models convert` one with more in it (see `formats.converted`); both are
read here. Others call files so, too: those are nobody's business here, and a model is usable without.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from wyoming_rknn.models.catalog_entry import HUB

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of what is written; another one is not read."""

_MAX_BYTES = 4 * 1024 * 1024
_NO_FILES: Mapping[str, "RecordedFile"] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something came from; what is not known is empty."""

    catalog: str = ""
    """Name of the catalogue's model."""
    repo: str = ""
    """Repository of the hub, as in "rhasspy/piper-voices"."""
    revision: str = ""
    path: str = ""
    """Of a file in the repository, or, without one, the name of what was copied; never where that lay."""
    url: str = ""
    file: str = ""
    """Name of what was converted."""
    sha256: str = ""
    """Of what was converted."""

    def __str__(self) -> str:
        """Return what tells a user most."""
        if self.repo:
            return "/".join(filter(None, (f"{self.repo}@{self.revision}" if self.revision else self.repo, self.path)))
        return self.url or self.path or self.catalog or self.file

    @property
    def address(self) -> str:
        """Return what `models add` takes for what was fetched, of no catalogue; empty for all else."""
        if self.repo and self.path:
            return f"{HUB}/{self.repo}/resolve/{self.revision or 'main'}/{self.path}"
        return "" if self.repo else self.url


NOWHERE = Origin()


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file as it was when the model was installed."""

    bytes: int
    sha256: str = ""
    """In lower case; empty if not known."""
    origin: Origin = NOWHERE


@dataclass(frozen=True, slots=True)
class RecordedGraph:
    """A graph for the NPU."""

    file: str
    golden: str | None = None
    """File with inputs and the outputs that ONNX Runtime gives for them."""
    frames: int | None = None
    """Width of its window."""
    context_frames: int | None = None
    """Frames per side that are not used."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a manifest says."""

    name: str
    kind: str = ""
    """What it is for: "tts", "asr"."""
    layout: str = ""
    """How its files are laid out: the format of a `Manifest`, or that of a converted model."""
    files: Mapping[str, RecordedFile] = field(default_factory=lambda: _NO_FILES)
    """By path below the model's folder, with slashes."""
    languages: tuple[str, ...] = ()
    rate_hz: int = 0
    """0 if not known."""
    licence: str = ""
    origin: Origin = NOWHERE
    targets: tuple[str, ...] = ()
    """SoCs, in lower case, that its graphs for the NPU are made for."""
    toolkit: str = ""
    """Version of the toolkit that made those."""
    graphs: tuple[RecordedGraph, ...] = ()

    @property
    def is_converted(self) -> bool:
        """Tell whether `models convert` wrote it."""
        return bool(self.origin.file)

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(file.bytes for file in self.files.values())


def read(folder: Path) -> Record | None:
    """Return what the manifest in a folder says; None if there is none, or one of another program or version."""
    content = load(folder / MANIFEST)
    if content is None:
        return None
    try:
        return parse(content)
    except ValueError:
        return None


def load(path: Path) -> Mapping[str, Any] | None:
    """Return what a file of JSON holds; None if it cannot be read, or is something else."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def parse(content: Mapping[str, Any]) -> Record:
    """Return what a manifest says. Raises `ValueError` if it is damaged or not of this form."""
    try:
        if content["format"] != FORMAT or isinstance(content["format"], bool):
            raise ValueError(f"{content['format']!r} is no known format")
        # Of a converted model, one SoC.
        targets = _texts(content, "targets") or filter(None, [_optional(content, "target")])
        return Record(
            name=_text(content["name"]),
            kind=_optional(content, "kind"),
            layout=_text(content["layout"]),
            files=MappingProxyType({_path(name): _recorded(file) for name, file in content["files"].items()}),
            languages=_texts(content, "languages"),
            rate_hz=_whole(content.get("rate_hz", 0)),
            licence=_optional(content, "licence"),
            origin=_origin(content.get("source")),
            targets=tuple(target.lower() for target in targets),
            toolkit=_optional(content, "toolkit"),
            graphs=tuple(_graph(graph) for graph in content.get("graphs", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(repr(error)) from error


def write(folder: Path, record: Record, program: str) -> None:
    """Write a manifest, which appears whole or not at all; `program` is the version that does so. Raises `OSError`."""
    text = json.dumps(_content(record, program), indent=1, ensure_ascii=False)
    descriptor, name = tempfile.mkstemp(prefix=f".{MANIFEST}-", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(folder / MANIFEST)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def is_ours_to_write(folder: Path) -> bool:
    """Tell whether a folder has no manifest, or one that `write` made: what cannot be read is somebody else's."""
    if not os.path.lexists(folder / MANIFEST):
        return True
    known = read(folder)
    return known is not None and not known.is_converted


def lists(files: Mapping[str, RecordedFile], folder: Path, paths: Iterable[Path]) -> bool:
    """Tell whether all `paths`, but for the manifest, are files of a model that is recorded in `folder`."""
    return all(
        path.name == MANIFEST or (path.is_relative_to(folder) and path.relative_to(folder).as_posix() in files)
        for path in paths
    )


def _content(record: Record, program: str) -> dict[str, Any]:
    """Return what is written: nothing of what is not known."""
    known = {
        "format": FORMAT,
        "kind": record.kind,
        "layout": record.layout,
        "name": record.name,
        "languages": list(record.languages),
        "rate_hz": record.rate_hz,
        "licence": record.licence,
        "source": _fields(record.origin),
        "program": program,
        "targets": list(record.targets),
        "toolkit": record.toolkit,
        "files": {
            name: {"bytes": file.bytes, **_known({"sha256": file.sha256, "source": _fields(file.origin)})}
            for name, file in sorted(record.files.items())
        },
        "graphs": [
            _known(
                {
                    "file": graph.file,
                    "golden": graph.golden,
                    "frames": graph.frames,
                    "context_frames": graph.context_frames,
                }
            )
            for graph in record.graphs
        ],
    }
    return {**_known(known), "files": known["files"]}


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in ("", 0, None, [], {})}


_ORIGIN = ("catalog", "repo", "revision", "path", "url", "file", "sha256")


def _fields(origin: Origin) -> dict[str, str]:
    return {name: value for name in _ORIGIN if (value := getattr(origin, name))}


def _origin(content: object) -> Origin:
    if content is None:
        return NOWHERE
    if not isinstance(content, dict):
        raise ValueError(f"{content!r} is no source")
    return Origin(**{name: _optional(content, name) for name in _ORIGIN})


def _recorded(content: Mapping[str, Any]) -> RecordedFile:
    return RecordedFile(_whole(content["bytes"]), _optional(content, "sha256").lower(), _origin(content.get("source")))


def _graph(content: Mapping[str, Any]) -> RecordedGraph:
    golden, frames, context = (content.get(key) for key in ("golden", "frames", "context_frames"))
    return RecordedGraph(
        _path(content["file"]),
        None if golden is None else _path(golden),
        None if frames is None else _whole(frames),
        None if context is None else _whole(context),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{value!r} is no name")
    return value


def _optional(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return "" if value is None or value == "" else _text(value)


def _texts(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if not isinstance(values := content.get(key, []), list):
        raise ValueError(f"{values!r} is no list")
    return tuple(map(_text, values))


def _path(value: object) -> str:
    # What a manifest names must lie beside it.
    path = PurePosixPath(name := _text(value))
    if str(path) != name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{value!r} is no file name")
    return name


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no number")
    return value
