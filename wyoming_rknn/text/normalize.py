"""From written text to what is said."""

import re
from functools import lru_cache

from wyoming_rknn.text.languages import language_of
from wyoming_rknn.text.markup import clean
from wyoming_rknn.text.readings import Reading

_PHONEMES = re.compile(r"\[\[.+?\]\]", re.DOTALL)
_SPANS = re.compile("[\ue000-\uefff]")
_PRIVATE_USE = re.compile("[\ue000-\uf8ff]")
_FIRST_SPAN, _MAX_SPANS = 0xE000, 0x1000


def speakable(text: str, language: str, *, keep_phonemes: bool = False) -> str:
    """Return `text` (a sentence or less, in the BCP-47 `language`) as a speaker would say it, "" if it is silent.

    Markup, emoji and invisible characters vanish; numbers, dates, times, units and money become words where the
    language has one way to say them, else they stay. `keep_phonemes`: `[[ipa]]` spans pass untouched.
    """
    # Private-use characters stand for phoneme spans while the text around them is worked on.
    text = _PRIVATE_USE.sub("", text)
    spans: list[str] = []
    if keep_phonemes and "[[" in text:

        def keep(match: re.Match[str]) -> str:
            if len(spans) == _MAX_SPANS:
                return match[0]
            spans.append(match[0])
            return chr(_FIRST_SPAN + len(spans) - 1)

        text = _PHONEMES.sub(keep, text)
    reading = _reading(language)
    text = clean(text, at=reading.at if reading else None, dot=reading.dot if reading else None)
    if reading and text:
        text = reading.words(text)
    return _SPANS.sub(lambda match: spans[ord(match[0]) - _FIRST_SPAN], text)


@lru_cache(maxsize=64)
def _reading(tag: str) -> Reading | None:
    language = language_of(tag)
    return Reading(language) if language else None
