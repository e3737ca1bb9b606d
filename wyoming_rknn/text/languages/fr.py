"""French."""

import re

from wyoming_rknn.text.languages.base import Language, Noun
from wyoming_rknn.text.numerals import Number

_FIRST = re.compile(r"(?<![\w.,])1(er|re|ère|ers|res)\b")
_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,3})(e|è|ème|eme|nd|nde|d)(s?)\b")


class French(Language):
    """French."""

    spelling = "fr"
    decimal = ","
    point = "virgule"
    pairs_fraction = True
    minus = "moins"
    plus = "plus"
    to = "à"
    times = "fois"
    at = "arobase"
    dot = "point"
    months = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre"
    scales = ("millions", "million", "milliards", "milliard")
    clock_time = (
        r"(?P<hour>[01]?\d|2[0-4])"
        r"(?::(?P<minute>[0-5]\d)(?:\s?h(?:eures)?\b)?|\s?h\s?(?P<minute2>[0-5]\d)(?:\s?min\b)?)"
    )
    units = """
        %  m:pour cent
        ‰  m:pour mille
        °C  m:degré Celsius|degrés Celsius
        °F  m:degré Fahrenheit|degrés Fahrenheit
        °  m:degré|degrés
        km  m:kilomètre|kilomètres
        m  m:mètre|mètres
        cm  m:centimètre|centimètres
        mm  m:millimètre|millimètres
        km²  m:kilomètre carré|kilomètres carrés
        m²  m:mètre carré|mètres carrés
        m³  m:mètre cube|mètres cubes
        µg/m³  m:microgramme par mètre cube|microgrammes par mètre cube
        km/h  m:kilomètre par heure|kilomètres par heure
        m/s  m:mètre par seconde|mètres par seconde
        kg  m:kilogramme|kilogrammes
        g  m:gramme|grammes
        mg  m:milligramme|milligrammes
        l L  m:litre|litres
        ml mL  m:millilitre|millilitres
        kWh  m:kilowattheure|kilowattheures
        Wh  m:wattheure|wattheures
        kW  m:kilowatt|kilowatts
        MW  m:mégawatt|mégawatts
        W  m:watt|watts
        V  m:volt|volts
        A  m:ampère|ampères
        mA  m:milliampère|milliampères
        Hz  m:hertz
        kHz  m:kilohertz
        MHz  m:mégahertz
        GHz  m:gigahertz
        ko Ko  m:kilooctet|kilooctets
        Mo  m:mégaoctet|mégaoctets
        Go  m:gigaoctet|gigaoctets
        To  m:téraoctet|téraoctets
        kB KB  m:kilobyte|kilobytes
        MB  m:mégabyte|mégabytes
        GB  m:gigabyte|gigabytes
        hPa  m:hectopascal|hectopascals
        bar  m:bar|bars
        dB  m:décibel|décibels
        lx  m:lux
        ppm  f:partie par million|parties par million
        kcal  f:kilocalorie|kilocalories
        ms  f:milliseconde|millisecondes
        s sec  f:seconde|secondes
        min  f:minute|minutes
        h  f:heure|heures
    """
    currencies = """
        € EUR  m:euro|euros  m:centime|centimes
        $ US$ USD  m:dollar|dollars  m:cent|cents
        £ GBP  f:livre|livres  m:penny|pence
        ¥ JPY  m:yen|yens
        CHF  m:franc suisse|francs suisses  m:centime|centimes
    """
    fractions = """
        ½  un demi|et demi
        ¼  un quart|un quart
        ¾  trois quarts|trois quarts
        ⅓  un tiers|un tiers
        ⅔  deux tiers|deux tiers
    """

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return "un" or "une"."""
        return self.speller.cardinal(number, "spellout-cardinal-feminine" if gender == "f" else "spellout-numbering")

    def is_safe(self, number: int) -> bool:
        """Leave what ends in "un" or "une"."""
        return number % 10 != 1 or number % 100 in (11, 71, 91)

    def form(self, number: Number, noun: Noun) -> str:
        """Return the singular below 2."""
        return noun.forms[0 if number.whole < 2 else -1]

    def scale_joint(self, scale: str, money: str) -> str:
        """Return "d'" as in "millions d'euros"."""
        return " d'" if money[0] in "aeiou" else " de "

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return "cinq euros quatre-vingt-dix-neuf"."""
        return f"{main} {self.cardinal(cents.whole)}"

    def clock(self, hour: int, minute: int) -> str:
        """Return "dix heures cinq"."""
        minutes = self.cardinal(minute, "f") if minute else ""
        return f"{self.cardinal(hour, 'f')} {'heure' if hour < 2 else 'heures'} {minutes}".rstrip()

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "vingt et un novembre deux mille vingt-six"."""
        spoken = "premier" if day == 1 else self.cardinal(day)
        text = f"{spoken} {self.month_names[month - 1]}"
        return f"{text} {self.year(year)}" if year else text

    def rewrite(self, text: str) -> str:
        """Say "1er", "1re" and "3e"."""

        def first(match: re.Match[str]) -> str:
            word = "premier" if match[1].startswith("er") else "première"
            return f"{word}s" if match[1].endswith("s") else word

        def ordinal(match: re.Match[str]) -> str:
            number = int(match[1])
            if number < 2 or (match[2] in ("nd", "nde", "d") and number != 2):
                return match[0]
            if match[2].startswith(("n", "d")):
                return f"second{'e' if match[2] == 'nde' else ''}{match[3]}"
            return f"{self.speller.ordinal(number, 'spellout-ordinal-masculine')}{match[3]}"

        return _ORDINAL.sub(ordinal, _FIRST.sub(first, text))


LANGUAGE = French
