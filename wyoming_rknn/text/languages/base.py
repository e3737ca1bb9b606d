"""What a language module states, and how most languages do it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from wyoming_rknn.text.numerals import Number, Speller


@dataclass(frozen=True, slots=True)
class Noun:
    """A counted thing: its forms by number, as `Language.form` picks them, and its gender where words agree with it."""

    forms: tuple[str, ...]
    gender: str = ""


@dataclass(frozen=True, slots=True)
class Currency:
    """Money: the main unit and its hundredth, which some lack."""

    main: Noun
    cent: Noun | None = None


class Language:
    """A language in one region. Subclasses state what differs; class attributes are data, methods are grammar.

    In tables, a line is "symbols  [gender:]form|form|…", columns two spaces apart; symbols are separated by spaces. A
    form with "{}" takes the number there, otherwise the number comes first.
    """

    spelling = ""
    """The CLDR's name of the number words; "": digits stay digits."""
    decimal = "."
    point = ""
    """The word between whole and fraction."""
    pairs_fraction = False
    """Whether "21.25" is said with "twenty-five" rather than "two five"."""
    minus = ""
    plus = ""
    below_zero = ""
    """Said before a negative temperature instead of `minus`."""
    to = ""
    """Between the ends of a range."""
    times = ""
    at = ""
    dot = ""
    months = ""
    units = ""
    currencies = ""
    fractions = ""
    """Vulgar fractions: alone, and after a whole number."""
    space = " "
    """What stands between words."""
    scales: tuple[str, ...] = ()
    """Words that multiply money: "million"."""
    clock_time = r"(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)"
    day_first: bool | None = True
    """The order in "5/6/2026"; `None` where it is anyone's guess."""

    def __init__(self, region: str = "") -> None:
        self.region = region

    @cached_property
    def speller(self) -> Speller:
        """Return the number words."""
        return Speller(self.spelling)

    @cached_property
    def month_names(self) -> tuple[str, ...]:
        """Return January to December."""
        return tuple(self.months.split())

    @cached_property
    def unit_nouns(self) -> Mapping[str, Noun]:
        """Return the units by symbol."""
        return {symbol: noun for symbols, noun in _rows(self.units) for symbol in symbols}

    @cached_property
    def currency_nouns(self) -> Mapping[str, Currency]:
        """Return the currencies by symbol and code; in their table the hundredth is a third column."""
        found = {}
        for line in self.currencies.strip().splitlines():
            symbols, main, *cent = re.split(r"\s{2,}", line.strip())
            currency = Currency(_noun(main), _noun(cent[0]) if cent else None)
            found.update(dict.fromkeys(symbols.split(), currency))
        return found

    @cached_property
    def fraction_nouns(self) -> Mapping[str, Noun]:
        """Return the two ways to say each vulgar fraction."""
        return {symbol: noun for symbols, noun in _rows(self.fractions) for symbol in symbols}

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return a whole number as said before a noun of `gender`, or in counting if that is ""."""
        return self.speller.cardinal(number) if self.spelling else str(number)

    def is_safe(self, number: int) -> bool:
        """Return whether a whole number has the same words whatever noun follows."""
        return bool(self.spelling)

    def number(self, number: Number, gender: str = "") -> str:
        """Return any number with its sign."""
        text = self.cardinal(number.whole, "" if number.fraction else gender)
        if number.fraction:
            parts = (text, self.point, self.fraction(number.fraction))
            text = self.space.join(parts) if self.point else self._digits(number)
        return f"{self.minus}{self.space}{text}" if number.negative else text

    def _digits(self, number: Number) -> str:
        return f"{number.whole}{self.decimal}{number.fraction}"

    def fraction(self, digits: str) -> str:
        """Return the digits after the decimal mark."""
        if not self.spelling:
            return " ".join(digits)
        if self.pairs_fraction and len(digits) <= 2:
            zeros = len(digits) - len(digits.lstrip("0"))
            rest = [int(digits[zeros:])] if digits[zeros:] else []
            return " ".join(self.cardinal(value) for value in [0] * zeros + rest)
        return " ".join(self.cardinal(int(digit)) for digit in digits)

    def form(self, number: Number, noun: Noun) -> str:
        """Return the noun as it stands with `number`."""
        return noun.forms[0 if number.is_one else -1]

    def quantity(self, number: Number, noun: Noun) -> str:
        """Return a number with its noun."""
        form = self.form(number, noun)
        spoken = self.number(number, noun.gender)
        return form.replace("{}", spoken) if "{}" in form else f"{spoken}{self.space}{form}"

    def temperature(self, number: Number, noun: Noun) -> str:
        """Return a quantity of degrees."""
        if number.negative and self.below_zero:
            return f"{self.below_zero}{self.quantity(Number(number.whole, number.fraction), noun)}"
        return self.quantity(number, noun)

    def money(self, number: Number, currency: Currency) -> str:
        """Return an amount; two decimals are hundredths."""
        if currency.cent is None or len(number.fraction) != 2:
            return self.quantity(number, currency.main)
        main = Number(number.whole, negative=number.negative)
        cents = Number(int(number.fraction))
        if not cents.whole:
            return self.quantity(main, currency.main)
        if not main.whole and not main.negative:
            return self.quantity(cents, currency.cent)
        return self.join_money(self.quantity(main, currency.main), cents, currency.cent)

    def scaled_money(self, number: Number, scale: str, currency: Currency) -> str:
        """Return "five million euros"."""
        money = currency.main.forms[-1].replace("{}", "")
        return f"{self.number(number)}{self.space}{scale}{self.scale_joint(scale, money)}{money}"

    def scale_joint(self, scale: str, money: str) -> str:
        """Return what stands between "million" and the money."""
        return self.space

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return an amount from its main part and its hundredths."""
        return f"{main} {self.quantity(cents, cent)}"

    def year(self, year: int) -> str:
        """Return a year."""
        return self.cardinal(year)

    def reads_as_year(self, number: int) -> bool:
        """Return whether a bare number of four digits is best read as a year."""
        return False

    def clock(self, hour: int, minute: int) -> str:
        """Return a time of day, "" to leave it as it is written."""
        return ""

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return a date; `before` is the word before it, in lower case. "" leaves it as it is written."""
        return ""

    def rewrite(self, text: str) -> str:
        """Replace what only this language writes: ordinals, dates in words."""
        return text


def _rows(table: str) -> list[tuple[list[str], Noun]]:
    rows = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in table.strip().splitlines())
    return [(symbols.split(), _noun(forms)) for symbols, forms in rows]


def _noun(text: str) -> Noun:
    gender, colon, forms = text.rpartition(":")
    return Noun(tuple(forms.split("|")), gender if colon else "")


def month_pattern(months: str, short: str = "") -> str:
    """Return a pattern of month names and the short forms given ("jan feb …"), longest first."""
    return "|".join(sorted({*months.split(), *short.split()}, key=len, reverse=True))


def month_number(name: str, months: tuple[str, ...]) -> int:
    """Return 1 to 12 for a month's name or its first three letters."""
    start = name.lower().rstrip(".")[:3]
    return next(index for index, month in enumerate(months, 1) if month.lower().startswith(start))
