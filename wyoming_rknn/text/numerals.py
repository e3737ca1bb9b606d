"""Numbers as they stand in text, and their words (rules of Unicode's CLDR through `unicode-rbnf`)."""

import re
from dataclasses import dataclass

from unicode_rbnf import FormatPurpose, RbnfEngine

MINUS_SIGNS = "-−–"
_SPACES = " \u00a0\u2009\u202f’'"
"""Group separators besides the comma and the dot."""


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal number; `fraction` keeps its zeros and is "" for an integer."""

    whole: int
    fraction: str = ""
    negative: bool = False

    @property
    def is_one(self) -> bool:
        """Return whether nouns stay in the singular."""
        return self.whole == 1 and not self.fraction


def number_pattern(decimal: str) -> str:
    """Return the pattern of everything that may be one number; `parse` tells whether it is.

    Only languages with a decimal comma group by spaces; in the others a space separates two numbers.
    """
    spaces = _SPACES if decimal == "," else _SPACES[1:]
    return rf"(?:\d{{1,3}}(?:[{spaces}]\d{{3}}){{1,6}}(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)*)"


_MAX_DIGITS = 15
"""Longer numbers have no words in some languages, and nobody would say them."""
_PLAIN = re.compile(r"\d+")
_GROUPED = re.compile(rf"\d{{1,3}}(?:([.,{_SPACES}])\d{{3}})(?:\1\d{{3}})*(?:[.,](\d+))?")
_DECIMAL = re.compile(r"(\d+)[.,](\d+)")


def parse(text: str, decimal: str) -> Number | None:
    """Read an unsigned number written by the rules of a language whose decimal mark is `decimal`, "." or ",".

    Returns `None` for what could be two different numbers ("1,234" where the comma is the decimal mark) or none at all.
    """
    if sum(map(str.isdecimal, text)) > _MAX_DIGITS:
        return None
    if _PLAIN.fullmatch(text):
        if len(text) > 1 and text[0] == "0":
            return None
        return Number(int(text))
    group = "," if decimal == "." else "."
    simple = _DECIMAL.fullmatch(text)
    if simple and (len(simple[2]) != 3 or simple[1] == "0"):
        # "21.5" is no grouping in any language.
        return Number(int(simple[1]), simple[2]) if simple[1] == "0" or simple[1][0] != "0" else None
    grouped = _GROUPED.fullmatch(text)
    if grouped and text[0] != "0":
        separator, fraction = grouped[1], grouped[2] or ""
        if separator == decimal and not fraction:
            if text.count(separator) > 1:
                return Number(int(re.sub(r"\D", "", text)))
            return Number(int(simple[1]), simple[2]) if simple and decimal == "." else None
        if fraction and text[-len(fraction) - 1] == separator:
            return None
        if (
            separator not in (group, decimal)
            and fraction
            and text[-len(fraction) - 1] != decimal
            and len(fraction) == 3
        ):
            return None
        whole = text[: len(text) - len(fraction) - 1] if fraction else text
        return Number(int(re.sub(r"\D", "", whole)), fraction)
    if simple and simple[1][0] != "0" and text[len(simple[1])] == decimal:
        return Number(int(simple[1]), simple[2])
    return None


class Speller:
    """Number words of one language, named as in the CLDR: "en", "pt_PT". Raises `ValueError` if there are none."""

    def __init__(self, language: str) -> None:
        self._engine = RbnfEngine.for_language(language)

    def cardinal(self, number: int, rules: str = "spellout-numbering") -> str:
        """Return the words for a number that is 0 or more."""
        return self._format(number, rules, FormatPurpose.CARDINAL)

    def ordinal(self, number: int, rules: str = "spellout-ordinal") -> str:
        """Return the words for a place in a row."""
        return self._format(number, rules, FormatPurpose.ORDINAL)

    def year(self, number: int) -> str:
        """Return the words for a year of our era."""
        return self._format(number, "spellout-numbering-year", FormatPurpose.YEAR)

    def _format(self, number: int, rules: str, purpose: FormatPurpose) -> str:
        return self._engine.format_number(number, purpose, ruleset_names=[rules]).text
