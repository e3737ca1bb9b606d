"""Which part of a growing transcript will not change any more."""

import re
from collections.abc import Sequence

from wyoming_rknn.asr.engine import Piece, Transcript

UNSTABLE_S = 0.9
"""Words heard more recently may still change. With this, and two hypotheses that agree, the tests' SenseVoice changed
the case of one letter in 26 clips; with 0.5 s it changed a word."""

_COMPARED = 100
"""Characters at the end of what was told that are looked for in a text that contradicts it."""
_SPEECH = re.compile(r"[^\W_]")
_SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_FULL_STOP = re.compile(r"(?<![.。．…])[.。．]$")


class StablePrefix:
    """Tell a client what was said while it is being said, and never take a word back.

    What two hypotheses in a row agree on and what was heard a while ago is told. Punctuation is told with the word that
    follows it, since the end of a text often gets some that goes away again.
    """

    def __init__(self) -> None:
        self._told = ""
        self._last: Sequence[Piece] = ()

    def offer(self, hypothesis: Transcript, heard_s: float) -> str:
        """Take in a transcript of the first `heard_s` seconds and return what can be told now, often nothing."""
        pieces, self._last = _agreement(hypothesis.pieces, self._last), hypothesis.pieces
        count = sum(piece.begin_s < heard_s - UNSTABLE_S for piece in pieces)
        while count and not _ends_word(hypothesis.pieces, count):
            count -= 1
        text = "".join(piece.text for piece in pieces[:count]).lstrip()
        if not text.startswith(self._told):
            return ""
        news = text[len(self._told) :]
        self._told = text
        return news

    def conclude(self, text: str) -> tuple[str, str]:
        """Return the final text and the part of it that is left to be told.

        A final text that contradicts what was told goes on from the place that resembles it most.
        """
        if not text.startswith(self._told):
            # What was told last tells where to go on; a whole dictation would take seconds to compare.
            begin = max(0, len(self._told) - _COMPARED)
            window = text[max(0, begin - _COMPARED) :]
            end = _end_of(self._told[begin:], window[: 3 * _COMPARED], free_begin=begin > 0)
            text = self._told + window[end:]
        return text, text[len(self._told) :]


def without_full_stop(text: str) -> str:
    """Remove one full stop at the end, but neither an ellipsis nor another sign."""
    return _FULL_STOP.sub("", text)


def _agreement(pieces: Sequence[Piece], others: Sequence[Piece]) -> Sequence[Piece]:
    count = 0
    for one, other in zip(pieces, others, strict=False):
        if one.text != other.text:
            break
        count += 1
    return pieces[:count]


def _ends_word(pieces: Sequence[Piece], count: int) -> bool:
    """Tell whether a word ends before piece number `count`, and with it the text so far."""
    before = pieces[count - 1].text
    if not before or not _SPEECH.match(before[-1]):
        return False
    if count == len(pieces):
        return False
    after = pieces[count].text
    return bool(after) and (not _SPEECH.match(after[0]) or bool(_SPACELESS.match(before[-1])))


def _end_of(prefix: str, text: str, free_begin: bool) -> int:
    """Return where in `text` that ends which resembles `prefix` most, by edit distance, then by length.

    It begins with the text, or anywhere in it if its begin is free.
    """
    letters = [letter.lower() for letter in text]
    row = [0] * (len(letters) + 1) if free_begin else list(range(len(letters) + 1))
    for number, wanted in enumerate(prefix, 1):
        previous, row = row, [number]
        for place, found in enumerate(letters, 1):
            changed = previous[place - 1] + (wanted.lower() != found)
            row.append(min(previous[place] + 1, row[-1] + 1, changed))
    return min(range(len(row)), key=lambda count: (row[count], abs(count - len(prefix))))
