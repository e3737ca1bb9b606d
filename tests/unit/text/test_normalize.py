import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyoming_rknn.text.normalize import speakable
from wyoming_rknn.text.sentences import SentenceSplitter

GOLDEN = Path(__file__).parents[2] / "golden" / "text"
ROWS = [
    (path.stem, *line.split("\t"))
    for path in sorted(GOLDEN.glob("*.tsv"))
    for line in path.read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("//")
]
LANGUAGES = sorted({language for language, *_ in ROWS})


@pytest.mark.parametrize(("language", "text", "expected"), ROWS)
def test_golden(language, text, expected):
    assert speakable(text, language) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_table_is_worth_its_name(language):
    assert sum(row[0] == language for row in ROWS) >= (25 if language in ("en", "de", "fr", "es", "zh") else 8)


def test_the_required_languages_have_tables():
    assert {"en", "de", "fr", "es", "zh"} <= set(LANGUAGES)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en-US", "on 5/6/2026", "on May sixth, twenty twenty-six"),
        ("en_GB", "on 5/6/2026", "on June fifth, twenty twenty-six"),
        ("en", "on 5/6/2026", "on 5/6/2026"),
        (
            "es-MX",
            "1,234.5 km y 0.5 %",
            "mil doscientos treinta y cuatro punto cinco kilómetros y cero punto cinco por ciento",
        ),
        ("pt-PT", "2 km", "dois quilómetros"),
        ("cmn", "-3", "负三"),
        ("en-Latn-US-x-odd", "on 5/6/2026", "on May sixth, twenty twenty-six"),
    ],
)
def test_regions(language, text, expected):
    assert speakable(text, language) == expected


@pytest.mark.parametrize("language", ["xx", "", "sv", "tlh-x-odd", "zz_ZZ", "../en", "base", "a" * 500])
def test_a_language_without_a_table_keeps_its_digits(language):
    assert speakable("**-3** and 21.5 °C 🙂", language) == "-3 and 21.5 °C"


def test_phoneme_spans_pass_untouched_on_request():
    text = "Say [[ tə**ˈm 5 ]] and [[x]], 5 *times*"
    assert speakable(text, "en", keep_phonemes=True) == "Say [[ tə**ˈm 5 ]] and [[x]], five times"
    assert speakable("[[ a ]]", "en", keep_phonemes=True) == "[[ a ]]"
    assert "[[ tə**" not in speakable(text, "en")
    assert speakable("a\ue000b\uf005 5 [[ x ]]", "en", keep_phonemes=True) == "ab five [[ x ]]"


@pytest.mark.parametrize("language", [*LANGUAGES, "sv"])
@pytest.mark.parametrize("text", ["", " ", "\n", "...", "🙂", "---", "**", "\ud800", "\u200b", "\x00", "?!"])
def test_nothing_speakable_is_nothing(language, text):
    assert speakable(text, language) == ""


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(alphabet="abcXYZ äéñ漢字仮名, .!?'-", max_size=60), st.sampled_from(LANGUAGES))
def test_plain_text_is_idempotent(text, language):
    once = speakable(text, language)
    assert speakable(once, language) == once


@pytest.mark.parametrize("language", LANGUAGES)
def test_ordinary_sentences_stay_as_they_are(language):
    for text in ("Hello, is it you (or not)?", "Well - it's a good day; isn't it!", "naïve, well-known: a/b & c."):
        assert speakable(text, language) == text.replace(" - ", ", ")


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    st.text(alphabet="0123456789 .,:/-–%€$°Ck mh½x×+−'年月点pe", max_size=30),
    st.sampled_from(LANGUAGES),
)
def test_any_heap_of_digits_is_survived(text, language):
    spoken = speakable(text, language)
    assert not re.search("[\ue000-\uf8ff]", spoken)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(0, 999_999), st.sampled_from(LANGUAGES))
def test_spoken_numbers_are_spoken_whole(number, language):
    spoken = speakable(f"x {number} y", language)
    assert str(number) in spoken or not any(char.isdecimal() for char in spoken)


REPLY = """## Weather report

Sure! Here's the **forecast** for *Berlin* (updated 10:05):

| Day | High |
|-----|-----:|
| Mon | 21.5 °C |

1. **Bring** an umbrella ☔️ — it'll rain, e.g. after 5 p.m. on Nov. 3rd.
2. Wear [warm clothes](https://www.example.com/clothes?id=3).
   - [ ] a scarf

```python
print("hello")
```

> "Quote me," he said.

Visit https://www.example.com/a/b, or mail me.you@host.com. Really?! Yes &amp; no.
---
That's it 🙂
"""


def test_a_whole_reply_is_read_as_a_person_would():
    splitter = SentenceSplitter()
    segments = [segment for char in REPLY for segment in splitter.feed(char)] + splitter.finish()
    assert [speakable(segment, "en") for segment in segments] == [
        "Weather report",
        "Sure!",
        "Here's the forecast for Berlin (updated ten oh five):",
        "Day, High",
        "Mon, twenty-one point five degrees Celsius",
        "one. Bring an umbrella, it'll rain, e.g. after five p.m. on November third.",
        "two. Wear warm clothes.",
        "a scarf",
        '"Quote me," he said.',
        "Visit example.com, or mail me dot you at host dot com.",
        "Really?!",
        "Yes & no.",
        "That's it",
    ]


@pytest.mark.parametrize(
    "digits",
    ["9" * 10_000, "9" * 10_000 + "th", "1,000" + ",000" * 3000, "$" + "1" * 9000 + " km"],
)
def test_endless_digits_stay_as_they_are(digits):
    assert speakable(digits, "en") == digits
