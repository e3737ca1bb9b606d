"""Does a sentence end here? The judgement about the end of a piece of text, for `sentences`."""

import re
from enum import Enum, auto

from wyoming_rknn.text.abbreviations import Abbreviations

_QUOTES = "\"'”“’‘»«›‹)]}」』】〉》）］｝"
CLOSERS = f"{_QUOTES}*_`~"
"""What belongs to the sentence before it; German closes quotations with the marks that open English and French ones."""
SELF_SUFFICIENT = frozenset("。！？｡।॥။។៕።፧")
"""Enders that need no space after them."""
_ENDERS = SELF_SUFFICIENT | frozenset(".!?…‽⁇⁈⁉؟۔։՜՞\u037e")
_CLAUSE_MARKS = frozenset(",;:–—،؛")
_WIDE_CLAUSE_MARKS = frozenset("、，；：､")

_TAIL = re.compile(rf"([^\s]*?)([{re.escape(''.join(_ENDERS))}]+)([{re.escape(CLOSERS)}]*(?:\s»)?)\Z")
_TAIL_CHARS = 60
_OPENING = "\"'“„‘«‹([{¿¡*_`~「『（"
_OPENING_QUOTES = '"“„«¿¡'
_DAY_MONTH = re.compile(r"\d{1,2}\.\d{1,2}")
_INITIALISM = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,3}")
_ROMAN = re.compile(r"[IVXLCDM]{2,}")


class Verdict(Enum):
    """What the end of a text says about the sentence before it."""

    OPEN = auto()
    """No sentence ends here."""
    ENDED = auto()
    """One does, whatever follows the space."""
    UNLESS_LOWER = auto()
    """One does if what follows is not in lower case."""
    UNLESS_NUMBER = auto()
    """One does if no digit follows: "No."."""
    IF_OPENER = auto()
    """One does if the next word typically begins a sentence: "J.", "U.S."."""
    UNLESS_MONTH = auto()
    """One does if the next word has a capital and is no noun that follows an ordinal: "3."."""


def judge(text: str, rules: Abbreviations) -> Verdict:
    """Judge the end of `text`, which has no space after it."""
    tail = _TAIL.search(text, max(0, len(text) - _TAIL_CHARS))
    if tail is None or not is_closed(text):
        return Verdict.OPEN
    word, enders, closers = tail[1].lstrip(_OPENING), tail[2], tail[3]
    if not any(char.isalnum() for char in text):
        return Verdict.OPEN
    after_quote = any(char in _QUOTES for char in closers)
    if enders in ("...", "..") or enders.startswith("…") or (len(enders) > 2 and set(enders) == {"."}):
        return Verdict.UNLESS_LOWER
    if enders != ".":
        return Verdict.UNLESS_LOWER if after_quote else Verdict.ENDED
    verdict = _judge_word(word, text[: tail.start()].rstrip(), rules)
    if verdict is Verdict.ENDED and after_quote:
        return Verdict.UNLESS_LOWER
    return verdict


def _judge_word(word: str, before: str, rules: Abbreviations) -> Verdict:
    """Judge a single full stop after `word`; `before` is what precedes the word."""
    bare = word.lower()
    if word.isdecimal():
        return _judge_number(word, before, rules)
    if bare in rules.inner:
        return Verdict.OPEN
    if bare in rules.closing:
        return Verdict.UNLESS_LOWER if not _INITIALISM.fullmatch(word) or word.islower() else Verdict.IF_OPENER
    if bare in rules.numbered:
        return Verdict.UNLESS_NUMBER
    if len(word) == 1 and word.isalpha():
        if word == "I" and rules.openers and not rules.ordinal_dot:  # the English pronoun
            return Verdict.UNLESS_LOWER
        if word.islower():
            return Verdict.OPEN if rules.ordinal_dot or before.endswith(".") else Verdict.UNLESS_LOWER
        return Verdict.IF_OPENER
    if _INITIALISM.fullmatch(word) and "." in word:
        return Verdict.UNLESS_LOWER if word.islower() else Verdict.IF_OPENER
    if rules.ordinal_dot and (_ROMAN.fullmatch(word) or _DAY_MONTH.fullmatch(word)):
        return Verdict.UNLESS_LOWER
    return Verdict.ENDED


def _judge_number(number: str, before: str, rules: Abbreviations) -> Verdict:
    if not before:
        return Verdict.OPEN  # the number of a list item
    if not rules.ordinal_dot or len(number) > 4:
        return Verdict.ENDED
    cue = before.rsplit(None, 1)[-1].lstrip(_OPENING).lower()
    if len(number) <= 2 and (cue in rules.ordinal_cues or cue.rstrip(".").isdecimal()):
        return Verdict.OPEN
    return Verdict.UNLESS_MONTH


def follows(verdict: Verdict, char: str) -> bool | None:
    """Tell whether a sentence ended, given the first visible character after it; `None`: the whole word decides."""
    match verdict:
        case Verdict.OPEN:
            return False
        case Verdict.ENDED:
            return True
        case Verdict.UNLESS_LOWER:
            return not char.islower()
        case Verdict.UNLESS_NUMBER:
            return not char.isdigit()
        case _:
            return None if char.isalpha() and not char.islower() else char in _OPENING_QUOTES


def word_follows(verdict: Verdict, word: str, rules: Abbreviations) -> bool:
    """Tell whether a sentence ended, given the whole word after it."""
    if verdict is Verdict.IF_OPENER:
        return word.lower() in rules.openers
    return word.lower() not in rules.months


def is_closed(text: str) -> bool:
    """Return whether no link, phoneme span or code span is open at the end of `text`."""
    return text.count("[") <= text.count("]") and text.count("`") % 2 == 0


def is_clause_end(text: str, *, spaced: bool) -> bool:
    """Return whether `text` ends with a mark at which a voice may pause; western marks need a space after them."""
    bare = text.rstrip(CLOSERS)
    return bool(bare) and (bare[-1] in _WIDE_CLAUSE_MARKS or (spaced and bare[-1] in _CLAUSE_MARKS))
