"""An address that a user gives, as a model that can be fetched."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from wyoming_rknn.errors import UsageError
from wyoming_rknn.models.adopt import check_name, is_archive
from wyoming_rknn.models.catalog_entry import HUB, CatalogEntry, CatalogFile, CatalogSource
from wyoming_rknn.models.fetching.archive import SUFFIXES
from wyoming_rknn.models.fetching.http import shown

_GRAPH = ".onnx"
_WHAT_CAN_BE_GIVEN = (
    "give the address of a voice's .onnx (its .onnx.json is fetched from beside it) or of an archive "
    f"({', '.join(SUFFIXES)})"
)
_FILE_PARTS = ("resolve", "blob", "raw")
"""What follows the repository in the address of a file; only the first of them gives a large file's content."""
_REPO_KINDS = ("datasets", "spaces")
"""What stands before the owner's name of a repository that is none of models."""


@dataclass(frozen=True, slots=True)
class Given:
    """What is to be fetched from an address."""

    name: str
    """What the model is called: as its file, or as the user wants it."""
    source: CatalogSource
    """Where the file is that was given."""
    config: CatalogSource | None
    """Where a voice's config is; None for an archive."""
    file: str
    """Name of the file that was given."""

    @property
    def is_archive(self) -> bool:
        """Tell whether it has to be unpacked."""
        return self.config is None

    def model(self) -> CatalogEntry:
        """Return what to fetch: a voice, or an archive as it is."""
        if self.config is None:
            return CatalogEntry(self.name, "", "archive", files=(CatalogFile(self.file, self.source),))
        files = CatalogFile(f"{self.name}{_GRAPH}", self.source), CatalogFile(f"{self.name}{_GRAPH}.json", self.config)
        return CatalogEntry(self.name, "tts", "piper", files=files)


def is_address(text: str) -> bool:
    """Tell an address from a name and a path."""
    return "://" in text


def read(address: str, name: str | None = None, hubs: Collection[str] = ()) -> Given:
    """Read an http(s) address; `name` is the model's, by default that of the file, and `hubs` are addresses of hubs.

    A file of a hub's repository is then fetched as the catalogue's are: from a mirror, with a token. Raises
    `UsageError`, which tells nothing that may be secret, for what is no address of a file that could be a model.
    """
    told = shown(address)
    try:
        parts = urlsplit(address)
        is_of_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_of_web = False
    if not is_of_web:
        raise UsageError(f"{told!r} is no http:// or https:// address; {_WHAT_CAN_BE_GIVEN}")
    if "@" in parts.netloc:
        raise UsageError(f"{told} cannot be fetched with a name and password in the address; give one without")
    source = _of_hub(parts) if any(_is_on(parts, hub) for hub in (HUB, *hubs)) else None
    file = PurePosixPath(unquote(parts.path) if source is None else str(source.path)).name
    is_usable = is_archive(file) or file.endswith(_GRAPH)
    # What a mirror serves besides may be anywhere.
    if source is None and (_is_on(parts, HUB) or (not is_usable and any(_is_on(parts, hub) for hub in hubs))):
        raise UsageError(
            f"{told} is a page of a repository, not a file of it; {_WHAT_CAN_BE_GIVEN}, as the repository lists them"
        )
    if not is_usable:
        raise UsageError(f"{told} is the address of nothing that can be installed; {_WHAT_CAN_BE_GIVEN}")
    source = source or CatalogSource(url=urlunsplit(parts._replace(fragment="")))
    if is_archive(file):
        suffix = next(suffix for suffix in SUFFIXES if file.lower().endswith(suffix))
        return Given(check_name(name or file[: -len(suffix)]), source, None, check_name(file))
    return Given(check_name(name or file.removesuffix(_GRAPH)), source, _beside(source), file)


def _is_on(parts: SplitResult, hub: str) -> bool:
    base = urlsplit(hub)
    names = {base.netloc, f"www.{base.netloc}"}
    return parts.netloc in names and parts.path.startswith(f"{base.path.rstrip('/')}/")


def _of_hub(parts: SplitResult) -> CatalogSource | None:
    """Return which file of which repository an address is of; None if it is of none."""
    words = [unquote(word) for word in parts.path.split("/") if word]
    # A mirror may stand below a path of its own.
    place = next((place for place in range(2, len(words) - 2) if words[place] in _FILE_PARTS), None)
    if place is None:
        return None
    begin = place - 3 if place > 2 and words[place - 3] in _REPO_KINDS else place - 2
    return CatalogSource("/".join(words[begin:place]), words[place + 1], "/".join(words[place + 2 :]))


def _beside(source: CatalogSource) -> CatalogSource:
    """Return where the config of a graph is."""
    if source.url is None:
        return CatalogSource(source.repo, source.revision, f"{source.path}.json")
    parts = urlsplit(source.url)
    return CatalogSource(url=urlunsplit(parts._replace(path=f"{parts.path}.json")))
