"""Spanish."""

import re

from wyoming_rknn.text.languages.base import Language, Noun
from wyoming_rknn.text.numerals import Number

_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,2})\.?(º|ª|er\b|o\b|a\b)")


class Spanish(Language):
    """Spanish; Mexico, Central America and the United States write a decimal point."""

    spelling = "es"
    decimal = ","
    point = "coma"
    pairs_fraction = True
    minus = "menos"
    plus = "más"
    to = "a"
    times = "por"
    at = "arroba"
    dot = "punto"
    months = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"
    scales = ("millones", "millón", "mil")
    clock_time = r"(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?:\s?h(?:oras)?\b)?"
    units = """
        %  m:por ciento
        ‰  m:por mil
        °C ºC  m:grado Celsius|grados Celsius
        °F ºF  m:grado Fahrenheit|grados Fahrenheit
        °  m:grado|grados
        km  m:kilómetro|kilómetros
        m  m:metro|metros
        cm  m:centímetro|centímetros
        mm  m:milímetro|milímetros
        km²  m:kilómetro cuadrado|kilómetros cuadrados
        m²  m:metro cuadrado|metros cuadrados
        m³  m:metro cúbico|metros cúbicos
        µg/m³  m:microgramo por metro cúbico|microgramos por metro cúbico
        km/h  m:kilómetro por hora|kilómetros por hora
        m/s  m:metro por segundo|metros por segundo
        kg  m:kilogramo|kilogramos
        g  m:gramo|gramos
        mg  m:miligramo|miligramos
        l L  m:litro|litros
        ml mL  m:mililitro|mililitros
        kWh  m:kilovatio hora|kilovatios hora
        Wh  m:vatio hora|vatios hora
        kW  m:kilovatio|kilovatios
        MW  m:megavatio|megavatios
        W  m:vatio|vatios
        V  m:voltio|voltios
        A  m:amperio|amperios
        mA  m:miliamperio|miliamperios
        Hz  m:hercio|hercios
        kHz  m:kilohercio|kilohercios
        MHz  m:megahercio|megahercios
        GHz  m:gigahercio|gigahercios
        kB KB  m:kilobyte|kilobytes
        MB  m:megabyte|megabytes
        GB  m:gigabyte|gigabytes
        TB  m:terabyte|terabytes
        hPa  m:hectopascal|hectopascales
        bar  m:bar|bares
        dB  m:decibelio|decibelios
        lx  m:lux
        ppm  f:parte por millón|partes por millón
        kcal  f:kilocaloría|kilocalorías
        ms  m:milisegundo|milisegundos
        s  m:segundo|segundos
        min  m:minuto|minutos
        h  f:hora|horas
    """
    currencies = """
        € EUR  m:euro|euros  m:céntimo|céntimos
        $ US$ USD  m:dólar|dólares  m:centavo|centavos
        £ GBP  f:libra|libras  m:penique|peniques
        ¥ JPY  m:yen|yenes
        CHF  m:franco suizo|francos suizos  m:céntimo|céntimos
    """
    fractions = """
        ½  medio|y medio
        ¼  un cuarto|y cuarto
        ¾  tres cuartos|y tres cuartos
        ⅓  un tercio|y un tercio
        ⅔  dos tercios|y dos tercios
    """

    def __init__(self, region: str = "") -> None:
        super().__init__(region)
        if region in ("MX", "US", "GT", "HN", "NI", "PA", "PR", "DO", "SV", "PE"):
            self.decimal, self.point = ".", "punto"

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return "uno", but "veintiún grados" and "doscientas horas"."""
        rules = {"m": "cardinal-masculine", "f": "cardinal-feminine"}.get(gender, "numbering")
        return self.speller.cardinal(number, f"spellout-{rules}")

    def is_safe(self, number: int) -> bool:
        """Leave what ends in "uno" and the hundreds that agree with their noun."""
        return (number % 10 != 1 or number % 100 == 11) and number % 1000 < 200

    def scale_joint(self, scale: str, money: str) -> str:
        """Return "de" after millions."""
        return " " if scale == "mil" else " de "

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return "cinco euros con diez céntimos"."""
        return f"{main} con {self.quantity(cents, cent)}"

    def clock(self, hour: int, minute: int) -> str:
        """Return "diez y cinco"."""
        spoken = self.cardinal(hour, "f")
        if not minute:
            return f"{spoken} en punto"
        return f"{spoken} {'y ' if hour <= 12 else ''}{self.cardinal(minute)}"

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "veintiuno de noviembre de dos mil veintiséis"."""
        spoken = "primero" if day == 1 else self.cardinal(day)
        text = f"{spoken} de {self.month_names[month - 1]}"
        return f"{text} de {self.year(year)}" if year else text

    def rewrite(self, text: str) -> str:
        """Say "1.º", "2ª" and "3er"."""

        def ordinal(match: re.Match[str]) -> str:
            if not 1 <= int(match[1]) <= 20 or (match[2] in ("o", "a") and "." not in match[0]):
                return match[0]
            kind = {"º": "masculine", "o": "masculine", "ª": "feminine", "a": "feminine"}.get(
                match[2], "masculine-adjective"
            )
            return self.speller.ordinal(int(match[1]), f"spellout-ordinal-{kind}")

        return _ORDINAL.sub(ordinal, text)


LANGUAGE = Spanish
