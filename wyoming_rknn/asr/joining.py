"""One transcript of what was decoded in parts, because it was too long for one decoding."""

from collections.abc import Sequence
from dataclasses import replace

from wyoming_rknn.asr.engine import Piece, Transcript

_SPACELESS = frozenset(("zh", "yue", "ja"))


def joined(parts: Sequence[tuple[Sequence[Piece], str | None]], wanted: str | None) -> Transcript:
    """Return one transcript of parts, each in a language; times are from the beginning of the utterance already.

    Between parts in languages that write no spaces there is none; a part of no known language is in the `wanted` one.
    """
    pieces: list[Piece] = []
    heard: list[str | None] = []
    for part, language in parts:
        if not part:
            continue
        heard.append(language)
        first, *others = part
        if pieces:
            is_spaceless = all((tag or wanted) in _SPACELESS for tag in heard[-2:])
            first = replace(first, text=("" if is_spaceless else " ") + first.text.lstrip())
        pieces += [first, *others]
    return Transcript(tuple(pieces), next((tag for tag in heard if tag), None))
