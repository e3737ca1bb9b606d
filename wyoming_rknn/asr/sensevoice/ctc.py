"""From the most likely token of each frame to text with times, and tags."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.asr.engine import Piece
from wyoming_rknn.asr.sensevoice.tokens import BEGIN, BLANK, END, Vocabulary
from wyoming_rknn.models.formats.sensevoice_layout import PROMPT_ROWS

ROW_S = 0.06
"""From one output frame to the next."""
NO_SPEECH = "nospeech"
_EMOTIONS = frozenset(("HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED", "OTHER", "EMO_UNKNOWN"))
_EVENTS = frozenset(
    ("Speech", "BGM", "Laughter", "Applause", "Cry", "Sneeze", "Breath", "Cough", "Sing", "Speech_Noise", "Event_UNK")
)
_TEXT_NORMS = frozenset(("withitn", "woitn"))
_LANGUAGE = re.compile("[a-z]{2,3}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was emitted."""

    id: int
    row: int
    """The first output frame that has it."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was heard in a stretch of audio."""

    pieces: tuple[Piece, ...] = ()
    language: str | None = None
    emotion: str | None = None
    event: str | None = None
    text_norm: str | None = None


def greedy(best: Sequence[int] | NDArray[np.intp]) -> list[Token]:
    """Return the tokens of `best`, int [frames]: each run once, without blanks and the marks of beginning and end."""
    ids = np.asarray(best)
    if not ids.size:
        return []
    begins = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    return [Token(int(ids[row]), int(row)) for row in begins if ids[row] not in (BLANK, BEGIN, END)]


def read(tokens: Iterable[Token], vocabulary: Vocabulary) -> Decoded:
    """Return the text and, of each class, the first tag, wherever in the output they stand.

    Text counts from the frame after the prompt's. With the tag for "no speech" there is no text.
    """
    tokens = list(tokens)
    tags = [tag for token in tokens if (tag := vocabulary.tag(token.id)) is not None]
    is_speech = NO_SPEECH not in tags
    return Decoded(
        pieces=tuple(_pieces(tokens, vocabulary)) if is_speech else (),
        language=next((tag for tag in tags if _LANGUAGE.fullmatch(tag)), None) if is_speech else None,
        emotion=next((tag for tag in tags if tag in _EMOTIONS), None),
        event=next((tag for tag in tags if tag in _EVENTS), None),
        text_norm=next((tag for tag in tags if tag in _TEXT_NORMS), None),
    )


def _pieces(tokens: Iterable[Token], vocabulary: Vocabulary) -> Iterator[Piece]:
    """Yield the text piece by piece; bytes of one character and a space that stands alone go with what follows."""
    space, pending, begin_s = "", bytearray(), 0.0
    for token in tokens:
        if vocabulary.tag(token.id) is not None:
            continue
        byte = vocabulary.byte(token.id)
        if pending and (byte is None or _begins_character(byte)):
            yield Piece(space + pending.decode(errors="replace"), begin_s)
            space, pending = "", bytearray()
        if byte is not None:
            begin_s = begin_s if pending else _begin_s(token)
            pending.append(byte)
        elif (text := vocabulary.text(token.id)).isspace():
            space = text
        elif text:
            yield Piece(text if text[0].isspace() else space + text, _begin_s(token))
            space = ""
    if pending:
        yield Piece(space + pending.decode(errors="replace"), begin_s)


def _begins_character(byte: int) -> bool:
    """Tell whether a byte of UTF-8 begins a character; see RFC 3629, section 3."""
    return byte & 0xC0 != 0x80


def _begin_s(token: Token) -> float:
    return round(ROW_S * max(0, token.row - PROMPT_ROWS), 3)
