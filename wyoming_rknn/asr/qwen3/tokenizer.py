"""Text to token ids and back: byte-pair encoding as transformers' `Qwen2Tokenizer` does it, and the special tokens."""

import codecs
import heapq
import json
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid

TURN_START, TURN_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
AUDIO_START, AUDIO_PAD, AUDIO_END = "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"
"""`AUDIO_PAD` stands in a prompt where a row of audio belongs."""
TEXT = "<asr_text>"
"""Between the language and the text of an answer."""
VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
_NEEDED = (TURN_START, TURN_END, END_OF_TEXT, AUDIO_START, AUDIO_PAD, AUDIO_END, TEXT)
_FIX = "take the files that were published with the model"
_SPACES = (
    "\t\v\f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's White_Space without the space and the line breaks; `str.isspace` takes four control characters more."""
_WORD = re.compile(r"[^nLN]?L+|N| ?x+n*|[ sn]*n+|[ sn]+(?![^ sn])|[ sn]+")
"""`Qwen2Tokenizer`'s pattern without its contractions, of what `_classes` gives; it matches at any place."""
_CONTRACTION = re.compile(r"'(?:[stmd]|re|ve|ll)", re.IGNORECASE)


class Tokenizer:
    """The tokens of a model: those of text and, by their names, the special ones. Thread-safe; immutable."""

    def __init__(self, vocabulary: Mapping[str, int], merges: Iterable[str], special: Mapping[str, int]) -> None:
        """Take tokens of text, spelt with GPT-2's letters for bytes, merges, the best first, and special tokens.

        Raises `ModelInvalid`.
        """
        self._ids = vocabulary
        self._special = special
        self._letters = _letters()
        if missing := [name for name in _NEEDED if name not in special]:
            raise ModelInvalid(f"the tokenizer has no {' and no '.join(missing)}; {_FIX}")
        if not all(letter in vocabulary for letter in self._letters.values()):
            raise ModelInvalid(f"the tokenizer has no token for some bytes; {_FIX}")
        self._bytes = {ord(letter): byte for byte, letter in self._letters.items()}
        self._texts = [""] * (1 + max(*vocabulary.values(), *special.values()))
        for text, token in vocabulary.items():
            self._texts[token] = text
        for token in special.values():
            self._texts[token] = ""
        # A token is nearly always merged in one way. So a rank and a place for each one will do, where a table of pairs
        # of 150 000 tokens would take 40 MB.
        self._ranks = array("i", [-1]) * len(self._texts)
        self._cuts = array("i", [0]) * len(self._texts)
        self._other_ranks: dict[tuple[str, str], int] = {}
        for rank, line in enumerate(merges):
            left, _, right = line.partition(" ")
            merged = vocabulary.get(left + right)
            if merged is None:
                raise ModelInvalid(f"the tokenizer merges {line!r} to no token; {_FIX}")
            if self._ranks[merged] < 0:
                self._ranks[merged], self._cuts[merged] = rank, len(left)
            else:
                self._other_ranks.setdefault((left, right), rank)

    def __len__(self) -> int:
        """Return the highest id plus one; a model may have more rows, which stand for nothing."""
        return len(self._texts)

    def special(self, name: str) -> int:
        """Return the id of a special token. Raises `KeyError`; those that this module names are all there."""
        return self._special[name]

    @property
    def end_ids(self) -> frozenset[int]:
        """Return the tokens that end an answer."""
        return frozenset((self._special[TURN_END], self._special[END_OF_TEXT]))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, normalised to NFC; the names of special tokens in it are text like any other."""
        found: list[int] = []
        for word in _words(unicodedata.normalize("NFC", text)):
            # Half of a surrogate pair has no UTF-8.
            letters = word.encode("utf-8", "replace").decode("latin-1").translate(self._letters)
            found += (self._ids[piece] for piece in self._pieces(letters))
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens; special ones have none. What is no whole character at the end is left out."""
        letters = "".join(self._texts[token] for token in ids if 0 <= token < len(self._texts))
        return codecs.utf_8_decode(letters.translate(self._bytes).encode("latin-1"), "replace", False)[0]

    def _rank(self, left: str, right: str) -> int:
        """Return how early two tokens are merged; -1 for never."""
        merged = self._ids.get(left + right)
        if merged is None:
            return -1
        if self._cuts[merged] == len(left):
            return self._ranks[merged]
        return self._other_ranks.get((left, right), -1)

    def _pieces(self, word: str) -> Iterator[str]:
        """Yield the tokens of a word: the neighbours of the best rank are merged, the first of equals, and so on."""
        parts = list(word)
        before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
        places = range(len(parts) - 1)
        queue = [(rank, place) for place in places if (rank := self._rank(parts[place], parts[place + 1])) >= 0]
        heapq.heapify(queue)
        while queue:
            rank, place = heapq.heappop(queue)
            other = after[place]
            # One of the two may have been merged with its other neighbour meanwhile.
            if not parts[place] or other == len(parts) or self._rank(parts[place], parts[other]) != rank:
                continue
            parts[place] += parts[other]
            parts[other] = ""
            after[place] = following = after[other]
            if following < len(parts):
                before[following] = place
                if (rank := self._rank(parts[place], parts[following])) >= 0:
                    heapq.heappush(queue, (rank, place))
            if (preceding := before[place]) >= 0 and (rank := self._rank(parts[preceding], parts[place])) >= 0:
                heapq.heappush(queue, (rank, preceding))
        return filter(None, parts)


def read(folder: Path) -> Tokenizer:
    """Read `vocab.json` and `merges.txt`, or else `tokenizer.json`, and the special tokens from what else there is.

    Raises `ModelFileMissing` or `ModelInvalid`.
    """
    try:
        vocabulary, merges = _tokens(folder)
        if not all(type(token) is int and token >= 0 for token in vocabulary.values()):
            raise TypeError("an id is no number")
        special = _special(folder)
        lines = (line if isinstance(line, str) else " ".join(line) for line in merges)
        try:
            return Tokenizer(vocabulary, lines, special)
        except ModelInvalid as error:
            raise ModelInvalid(f"in {folder}, {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelInvalid(f"{folder} has no tokenizer that can be read ({error!r}); {_FIX}") from None


def _tokens(folder: Path) -> tuple[dict[str, int], Sequence[Any]]:
    """Return tokens and merges."""
    if (folder / WHOLE).exists() and not ((folder / VOCABULARY).exists() and (folder / MERGES).exists()):
        model = _json(folder / WHOLE)["model"]
        return model["vocab"], model["merges"]
    lines = _text(folder / MERGES).split("\n")
    return _json(folder / VOCABULARY), [line for line in lines if line and not line.startswith("#version")]


def _special(folder: Path) -> dict[str, int]:
    """Return the ids of special tokens by their names, from the first files that name all that are needed."""
    found: dict[str, int] = {}
    if (path := folder / "tokenizer_config.json").exists():
        found |= {
            token["content"]: int(number) for number, token in _json(path).get("added_tokens_decoder", {}).items()
        }
    if (path := folder / "added_tokens.json").exists():
        found |= {name: int(number) for name, number in _json(path).items()}
    # It is large, and says nothing new beside the other two.
    if not found.keys() >= set(_NEEDED) and (path := folder / WHOLE).exists():
        found |= {token["content"]: int(token["id"]) for token in _json(path)["added_tokens"]}
    return found


def _json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    return json.loads(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelFileMissing(f"{path} does not exist; {_FIX}") from None
    except OSError as error:
        raise ModelInvalid(f"{path} cannot be read: {error}") from error


def _words(text: str) -> Iterator[str]:
    """Yield what is encoded by itself: a word with the space before it, a digit, a row of punctuation, white space."""
    classes = _classes(text)
    begin = 0
    while begin < len(text):
        found = _CONTRACTION.match(text, begin) or _WORD.match(classes, begin)
        end = found.end() if found else begin + 1
        yield text[begin:end]
        begin = end


def _classes(text: str) -> str:
    """Return for each character: L for a letter, N for a number, n for a line break, a space, s for other spaces, x.

    The module `re` has no classes of Unicode. What is newer than Python's Unicode counts as x.
    """
    known = dict.fromkeys(_SPACES, "s") | {"\r": "n", "\n": "n", " ": " "}
    for character in set(text) - known.keys():
        category = unicodedata.category(character)[0]
        known[character] = category if category in "LN" else "x"
    return "".join(map(known.__getitem__, text))


def _letters() -> dict[int, str]:
    """Return the printable character that GPT-2 writes for each byte: itself, or one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + number) for number, byte in enumerate(others)}
