"""The catalogue as a file: `catalog.json` of this package and those of users, which have the same form.

    {"models": [{"name": …, "kind": "tts" or "asr", "format": …, "files": [{"name": …, …}], …}], "piper": {…}}

Both parts may be absent. A model has the fields of `CatalogEntry` except what is derived, and `repo` and `revision`
where its files are if they do not say. A file has `name` and either `url` or a `path` in its `repo`, which is `name` if
not given, and what is known of `bytes`, `about_bytes`, `md5`, `sha256` and `unpack`. `piper` is described in
`piper_voices`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.models import piper_voices
from wyoming_rknn.models.catalog_entry import CatalogEntry, CatalogFile, CatalogSource
from wyoming_rknn.models.formats.piper_config import bcp47
from wyoming_rknn.models.piper_voices import is_text

KINDS = ("tts", "asr")

_MAX_BYTES = 8 * 1024 * 1024
_MD5, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_URL = re.compile(r"https?://[^\s/@]+/\S*")
_PIPER_FIELDS = ("origin", "repo", "revision", "licence", "languages", "voices")

_Json: TypeAlias = Mapping[str, Any]


def read(path: Path) -> tuple[CatalogEntry, ...]:
    """Read a catalogue.

    Raises `FileNotFoundError` if there is none, `ModelInvalid` with the line or field if it is not of the form.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ModelInvalid(f"{path} is too long for a catalogue; see docs/models.md for the form")
        document = json.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelInvalid(f"{path} cannot be read: {error.strerror}; check its owner and permissions") from error
    except json.JSONDecodeError as error:
        raise ModelInvalid(f"{path}, line {error.lineno}: this is no JSON ({error.msg}); mend it there") from error
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path} is no JSON in UTF-8 that can be read; write it anew") from error
    top = _fields(path, "the file", document, ("models", "piper"))
    models = [_entry(path, number, item) for number, item in enumerate(top.items("models"), 1)]
    return (*_voices(path, top.content.get("piper")), *models)


@dataclass(frozen=True, slots=True)
class _Fields:
    """An object of the file, whose fields are taken with a check each."""

    path: Path
    place: str
    """What messages call the object."""
    content: _Json

    def wrong(self, field: str, must: str) -> ModelInvalid:
        return ModelInvalid(f"{self.path}: {field!r} of {self.place} must be {must}")

    def text(self, field: str, default: str | None = None) -> str:
        value = self.content.get(field, default)
        if not isinstance(value, str) or not value.isprintable() or (default is None and not value.strip()):
            raise self.wrong(field, "a text of one line")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        values = self.items(field)
        if not all(value and is_text(value) for value in values):
            raise self.wrong(field, "a list of texts")
        return tuple(values)

    def items(self, field: str) -> list[Any]:
        values = self.content.get(field, [])
        if not isinstance(values, list):
            raise self.wrong(field, "a list")
        return values

    def whole(self, field: str, low: int = 0) -> int | None:
        value = self.content.get(field)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise self.wrong(field, f"a whole number from {low} on")
        return value

    def matching(self, field: str, form: re.Pattern[str], must: str) -> str | None:
        value = self.content.get(field)
        if value is None:
            return None
        if not isinstance(value, str) or not form.fullmatch(value):
            raise self.wrong(field, must)
        return value


def _fields(path: Path, place: str, value: object, known: Sequence[str]) -> _Fields:
    if not isinstance(value, Mapping):
        raise ModelInvalid(f"{path}: {place} is no object; see docs/models.md for the form")
    fields = _Fields(path, place, value)
    unknown = sorted(set(value).difference(known))
    if unknown:
        raise fields.wrong(unknown[0], f"left out or spelt as one of {', '.join(known)}")
    return fields


ENTRY_FIELDS = (
    *("name", "kind", "format", "languages", "language_name", "quality", "num_speakers", "speakers", "licence"),
    *("home", "repo", "revision", "targets", "toolkit", "files", "aliases", "remark"),
)
FILE_FIELDS = ("name", "repo", "revision", "path", "url", "bytes", "about_bytes", "md5", "sha256", "unpack")


def _entry(path: Path, number: int, item: object) -> CatalogEntry:
    name = item.get("name") if isinstance(item, Mapping) else None
    place = f"model {name!r}" if isinstance(name, str) else f"model {number}"
    fields = _fields(path, place, item, ENTRY_FIELDS)
    name = fields.text("name")
    if not _is_plain(name) or "/" in name:
        raise fields.wrong("name", "a name that a folder can have")
    kind = fields.text("kind")
    if kind not in KINDS:
        raise fields.wrong("kind", " or ".join(KINDS))
    repo, revision = fields.matching("repo", _REPO, "like OWNER/NAME"), fields.text("revision", "")
    files = tuple(
        _file(path, f"file {count} of {place}", one, repo, revision)
        for count, one in enumerate(fields.items("files"), 1)
    )
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise fields.wrong("files", "files with different names")
    speakers = fields.texts("speakers")
    return CatalogEntry(
        name=name,
        kind=kind,
        format=fields.text("format"),
        languages=tuple(bcp47(tag) for tag in fields.texts("languages")),
        language_name=fields.text("language_name", ""),
        quality=fields.text("quality", ""),
        num_speakers=fields.whole("num_speakers", 1) or max(1, len(speakers)),
        speakers=speakers,
        licence=fields.text("licence", ""),
        home=fields.text("home", repo or ""),
        targets=tuple(target.lower() for target in fields.texts("targets")),
        toolkit=fields.text("toolkit", ""),
        files=files,
        aliases=fields.texts("aliases"),
        remark=fields.text("remark", ""),
    )


def _file(path: Path, place: str, item: object, repo: str | None, revision: str) -> CatalogFile:
    fields = _fields(path, place, item, FILE_FIELDS)
    name = fields.text("name")
    if not _is_plain(name):
        raise fields.wrong("name", "a path below the model's folder, without dots at the beginning of its parts")
    url = fields.matching("url", _URL, "an address that begins with https:// and has no password")
    repo = fields.matching("repo", _REPO, "like OWNER/NAME") or repo
    if url is not None:
        source = CatalogSource(url=url)
    elif repo is not None:
        source = CatalogSource(repo, fields.text("revision", revision) or None, fields.text("path", name))
    else:
        raise fields.wrong("url", "given, or a repo")
    return CatalogFile(
        name=name,
        source=source,
        bytes=fields.whole("bytes"),
        md5=fields.matching("md5", _MD5, "32 hexadecimal digits in lower case"),
        sha256=fields.matching("sha256", _SHA256, "64 hexadecimal digits in lower case"),
        about_bytes=fields.whole("about_bytes"),
        unpack=fields.texts("unpack"),
    )


def _voices(path: Path, section: object) -> list[CatalogEntry]:
    if section is None:
        return []
    fields = _fields(path, "'piper'", section, _PIPER_FIELDS)
    repo = fields.matching("repo", _REPO, "like OWNER/NAME") or piper_voices.REPO
    revision = fields.text("revision", piper_voices.REVISION)
    licence = fields.text("licence", piper_voices.LICENCE)
    languages, voices = (fields.content.get(field, {}) for field in ("languages", "voices"))
    if not isinstance(languages, Mapping) or not all(map(is_text, languages.values())):
        raise fields.wrong("languages", "an object of texts")
    if not isinstance(voices, Mapping):
        raise fields.wrong("voices", "an object")
    entries: list[CatalogEntry] = []
    for key, row in voices.items():
        try:
            entries.append(_voice(key, row, repo, revision, licence, languages))
        except (AttributeError, TypeError, ValueError):
            raise fields.wrong("voices", f"as `models update` writes it, but that of {key!r} is not") from None
    return entries


def _voice(key: str, row: Any, repo: str, revision: str, licence: str, languages: _Json) -> CatalogEntry:  # noqa: ANN401
    """Return a voice; raises `AttributeError`, `TypeError` or `ValueError` if its row is not of the form."""
    piper_voices.check_row(key, row)
    code, _, quality = piper_voices.parts(key)
    more = row[6] if len(row) == 7 else {}
    speakers, aliases = (tuple(more.get(field, ())) for field in ("speakers", "aliases"))
    sizes, hashes = row[0:6:2], row[1:6:2]
    tag = bcp47(code)
    return CatalogEntry(
        name=key,
        kind="tts",
        format="piper",
        languages=tuple(dict.fromkeys((tag, tag.split("-")[0]))),
        language_name=languages.get(code, ""),
        quality=quality,
        num_speakers=max(1, len(speakers)),
        speakers=speakers,
        licence=licence,
        home=repo,
        files=tuple(
            CatalogFile(where.rpartition("/")[2], CatalogSource(repo, revision, where), size, md5)
            for where, size, md5 in zip(piper_voices.paths(key), sizes, hashes, strict=True)
        ),
        aliases=aliases,
    )


def _is_plain(name: str) -> bool:
    """Tell whether a path stays in its folder and hides nothing."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or str(path) != name:
        return False
    return not any(part.startswith(".") for part in path.parts)
