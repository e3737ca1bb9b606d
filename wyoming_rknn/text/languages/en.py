"""English."""

import re

from wyoming_rknn.text.languages.base import Language, Noun, month_number, month_pattern
from wyoming_rknn.text.numerals import Number

_MONTHS = "January February March April May June July August September October November December"
_MONTH = rf"(?:{month_pattern(_MONTHS, 'Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec')})\b(?:\.(?=\s\d))?"
_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,3}(?:,\d{3}){0,2}|\d{1,6})(?:st|nd|rd|th)\b", re.IGNORECASE)
_MONTH_DAY = re.compile(rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?(?![\w:.,]*\d)(?:,? (\d{{4}})(?![\d.,:]*\d))?")
_MONTH_DAY_YEAR = re.compile(rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?, (\d{{4}})(?![\d.,:]*\d)")
_DAY_MONTH = re.compile(
    rf"\b(the )?(\d{{1,2}})(?:st|nd|rd|th)?( of)? ({_MONTH})(?:,? (\d{{4}})(?![\d.,:]*\d))?",
    re.IGNORECASE,
)
_DECADE = re.compile(r"(?<![\w.,])((?:1[1-9]|20)\d0)'?s\b")
_YEAR = re.compile(
    rf"\b(in|since|until|till|year|before|after|around|circa|during|late|early|mid|of|{_MONTH})"
    r" (1[1-9]\d\d|20\d\d)(?![\w%°]|[.,:–-]\d| ?[%°€$£])",
    re.IGNORECASE,
)
_AM_PM = re.compile(r"(?<![\w:.,])(1[0-2]|0?[1-9])(?::([0-5]\d))?\s?([ap])\.?\s?m\b\.?", re.IGNORECASE)


class English(Language):
    """English."""

    spelling = "en"
    point = "point"
    minus = "minus"
    plus = "plus"
    to = "to"
    times = "times"
    at = "at"
    dot = "dot"
    months = _MONTHS
    scales = ("thousand", "million", "billion", "trillion")
    units = """
        %  percent
        ‰  per mille
        °C  degree Celsius|degrees Celsius
        °F  degree Fahrenheit|degrees Fahrenheit
        °  degree|degrees
        km  kilometer|kilometers
        m  meter|meters
        cm  centimeter|centimeters
        mm  millimeter|millimeters
        µm  micrometer|micrometers
        mi  mile|miles
        ft  foot|feet
        km²  square kilometer|square kilometers
        m² sqm  square meter|square meters
        cm²  square centimeter|square centimeters
        m³  cubic meter|cubic meters
        µg/m³  microgram per cubic meter|micrograms per cubic meter
        km/h kph  kilometer per hour|kilometers per hour
        m/s  meter per second|meters per second
        mph  mile per hour|miles per hour
        kg  kilogram|kilograms
        g  gram|grams
        mg  milligram|milligrams
        lb lbs  pound|pounds
        oz  ounce|ounces
        l L  liter|liters
        ml mL  milliliter|milliliters
        kWh  kilowatt hour|kilowatt hours
        Wh  watt hour|watt hours
        MWh  megawatt hour|megawatt hours
        kW  kilowatt|kilowatts
        MW  megawatt|megawatts
        W  watt|watts
        V  volt|volts
        mV  millivolt|millivolts
        mA  milliampere|milliamperes
        mAh  milliampere hour|milliampere hours
        Hz  hertz
        kHz  kilohertz
        MHz  megahertz
        GHz  gigahertz
        KB kB  kilobyte|kilobytes
        MB  megabyte|megabytes
        GB  gigabyte|gigabytes
        TB  terabyte|terabytes
        Mbit/s Mbps  megabit per second|megabits per second
        MB/s  megabyte per second|megabytes per second
        hPa  hectopascal|hectopascals
        kPa  kilopascal|kilopascals
        bar  bar
        psi  P S I
        dB  decibel|decibels
        lx  lux
        ppm  part per million|parts per million
        rpm  revolution per minute|revolutions per minute
        kcal  kilocalorie|kilocalories
        ms  millisecond|milliseconds
        s sec  second|seconds
        min  minute|minutes
        h hr hrs  hour|hours
    """
    currencies = """
        € EUR  euro|euros  cent|cents
        $ US$ USD  dollar|dollars  cent|cents
        £ GBP  pound|pounds  penny|pence
        ¥ JPY  yen
        CHF  Swiss franc|Swiss francs  centime|centimes
        ₹ INR  rupee|rupees  paisa|paise
    """
    fractions = """
        ½  one half|and a half
        ¼  one quarter|and a quarter
        ¾  three quarters|and three quarters
        ⅓  one third|and a third
        ⅔  two thirds|and two thirds
    """

    def __init__(self, region: str = "") -> None:
        super().__init__(region)
        # Only the United States writes the month first; without a region it is anyone's guess.
        self.day_first = {"US": False, "": None}.get(region, True)

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return "five dollars and ten cents"."""
        return f"{main} and {self.quantity(cents, cent)}"

    def year(self, year: int) -> str:
        """Return "nineteen ninety-nine"."""
        return self.speller.year(year)

    def reads_as_year(self, number: int) -> bool:
        """Say "1999" as a year, "1000" and "2026" in counting, which suits both."""
        return 1100 < number < 2000

    def clock(self, hour: int, minute: int) -> str:
        """Return "ten oh five"."""
        if not hour and not minute:
            return "midnight"
        if not minute:
            return f"{self.cardinal(hour)} o'clock" if 1 <= hour <= 12 else f"{self.cardinal(hour)} hundred hours"
        return f"{self.cardinal(hour)} {'oh ' if minute < 10 else ''}{self.cardinal(minute)}"

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "October third, twenty twenty-six"."""
        text = f"{self.month_names[month - 1]} {self.speller.ordinal(day)}"
        return f"{text}, {self.year(year)}" if year else text

    def rewrite(self, text: str) -> str:
        """Say dates in words, "7 p.m.", "1st" and "the 1960s"."""

        def month_day(match: re.Match[str]) -> str:
            day = int(match[2])
            if not 1 <= day <= 31:
                return match[0]
            return self.date(day, month_number(match[1], self.month_names), int(match[3]) if match[3] else None, "")

        def day_month(match: re.Match[str]) -> str:
            if not match[4][0].isupper() or not 1 <= int(match[2]) <= 31:
                return match[0]
            month = self.month_names[month_number(match[4], self.month_names) - 1]
            article = "The" if match[1] and match[1][0] == "T" else "the"
            year = f", {self.year(int(match[5]))}" if match[5] else ""
            return f"{article} {self.speller.ordinal(int(match[2]))} of {month}{year}"

        def half_day(match: re.Match[str]) -> str:
            minute = int(match[2] or 0)
            spoken = self.clock(int(match[1]), minute) if minute else self.cardinal(int(match[1]))
            return f"{spoken} {match[3].lower()}.m."

        def decade(match: re.Match[str]) -> str:
            words = self.year(int(match[1]))
            return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"

        text = _MONTH_DAY_YEAR.sub(month_day, text)
        text = _DAY_MONTH.sub(day_month, text)
        text = _MONTH_DAY.sub(month_day, text)
        text = _AM_PM.sub(half_day, text)
        text = _DECADE.sub(decade, text)
        text = _YEAR.sub(lambda m: f"{m[1]} {self.year(int(m[2]))}", text)
        return _ORDINAL.sub(lambda m: self.speller.ordinal(int(m[1].replace(",", ""))), text)


LANGUAGE = English
