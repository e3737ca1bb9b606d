"""Inline markup, links, emoji and invisible characters: what must not be read aloud within a line."""

import html
import re
import unicodedata

_SCHEME_URL = re.compile(
    r"<?\b(?:https?|ftp|wss?|rtsp)://(?:[^\s/@<>]+@)?([^\s/:?#<>()\[\]\"'*]+)([^\s<>\"]*)>?", re.IGNORECASE
)
_WWW_URL = re.compile(r"\bwww\.([\w-]+(?:\.[\w-]+)+)([^\s<>\"]*)", re.IGNORECASE)
_HOST_PATH = re.compile(r"(?<![\w@./])((?:[a-z0-9-]+\.)+[a-z]{2,24})/[^\s<>\"]*", re.IGNORECASE)
_EMAIL = re.compile(r"(?:\bmailto:)?(?<![\w.+-])([\w.+-]*\w)@((?:[\w-]+\.)+[a-zA-Z]{2,24})\b(?!@)")
_IMAGE = re.compile(r"!\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"]*\")?\)")
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(\s*<?(?:[^()\s<>]|\([^()\s]*\))*>?(?:\s+[\"'][^\"']*[\"'])?\s*\)")
_REFERENCE = re.compile(r"\[([^\[\]]+)\]\[[^\[\]]*\]")
_FOOTNOTE = re.compile(r"\[\^[\w-]+\]:?")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_BLOCK_TAG = re.compile(
    r"</?(?:br|p|div|li|ul|ol|h[1-6]|tr|td|th|table|hr|blockquote|section|details|summary)\b[^<>]*>", re.I
)
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9-]*(?:\s[^<>]*|/)?>")

_CODE = re.compile(r"(?<!`)(`{1,3})(?!`)\s?([^`]+?)\s?\1(?!`)")
# A mark counts as emphasis when it hugs its text; "2 * 3" and "snake_case" do not.
_STARS = re.compile(
    r"(?:(?<![\\\d])\*|(?<!\\)\*{2,3})(?=\S)((?:[^*]|(?<=\s)\*(?=\s)|(?<=\d)\*(?=\d))+?)(?<=[^\s\\])\*{1,3}"
)
_UNDERSCORES = re.compile(r"(?<![\w\\])_{1,3}(?=[^\s_])(.{1,400}?)(?<=[^\s_\\])_{1,3}(?!\w)")
_STRIKE = re.compile(r"~~(?=\S)(.+?)(?<=\S)~~")
_STRAY_STARS = re.compile(r"(?<!\\)\*\*+|(?<![\\\s\d])\*(?!\d)|(?<![\\\d])\*(?![\s\d])")
_STRAY_UNDERSCORES = re.compile(r"(?<![\w\\])_+(?=\w)|(?<=\w)_+(?!\w)|__+(?!\w)|(?<![\w\\])_+(?!\w)")
_STRAY_MARKS = re.compile(
    r"`+|~~+|\A(?:(?:#{1,6}|>|[-+•‣◦▪●○·–—])\s+)+(?:\[[ xX]\]\s+)?|\A\[[ xX]\]\s+",
)
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>~])")
_CELL_EDGE = re.compile(r"\s*\|\s*")

_KEYCAP = re.compile("([0-9#*])\ufe0f?\u20e3")
_SPANS = frozenset(map(chr, range(0xE000, 0xF000)))
"""Private-use characters by which the caller marks what is spoken as it is."""
_KEPT_SYMBOLS = "°℃℉№℅"
_EMOJI_PARTS = (
    "\ufe0e\ufe0f\u200d\u20e3〰〽‼⁉ℹ"  # selectors, joiner, keycap, and pictures outside the class "other symbol"
    "\U0001f3fb-\U0001f3ff"  # skin tones
    "\U000e0020-\U000e007f"  # tags of regional flags
)
_ARROW = re.compile(r"\s*(?:[←→↔⇐⇒⇔⟵⟶⟷➔➜➝➞➡⬅]\ufe0f?|<?-+>|<?=+>)\s*")
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_JOINER = re.compile("[\u200c\u200d]")

_PUNCTUATION = str.maketrans(
    {
        "‘": "'", "’": "'", "‚": "'", "‛": "'", "′": "'", "＇": "'",
        "“": '"', "”": '"', "„": '"', "‟": '"', "«": '"', "»": '"', "″": '"',
        "‐": "-", "‑": "-", "‒": "–", "―": "—", "…": "...", "‥": "..", "⁄": "/", "×": "×",
    }
)  # fmt: skip
_DASH = re.compile(r"\s*(?:—+|(?<=\s)(?:–|--+|-)(?=\s)|(?<=[^\W\d])--+(?=\w))\s*")
_REPEATED = re.compile(r"([!?。！？,;:、，])(?:\s?\1)+|\.{4,}")
_NO_SPACE_BEFORE = frozenset(".,;:!?)。，、；：！？）」』")
_QUOTE_SPACES = re.compile(r"«\s+|\s+»")
_SPACE_BEFORE = re.compile(r"\s+([.,;])(?=\s|\Z)")
_SPACES = re.compile(r"\s+")
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]|\{\s*\}")
_COMMAS = re.compile(r"(?:\s*,){2,}|,\s*(?=[.!?;:])")


def clean(text: str, *, at: str | None = None, dot: str | None = None) -> str:
    """Return one line of text without markup; "" when nothing is left that can be spoken.

    `at` and `dot` are the words for those characters in an e-mail address; without them the address stays.
    """
    text = _without_tags(_without_links(text, at, dot))
    text = _without_emphasis(html.unescape(text))
    text = _without_symbols(text)
    text = _with_plain_punctuation(text)
    return text if any(char.isalnum() or char in _SPANS for char in text) else ""


def _without_links(text: str, at: str | None, dot: str | None) -> str:
    if not any(mark in text for mark in ("[", "://", "www.", "WWW.", "@", "/")):
        return text
    text = _LINK.sub(r"\1", _IMAGE.sub(r"\1", text)) if "](" in text else text
    text = _LINK.sub(r"\1", text) if "](" in text else text  # an image within a link
    text = _FOOTNOTE.sub("", _REFERENCE.sub(r"\1", text))
    text = _SCHEME_URL.sub(lambda m: m[1].removeprefix("www.").rstrip(".") + _closing(m[1] + m[2]), text)
    text = _WWW_URL.sub(lambda m: m[1] + _closing(m[2]), text)
    text = _HOST_PATH.sub(lambda m: m[1] + _closing(m[0]), text)

    def spoken(match: re.Match[str]) -> str:
        if at is None or dot is None:
            return f"{match[1]}@{match[2]}"
        return f"{match[1]} {at} {match[2]}".replace(".", f" {dot} ").replace("_", " ")

    return _EMAIL.sub(spoken, text)


def _closing(url: str) -> str:
    """Return the punctuation at the end of an address that belongs to the sentence."""
    bare = url.rstrip(".,;:!?)]}*_'\"")
    tail = url[len(bare) :]
    return tail if "(" not in bare else tail.replace(")", "", 1)


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    text = _HIDDEN.sub(" ", _COMMENT.sub(" ", text))
    return _TAG.sub("", _BLOCK_TAG.sub(" ", text))


def _without_emphasis(text: str) -> str:
    if "`" in text:
        text = _CODE.sub(r"\2", text)
    text = _STRIKE.sub(r"\1", text)
    for _ in range(3):  # nested marks
        if "*" not in text:
            break
        text = _STARS.sub(r"\1", text)
    if "_" in text:
        text = _STRAY_UNDERSCORES.sub("", _UNDERSCORES.sub(r"\1", _UNDERSCORES.sub(r"\1", text)))
    text = _STRAY_MARKS.sub("", _STRAY_STARS.sub("", text.strip()))
    return _ESCAPE.sub(r"\1", text)


def _without_symbols(text: str) -> str:
    """Remove emoji, other pictures, control and invisible characters, private and unpaired code points."""
    text = _KEYCAP.sub(r"\1", text)
    text = _ARROW.sub(lambda m: " " if m.start() == 0 or m.end() == len(text) else ", ", text)
    text = _INVISIBLE.sub("", text)
    out: list[str] = []
    dropped = False
    for index, char in enumerate(text):
        if _is_speakable(char, text, index):
            if dropped:
                dropped = False
                if char in _NO_SPACE_BEFORE and out and out[-1] == " ":
                    out.pop()
                elif out and out[-1] != " " and not char.isspace() and char not in _NO_SPACE_BEFORE:
                    out.append(" ")
                elif out and out[-1] == " " and char.isspace():
                    continue
            out.append(char)
        else:
            dropped = dropped or char not in "\u200c\u200d"
    return "".join(out)


def _is_speakable(char: str, text: str, index: int) -> bool:
    if char.isascii():
        return char.isprintable() or char.isspace()
    category = unicodedata.category(char)
    if category in ("Cc", "Cs", "Cn", "Co"):
        return char.isspace() or char in _SPANS
    if _JOINER.fullmatch(char):
        # Persian and the Indic scripts spell with joiners; emoji are glued with them.
        around = text[max(0, index - 1) : index] + text[index + 1 : index + 2]
        return len(around) == 2 and all(unicodedata.category(c)[0] in "LM" and ord(c) > 0x5FF for c in around)
    if _EMOJI_PART.fullmatch(char):
        return False
    return category != "So" or char in _KEPT_SYMBOLS or "\u3200" <= char <= "\u33ff"


_EMOJI_PART = re.compile(f"[{_EMOJI_PARTS}]")


def _with_plain_punctuation(text: str) -> str:
    text = _QUOTE_SPACES.sub(lambda m: m[0].strip(), text).translate(_PUNCTUATION)
    text = _DASH.sub(_pause, text)
    text = _CELL_EDGE.sub(", ", text.strip().strip("|")) if "|" in text else text
    text = _EMPTY_BRACKETS.sub(" ", text)
    text = _COMMAS.sub(lambda m: "," if m[0].count(",") > 1 else "", text)
    text = _REPEATED.sub(lambda m: m[1] or "...", text)
    text = _SPACE_BEFORE.sub(r"\1", text)
    return _SPACES.sub(" ", text).strip().lstrip(",;:，、").lstrip()


def _pause(dash: re.Match[str]) -> str:
    before, after = dash.string[: dash.start()], dash.string[dash.end() :]
    if before[-1:].isdigit() and after[:1].isdigit():
        return dash[0]  # a range or a difference
    return ", " if before and after else " "
