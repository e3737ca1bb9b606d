"""How each language says numbers, dates, times, units and money: one module per language, found by its code."""

import importlib
import importlib.util
from functools import lru_cache

from wyoming_rknn.text.abbreviations import primary_language
from wyoming_rknn.text.languages.base import Language

_ALIASES = {"cmn": "zh", "no": "nb"}


def language_of(tag: str) -> Language | None:
    """Return what is known about the language of a BCP-47 tag; `None`: its digits are left to the engine."""
    subtags = tag.replace("_", "-").upper().split("-")[1:]
    return _load(primary_language(tag), next((subtag for subtag in subtags if len(subtag) == 2), ""))


@lru_cache(maxsize=64)
def _load(code: str, region: str) -> Language | None:
    code = _ALIASES.get(code, code)
    if not (code.isascii() and code.isalpha() and 2 <= len(code) <= 3):
        return None
    name = f"{__name__}.{code}"
    if importlib.util.find_spec(name) is None:
        return None
    language = importlib.import_module(name).LANGUAGE(region)
    assert isinstance(language, Language)
    return language
