"""Dutch."""

import re

from wyoming_rknn.text.languages.base import Language, Noun
from wyoming_rknn.text.numerals import Number

_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,3})(?:e|ste|de)\b")


class Dutch(Language):
    """Dutch."""

    spelling = "nl"
    decimal = ","
    point = "komma"
    pairs_fraction = True
    minus = "min"
    plus = "plus"
    to = "tot"
    times = "keer"
    at = "apenstaartje"
    dot = "punt"
    months = "januari februari maart april mei juni juli augustus september oktober november december"
    scales = ("miljoen", "miljard", "duizend")
    clock_time = r"(?P<hour>[01]?\d|2[0-4])(?::(?P<minute>[0-5]\d)(?: uur\b)?|\.(?P<minute2>[0-5]\d) uur\b)"
    units = """
        %  procent
        ‰  promille
        °C  graad Celsius|graden Celsius
        °F  graad Fahrenheit|graden Fahrenheit
        °  graad|graden
        km  kilometer
        m  meter
        cm  centimeter
        mm  millimeter
        km²  vierkante kilometer
        m²  vierkante meter
        m³  kubieke meter
        µg/m³  microgram per kubieke meter
        km/h km/u  kilometer per uur
        m/s  meter per seconde
        kg  kilogram
        g  gram
        mg  milligram
        l L  liter
        ml mL  milliliter
        kWh  kilowattuur
        Wh  wattuur
        kW  kilowatt
        MW  megawatt
        W  watt
        V  volt
        A  ampère
        mA  milliampère
        Hz  hertz
        kHz  kilohertz
        MHz  megahertz
        GHz  gigahertz
        kB KB  kilobyte
        MB  megabyte
        GB  gigabyte
        TB  terabyte
        hPa  hectopascal
        bar  bar
        dB  decibel
        lx  lux
        kcal  kilocalorie|kilocalorieën
        ms  milliseconde|milliseconden
        s sec  seconde|seconden
        min  minuut|minuten
        h  uur
    """
    currencies = """
        € EUR  euro  cent
        $ US$ USD  dollar  cent
        £ GBP  pond  penny|pence
        ¥ JPY  yen
        CHF  Zwitserse frank|Zwitserse frank  rappen
    """
    fractions = """
        ½  een half|en een half
        ¼  een kwart|en een kwart
        ¾  driekwart|en driekwart
        ⅓  een derde|en een derde
        ⅔  twee derde|en twee derde
    """

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return the words; "één" with its accents, since "een" is the article."""
        return "één" if number == 1 else self.speller.cardinal(number)

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return "vijf euro en tien cent"."""
        return f"{main} en {self.quantity(cents, cent)}"

    def year(self, year: int) -> str:
        """Return "negentienhonderdnegenennegentig"."""
        return self.speller.year(year) if 1100 <= year < 2000 else self.cardinal(year)

    def reads_as_year(self, number: int) -> bool:
        """Say "1999" by hundreds, as usual for quantities too."""
        return 1100 <= number < 2000

    def clock(self, hour: int, minute: int) -> str:
        """Return "tien uur vijf"."""
        return f"{self.cardinal(hour)} uur {self.cardinal(minute) if minute else ''}".rstrip()

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "eenentwintig november tweeduizendzesentwintig"."""
        text = f"{self.cardinal(day)} {self.month_names[month - 1]}"
        return f"{text} {self.year(year)}" if year else text

    def rewrite(self, text: str) -> str:
        """Say "1e", "2de" and "21ste"."""
        return _ORDINAL.sub(lambda m: self.speller.ordinal(int(m[1])) if int(m[1]) else m[0], text)


LANGUAGE = Dutch
