"""Vocabularies, in both forms in which they are published."""

import json
import os
from pathlib import Path

import pytest

from wyoming_rknn.asr.sensevoice.tokens import read
from wyoming_rknn.errors import ModelFileMissing, ModelInvalid

DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or Path(__file__).parents[5] / "shared" / "data")


def put(folder: Path, content: str, name: str = "tokens.txt") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


def texts(path: Path) -> list[str]:
    vocabulary = read(path)
    return [vocabulary.text(token) for token in range(len(vocabulary))]


def test_lines(tmp_path: Path) -> None:
    content = "<unk> 0\n<s> 1\n</s> 2\n▁the 3\n  4\n 5\na b 6\n▁ 7\n12 8\n\x85 9\n\u2028 10\n好\t11\n"
    expected = ["<unk>", "<s>", "</s>", " the", " ", "", "a b", " ", "12", "\x85", "\u2028", "好"]
    assert texts(put(tmp_path, content)) == expected
    assert texts(put(tmp_path, content.replace("\n", "\r\n"))) == expected


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    assert texts(put(tmp_path, "d 3\nc 2\nb 1\na 0")) == ["a", "b", "c", "d"]


def test_json(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", "▁the", " ", ""]
    assert texts(put(tmp_path, json.dumps(pieces), "tokens.json")) == ["<unk>", "<s>", "</s>", " the", " ", ""]


def test_tags_and_bytes(tmp_path: Path) -> None:
    vocabulary = read(put(tmp_path, "<unk> 0\n<|en|> 1\n<|Speech_Noise|> 2\n<0xE4> 3\n<0xe4 4\n<|> 5\nx<|en|> 6\n"))
    assert [vocabulary.tag(token) for token in range(7)] == [None, "en", "Speech_Noise", None, None, None, None]
    assert [vocabulary.byte(token) for token in range(7)] == [None, None, None, 0xE4, None, None, None]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a 0\nb\nc 2\n", "line 2 is not a token and an id"),
        ("a 0\nb 1\nc x\n", "line 3 is not a token and an id"),
        ("a 0\nb 1\nc 1\n", "line 3 is not a token and an id of its own"),
        ("a 0\nb 1\nc 3\n", "3 tokens but ids up to 3"),
        ("", "holds 0 tokens"),
    ],
)
def test_broken_lines(content: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=problem):
        read(put(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "is not JSON"), ('{"a": 0}', "not a list of tokens"), ("[1, 2, 3]", "not a list"), ("[]", "holds 0 tokens")],
)
def test_broken_json(content: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=problem):
        read(put(tmp_path, content, "tokens.json"))


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissing, match=r"tokens\.txt does not exist"):
        read(tmp_path / "tokens.txt")
    (tmp_path / "tokens.txt").write_bytes(b"\xff\xfe 0\n")
    with pytest.raises(ModelInvalid, match="cannot be read"):
        read(tmp_path / "tokens.txt")


def test_the_published_vocabulary() -> None:
    if not (folder := DATA / "asr" / "sensevoice-real-meta").is_dir():
        pytest.skip(f"no test data in {DATA}")
    vocabulary = read(folder / "tokens.txt")
    assert len(vocabulary) == 25055
    assert texts(folder / "tokens.txt") == texts(folder / "tokens.json")
    tags = {24884: "zh", 24885: "en", 24888: "yue", 24892: "ja", 24896: "ko", 24992: "nospeech", 25016: "withitn"}
    assert {token: vocabulary.tag(token) for token in tags} == tags
    assert vocabulary.text(3) == " the"
