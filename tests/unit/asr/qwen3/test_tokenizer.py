import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyoming_rknn.asr.qwen3.tokenizer import AUDIO_PAD, TEXT, Tokenizer, read
from wyoming_rknn.errors import ModelFileMissing, ModelInvalid

GOLDEN = Path(__file__).parents[3] / "golden" / "qwen3"
FOLDER = GOLDEN / "tokenizer"
TEXTS = json.loads((GOLDEN / "text.json").read_text(encoding="utf-8"))["texts"]
TOKENIZER = read(FOLDER)
FIRST_SPECIAL = 1024


def as_json(folder, merges=None):
    """Return the tokenizer as `tokenizer.json` has it."""
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = [{"id": int(number), **token} for number, token in config["added_tokens_decoder"].items()]
    return {"added_tokens": added, "model": {"type": "BPE", "vocab": vocabulary, "merges": merges or lines}}


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FOLDER, tmp_path / "tokenizer"))


def test_gives_the_ids_of_transformers():
    assert len(TEXTS) > 300
    for text, ids in TEXTS:
        assert TOKENIZER.encode(text) == ids, ascii(text)


def test_gives_the_text_back_in_its_normal_form():
    for text, ids in TEXTS:
        assert TOKENIZER.decode(ids) == unicodedata.normalize("NFC", text)


@settings(deadline=None)
@given(st.text())
def test_loses_nothing(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == unicodedata.normalize("NFC", text)


def test_half_of_a_surrogate_pair_does_no_harm():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a?b"


def test_a_very_long_word_is_no_trap():
    # Merging the best pair anew each time would take minutes.
    word = "languagespersian" * 4_000
    assert TOKENIZER.decode(TOKENIZER.encode(word)) == word


def test_special_tokens_have_the_ids_of_the_file():
    assert [TOKENIZER.special(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [1024, 1025, 1026]
    assert TOKENIZER.special(AUDIO_PAD) == FIRST_SPECIAL + 151676 - 151643
    assert TOKENIZER.special(TEXT) == FIRST_SPECIAL + 151704 - 151643
    assert TOKENIZER.end_ids == {1024, 1026}
    assert len(TOKENIZER) == 1087
    with pytest.raises(KeyError):
        TOKENIZER.special("<|no|>")


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "a<asr_text>b", "<|im_start|>system\n", "x <|audio_pad|> <|audio_pad|>"]
)
def test_the_name_of_a_special_token_is_text(text):
    ids = TOKENIZER.encode(text)
    assert max(ids) < FIRST_SPECIAL
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_have_no_text_and_unknown_ones_neither():
    ids = [TOKENIZER.special("<|im_start|>"), *TOKENIZER.encode("ja"), TOKENIZER.special(TEXT), 1087, 151_900, -787]
    assert TOKENIZER.decode(ids) == "ja"


def test_a_character_is_held_back_until_all_of_it_is_there():
    ids = TOKENIZER.encode("ok 👍")
    shown = [TOKENIZER.decode(ids[:count]) for count in range(len(ids) + 1)]
    assert shown[-1] == "ok 👍"
    assert shown[-2] == "ok "
    assert not any("\ufffd" in text for text in shown)


def test_bytes_that_are_no_character_are_shown_as_such_within_a_text():
    ids = TOKENIZER.encode("👍")
    assert len(ids) > 1
    assert TOKENIZER.decode([*ids[:-1], *TOKENIZER.encode("x")]) == "\ufffdx"


def test_a_token_that_is_merged_in_two_ways():
    vocabulary = {letter: number for number, letter in enumerate(TOKENIZER._letters.values())}
    vocabulary |= {"ab": 256, "bc": 257, "abc": 258}
    special = {name: 300 + number for number, name in enumerate(TOKENIZER._special)}
    first = Tokenizer(vocabulary, ["b c", "a b", "ab c"], special)
    assert first.encode("abc") == [vocabulary["a"], 257]
    both = Tokenizer(vocabulary, ["b c", "a b", "ab c", "a bc"], special)
    assert both.encode("abc") == [258]


@pytest.mark.parametrize("as_pairs", [True, False])
def test_reads_tokenizer_json(tmp_path, as_pairs):
    content = as_json(FOLDER)
    if as_pairs:
        content = as_json(FOLDER, [line.split(" ") for line in content["model"]["merges"]])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    same = read(tmp_path)
    assert all(same.encode(text) == ids for text, ids in TEXTS)
    assert same.special(TEXT) == TOKENIZER.special(TEXT)


@pytest.mark.parametrize("config", ["{}", None, '{"added_tokens_decoder": {"1026": {"content": "<|im_end|>"}}}'])
def test_takes_special_tokens_from_tokenizer_json_if_the_config_has_none(folder, config):
    (folder / "tokenizer.json").write_text(json.dumps(as_json(folder)), encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()
    if config is not None:
        (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
    assert read(folder).special(TEXT) == TOKENIZER.special(TEXT)


def test_takes_special_tokens_from_a_file_of_their_own(folder):
    added = {token["content"]: token["id"] for token in as_json(folder)["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert read(folder).special(TEXT) == TOKENIZER.special(TEXT)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json"])
def test_tokenizer_json_stands_in_for_what_is_missing(folder, name):
    (folder / "tokenizer.json").write_text(json.dumps(as_json(folder)), encoding="utf-8")
    (folder / name).unlink()
    assert read(folder).encode(TEXTS[0][0]) == TEXTS[0][1]


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json"])
def test_tells_which_file_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelFileMissing, match=rf"{name} does not exist; take the files"):
        read(folder)


def test_tells_which_special_tokens_are_missing(folder):
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelInvalid, match=r"in .*tokenizer, the tokenizer has no <\|im_start\|> and no"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "{", "has no tokenizer that can be read"),
        ("vocab.json", "[1]", "has no tokenizer that can be read"),
        ("vocab.json", '{"a": "b"}', "has no tokenizer that can be read"),
        ("vocab.json", '{"a": -1}', "has no tokenizer that can be read"),
        ("vocab.json", '{"a": 1}', "no token for some bytes"),
        ("vocab.json", "{}", "no token for some bytes"),
        ("vocab.json", b"\xff\xfe", "has no tokenizer that can be read"),
        ("merges.txt", "x y z", "merges 'x y z' to no token"),
        ("merges.txt", "nothing", "merges 'nothing' to no token"),
        ("tokenizer_config.json", "{}", r"has no <\|im_start\|> and no"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}', "has no tokenizer"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {}}}', "has no tokenizer"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "has no tokenizer"),
    ],
)
def test_refuses_what_is_no_tokenizer(folder, name, content, message):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelInvalid, match=message):
        read(folder)
