"""Numbers and what stands with them, found in a sentence and put into words."""

import re
from collections.abc import Iterable
from itertools import count

from wyoming_rknn.text.languages.base import Language, Noun
from wyoming_rknn.text.numerals import MINUS_SIGNS, Number, number_pattern, parse

_WORD = "[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
"""A letter or digit of a script that separates words by spaces."""
_LEFT = rf"(?<!{_WORD})(?<!\d[.,:/’'{MINUS_SIGNS}])"
_RIGHT = rf"(?!{_WORD})(?![.,:/]\d)(?![{MINUS_SIGNS}]\d)"
_SIGN = rf"(?:(?<![\w)\]%°.,:{MINUS_SIGNS}])([{MINUS_SIGNS}+±])[  ]?(?=\d))?"

_LEFT_AS_WRITTEN = re.compile(
    rf"""
      \+\d[\d\s()/-]{{5,}}\d                  # telephone numbers
    | (?<![\d.,:])0\d{{2,}}[\s/-][\d\s-]*\d
    | (?<![\w-])\d+(?:-\d+){{2,}}
    | (?<![\w-])\d{{3}}-\d{{4}}(?!\d)
    | (?<!{_WORD})v?\d+(?:\.\d+){{2,}}(?!\d)  # versions, addresses; groups of three are numbers
    | (?<!{_WORD})v\d+(?:\.\d+)+
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ENDLESS = re.compile(r"\d{16,}")
_THOUSANDS = re.compile(r"\d{1,3}(?:\.\d{3}){2,}")
_PLACEHOLDER = re.compile("[\ue000-\uf8ff]")
_DIGIT_OR_SIGN = re.compile(r"[\d½¼¾⅓⅔]")
_ISO_DATE = re.compile(r"(?<![\w-])(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?:T(?=\d\d:\d\d)|(?![\w-]))")
_DOTTED_DATE = re.compile(r"(?<![\w.])(0?[1-9]|[12]\d|3[01])\.\s?(0?[1-9]|1[0-2])\.\s?(\d{4})(?![\d.]*\d)")
_SLASHED_DATE = re.compile(r"(?<![\w/])(\d{1,2})/(\d{1,2})/(\d{4})(?![\d/])")
_SCORE_CHARS = 3
_FRACTION = re.compile(r"(?:(\d+)\s?)?([½¼¾⅓⅔])")
_SLASHED_FRACTION = re.compile(r"(?<![\d/.,])(1/2|1/4|3/4|1/3|2/3)(?![\d/.,]*\d)(?!\w)")
_SLASHED = {"1/2": "½", "1/4": "¼", "3/4": "¾", "1/3": "⅓", "2/3": "⅔"}
_TIMES = re.compile(r"(?<=\d)\s?[×*]\s?(?=\d)|(?<=\d)×(?=\s)")
_MINUS = re.compile(r"(?<=\d)\s[-−]\s(?=\d)|(?<=\d)−(?=\d)")
_MAX_KEPT = 0x800
_GREATEST_PLAIN = 999_999
"""Longer runs of digits are numbers of telephones, articles and accounts; the engine reads them."""


class Reading:
    """Reads the numbers of one language aloud; immutable, may be shared by threads."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self.at, self.dot = language.at or None, language.dot or None
        number = number_pattern(language.decimal)
        signed = rf"{_SIGN}{_LEFT}({number})"
        scales = _any_of(language.scales)
        symbols = _any_of(language.currency_nouns)
        units = _any_of(language.unit_nouns)
        self._clock = re.compile(rf"(?<![\w:.,]){language.clock_time}(?!{_WORD}|[:.,]\d)")
        self._ranges = re.compile(rf"{_LEFT}(?<![{MINUS_SIGNS}])({number})(\s?[–—]\s?|-)({number}){_RIGHT}")
        self._money_before = re.compile(
            rf"(?<!\d)(?<!\d\s)([{MINUS_SIGNS}])?({symbols})\s?({number}){_RIGHT}(?:\s?({scales})\b)?"
        )
        self._money_after = re.compile(rf"{signed}(?:\s?({scales}))?\s?({symbols})(?!{_WORD})")
        self._quantities = re.compile(rf"{signed}[- ]?({units})(?!{_WORD})(?![²³/°])")
        self._numbers = re.compile(rf"{signed}{_RIGHT}")

    def words(self, text: str) -> str:
        """Return `text` with numbers as words wherever the language says them in one way."""
        if not _DIGIT_OR_SIGN.search(text):
            return text
        kept: list[str] = []
        numbers = count(ord("\uf000"))

        def keep(match: re.Match[str]) -> str:
            if _THOUSANDS.fullmatch(match[0]) and self._language.decimal == ",":
                return match[0]
            if len(kept) == _MAX_KEPT:
                return match[0]
            kept.append(match[0])
            return chr(next(numbers))

        text = text.replace("℃", "°C").replace("℉", "°F").replace("μ", "µ")
        text = _DEGREES.sub(r"°\1", _SQUARED.sub(lambda m: m[1] + ("²" if m[2] == "2" else "³"), text))
        text = self._dates(_ENDLESS.sub(keep, text))
        text = _LEFT_AS_WRITTEN.sub(keep, text)
        text = self._clock.sub(self._time, text)
        text = self._language.rewrite(text)
        text = _SLASHED_FRACTION.sub(lambda m: _SLASHED[m[1]] if self._language.fractions else m[0], text)
        text = _FRACTION.sub(self._vulgar, text)
        text = self._ranges.sub(self._range, text)
        if self._language.currencies:
            text = self._money_before.sub(self._money, text)
            text = self._money_after.sub(self._money, text)
        if self._language.units:
            text = self._quantities.sub(self._measure, text)
        if self._language.times:
            text = _TIMES.sub(self._spaced(self._language.times), text)
        if self._language.minus:
            text = _MINUS.sub(self._spaced(self._language.minus), text)
        text = self._numbers.sub(self._plain, text)
        return _PLACEHOLDER.sub(lambda m: kept[ord(m[0]) - 0xF000] if ord(m[0]) >= 0xF000 else m[0], text)

    def _parse(self, text: str) -> Number | None:
        return parse(text, self._language.decimal)

    def _spaced(self, word: str) -> str:
        return f"{self._language.space}{word}{self._language.space}"

    def _dates(self, text: str) -> str:
        def spoken(match: re.Match[str], day: int, month: int, year: int) -> str:
            if not (1 <= day <= 31 and 1 <= month <= 12):
                return match[0]
            before = text[: match.start()].split()
            words = self._language.date(day, month, year, before[-1].lower() if before else "")
            return f"{words} " if words and match[0].endswith("T") else words or match[0]

        def slashed(match: re.Match[str]) -> str:
            first, second, year = int(match[1]), int(match[2]), int(match[3])
            day_first = self._language.day_first
            if first > 12 or second > 12:
                day_first = first > 12
            if day_first is None and first != second:
                return match[0]
            return spoken(match, first, second, year) if day_first else spoken(match, second, first, year)

        text = _ISO_DATE.sub(lambda m: spoken(m, int(m[3]), int(m[2]), int(m[1])), text)
        text = _DOTTED_DATE.sub(lambda m: spoken(m, int(m[1]), int(m[2]), int(m[3])), text)
        return _SLASHED_DATE.sub(slashed, text)

    def _time(self, match: re.Match[str]) -> str:
        groups = match.groupdict()
        hour, minute = int(groups["hour"]), int(groups["minute"] or groups.get("minute2") or 0)
        if self._is_half_day(match):
            return match[0]
        return self._language.clock(hour, minute) or match[0]

    def _is_half_day(self, match: re.Match[str]) -> bool:
        return bool(_HALF_DAY.match(match.string, match.end()))

    def _range(self, match: re.Match[str]) -> str:
        first, second = self._parse(match[1]), self._parse(match[3])
        if first is None or second is None or not self._language.to:
            return match[0]
        rising = (first.whole, first.fraction) < (second.whole, second.fraction)
        hyphen = match[2] == "-"
        years = len(match[1]) == len(match[3]) == 4
        if not rising or (hyphen and not years and max(len(match[1]), len(match[3])) > _SCORE_CHARS):
            return match[0]
        to = self._spaced(self._language.to)
        return f"{self._end_of_range(first, years, match[1])}{to}{self._end_of_range(second, years, match[3])}"

    def _end_of_range(self, number: Number, years: bool, written: str) -> str:
        if years and 1100 < number.whole < 2100 and not number.fraction and self._language.spelling:
            return self._language.year(number.whole)
        return written

    def _money(self, match: re.Match[str]) -> str:
        if match.re is self._money_before:
            sign, symbol, digits, scale = match.groups()
        else:
            sign, digits, scale, symbol = match.groups()
        number = self._parse(digits)
        if number is None or sign == "±":
            return match[0]
        number = Number(number.whole, number.fraction, bool(sign and sign in MINUS_SIGNS))
        currency = self._language.currency_nouns[symbol]
        if scale:
            return self._language.scaled_money(number, scale, currency)
        spoken = self._language.money(number, currency)
        return f"{self._language.plus} {spoken}" if sign == "+" else spoken

    def _measure(self, match: re.Match[str]) -> str:
        sign, digits, symbol = match.groups()
        number = self._parse(digits)
        if number is None:
            return match[0]
        noun = self._language.unit_nouns[symbol]
        number = Number(number.whole, number.fraction, bool(sign and sign in MINUS_SIGNS))
        spoken = self._language.temperature(number, noun) if "°" in symbol else self._language.quantity(number, noun)
        return f"{self._language.plus if sign == '+' else '±'} {spoken}" if sign and sign in "+±" else spoken

    def _vulgar(self, match: re.Match[str]) -> str:
        noun: Noun | None = self._language.fraction_nouns.get(match[2])
        if noun is None:
            return match[0]
        return f"{match[1]} {noun.forms[1]}" if match[1] else noun.forms[0]

    def _plain(self, match: re.Match[str]) -> str:
        sign, digits = match[1], match[2]
        number = self._parse(digits)
        if number is None or sign in ("+", "±"):
            return match[0]
        language = self._language
        negative = bool(sign)
        if negative and not language.minus:
            return match[0]
        if number.fraction:
            return language.number(Number(number.whole, number.fraction, negative))
        if digits.isdecimal():
            if not negative and len(digits) == 4 and language.reads_as_year(number.whole):
                return language.year(number.whole)
            if number.whole > _GREATEST_PLAIN:
                return match[0]
        item = match.start() == 0 and match.string[match.end() : match.end() + 1] in (".", ")")
        if language.is_safe(number.whole) or (item and language.spelling):
            return language.number(Number(number.whole, negative=negative))
        return f"{language.minus} {digits}" if negative else match[0]


_DEGREES = re.compile(r"(?<=[\d ])[°º]\s?([CF])\b")
_SQUARED = re.compile(r"(?<=\d)(\s?[kcm]?m)([23])\b")
_HALF_DAY = re.compile(r"\s?[ap]\.?\s?m\b", re.IGNORECASE)


def _any_of(words: Iterable[str]) -> str:
    found = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return found or r"(?!)"
