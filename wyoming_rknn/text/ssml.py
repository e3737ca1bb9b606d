"""Speech Synthesis Markup Language, the part that home automation uses (W3C SSML 1.1, section 3)."""

import html
import logging
import re
from dataclasses import dataclass, field
from xml.parsers import expat

from wyoming_rknn.text.passage import Passage

_LOGGER = logging.getLogger(__name__)

_MAX_DEPTH = 64
_MAX_PAUSE_S = 10.0
_SENTENCE_PAUSE_S = 0.25
_PARAGRAPH_PAUSE_S = 0.6
_MIN_RATE, _MAX_RATE = 0.25, 4.0

_STRENGTHS_S = {"none": 0.0, "x-weak": 0.1, "weak": 0.25, "medium": 0.5, "strong": 0.75, "x-strong": 1.0}
_RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.5}
_PARAGRAPHS = frozenset({"p", "paragraph"})
_SENTENCES = frozenset({"s", "sentence"})
_SILENT = frozenset({"desc", "metadata", "meta", "lexicon", "style", "script"})

_DURATION = re.compile(r"\+?(\d*\.?\d+)\s*(ms|s)")
_PERCENTAGE = re.compile(r"([+-]?)(\d*\.?\d+)\s*%")
_MULTIPLIER = re.compile(r"\d*\.?\d+")

_NAMED_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)([a-zA-Z][a-zA-Z0-9]*;)")
_BARE_AMPERSAND = re.compile(r"&(?!#?\w+;)")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_DECLARATION = re.compile(r"<!DOCTYPE[^\[>]*(?:\[.*?\])?\s*>|<!--.*?-->|<\?.*?\?>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z!?][^<>]*(?:>|\Z)")
_ENTITY = re.compile(r"&\w+;")


class _Refused(Exception):
    """The document holds what no speech needs: a document type, entities, endless nesting."""


def parse(ssml: str, *, phonemes: bool) -> list[Passage]:
    """Return the passages of an SSML document, in order; text that is no XML is read without its tags.

    `phonemes`: whether the voice reads `[[ipa]]`; else the text of a `phoneme` element is spoken. Pauses end at 10 s,
    rates lie between 0.25 and 4. A break at the end gives a last passage without text. Document types and entity
    declarations are refused, so nothing is fetched or expanded.
    """
    document = _NOT_XML.sub("", ssml).strip()
    if "<speak" not in document:
        document = f"<speak>{document}</speak>"
    document = _BARE_AMPERSAND.sub("&amp;", _NAMED_ENTITY.sub(_character, document))
    reader = _Reader(phonemes)
    try:
        reader.read(document)
    except (expat.ExpatError, _Refused) as error:
        _LOGGER.debug("broken SSML is read as text: %s", error)
        text = _TAG.sub(" ", _DECLARATION.sub(" ", ssml))
        return [Passage(" ".join(_ENTITY.sub("", html.unescape(text)).split()))]
    return reader.passages


def _character(entity: re.Match[str]) -> str:
    # Expat knows XML's own five; the others are HTML's.
    decoded = html.unescape(entity[0])
    return entity[0] if decoded == entity[0] else html.escape(decoded)


@dataclass(slots=True)
class _Reader:
    """Turns elements into passages; a new passage begins wherever the manner of speaking changes."""

    reads_phonemes: bool
    passages: list[Passage] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)
    _elements: list[tuple[str, float, bool]] = field(default_factory=list)
    """Open elements: name, rate within, whether the text within is spoken."""
    _break_s: float = 0.0
    _boundary_s: float = 0.0

    def read(self, document: str) -> None:
        """Read a whole document. Raises `ExpatError`, `_Refused`."""
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.Parse(document.encode(), True)
        self._flush()
        if self._break_s:
            self.passages.append(Passage("", pause_s=min(self._break_s, _MAX_PAUSE_S)))

    def _refuse(self, *_declaration: object) -> None:
        raise _Refused("it declares a document type or entities")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._elements) == _MAX_DEPTH:
            raise _Refused(f"it is nested more than {_MAX_DEPTH} deep")
        name = name.rpartition(":")[2].lower()
        rate, spoken = self._elements[-1][1:] if self._elements else (1.0, True)
        if name in _SILENT:
            spoken = False
        elif spoken:
            rate, spoken = self._enter(name, attributes, rate)
        self._elements.append((name, rate, spoken))

    def _enter(self, name: str, attributes: dict[str, str], rate: float) -> tuple[float, bool]:
        """Act on the start of an element that is spoken; return its rate and whether its own text is."""
        if name == "break":
            self._flush()
            self._break_s += _pause_s(attributes)
        elif name in _PARAGRAPHS or name in _SENTENCES:
            self._boundary(name)
        elif name == "prosody":
            self._flush()
            return _rate(attributes.get("rate", ""), rate), True
        elif name == "sub" and attributes.get("alias", "").strip():
            self._text.append(attributes["alias"])
            return rate, False
        elif name == "phoneme" and self.reads_phonemes:
            phonemes = attributes.get("ph", "").strip()
            if phonemes and attributes.get("alphabet", "ipa") == "ipa" and "[" not in phonemes and "]" not in phonemes:
                self._text.append(f"[[{phonemes}]]")
                return rate, False
        return rate, True

    def _end(self, _name: str) -> None:
        name, _rate, spoken = self._elements[-1]
        if name in _PARAGRAPHS or name in _SENTENCES:
            self._boundary(name)
        elif name == "prosody" and spoken:
            self._flush()
        self._elements.pop()

    def _characters(self, text: str) -> None:
        if self._elements[-1][2]:
            self._text.append(text)

    def _boundary(self, name: str) -> None:
        self._flush()
        if self.passages:
            self._boundary_s = max(self._boundary_s, _PARAGRAPH_PAUSE_S if name in _PARAGRAPHS else _SENTENCE_PAUSE_S)

    def _flush(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text.clear()
        if not text:
            return
        pause_s = min(self._break_s or self._boundary_s, _MAX_PAUSE_S)
        self.passages.append(Passage(text, self._elements[-1][1] if self._elements else 1.0, pause_s))
        self._break_s = self._boundary_s = 0.0


def _pause_s(attributes: dict[str, str]) -> float:
    duration = _DURATION.fullmatch(attributes.get("time", "").strip().lower())
    if duration:
        return min(float(duration[1]) / (1000 if duration[2] == "ms" else 1), _MAX_PAUSE_S)
    return _STRENGTHS_S.get(attributes.get("strength", "").strip().lower(), _STRENGTHS_S["medium"])


def _rate(text: str, outer: float) -> float:
    """Return the rate within an element that is nested in one of rate `outer`."""
    text = text.strip().lower()
    if text in _RATES:
        factor = _RATES[text]
    elif percentage := _PERCENTAGE.fullmatch(text):
        share = float(percentage[2]) / 100
        factor = {"+": 1 + share, "-": 1 - share}.get(percentage[1], share)
    elif _MULTIPLIER.fullmatch(text):
        factor = float(text)
    else:
        factor = 1.0
    return min(max(outer * factor, _MIN_RATE), _MAX_RATE)
