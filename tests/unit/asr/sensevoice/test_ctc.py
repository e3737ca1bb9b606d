"""From frames to text: runs, blanks, tags of every class in any place, bytes and spaces, times."""

import pytest

from wyoming_rknn.asr.engine import Piece
from wyoming_rknn.asr.sensevoice.ctc import Decoded, Token, greedy, read
from wyoming_rknn.asr.sensevoice.tokens import Vocabulary

PIECES = (
    "<unk>", "<s>", "</s>", "<|en|>", "<|haw|>", "<|HAPPY|>", "<|NEUTRAL|>", "<|Speech|>", "<|BGM|>", "<|withitn|>",
    "<|woitn|>", "<|nospeech|>", "<|SPECIAL_TOKEN_7|>", "<|zh/en|>", "▁turn", "▁on", "灯", "▁", "<0xE4>", "<0xBD>",
    "<0xA0>", "s", "",
)  # fmt: skip
IDS = {piece: number for number, piece in enumerate(PIECES)}
VOCABULARY = Vocabulary(PIECES)


def decode(*pieces: str) -> Decoded:
    """Decode frames, given by their pieces; "_" is blank."""
    return read(greedy([IDS.get(piece, 0) for piece in pieces]), VOCABULARY)


def text(*pieces: str) -> str:
    return "".join(piece.text for piece in decode("_", "_", "_", "_", *pieces).pieces)


def test_runs_and_blanks() -> None:
    assert greedy([5, 5, 0, 5, 6, 6, 6, 0, 0, 1, 2, 7]) == [Token(5, 0), Token(5, 3), Token(6, 4), Token(7, 11)]
    assert greedy([]) == []
    assert greedy([0, 0]) == []
    assert text("s", "s", "_", "s", "<s>", "s") == "sss"


def test_the_first_tag_of_each_class() -> None:
    tags = ("<|en|>", "<|HAPPY|>", "<|Speech|>", "<|withitn|>")
    expected = Decoded((Piece(" turn", 0.0), Piece(" on", 0.12)), "en", "HAPPY", "Speech", "withitn")
    assert decode(*tags, "▁turn", "▁turn", "▁on") == expected
    later = decode(*tags, "▁turn", "<|BGM|>", "▁on", "<|NEUTRAL|>", "<|haw|>", "<|woitn|>")
    assert (later.language, later.emotion, later.event, later.text_norm) == ("en", "HAPPY", "Speech", "withitn")


def test_tags_wherever_they_stand() -> None:
    decoded = decode("▁turn", "_", "<|Speech|>", "<|woitn|>", "▁on", "<|NEUTRAL|>", "<|haw|>", "s")
    assert (decoded.language, decoded.emotion, decoded.event) == ("haw", "NEUTRAL", "Speech")
    assert [piece.text for piece in decoded.pieces] == [" turn", " on", "s"]


def test_text_in_the_place_of_tags_is_kept() -> None:
    assert decode("<|en|>", "_", "▁turn", "▁on", "s").pieces == (
        Piece(" turn", 0.0),
        Piece(" on", 0.0),
        Piece("s", 0.0),
    )


def test_unknown_tags_are_left_out() -> None:
    decoded = decode("<|zh/en|>", "<|SPECIAL_TOKEN_7|>", "_", "_", "灯")
    assert decoded == Decoded((Piece("灯", 0.0),))


@pytest.mark.parametrize("place", [0, 3, 5])
def test_no_speech(place: int) -> None:
    frames = ["<|en|>", "_", "_", "_", "▁turn", "▁on"]
    frames[place] = "<|nospeech|>"
    decoded = decode(*frames)
    assert (decoded.pieces, decoded.language) == ((), None)


def test_times() -> None:
    pieces = decode("_", "_", "_", "_", "_", "▁turn", "▁turn", "_", "_", "▁on").pieces
    assert [piece.begin_s for piece in pieces] == [0.06, 0.3]


def test_bytes_of_a_character() -> None:
    assert text("<0xE4>", "<0xBD>", "<0xA0>", "▁on") == "你 on"
    assert text("<0xE4>", "_", "<0xBD>", "<0xBD>", "<0xA0>") == "你"
    assert text("<0xE4>", "<0xBD>", "<0xA0>", "<0xE4>", "<0xBD>", "<0xA0>") == "你你"
    twice = decode("_", "_", "_", "_", *("<0xE4>", "<0xBD>", "<0xA0>") * 2)
    assert twice.pieces == (Piece("你", 0.0), Piece("你", 0.18))
    assert text("▁", "<0xE4>", "<0xBD>", "<0xA0>") == " 你"
    assert text("<0xE4>", "<0xBD>", "s") == "\N{REPLACEMENT CHARACTER}s"
    assert decode("_", "_", "_", "_", "s", "<0xE4>", "<0xBD>", "<0xA0>").pieces[1] == Piece("你", 0.06)


def test_a_space_goes_with_what_follows() -> None:
    assert decode("_", "_", "_", "_", "▁", "灯").pieces == (Piece(" 灯", 0.06),)
    assert text("灯", "▁", "▁on", "▁") == "灯 on"
    assert text("", "灯") == "灯"
