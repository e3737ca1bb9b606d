"""Portuguese."""

import re

from wyoming_rknn.text.languages.base import Language, Noun
from wyoming_rknn.text.numerals import Number

_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,3})\.?(º|ª|o\b|a\b)")


class Portuguese(Language):
    """Portuguese."""

    spelling = "pt"
    decimal = ","
    point = "vírgula"
    pairs_fraction = True
    minus = "menos"
    plus = "mais"
    to = "a"
    times = "vezes"
    at = "arroba"
    dot = "ponto"
    months = "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro"
    scales = ("milhões", "milhão", "bilhões", "bilhão", "mil")
    clock_time = (
        r"(?P<hour>[01]?\d|2[0-4])(?::(?P<minute>[0-5]\d)(?:\s?h(?:oras)?\b)?|\s?h\s?(?P<minute2>[0-5]\d)(?:\s?min\b)?)"
    )
    units = """
        %  m:por cento
        ‰  m:por mil
        °C ºC  m:grau Celsius|graus Celsius
        °F ºF  m:grau Fahrenheit|graus Fahrenheit
        °  m:grau|graus
        km  m:quilômetro|quilômetros
        m  m:metro|metros
        cm  m:centímetro|centímetros
        mm  m:milímetro|milímetros
        km²  m:quilômetro quadrado|quilômetros quadrados
        m²  m:metro quadrado|metros quadrados
        m³  m:metro cúbico|metros cúbicos
        µg/m³  m:micrograma por metro cúbico|microgramas por metro cúbico
        km/h  m:quilômetro por hora|quilômetros por hora
        m/s  m:metro por segundo|metros por segundo
        kg  m:quilograma|quilogramas
        g  m:grama|gramas
        mg  m:miligrama|miligramas
        l L  m:litro|litros
        ml mL  m:mililitro|mililitros
        kWh  m:quilowatt-hora|quilowatts-hora
        Wh  m:watt-hora|watts-hora
        kW  m:quilowatt|quilowatts
        MW  m:megawatt|megawatts
        W  m:watt|watts
        V  m:volt|volts
        A  m:ampere|amperes
        mA  m:miliampere|miliamperes
        Hz  m:hertz
        kHz  m:quilohertz
        MHz  m:megahertz
        GHz  m:gigahertz
        kB KB  m:kilobyte|kilobytes
        MB  m:megabyte|megabytes
        GB  m:gigabyte|gigabytes
        TB  m:terabyte|terabytes
        hPa  m:hectopascal|hectopascais
        bar  m:bar
        dB  m:decibel|decibéis
        lx  m:lux
        kcal  f:quilocaloria|quilocalorias
        ms  m:milissegundo|milissegundos
        s  m:segundo|segundos
        min  m:minuto|minutos
        h  f:hora|horas
    """
    currencies = """
        € EUR  m:euro|euros  m:cêntimo|cêntimos
        R$ BRL  m:real|reais  m:centavo|centavos
        $ US$ USD  m:dólar|dólares  m:centavo|centavos
        £ GBP  f:libra|libras  m:centavo|centavos
        ¥ JPY  m:iene|ienes
        CHF  m:franco suíço|francos suíços  m:cêntimo|cêntimos
    """
    fractions = """
        ½  meio|e meio
        ¼  um quarto|e um quarto
        ¾  três quartos|e três quartos
        ⅓  um terço|e um terço
        ⅔  dois terços|e dois terços
    """

    def __init__(self, region: str = "") -> None:
        super().__init__(region)
        if region == "PT":
            self.units = self.units.replace("quilôm", "quilóm")

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return "dois" or "duas"."""
        rules = "feminine" if gender == "f" else "masculine"
        return self.speller.cardinal(number, f"spellout-cardinal-{rules}")

    def is_safe(self, number: int) -> bool:
        """Leave what agrees with its noun: 1, 2 and the hundreds from 200."""
        return (number % 10 not in (1, 2) or number % 100 in (11, 12)) and number % 1000 < 200

    def form(self, number: Number, noun: Noun) -> str:
        """Return the singular below 2."""
        return noun.forms[0 if number.whole == 1 else -1]

    def scale_joint(self, scale: str, money: str) -> str:
        """Return "de" after millions."""
        return " " if scale == "mil" else " de "

    def join_money(self, main: str, cents: Number, cent: Noun) -> str:
        """Return "cinco euros e dez cêntimos"."""
        return f"{main} e {self.quantity(cents, cent)}"

    def clock(self, hour: int, minute: int) -> str:
        """Return "dez e cinco"."""
        spoken = self.cardinal(hour, "f")
        return f"{spoken} e {self.cardinal(minute)}" if minute else f"{spoken} {'hora' if hour == 1 else 'horas'}"

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "vinte e um de novembro de dois mil e vinte e seis"."""
        text = f"{'primeiro' if day == 1 else self.cardinal(day)} de {self.month_names[month - 1]}"
        return f"{text} de {self.year(year)}" if year else text

    def rewrite(self, text: str) -> str:
        """Say "1º" and "2ª"."""

        def ordinal(match: re.Match[str]) -> str:
            if int(match[1]) == 0 or (match[2] in ("o", "a") and "." not in match[0]):
                return match[0]
            kind = "feminine" if match[2] in ("ª", "a") else "masculine"
            return self.speller.ordinal(int(match[1]), f"spellout-ordinal-{kind}")

        return _ORDINAL.sub(ordinal, text)


LANGUAGE = Portuguese
