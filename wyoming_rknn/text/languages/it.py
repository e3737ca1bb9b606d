"""Italian."""

import re

from wyoming_rknn.text.languages.base import Language, Noun
from wyoming_rknn.text.numerals import Number

_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,3})(º|ª|o\b|a\b)")


class Italian(Language):
    """Italian."""

    spelling = "it"
    decimal = ","
    point = "virgola"
    pairs_fraction = True
    minus = "meno"
    plus = "più"
    to = "a"
    times = "per"
    at = "chiocciola"
    dot = "punto"
    months = "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre"
    scales = ("milioni di", "milioni", "milione", "miliardi di", "miliardi", "mila")
    units = """
        %  m:per cento
        ‰  m:per mille
        °C  m:grado Celsius|gradi Celsius
        °F  m:grado Fahrenheit|gradi Fahrenheit
        °  m:grado|gradi
        km  m:chilometro|chilometri
        m  m:metro|metri
        cm  m:centimetro|centimetri
        mm  m:millimetro|millimetri
        km²  m:chilometro quadrato|chilometri quadrati
        m² mq  m:metro quadrato|metri quadrati
        m³ mc  m:metro cubo|metri cubi
        µg/m³  m:microgrammo per metro cubo|microgrammi per metro cubo
        km/h  m:chilometro all'ora|chilometri all'ora
        m/s  m:metro al secondo|metri al secondo
        kg  m:chilogrammo|chilogrammi
        g  m:grammo|grammi
        mg  m:milligrammo|milligrammi
        l L  m:litro|litri
        ml mL  m:millilitro|millilitri
        kWh  m:chilowattora|chilowattora
        Wh  m:wattora|wattora
        kW  m:chilowatt
        MW  m:megawatt
        W  m:watt
        V  m:volt
        A  m:ampere
        mA  m:milliampere
        Hz  m:hertz
        kHz  m:chilohertz
        MHz  m:megahertz
        GHz  m:gigahertz
        kB KB  m:kilobyte
        MB  m:megabyte
        GB  m:gigabyte
        TB  m:terabyte
        hPa  m:ettopascal
        bar  m:bar
        dB  m:decibel
        lx  m:lux
        kcal  f:chilocaloria|chilocalorie
        ms  m:millisecondo|millisecondi
        s sec  m:secondo|secondi
        min  m:minuto|minuti
        h  f:ora|ore
    """
    currencies = """
        € EUR  m:euro  m:centesimo|centesimi
        $ US$ USD  m:dollaro|dollari  m:centesimo|centesimi
        £ GBP  f:sterlina|sterline  m:penny|pence
        ¥ JPY  m:yen
        CHF  m:franco|franchi  m:centesimo|centesimi
    """
    fractions = """
        ½  mezzo|e mezzo
        ¼  un quarto|e un quarto
        ¾  tre quarti|e tre quarti
        ⅓  un terzo|e un terzo
        ⅔  due terzi|e due terzi
    """

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return "uno", but "un grado" and "una libbra"; other numbers do not agree."""
        if number == 1 and gender:
            return "una" if gender == "f" else "un"
        return self.speller.cardinal(number)

    def is_safe(self, number: int) -> bool:
        """Leave 1, which agrees with its noun."""
        return number != 1

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return "cinque euro e dieci centesimi"."""
        return f"{main} e {self.quantity(cents, cent)}"

    def clock(self, hour: int, minute: int) -> str:
        """Return "dieci e cinque"."""
        spoken = self.cardinal(hour, "f")
        return f"{spoken} e {self.cardinal(minute)}" if minute else f"{spoken} in punto"

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "ventuno novembre duemilaventisei"."""
        text = f"{'primo' if day == 1 else self.cardinal(day)} {self.month_names[month - 1]}"
        return f"{text} {self.year(year)}" if year else text

    def rewrite(self, text: str) -> str:
        """Say "1º" and "2ª"."""

        def ordinal(match: re.Match[str]) -> str:
            if int(match[1]) == 0:
                return match[0]
            kind = "feminine" if match[2] in ("ª", "a") else "masculine"
            return self.speller.ordinal(int(match[1]), f"spellout-ordinal-{kind}")

        return _ORDINAL.sub(ordinal, text)


LANGUAGE = Italian
