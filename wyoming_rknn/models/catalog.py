"""Which models can be had: the package's list and users' own. Made when asked for, without the network."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from wyoming_rknn.errors import ModelInvalid, NotInCatalog
from wyoming_rknn.models import catalog_form
from wyoming_rknn.models.catalog_entry import CatalogEntry
from wyoming_rknn.models.formats.piper_config import bcp47
from wyoming_rknn.models.formats.rknn_file import runs_on
from wyoming_rknn.names import folded

PACKAGED = Path(__file__).with_name("catalog.json")
"""The list that comes with the program."""

_SUGGESTIONS = 5
_SAME_LANGUAGE = {"nb": "no", "nn": "no", "cmn": "zh"}
"""What others call languages of the catalogue."""

_LOGGER = logging.getLogger(__name__)


class Catalog:
    """The models that can be had, sorted by name. Immutable."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        """Take entries; of several with one name the last counts."""
        known = {entry.name: entry for entry in entries}
        self._entries = tuple(sorted(known.values(), key=lambda entry: (entry.name.casefold(), entry.name)))

    @classmethod
    def load(cls, user_files: Sequence[Path] = ()) -> Self:
        """Read the package's list and those of `user_files` that exist.

        Where names are the same, an earlier one of these wins over later ones, and all over the package's. A file that
        is not of the form is left out with one warning; nothing is raised.
        """
        entries: list[CatalogEntry] = []
        for path in (PACKAGED, *reversed(user_files)):
            try:
                entries.extend(catalog_form.read(path))
            except FileNotFoundError:
                if path == PACKAGED:
                    _LOGGER.warning("%s does not exist; install the program again to have its list of models", path)
            except ModelInvalid as error:
                _LOGGER.warning("%s; until then nothing of that file is offered", error)
        return cls(entries)

    @property
    def entries(self) -> tuple[CatalogEntry, ...]:
        """Return all."""
        return self._entries

    def find(self, name: str) -> CatalogEntry:
        """Return the model with a name or alias, of which case and separators may differ. Raises `NotInCatalog`."""
        wanted = folded(name)
        for is_it in (
            lambda entry: entry.name == name,
            lambda entry: name in entry.aliases,
            lambda entry: folded(entry.name) == wanted,
            lambda entry: wanted in map(folded, entry.aliases),
        ):
            found = next((entry for entry in self._entries if is_it(entry)), None)
            if found is not None:
                return found
        names = [entry.name for entry in self._entries]
        holding = sorted(each for each in names if wanted and wanted in folded(each))
        raise NotInCatalog(name, names, holding[:_SUGGESTIONS])

    def available(
        self, kind: str | None = None, language: str | None = None, soc: str | None = None
    ) -> tuple[CatalogEntry, ...]:
        """Return the models for a purpose ("tts", "asr"), a language and a board.

        Of a tag with a region that no voice has, the language counts: "de-AT" gives what "de" gives. With `soc`, models
        for the NPUs of others are left out, those for a CPU are not.
        """
        found = [
            entry
            for entry in self._entries
            if kind in (None, entry.kind) and (soc is None or not entry.targets or runs_on(entry.targets, soc))
        ]
        return tuple(found if language is None else _speaking(found, bcp47(language)))


def _speaking(entries: Sequence[CatalogEntry], tag: str) -> list[CatalogEntry]:
    near = [entry for entry in entries if _bare(tag) in map(_bare, entry.languages)]
    if "-" not in tag:
        return near
    # Recognisers name no regions and so understand all.
    exact = [entry for entry in near if tag in entry.languages or not any("-" in one for one in entry.languages)]
    served = {entry.kind for entry in exact}
    return [entry for entry in near if entry in exact or entry.kind not in served]


def _bare(tag: str) -> str:
    language = tag.split("-")[0]
    return _SAME_LANGUAGE.get(language, language)
