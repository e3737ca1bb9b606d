"""What the numbers stand for that SenseVoice answers with: `tokens.txt` or `tokens.json`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid

BLANK, BEGIN, END = 0, 1, 2
"""`<unk>`, which is CTC's blank, `<s>` and `</s>`: never text."""
_SPACE = "▁"
_LINE = re.compile(r"(.*)[ \t]([0-9]+)", re.DOTALL)
_TAG = re.compile(r"<\|(.+)\|>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The pieces of text that a model writes with, by id."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._texts = tuple(piece.replace(_SPACE, " ") for piece in pieces)
        self._tags = {number: found[1] for number, piece in enumerate(pieces) if (found := _TAG.fullmatch(piece))}
        found_bytes = ((number, _BYTE.fullmatch(piece)) for number, piece in enumerate(pieces))
        self._bytes = {number: int(found[1], 16) for number, found in found_bytes if found}

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, token: int) -> str:
        """Return a piece of text, with the space before it if a word begins there."""
        return self._texts[token]

    def tag(self, token: int) -> str | None:
        """Return what is between `<|` and `|>`, if the token is a tag."""
        return self._tags.get(token)

    def byte(self, token: int) -> int | None:
        """Return the byte of UTF-8 that a token such as `<0xE4>` stands for."""
        return self._bytes.get(token)


def read(path: Path) -> Vocabulary:
    """Read `tokens.json`, a list, or `tokens.txt`, lines of a piece, a space and an id.

    Raises `ModelFileMissing` or `ModelInvalid`.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelFileMissing(f"{path} does not exist; put the model's tokens there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelInvalid(f"{path} cannot be read: {error}") from error
    pieces = _from_json(path, content) if path.suffix == ".json" else _from_lines(path, content)
    if len(pieces) <= END:
        raise ModelInvalid(f"{path} holds {len(pieces)} tokens; take the file that was published with the model")
    return Vocabulary(pieces)


def _from_json(path: Path, content: str) -> list[str]:
    try:
        pieces = json.loads(content)
    except ValueError as error:
        raise ModelInvalid(f"{path} is not JSON: {error}") from None
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise ModelInvalid(f"{path} is not a list of tokens; take the file that was published with the model")
    return pieces


def _from_lines(path: Path, content: str) -> list[str]:
    by_id: dict[int, str] = {}
    # Pieces may hold what str.splitlines takes for the end of a line.
    for number, line in enumerate(content.split("\n"), 1):
        if not (line := line.removesuffix("\r")):
            continue
        found = _LINE.fullmatch(line)
        if found is None or int(found[2]) in by_id:
            raise ModelInvalid(f"{path}, line {number} is not a token and an id of its own")
        by_id[int(found[2])] = found[1]
    if by_id and max(by_id) != len(by_id) - 1:
        raise ModelInvalid(f"{path} has {len(by_id)} tokens but ids up to {max(by_id)}; some are missing")
    return [by_id[token] for token in range(len(by_id))]
