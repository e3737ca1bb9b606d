"""Markdown's blocks, read as a stream: fences and rules vanish; table rows, list items, headings become lines."""

import re
from enum import Enum, auto

HARD_BREAK = "\x1e"
"""Stands in the output where a segment must end (ASCII record separator; never text)."""

_HELD_LINE_CHARS = 500
"""A table row or fence line longer than this is read as ordinary text, so that it cannot hold speech back."""

_BULLET = re.compile(r"[-*+•‣◦▪●○·–—][ \t]+")
_NUMBERED = re.compile(r"(?:(\d{1,9})[.)]|([a-zA-Z])\))[ \t]+")
_HEADING = re.compile(r"#{1,6}[ \t]+")
_QUOTE = re.compile(r">(?![\d=])[ \t]?")
_TASK_BOX = re.compile(r"\[[ xX]\][ \t]+")
_RULE = re.compile(r"([-*_=])(?:[ \t]*\1){2,}[ \t]*")
_TABLE_RULE = re.compile(r"[|:+\-= \t]*-[|:+\-= \t]*")
_FENCE = re.compile(r"(`{3,}|~{3,})([^`]*)")

# What a line may still become while only this much of it is known.
_UNDECIDED = re.compile(
    r"""
      \#{1,6}[ \t]*               # heading
    | [•‣◦▪●○·–—+][ \t]*          # bullet
    | [-*_=][-*_= \t|:+]*         # bullet, rule, table rule
    | :-*                         # table rule
    | \d{1,9}(?:[.)][ \t]*)?      # numbered item
    | [a-zA-Z](?:\)[ \t]*)?        # lettered item
    | >                           # quotation
    | `{1,2} | ~{1,2}             # code fence
    | (?:`{3,}|~{3,})[^`]*
    | \|.*                        # table row
    """,
    re.VERBOSE,
)
_TASK_UNDECIDED = re.compile(r"\[?|\[[ xX]|\[[ xX]\][ \t]*")


class _State(Enum):
    START = auto()
    """Too little of the line is known."""
    BOX = auto()
    """After a bullet: a task box may follow."""
    TEXT = auto()
    FENCE = auto()


class BlockReader:
    """Turns a stream of markdown into plain lines: text, newlines and `HARD_BREAK`.

    What comes out depends only on the characters fed, not on how they were cut into feeds.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._state = _State.START
        self._head = ""  # of the line, while it is undecided
        self._fence = ""  # the mark that opened the fence
        self._fenced: list[str] = []  # its raw lines
        self._fences = True
        self._after_return = False
        self._line_open = False  # whether the line before ended in the middle of a sentence
        self._last_visible = ""
        self.in_item = False
        """Whether the line at hand is a list item or a heading."""

    def feed(self, text: str) -> str:
        """Return the plain text that `text` makes certain."""
        out: list[str] = []
        text = text.replace(HARD_BREAK, " ")
        position = 0
        while position < len(text):
            if self._state is _State.TEXT:
                end = _LINE_END.search(text, position)
                stop = end.start() if end else len(text)
                if stop > position:
                    self._text(text[position:stop], out)
                    position = stop
                    continue
            char = text[position]
            position += 1
            if char == "\n" and self._after_return:
                self._after_return = False
                continue
            self._after_return = char == "\r"
            if char in _LINE_ENDS:
                self._newline(out)
            elif self._state is _State.TEXT:  # a character that only looked like a line end
                self._text(char, out)
            else:
                self._head += char
                self._decide(out)
        return "".join(out)

    def finish(self) -> str:
        """Return what was held back; a fence that was never closed is read as text."""
        out: list[str] = []
        if self._state is _State.FENCE:
            if not _closes(self._head, self._fence):
                raw = "".join([*self._fenced, self._head])
                self._fences, self._state, self._head = False, _State.START, ""
                out.append(self.feed(raw))
            else:
                self._head = ""
        if self._head:
            self._newline(out)
        self._reset()
        return "".join(out)

    def _text(self, text: str, out: list[str]) -> None:
        visible = text.rstrip()
        if visible:
            self._last_visible = visible[-1]
        out.append(text)

    def _newline(self, out: list[str]) -> None:
        line, state = self._head, self._state
        if state is _State.FENCE:
            self._head = ""
            if _closes(line, self._fence):
                self._fenced, self._state = [], _State.START
            else:
                self._fenced.append(line + "\n")
            return
        self._head, self._state = "", _State.START
        if state is _State.TEXT:
            out.append("\n")
            self._line_open = self._last_visible not in _LINE_CLOSERS
            return
        bare = line.strip()
        if state is _State.BOX:
            self._text(line, out)
            out.append(HARD_BREAK)
        elif not bare:
            out.append(HARD_BREAK)
            self._line_open = self.in_item = False
        elif self._fences and (fence := _FENCE.fullmatch(bare)):
            out.append(HARD_BREAK)
            self._fence, self._state, self._fenced = fence[1], _State.FENCE, [bare + "\n"]
            self._line_open = self.in_item = False
        elif _RULE.fullmatch(bare) or (_TABLE_RULE.fullmatch(bare) and ("|" in bare or len(bare) > 2)):
            out.append(HARD_BREAK)
            self._line_open = self.in_item = False
        elif bare.startswith("|") and (bare.endswith("|") or bare.count("|") > 2):
            cells = (cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", bare))
            out += [HARD_BREAK, ", ".join(cell for cell in cells if cell), HARD_BREAK]
            self._line_open = self.in_item = False
        else:
            self._text(line, out)
            out.append("\n")
            self._line_open = self._last_visible not in _LINE_CLOSERS

    def _decide(self, out: list[str]) -> None:
        """Find out what kind of line `_head` begins, if that can be known yet."""
        if self._state is _State.FENCE:
            return
        if self._state is _State.BOX:
            if _TASK_UNDECIDED.fullmatch(self._head):
                return
            box = _TASK_BOX.match(self._head)
            self._begin_text(self._head[box.end() :] if box else self._head, out)
            return
        line = self._head = self._head.lstrip()
        while quote := _QUOTE.match(line):
            if len(line) == 1:  # ">" may yet be a comparison
                return
            line = self._head = line[quote.end() :].lstrip()
        if not line or (_UNDECIDED.fullmatch(line) and len(line) < _HELD_LINE_CHARS):
            return
        if mark := (_HEADING.match(line) or _BULLET.match(line)):
            out.append(HARD_BREAK)
            self.in_item = True
            self._head, self._state = line[mark.end() :], _State.BOX
            self._decide(out)
            return
        if (number := _NUMBERED.match(line)) and self._starts_item(number[1] or number[2]):
            out.append(HARD_BREAK)
            self.in_item = True
        self._begin_text(line, out)

    def _starts_item(self, number: str) -> bool:
        # As in CommonMark, only "1." interrupts a sentence: "... am\n3. Oktober" is no list.
        return self.in_item or not self._line_open or number in ("1", "a", "A")

    def _begin_text(self, text: str, out: list[str]) -> None:
        self._head, self._state = "", _State.TEXT
        self._text(text, out)


_LINE_ENDS = frozenset("\n\r\v\f\x85\u2028\u2029")
_LINE_END = re.compile("[\n\r\v\f\x85\u2028\u2029]")
_LINE_CLOSERS = frozenset(".!?…:;。！？：；।॥؟۔։\"'”’»)]*_`")


def _closes(line: str, fence: str) -> bool:
    bare = line.lstrip("> \t").rstrip()
    return len(bare) >= len(fence) and bare == fence[0] * len(bare)
