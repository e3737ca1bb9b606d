"""What to install where nothing is installed: a voice that the board speaks in time, and a recogniser."""

from collections.abc import Sequence

from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import CatalogEntry

LANGUAGE = "en-US"
WEAK_SOCS = ("rk3566", "rk3568", "rk3562", "rv1126b")
"""Four Cortex-A55 or A53 and an NPU of one core: "low" voices are the better choice, they have half the samples."""
_QUALITIES = ("medium", "low", "high", "x_low")
_WEAK_QUALITIES = ("low", "x_low", "medium", "high")
_FAVOURITES = ("en_US-lessac", "en_GB-alan", "de_DE-thorsten", "fr_FR-siwis", "es_ES-davefx", "nl_NL-ronnie")
"""Of several voices of a language, ones that exist in the usual qualities or that the name's order would hide."""
_RECOGNISER = "sensevoice"


def defaults(catalog: Catalog, language: str = LANGUAGE, soc: str | None = None) -> tuple[CatalogEntry, ...]:
    """Return what suits a language and a board: a voice, and a recogniser if one knows the language."""
    voices = [entry for entry in catalog.available("tts", language) if entry.format == "piper" and entry.is_fetchable]
    bare = language.replace("_", "-").split("-")[0].casefold()
    recogniser = catalog.find(_RECOGNISER)
    heard = [recogniser] if bare in recogniser.languages else []
    return (*_best(voices, soc), *heard)


def _best(voices: Sequence[CatalogEntry], soc: str | None) -> Sequence[CatalogEntry]:
    order = _WEAK_QUALITIES if soc in WEAK_SOCS else _QUALITIES

    def rank(voice: CatalogEntry) -> tuple[bool, int, bool, str]:
        is_favourite = voice.name.rpartition("-")[0] in _FAVOURITES
        quality = order.index(voice.quality) if voice.quality in order else len(order)
        return voice.num_speakers > 1, quality, not is_favourite, voice.name

    return sorted(voices, key=rank)[:1]
