"""Cuts a stream of text, however it arrives, into the pieces that are spoken one by one."""

import re
import unicodedata

from wyoming_rknn.text.abbreviations import abbreviations_of
from wyoming_rknn.text.blocks import HARD_BREAK, BlockReader
from wyoming_rknn.text.boundaries import (
    SELF_SUFFICIENT,
    Verdict,
    follows,
    is_clause_end,
    is_closed,
    judge,
    word_follows,
)

FLUSH_AFTER_S = 0.3
"""How long a text may pause before `SentenceSplitter.pause` is to be called; a stalled reply is spoken up to there."""

_WIDE = 2.5
"""Letters that a wide (CJK) character counts for: 80 of them are as long as 200 alphabetic letters."""
_STUMP_CHARS = 15
"""A clause is cut off only when at least this much of the sentence follows."""
_WRAPPED_LINE_CHARS = 48
"""A line at least this long that ends in the middle of a sentence was wrapped; a shorter one is a list item."""

# Letters and digits with single spaces, apostrophes and hyphens between: nothing is decided within such a run.
_PLAIN = re.compile(r"[A-Za-z0-9À-ÖØ-öø-ʯΆ-ԯ]+(?:[ '-][A-Za-z0-9À-ÖØ-öø-ʯΆ-ԯ]+)*")


class SentenceSplitter:
    """A pure state machine from text to segments of at most about a sentence; knows no clock and no threads.

    The segments depend only on the text, not on how it was cut into feeds, as long as `pause` is not called. Nothing of
    the text is lost but markup (fences with their content, rules, the marks of lists, tables, headings, quotations).

    `first_clause_chars`: the first segment may end at a clause once it has this many letters.
    `max_chars`: no segment is longer. Both count letters; a CJK character counts as 2.5.
    """

    def __init__(self, language: str = "en", *, first_clause_chars: int = 60, max_chars: int = 200) -> None:
        self._rules = abbreviations_of(language)
        self._first_clause = float(first_clause_chars)
        self._max = float(max(max_chars, 20))
        self._blocks = BlockReader()
        self._first = True
        self._clear()

    def _clear(self) -> None:
        self._text = ""
        self._letters = 0.0
        self._line_start = 0
        # A full stop whose meaning the next word tells: where in the text that word begins, and the verdict.
        self._waiting: tuple[int, Verdict] | None = None
        # The first segment's clause: where it ends, and the letters up to there.
        self._clause: tuple[int, float] | None = None

    def feed(self, text: str) -> list[str]:
        """Take more text; return the segments that are complete by it."""
        segments: list[str] = []
        self._take(self._blocks.feed(text), segments)
        return segments

    def pause(self) -> list[str]:
        """Return the sentence that stands complete at the end of what was fed, if one does."""
        segments: list[str] = []
        bare = self._text.rstrip()
        verdict = judge(bare, self._rules)
        spaced = len(bare) < len(self._text)
        if self._blocks.in_item and self._text.endswith("\n"):
            complete = is_closed(bare)
        elif verdict is Verdict.ENDED:
            complete = spaced or not bare[:-1].rstrip("*_").endswith(tuple("0123456789")) or bare[-1] != "."
        else:
            complete = verdict is Verdict.UNLESS_LOWER
        if complete:
            self._emit(segments)
        return segments

    def finish(self) -> list[str]:
        """Return the rest; the splitter is as new then."""
        segments: list[str] = []
        self._take(self._blocks.finish(), segments)
        if self._waiting:
            self._resolve(segments)
        self._emit(segments)
        self._first = True
        return segments

    def _take(self, text: str, segments: list[str]) -> None:
        position = 0
        while position < len(text):
            if self._text and self._waiting is None and not self._text[-1].isspace():
                # Nothing is decided within a run of words: take it at once, up to the limits.
                run = _PLAIN.match(text, position, position + max(0, int(self._room())))
                if run:
                    self._text += run[0]
                    self._letters += len(run[0])
                    position = run.end()
                    continue
            char = text[position]
            position += 1
            if char == HARD_BREAK:
                if self._waiting:
                    self._resolve(segments)
                self._emit(segments)
            elif char.isspace():
                self._space(char, segments)
            else:
                self._visible(char, segments)

    def _room(self) -> float:
        """Return how many letters may come before something has to be decided."""
        room = self._max - self._letters
        if self._clause:
            room = min(room, self._clause[1] + _STUMP_CHARS - 1 - self._letters)
        return room

    def _space(self, char: str, segments: list[str]) -> None:
        if self._waiting:
            self._resolve(segments)
        if not self._text:
            return
        if self._text[-1].isspace():
            if char == "\n":
                self._text = self._text[:-1] + "\n"
            return
        verdict = judge(self._text, self._rules)
        colon = char == "\n" and self._text[-1] in ":;：；" and is_closed(self._text)
        if colon or (verdict is Verdict.ENDED and not self._guillemet_open()):
            self._emit(segments)
            return
        self._mark_clause(spaced=True)
        self._text += "\n" if char == "\n" else " "
        self._letters += 1

    def _visible(self, char: str, segments: list[str]) -> None:
        if self._waiting and not char.isalnum():
            self._resolve(segments)
        if self._text and self._text[-1].isspace():
            bare = self._text.rstrip()
            verdict = judge(bare, self._rules)
            ended = follows(verdict, char) and not (char == "»" and self._guillemet_open())
            if ended is None:
                self._waiting = (len(self._text), verdict)
            elif ended or (verdict is Verdict.OPEN and self._text[-1] == "\n" and self._line_ended(bare, char)):
                self._emit(segments)
            if self._text and self._text[-1] == "\n":
                self._join_line(char)
        self._text += char
        self._letters += _WIDE if unicodedata.east_asian_width(char) in "WF" else 1
        if char in SELF_SUFFICIENT:
            if judge(self._text, self._rules) is Verdict.ENDED and not _in_quotation(self._text):
                self._emit(segments)
        else:
            self._mark_clause(spaced=False)
        if self._clause and self._letters >= self._clause[1] + _STUMP_CHARS:
            self._cut(self._clause[0], segments)
        elif self._letters > self._max:
            self._cut(self._best_cut(), segments)

    def _guillemet_open(self) -> bool:
        # French sets a space before the closing mark: "« Oui. »".
        return self._text.count("«") > self._text.count("»")

    def _line_ended(self, bare: str, char: str) -> bool:
        """Judge a line without a full stop: it was an item of a plain list, or it was wrapped."""
        line = bare[self._line_start :]
        if not is_closed(bare) or bare[-1] == "." or is_clause_end(bare, spaced=True):
            return False  # an abbreviation or a clause goes on
        if char.islower():
            return " " not in bare  # "milk\neggs"
        if char.isdigit() and bare.rsplit(None, 1)[-1].lower() in self._rules.ordinal_cues:
            return False
        return sum(_WIDE if unicodedata.east_asian_width(c) in "WF" else 1 for c in line) < _WRAPPED_LINE_CHARS

    def _join_line(self, char: str) -> None:
        # Chinese and Japanese are wrapped without a space.
        wide = all(unicodedata.east_asian_width(c) in "WF" for c in (self._text.rstrip()[-1:], char) if c)
        self._text = self._text[:-1] + ("" if wide else " ")
        self._line_start = len(self._text)
        if self._waiting:
            self._waiting = (len(self._text), self._waiting[1])

    def _mark_clause(self, *, spaced: bool) -> None:
        if not self._first or self._clause or self._letters < self._first_clause:
            return
        if is_clause_end(self._text, spaced=spaced) and is_closed(self._text):
            self._clause = (len(self._text), self._letters)

    def _resolve(self, segments: list[str]) -> None:
        """Decide about a full stop now that the word after it is whole."""
        assert self._waiting
        start, verdict = self._waiting
        self._waiting = None
        if word_follows(verdict, self._text[start:].strip(), self._rules):
            self._cut(start, segments)

    def _cut(self, end: int, segments: list[str]) -> None:
        """Emit the text up to `end` and read the rest anew."""
        rest = self._text[end:].lstrip()
        self._text = self._text[:end]
        self._emit(segments)
        self._take(rest, segments)

    def _best_cut(self) -> int:
        """Return where to cut a text that is too long: after a clause, else at a space, else anywhere."""
        text = self._text
        start = len(text) // 3
        phonemes = text.rfind("[[")
        if phonemes > text.rfind("]]"):
            if phonemes > 0:
                return phonemes
            if self._letters < 2 * self._max:
                return len(text)
        clause = space = 0
        for index in range(start, len(text)):
            if text[index].isspace():
                space = index
                if is_clause_end(text[max(0, index - 8) : index], spaced=True):
                    clause = index
            elif is_clause_end(text[index], spaced=False):
                clause = index + 1
        if clause or space:
            return clause or space
        end = len(text) - 1
        while end > start and (unicodedata.category(text[end])[0] == "M" or text[end - 1] == "\u200d"):
            end -= 1
        return end

    def _emit(self, segments: list[str]) -> None:
        segment = " ".join(self._text.split())
        self._clear()
        if segment:
            segments.append(segment)
            self._first = False


def _in_quotation(text: str) -> bool:
    """Return whether a quotation or a bracket is open, whose closing mark belongs to the sentence."""
    return any(text.count(pair[0]) > text.count(pair[1]) for pair in _PAIRS)


_PAIRS = ("「」", "『』", "（）", "《》", "“”", "()", "【】")
