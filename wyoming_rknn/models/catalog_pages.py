"""The catalogue as pages of the documentation."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import HUB, SUPPORTED_FORMATS, CatalogEntry
from wyoming_rknn.models.defaults import STRONG_SOCS, WEAK_SOCS, defaults
from wyoming_rknn.models.fetching.archive import SUFFIXES
from wyoming_rknn.models.piper_voices import QUALITIES, REPO

_VOICES_HEAD = """# Voices

<!-- Written by script/docs from wyoming_rknn/models/catalog.json. -->

{count} voices in {languages} languages and regions, all of [{repo}]({home}). Fetch one with
`wyoming-rknn models add NAME`; case and separators of a name do not matter.

The quality tells how large a voice's graph is and, as a rule, its sample rate: 16 000 Hz for `x_low` and `low`,
22 050 Hz for `medium` and `high`. Each voice has a licence of its own, which its `MODEL_CARD` names; the card is
fetched with the voice.
"""
_MODELS_HEAD = """# Models

<!-- Written by script/docs from wyoming_rknn/models/catalog.json. -->

What `wyoming-rknn models add NAME` knows besides the {count} voices of [their own page](voices.md). Nothing of it comes
with the program: it is fetched from where its makers put it, under their licences.

* *about*: the size is known as a page rounds it; where there is none, it is not known.
* † No engine of this version reads it.
* ‡ Which files it has is not known; fetch it by hand from the page that is linked.
* § It is an archive of which only some files are wanted.
"""
_DEFAULTS = """## What suits a board

`wyoming-rknn models add default --language TAG` installs, and makes ready for the first start:

{table}
A model for the board's NPU takes the place of either where the catalogue, or [your own](#your-own-catalogue), has one
of the same voice or the same kind of recogniser that is made for this SoC and has a `sha256` for every file. If it has
no graph for the CPU, the one for the CPU is installed as well and steps in where the NPU fails.
"""
_QWEN3 = """## Qwen3-ASR for your board

What can be fetched runs on the CPU. `wyoming-rknn models convert` makes the audio encoder for an NPU of a published
checkpoint; the language model for an NPU is made by Rockchip's own toolkit: [qwen3-asr.md](qwen3-asr.md) tells how.
"""
_OTHERS = """## Files of your own

`wyoming-rknn models add PATH` copies a model that lies on this machine: a Piper voice's `.onnx` with its `.onnx.json`
beside it, a recogniser's graph with what belongs to it, the folder of such a model, or an archive of it ({suffixes}).
`wyoming-rknn models add URL` fetches a voice's `.onnx`, with the `.onnx.json` beside it, or an archive, from any
http(s) address or from a file's page of the hub. Nothing is installed in which no model is found; `--name NAME` gives
it another name.
"""
_OWN = """## Your own catalogue

A file `catalog.json` in a data folder adds models, or replaces those of the same name:

```json
{"models": [{
  "name": "my-voice", "kind": "tts", "format": "piper", "languages": ["de-DE", "de"], "licence": "CC0-1.0",
  "repo": "me/my-voices", "revision": "main",
  "files": [
    {"name": "my-voice.onnx", "bytes": 63201294},
    {"name": "my-voice.onnx.json", "url": "https://example.org/my-voice.onnx.json"}
  ]
}]}
```

| field of a model | meaning |
| --- | --- |
| `name` | what it is called, and its folder |
| `kind` | `tts` or `asr` |
| `format` | layout of its files: FORMATS |
| `languages` | BCP-47 tags; optional, as all that follows |
| `language_name`, `quality`, `licence`, `remark` | texts to show |
| `speakers`, `num_speakers` | names ordered by id, and how many there are |
| `repo`, `revision` | repository of the hub and branch, tag or commit, for files that do not say |
| `home` | repository or address of a page that tells more |
| `targets`, `toolkit` | SoCs that its files for an NPU are made for, and version of the toolkit |
| `aliases` | further names |
| `files` | a list, see below |

| field of a file | meaning |
| --- | --- |
| `name` | path below the model's folder |
| `url` | address of a file that is in no hub |
| `repo`, `revision`, `path` | where it is in the hub; those of the model and `name` if not given |
| `bytes`, `sha256`, `md5` | what is checked, as far as it is known |
| `about_bytes` | the size, roughly |
| `unpack` | of an archive: its members that are wanted |

A file that is not of this form is left out with one warning that names the line or the field.
"""
_MANY = 10
_KIND_TITLES = {"asr": "Speech to text", "tts": "Voices for an NPU, and others"}
_SHOWN_LANGUAGES = ("en-US", "en-GB", "de", "es", "fr", "it", "nl", "pl", "pt-BR", "ru", "uk", "zh", "yue", "ja", "ko")
_NO_NPU = "x86-64 or Arm without an NPU"


def voices_page(catalog: Catalog) -> str:
    """Return the page of Piper's voices, by language."""
    voices = [entry for entry in catalog.entries if _is_piper(entry)]
    by_language = [
        (key, sorted(group, key=_by_name_and_quality))
        for key, group in groupby(sorted(voices, key=_language), _language)
    ]
    head = _VOICES_HEAD.format(count=len(voices), languages=len(by_language), repo=REPO, home=f"{HUB}/{REPO}")
    sections = []
    for (name, tag), group in by_language:
        rows = [
            (f"`{entry.name}`", entry.quality, megabytes(entry), _speakers(entry), _names(entry.aliases))
            for entry in group
        ]
        title = f"## {name}, {tag}" if name else f"## {tag}"
        sections.append(f"{title}\n\n{_table(('voice', 'quality', 'MB', 'speakers', 'also called'), rows)}")
    return "\n".join([head, *sections])


def models_page(catalog: Catalog) -> str:
    """Return the page of all other models, and how a user adds some."""
    others = [entry for entry in catalog.entries if not _is_piper(entry)]
    sections = [_MODELS_HEAD.format(count=len(catalog.entries) - len(others))]
    sections.append(_DEFAULTS.format(table=_defaults_table(catalog)))
    for kind, title in _KIND_TITLES.items():
        rows = [_model_row(entry) for entry in others if entry.kind == kind]
        if rows:
            columns = ("model", "languages", "precision, length", "NPU", "toolkit", "MB", "licence", "from", "remark")
            sections.append(f"## {title}\n\n{_table(columns, rows)}")
    sections.append(_QWEN3)
    sections.append(_OTHERS.format(suffixes=_names(SUFFIXES)))
    return "\n".join([*sections, _OWN.replace("FORMATS", _names(sorted(SUPPORTED_FORMATS)))])


def megabytes(entry: CatalogEntry) -> str:
    """Return a model's size in millions of bytes: "63.2", "about 486", "" if it is not known."""
    if entry.bytes is None:
        return ""
    size = f"{entry.bytes / 1e6:.1f}" if entry.bytes < 100e6 else f"{entry.bytes / 1e6:.0f}"
    return size if entry.has_exact_size else f"about {size}"


def _defaults_table(catalog: Catalog) -> str:
    """Return what is installed, by language and by boards that get the same."""
    boards: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for soc in (*STRONG_SOCS, None, *WEAK_SOCS):
        taken = tuple(tuple(entry.name for entry in defaults(catalog, language, soc)) for language in _SHOWN_LANGUAGES)
        boards.setdefault(taken, []).append(soc.upper() if soc else _NO_NPU)
    columns = ("--language", *(", ".join(names) for names in boards.values()))
    rows = (
        (language, *("<br>".join(f"`{name}`" for name in taken[number]) for taken in boards))
        for number, language in enumerate(_SHOWN_LANGUAGES)
    )
    return _table(columns, rows)


def _is_piper(entry: CatalogEntry) -> bool:
    return entry.format == "piper" and entry.home == REPO


def _language(entry: CatalogEntry) -> tuple[str, str]:
    return entry.language_name, entry.languages[0]


def _by_name_and_quality(entry: CatalogEntry) -> tuple[str, int]:
    return entry.name.rpartition("-")[0].casefold(), QUALITIES.index(entry.quality)


def _speakers(entry: CatalogEntry) -> str:
    return str(entry.num_speakers) if entry.num_speakers > 1 else ""


def _model_row(entry: CatalogEntry) -> Sequence[str]:
    marks = "".join(
        f" {mark}"
        for mark, holds in (("†", not entry.is_supported), ("‡", not entry.is_fetchable), ("§", entry.needs_unpacking))
        if holds
    )
    names = f"`{entry.name}`{marks}" + (f", also {_names(entry.aliases)}" if entry.aliases else "")
    source = f"[{entry.home.rpartition('://')[2]}]({entry.home_url})" if entry.home else ""
    languages = ", ".join(entry.languages) if len(entry.languages) < _MANY else f"{len(entry.languages)} languages"
    targets = ", ".join(entry.targets)
    return (
        names,
        languages,
        entry.quality,
        targets,
        entry.toolkit,
        megabytes(entry),
        entry.licence,
        source,
        entry.remark,
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
