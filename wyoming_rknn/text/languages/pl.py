"""Polish: numbers stay digits, since their case depends on the sentence; units and money are said."""

from wyoming_rknn.text.languages.slavic import Slavic


class Polish(Slavic):
    """Polish."""

    minus = "minus"
    plus = "plus"
    to = "do"
    times = "razy"
    at = "małpa"
    dot = "kropka"
    units = """
        %  procent|procent|procent|procent
        °C  stopień Celsjusza|stopnie Celsjusza|stopni Celsjusza|stopnia Celsjusza
        °F  stopień Fahrenheita|stopnie Fahrenheita|stopni Fahrenheita|stopnia Fahrenheita
        °  stopień|stopnie|stopni|stopnia
        km  kilometr|kilometry|kilometrów|kilometra
        m  metr|metry|metrów|metra
        cm  centymetr|centymetry|centymetrów|centymetra
        mm  milimetr|milimetry|milimetrów|milimetra
        m²  metr kwadratowy|metry kwadratowe|metrów kwadratowych|metra kwadratowego
        km/h  kilometr na godzinę|kilometry na godzinę|kilometrów na godzinę|kilometra na godzinę
        m/s  metr na sekundę|metry na sekundę|metrów na sekundę|metra na sekundę
        kg  kilogram|kilogramy|kilogramów|kilograma
        g  gram|gramy|gramów|grama
        l L  litr|litry|litrów|litra
        ml  mililitr|mililitry|mililitrów|mililitra
        kWh  kilowatogodzina|kilowatogodziny|kilowatogodzin|kilowatogodziny
        kW  kilowat|kilowaty|kilowatów|kilowata
        W  wat|waty|watów|wata
        V  wolt|wolty|woltów|wolta
        hPa  hektopaskal|hektopaskale|hektopaskali|hektopaskala
        dB  decybel|decybele|decybeli|decybela
        GB  gigabajt|gigabajty|gigabajtów|gigabajta
        MB  megabajt|megabajty|megabajtów|megabajta
        s  sekunda|sekundy|sekund|sekundy
        min  minuta|minuty|minut|minuty
        h  godzina|godziny|godzin|godziny
    """
    currencies = """
        zł PLN  złoty|złote|złotych|złotego  grosz|grosze|groszy|grosza
        € EUR  euro|euro|euro|euro  cent|centy|centów|centa
        $ USD  dolar|dolary|dolarów|dolara  cent|centy|centów|centa
        £ GBP  funt|funty|funtów|funta  pens|pensy|pensów|pensa
    """


LANGUAGE = Polish
