"""What the Slavic languages share: nouns with four forms, numbers that agree in case and so stay digits."""

from wyoming_rknn.text.languages.base import Language, Noun
from wyoming_rknn.text.numerals import Number


class Slavic(Language):
    """A language whose nouns in tables have the forms for 1, 2 to 4, 5 and more, and fractions."""

    decimal = ","
    one_by_last_digit = False
    """Whether 21 goes with the singular, as 1 does."""

    def form(self, number: Number, noun: Noun) -> str:
        """Return the form by CLDR's plural rules; nouns with one form keep it."""
        if len(noun.forms) == 1:
            return noun.forms[0]
        last, teens = number.whole % 10, 11 <= number.whole % 100 <= 14
        if number.fraction:
            return noun.forms[3]
        if number.whole == 1 or (self.one_by_last_digit and last == 1 and not teens):
            return noun.forms[0]
        return noun.forms[1 if 2 <= last <= 4 and not teens else 2]
