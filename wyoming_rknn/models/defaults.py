"""What to install where nothing is installed: a voice that the board speaks in time, and a recogniser."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import CatalogEntry
from wyoming_rknn.models.formats.rknn_file import runs_on
from wyoming_rknn.names import folded

LANGUAGE = "en-US"
STRONG_SOCS = ("rk3588", "rk3576")
WEAK_SOCS = ("rk3566", "rk3568", "rk3562", "rv1126b")
"""Four Cortex-A55 or A53 and an NPU of one core: "low" voices are the better choice, they have half the samples."""
_QUALITIES = ("medium", "low", "high", "x_low")
_WEAK_QUALITIES = ("low", "x_low", "medium", "high")
_FAVOURITES = ("en_US-lessac", "en_GB-alan", "de_DE-thorsten", "fr_FR-siwis", "es_ES-davefx", "nl_NL-ronnie")
"""Of several voices of a language, ones that exist in the usual qualities or that the name's order would hide; the
first wins."""
_OTHER_PHONEMES = ("zh_CN-chaowen-", "zh_CN-xiao_ya-", "ja_JA-hi_fi_captain-", "he_IL-saspeech-", "th_TH-tsync2-")
"""Voices that want phonemes of pinyin, pyopenjtalk, Nakdimon or TLTK, which piper-tts 1.8.0 makes and this program does
not: what is installed unasked must speak."""
_RECOGNISER = "sensevoice"
_OF_AN_SOC = re.compile(r"-r[kv]\d{4}[a-z]?(-.*)?$")
"""What the name of a voice for an NPU has more than that of the voice; as `folded` writes it."""


def defaults(catalog: Catalog, language: str = LANGUAGE, soc: str | None = None) -> tuple[CatalogEntry, ...]:
    """Return what suits a language and a board: a voice, and a recogniser if one knows the language.

    Of either, one for the NPU of `soc` is taken where the catalogue has it, with a hash for each file, since nothing
    else proves what a stranger made. Where it has no graph for a CPU, the one for a CPU comes too, as a spare.
    """
    voices = [entry for entry in catalog.available("tts", language) if entry.format == "piper" and entry.is_fetchable]
    bare = language.replace("_", "-").split("-")[0].casefold()
    heard = [entry for entry in catalog.entries if _RECOGNISER in (entry.name, *entry.aliases)]
    chosen: list[CatalogEntry] = []
    for entry in (*_best(voices, soc), *(entry for entry in heard[:1] if bare in entry.languages)):
        for_npu = [other for other in catalog.entries if _is_for_npu(other, soc) and _is_same(other, entry, bare)]
        chosen += for_npu[:1]
        if not for_npu or not _runs_on_a_cpu(for_npu[0]):
            chosen.append(entry)
    return tuple(chosen)


def _best(voices: Sequence[CatalogEntry], soc: str | None) -> Sequence[CatalogEntry]:
    order = _WEAK_QUALITIES if soc in WEAK_SOCS else _QUALITIES

    def rank(voice: CatalogEntry) -> tuple[bool, int, int, str]:
        name = voice.name.rpartition("-")[0]
        favour = _FAVOURITES.index(name) if name in _FAVOURITES else len(_FAVOURITES)
        quality = order.index(voice.quality) if voice.quality in order else len(order)
        return voice.num_speakers > 1, quality, favour, voice.name

    return sorted((voice for voice in voices if not voice.name.startswith(_OTHER_PHONEMES)), key=rank)[:1]


def _is_for_npu(entry: CatalogEntry, soc: str | None) -> bool:
    return (
        soc is not None
        and runs_on(entry.targets, soc)
        and entry.is_supported
        and entry.is_fetchable
        and all(file.sha256 for file in entry.files)
    )


def _is_same(entry: CatalogEntry, other: CatalogEntry, bare: str) -> bool:
    """Tell whether an entry for an NPU is another one's voice, or a recogniser of its family that knows a language."""
    if entry.kind != other.kind:
        return False
    if entry.kind == "asr":
        return entry.format.split("-")[0] == other.format.split("-")[0] and bare in entry.languages
    names = {_OF_AN_SOC.sub("", folded(name)) for name in (entry.name, *entry.aliases)}
    return not names.isdisjoint(map(folded, (other.name, *other.aliases)))


def _runs_on_a_cpu(entry: CatalogEntry) -> bool:
    # A voice's encoder runs there in any case, its decoder decides.
    names: Iterable[str] = (name for file in entry.files for name in (file.unpack or (file.name,)))
    graphs = {PurePosixPath(name).name for name in names if name.endswith(".onnx")}
    return bool(graphs - {"encoder.onnx"})
