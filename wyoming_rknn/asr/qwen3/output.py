"""What Qwen3-ASR answers: the language, the text, and three ways to go wrong."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wyoming_rknn.asr.qwen3.languages import NAMES, tag_of
from wyoming_rknn.asr.qwen3.tokenizer import TEXT, Tokenizer

LEAST_REPEATS = 6
LEAST_REPEATED = 18
"""Tokens: a digit with a space is two of them, and people do say zero seven times."""
_LONGEST_REPEATED = 8
ECHOED = 3
"""Terms of the context in a row and in its order: nobody lists rooms as the settings do."""
SHORT_S = 1.0
"""Speech that has no room for two names."""
_ECHOED_SHARE = 0.7
_NO_TERM = -2
"""Not -1, after which the first term would come."""
_CHARACTER_REPEATS = re.compile(r"(.)\1{20,}", re.DOTALL)
_PATTERN_REPEATS = re.compile(r"(.)\1{19}(?=.{20})|(.{2,20}?)\2{19,}", re.DOTALL)
_SPACELESS = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
"""Thai, Lao, Burmese, Khmer, kana and Han: their words do not show."""
_UNIT = re.compile(rf"{_SPACELESS}|(?:(?!{_SPACELESS})[^\W_])+")


@dataclass(frozen=True, slots=True)
class Output:
    """An answer, or what there is of it."""

    text: str = ""
    language: str | None = None
    """BCP-47 tag; None if nothing was said, if it is none of ours, or while it is not yet known."""


def parse(ids: Sequence[int], tokenizer: Tokenizer, forced: str | None = None) -> Output:
    """Read the tokens of an answer: `language German<asr_text>` and the text, or the text alone.

    `forced` is the tag or the model's name of the language that the prompt gave. Without `<asr_text>` all is text, as
    in transformers' `parse_output`, but for the beginning of an answer that has not come to its text yet.
    """
    mark = tokenizer.special(TEXT)
    begin = ids.index(mark) + 1 if mark in ids else 0
    text = collapse(tokenizer.decode(ids[begin:]).strip()).strip()
    if forced is not None:
        return Output(text, tag_of(forced) or forced)
    if begin:
        return Output(text, _language(tokenizer.decode(ids[: begin - 1])))
    return Output() if _is_head(text) else Output(text)


def collapse(text: str) -> str:
    """Leave one of what is repeated 20 times: characters in a row, and patterns of up to 20 characters.

    As qwen-asr's `detect_and_fix_repetitions`, where a single character counts from 21 on, or from 20 on if as many
    characters follow.
    """
    return _PATTERN_REPEATS.sub(r"\1\2", _CHARACTER_REPEATS.sub(r"\1", text))


def loop(ids: Sequence[int]) -> int | None:
    """Return how many tokens are left if the loop is cut that an answer ends with; None if it ends with none.

    A loop is 1 to 8 tokens that come at least 6 times in a row and are 18 tokens together; one time is left of them.
    To be asked after each token.
    """
    count = len(ids)
    for size in range(1, _LONGEST_REPEATED + 1):
        same = 0
        while same + size < count and ids[count - 1 - same] == ids[count - 1 - same - size]:
            same += 1
        repeats = same // size + 1
        if repeats >= LEAST_REPEATS and repeats * size >= LEAST_REPEATED:
            return count - (repeats - 1) * size
    return None


def is_echo(text: str, terms: Sequence[str], speech_s: float) -> bool:
    """Tell whether a text rather repeats the context's terms than what was said: decode it again without context.

    That is so if 3 terms follow each other as in the context, or if there is less than a second of speech, and of the
    text, which has two terms at least, more than 70 % is terms.
    """
    known: dict[tuple[str, ...], int] = {}
    for number, term in enumerate(terms):
        known.setdefault(_units(term), number)
    known.pop((), None)
    sizes = sorted({len(units) for units in known}, reverse=True)
    units = _units(text)
    place = covered = found = run = 0
    previous = _NO_TERM
    while place < len(units):
        # At the end, a part may be shorter than what was asked for.
        parts = (units[place : place + size] for size in sizes)
        size, number = next(((len(part), known[part]) for part in parts if part in known), (1, _NO_TERM))
        if number != _NO_TERM:
            run = run + 1 if number == previous + 1 else 1
            if run == ECHOED:
                return True
            covered += size
            found += 1
        previous = number
        place += size
    return speech_s < SHORT_S and found > 1 and covered > _ECHOED_SHARE * len(units)


def _language(head: str) -> str | None:
    """Return the tag of the language that stands before the text."""
    line = next((line.strip() for line in head.splitlines() if line.strip()), "")
    word, _, name = line.partition(" ")
    return tag_of(name if word.casefold() == "language" else line)


def _is_head(text: str) -> bool:
    """Tell whether a text is the beginning of what stands before each text."""
    return bool(text) and any(f"language {name}".startswith(text) for name in (*NAMES, "None"))


def _units(text: str) -> tuple[str, ...]:
    """Return what is compared: words without regard to case, single characters where words do not show."""
    return tuple(_UNIT.findall(text.casefold()))
