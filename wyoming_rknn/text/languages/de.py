"""German."""

import re

from wyoming_rknn.text.languages.base import Language, Noun, month_number, month_pattern
from wyoming_rknn.text.numerals import Number

_MONTHS = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
_MONTH = rf"(?:{month_pattern(_MONTHS, 'Jänner Feber Jan Feb Mär Apr Jun Jul Aug Sep Sept Okt Nov Dez')})\b"
_DATE = re.compile(rf"(?:\b(\w+)(\s))?(?<![\d.,])(\d{{1,2}})\.\s?({_MONTH})\.?(?:\s(\d{{4}})(?![\d.,:]*\d))?")
_DAY_MONTH = re.compile(r"(?:\b(\w+)(\s))?(?<![\w.,])(0?[1-9]|[12]\d|3[01])\.\s?(0?[1-9]|1[0-2])\.(?!\d)")
_ORDINAL = re.compile(r"\b(\w+)\s(\d{1,2})\.\s(?=[A-ZÄÖÜa-zäöü])")
_YEAR = re.compile(
    r"\b(Jahre?s?|in|seit|vor|nach|um|ab|bis|von|zwischen) (1[1-9]\d\d|20\d\d)(?![\w%°]|[.,:–-]\d| ?[%°€$£])"
)

# What an ordinal ends in after the words before it; other words say nothing about the case.
_ENDING_N = (
    "am im zum zur vom beim den dem des ab bis seit einem einen seinem seinen ihrem ihren meinem meinen "
    "unserem unseren diesem diesen jedem jeden jeder"
)
_ENDING_E = "der die das"


class German(Language):
    """German."""

    spelling = "de"
    decimal = ","
    point = "Komma"
    minus = "minus"
    plus = "plus"
    to = "bis"
    times = "mal"
    at = "ät"
    dot = "Punkt"
    months = _MONTHS
    scales = ("Tausend", "Millionen", "Million", "Milliarden", "Milliarde", "Mio.", "Mrd.")
    clock_time = r"(?P<hour>[01]?\d|2[0-4])(?::(?P<minute>[0-5]\d)(?: Uhr\b)?|\.(?P<minute2>[0-5]\d) Uhr\b)"
    units = """
        %  n:Prozent
        ‰  n:Promille
        °C  n:Grad Celsius
        °F  n:Grad Fahrenheit
        °  n:Grad
        Uhr  n:Uhr
        km  m:Kilometer
        m  m:Meter
        cm  m:Zentimeter
        mm  m:Millimeter
        µm  m:Mikrometer
        km²  m:Quadratkilometer
        m² qm  m:Quadratmeter
        m³  m:Kubikmeter
        µg/m³  n:Mikrogramm pro Kubikmeter
        km/h  m:Kilometer pro Stunde|Kilometer pro Stunde
        m/s  m:Meter pro Sekunde
        kg  n:Kilogramm
        g  n:Gramm
        mg  n:Milligramm
        l L  m:Liter
        ml mL  m:Milliliter
        kWh  f:Kilowattstunde|Kilowattstunden
        Wh  f:Wattstunde|Wattstunden
        MWh  f:Megawattstunde|Megawattstunden
        kW  n:Kilowatt
        MW  n:Megawatt
        W  n:Watt
        V  n:Volt
        A  n:Ampere
        mA  n:Milliampere
        mAh  f:Milliamperestunde|Milliamperestunden
        Hz  n:Hertz
        kHz  n:Kilohertz
        MHz  n:Megahertz
        GHz  n:Gigahertz
        kB KB  n:Kilobyte
        MB  n:Megabyte
        GB  n:Gigabyte
        TB  n:Terabyte
        Mbit/s  n:Megabit pro Sekunde
        MB/s  n:Megabyte pro Sekunde
        hPa  n:Hektopascal
        bar  n:Bar
        dB  n:Dezibel
        lx  n:Lux
        ppm  n:ppm
        kcal  f:Kilokalorie|Kilokalorien
        ms  f:Millisekunde|Millisekunden
        s Sek.  f:Sekunde|Sekunden
        min Min.  f:Minute|Minuten
        h Std.  f:Stunde|Stunden
    """
    currencies = """
        € EUR  m:Euro  m:Cent
        $ US$ USD  m:Dollar  m:Cent
        £ GBP  n:Pfund  m:Penny|Pence
        ¥ JPY  m:Yen
        CHF  m:Franken  m:Rappen
    """
    fractions = """
        ½  ein halb|einhalb
        ¼  ein Viertel|ein Viertel
        ¾  drei Viertel|drei Viertel
        ⅓  ein Drittel|ein Drittel
        ⅔  zwei Drittel|zwei Drittel
    """

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return "eins", but "ein Meter" and "eine Stunde"."""
        rules = {"m": "cardinal-masculine", "f": "cardinal-feminine", "n": "cardinal-neuter"}.get(gender, "numbering")
        return self.speller.cardinal(number, f"spellout-{rules}")

    def is_safe(self, number: int) -> bool:
        """Leave 1, which agrees with its noun."""
        return number % 100 != 1 or number == 0

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return "fünf Euro neunundneunzig"."""
        return f"{main} {self.cardinal(cents.whole)}"

    def year(self, year: int) -> str:
        """Return "neunzehnhundertneunundneunzig"."""
        return self.speller.year(year)

    def reads_as_year(self, number: int) -> bool:
        """Say "1999" by hundreds, as usual for quantities too."""
        return 1100 <= number < 2000

    def clock(self, hour: int, minute: int) -> str:
        """Return "zehn Uhr fünf"."""
        return f"{self.cardinal(hour, 'n')} Uhr {self.cardinal(minute) if minute else ''}".rstrip()

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "dritter Oktober", in the case that `before` asks for."""
        text = f"{self._ordinal(day, before)} {self.month_names[month - 1]}"
        return f"{text} {self.year(year)}" if year else text

    def _ordinal(self, number: int, before: str) -> str:
        ending = "-n" if before in _ENDING_N.split() else "" if before in _ENDING_E.split() else "-r"
        return self.speller.ordinal(number, f"spellout-ordinal{ending}")

    def rewrite(self, text: str) -> str:
        """Say "am 3. Oktober", "im 2. Stock" and "im Jahr 1999"."""

        def date(match: re.Match[str]) -> str:
            if not 1 <= int(match[3]) <= 31:
                return match[0]
            month = month_number("Jan" if match[4].startswith("Jä") else match[4], self.month_names)
            spoken = self.date(int(match[3]), month, int(match[5]) if match[5] else None, (match[1] or "").lower())
            return f"{match[1] or ''}{match[2] or ''}{spoken}"

        def day_month(match: re.Match[str]) -> str:
            spoken = self.date(int(match[3]), int(match[4]), None, (match[1] or "").lower())
            full_stop = "" if text[match.end() :].strip() else "."
            return f"{match[1] or ''}{match[2] or ''}{spoken}{full_stop}"

        def ordinal(match: re.Match[str]) -> str:
            before = match[1].lower()
            if before not in f"{_ENDING_N} {_ENDING_E}".split():
                return match[0]
            return f"{match[1]} {self._ordinal(int(match[2]), before)} "

        text = _DAY_MONTH.sub(day_month, text)
        text = _ORDINAL.sub(ordinal, _DATE.sub(date, text))
        return _YEAR.sub(lambda m: f"{m[1]} {self.year(int(m[2]))}", text)


LANGUAGE = German
