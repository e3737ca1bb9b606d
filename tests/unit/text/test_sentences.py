import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wyoming_rknn.text.sentences import SentenceSplitter

LETTERS_AND_MARKS = st.text(alphabet="aAbT .,;:!?\n-*#>|`[]()\"'123°。，字「」…—\r\t~_é\u200b🙂", max_size=120)
PIECES = (
    "Hello world. Dr. Smith e.g. 21.5 1,234.50 U.S. p.m. am 3. Oktober J. R. R. Tolkien ?! ... \n \n\n - 1. ``` "
    "字字字。 「好。」 [[ a. b ]] [x](http://y.z) **bold. | a | b | # --- > “Yes.” she « Oui. » "
    "No. Nr. 5 , : — ~~~ * z. B. x"
)
PROSE = st.lists(st.sampled_from(PIECES.split(" ")), max_size=60).map(" ".join)


def split(text: str, language: str = "en", **settings_: int) -> list[str]:
    splitter = SentenceSplitter(language, **settings_)
    return splitter.feed(text) + splitter.finish()


def visible(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "It is 21.5 degrees. Fine.", ["It is 21.5 degrees.", "Fine."]),
        ("en", "That is 1,234.50 at 10:05. Good!", ["That is 1,234.50 at 10:05.", "Good!"]),
        ("en", "Dr. Smith met Mr. and Mrs. Jones. They ate.", ["Dr. Smith met Mr. and Mrs. Jones.", "They ate."]),
        ("en", "Fruit, e.g. apples, i.e. food. Done.", ["Fruit, e.g. apples, i.e. food.", "Done."]),
        ("en", "We meet at 7 p.m. today. Then home.", ["We meet at 7 p.m. today.", "Then home."]),
        ("en", "We meet at 7 p.m. The end.", ["We meet at 7 p.m.", "The end."]),
        (
            "en",
            "The U.S. Senate sat. He left the U.S. It rained.",
            ["The U.S. Senate sat.", "He left the U.S.", "It rained."],
        ),
        (
            "en",
            "J. R. R. Tolkien wrote it. So do I. Then more.",
            ["J. R. R. Tolkien wrote it.", "So do I.", "Then more."],
        ),
        ("en", "So do I. Berlin is big.", ["So do I.", "Berlin is big."]),
        ("en", "He is 3. Then he left.", ["He is 3.", "Then he left."]),
        ("en", "No. 5 is alive. No. I mean it.", ["No. 5 is alive.", "No.", "I mean it."]),
        ("en", "Visit example.com now. v1.2.3 is out.", ["Visit example.com now.", "v1.2.3 is out."]),
        ("en", "now. next", ["now.", "next"]),
        ("en", "Wait... what?! Well... Yes.", ["Wait... what?!", "Well...", "Yes."]),
        (
            "en",
            '"Really?" he asked. "No." She left. (Yes.) Ok.',
            ['"Really?" he asked.', '"No."', "She left.", "(Yes.)", "Ok."],
        ),
        ("en", "It is **bold.** Next one.", ["It is **bold.**", "Next one."]),
        ("de", "Am 3. Oktober ist frei. Gut.", ["Am 3. Oktober ist frei.", "Gut."]),
        ("de", "Er ist 3. Dann ging er.", ["Er ist 3.", "Dann ging er."]),
        ("de", "Das ist z. B. ein Test. Nr. 5 lebt.", ["Das ist z. B. ein Test.", "Nr. 5 lebt."]),
        ("de", "Im 2. Stock usw. Und dann.", ["Im 2. Stock usw.", "Und dann."]),
        ("de", "Am 3. Mittwoch kam er.", ["Am 3. Mittwoch kam er."]),
        ("de", "am\n3. Oktober", ["am 3. Oktober"]),
        ("cs", "Dnes je 3. října. Zítra ne.", ["Dnes je 3. října.", "Zítra ne."]),
        ("nb", "Den 3. mai er fri. Ja.", ["Den 3. mai er fri.", "Ja."]),
        ("de", "„Ja.“ Dann ging er. »Nein.« Gut.", ["„Ja.“", "Dann ging er.", "»Nein.«", "Gut."]),
        ("de", "Am 24.12. ist frei. Ja.", ["Am 24.12. ist frei.", "Ja."]),
        ("fr", "M. Dupont dit : « Oui. » Merci. « Non ! »", ["M. Dupont dit : « Oui. »", "Merci.", "« Non ! »"]),
        ("es", "EE. UU. es grande. Sí.", ["EE. UU. es grande.", "Sí."]),
        ("zh", "今天天气很好。你好！「是吗？」他说。", ["今天天气很好。", "你好！", "「是吗？」他说。"]),
        ("ja", "はい。21.5度です。", ["はい。", "21.5度です。"]),
        ("hi", "नमस्ते। आप कैसे हैं?", ["नमस्ते।", "आप कैसे हैं?"]),
        ("ar", "كيف حالك؟ أنا بخير.", ["كيف حالك؟", "أنا بخير."]),
        ("hy", "Բարև։ Ինչպես ես։", ["Բարև։", "Ինչպես ես։"]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(language, text, expected):
    assert split(text, language) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. Milk\n2. Bread", ["1. Milk", "2. Bread"]),
        ("- Milk\n- Bread\n* [x] Done", ["Milk", "Bread", "Done"]),
        ("Milk\nBread\nEggs", ["Milk", "Bread", "Eggs"]),
        ("milk\neggs", ["milk", "eggs"]),
        ("Here it is:\n- one\n- two", ["Here it is:", "one", "two"]),
        ("This is a line\nthat was wrapped.", ["This is a line that was wrapped."]),
        ("See e.g.\nthis line. Call Dr.\nSmith now.", ["See e.g. this line.", "Call Dr. Smith now."]),
        ("> ```\n> code\n> ```\nText", ["Text"]),
        ("One\n\nTwo", ["One", "Two"]),
        ("One\r\n\r\nTwo", ["One", "Two"]),
        ("This is a line\r\nthat was wrapped.", ["This is a line that was wrapped."]),
        ("# Title\nText", ["Title", "Text"]),
        ("Title\n=====\nText", ["Title", "Text"]),
        ("> so he\n> said", ["so he said"]),
        ("a\n\n---\n\nb", ["a", "b"]),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |\n", ["a, b", "1, 2"]),
        ("Look:\n```python\nprint(1)\n```\nDone.", ["Look:", "Done."]),
        ("```\nnever closed", ["``` never closed"]),
        ("~~~\nx\n~~~", []),
        ("```\nx\n```", []),
        (
            "We were surprised that in the end all of it had cost\n2. It was fine.",
            ["We were surprised that in the end all of it had cost 2.", "It was fine."],
        ),
        ("See [Dr. A. B](http://x.y/z). Then.", ["See [Dr. A. B](http://x.y/z).", "Then."]),
        ("Run `a. B` now. Then.", ["Run `a. B` now.", "Then."]),
        ("[[ a. B ]] c. D", ["[[ a. B ]] c.", "D"]),
        ("x > 3 and\n>5", ["x > 3 and", ">5"]),
    ],
)
def test_blocks_become_segments(text, expected):
    assert split(text) == expected


@pytest.mark.parametrize(
    ("fed", "flushed"),
    [
        ("One moment.", ["One moment."]),
        ("Hi!", ["Hi!"]),
        ("See you at 7 p.m.", ["See you at 7 p.m."]),
        ("- Milk\n", ["Milk"]),
        ("是的。「好」", []),
        ("Dr.", []),
        ("3.", []),
        ("It is 3.", []),
        ("half a sentence", []),
        ("half a sentence, ", []),
        ("see [this link.", []),
        ("[[ a.", []),
        ("- Milk", []),
        ("| a | b |", []),
        ("wrapped line\n", []),
    ],
)
def test_pause_flushes_only_whole_sentences(fed, flushed):
    splitter = SentenceSplitter()
    ready = splitter.feed(fed)
    assert splitter.pause() == flushed
    rest = splitter.finish()
    assert visible("".join(ready + flushed + rest)) == visible(
        split(fed)[0] if len(split(fed)) == 1 else "".join(split(fed))
    )


@pytest.mark.parametrize("text", ["Done? ", "Done! ", "Done. ", "Done.\n", "List:\n", "好。", "हाँ।"])
def test_a_decided_end_does_not_wait_for_the_next_sentence(text):
    assert SentenceSplitter().feed(text) == [text.strip()]


def test_the_first_segment_may_end_at_a_clause_and_only_the_first():
    text = (
        "This is a rather long first sentence with plenty of words before the comma, and here it goes on and on, "
        "until it ends at last. This is a rather long second sentence with plenty of words before the comma, "
        "and more of the same."
    )
    first, second, third = split(text)
    assert first.endswith("before the comma,")
    assert second.startswith("and here") and second.endswith("at last.")
    assert third.endswith("of the same.")


def test_the_first_clause_leaves_no_stump_and_cuts_no_number():
    stump = "This is a rather long first sentence with plenty of words in it indeed, really."
    number = "This is a rather long first sentence that says a number 1,234,567,890,123 within it and goes on for long"
    assert split(stump) == [stump]
    assert split(number) == [number]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("word " * 2000, 200),
        ("a" * 10_000, 200),
        ("字" * 4000, 80),
        ("a, " * 3333, 200),
        ("- " * 5000, 200),
        ("ก" * 10_000, 200),
    ],
)
def test_text_without_full_stops_starts_after_max_chars(text, limit):
    splitter = SentenceSplitter("en")
    fed = 0
    for char in text:
        fed += 1
        if first := splitter.feed(char):
            break
    assert fed <= limit * 2.6 and len(first[0]) <= limit
    segments = split(text)
    assert max(map(len, segments)) <= limit


def test_cost_grows_linearly():
    splitter = SentenceSplitter()
    began = time.monotonic()
    for _ in range(100):
        splitter.feed("lorem ipsum " * 100)
    splitter.feed("\n```\n" + "code\n" * 20_000)
    splitter.finish()
    assert time.monotonic() - began < 10


def test_phoneme_spans_are_not_cut_by_the_limit():
    span = "[[ " + "a b " * 20 + "]]"
    segments = split("word " * 30 + span + " word" * 30)
    assert any(span in segment for segment in segments)


def test_a_finished_splitter_is_as_new():
    splitter = SentenceSplitter()
    splitter.feed("- half a\n```\nfence")
    splitter.finish()
    assert splitter.feed("Well. ") == ["Well."]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.one_of(LETTERS_AND_MARKS, PROSE), st.sampled_from(["en", "de", "zh", "fr"]), st.data())
def test_segments_do_not_depend_on_how_the_text_is_cut(text, language, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    limits = {"first_clause_chars": 10, "max_chars": 40}
    whole = split(text, language, **limits)
    for pieces in (list(text), [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]):
        splitter = SentenceSplitter(language, **limits)
        assert [segment for piece in pieces for segment in splitter.feed(piece)] + splitter.finish() == whole


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.text(alphabet="aAb .,;:!?\n\"'123。，字「」…—é\r()", max_size=200),
    st.sampled_from(["en", "de", "zh"]),
    st.booleans(),
)
@example("a" * 500, "en", False)
def test_nothing_is_lost_or_doubled(text, language, pausing):
    splitter = SentenceSplitter(language, max_chars=40, first_clause_chars=10)
    segments = []
    for char in text:
        segments += splitter.feed(char)
        if pausing:
            segments += splitter.pause()
    segments += splitter.finish()
    # A dash at the start of a line, which is a list's mark, is the only thing that vanishes.
    assert visible("".join(segments)).replace("—", "") == visible(text).replace("—", "")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(LETTERS_AND_MARKS, st.sampled_from(["en", "de"]))
def test_markup_loses_no_letters_but_in_fences(text, language):
    text = text.replace("`", "").replace("~", "").replace("x", "")
    letters = [char for char in text if char.isalnum()]
    segments = split(text, language)
    assert [char for segment in segments for char in segment if char.isalnum()] == letters
