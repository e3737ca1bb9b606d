import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyoming_rknn.text.markup import clean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**bold** and *it* and `code` and ~~gone~~", "bold and it and code and gone"),
        ("***both*** and **a *nested* b** and __x__ _y_", "both and a nested b and x y"),
        ("2 * 3 and 2*3*4", "2 * 3 and 2*3*4"),
        ("snake_case and foo_bar_baz.py", "snake_case and foo_bar_baz.py"),
        ("**cut off by the splitter.", "cut off by the splitter."),
        ("and the other half.**", "and the other half."),
        (r"\*not\* bold \_here\_", "*not* bold _here_"),
        ("[text](https://a.b/c) and ![alt](x.png)", "text and alt"),
        ("[![badge](a.svg)](http://x.y) ok", "badge ok"),
        ("[ref][1] and a note[^2].", "ref and a note."),
        ("https://www.example.com/a?b=c.", "example.com."),
        ("(see https://user:pw@x.org:80/a_(b), please)", "(see x.org, please)"),
        ("<https://example.org>", "example.org"),
        ("www.foo.de/x and example.com/y#z!", "foo.de and example.com!"),
        ("me.you@host.com", "me.you@host.com"),
        ("Hi 👨‍👩‍👧 there 🙂! 🇩🇪 👍🏽 ❤️", "Hi there!"),
        ("1️⃣ one", "1 one"),
        ("yes✅no", "yes no"),
        ("<b>x</b><br>y <!-- no --> <script>z()</script>", "x y"),
        ("a < b > c and 1<2", "a < b > c and 1<2"),
        ("Tom &amp; Jerry&nbsp;&#65;&#x42;", "Tom & Jerry AB"),
        ("“curly” and ‘x’… yes", "\"curly\" and 'x'... yes"),
        ("one — two – three—four -- five", "one, two, three, four, five"),
        ("wow!!! what??? no,, yes....", "wow! what? no, yes..."),
        ("« Bonjour »", '"Bonjour"'),
        ("A → B -> C", "A, B, C"),
        ("| a | b |", "a, b"),
        ("# Title", "Title"),
        ("- [x] task", "task"),
        ("zero\u200bwidth\ufeff and\x00 control\x07 so\u00adft", "zerowidth and control soft"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("می‌خواهم", "می‌خواهم"),
        ("क्‍ष", "क्‍ष"),
        ("21 ℃ at 5°", "21 ℃ at 5°"),
        ("C# and F#, #1, AT&T, and/or, 50%", "C# and F#, #1, AT&T, and/or, 50%"),
    ],
)
def test_what_must_not_be_read_is_removed(text, expected):
    assert clean(text) == expected


def test_an_address_is_spelt_with_the_words_given():
    assert clean("me.you@host.co.uk", at="at", dot="dot") == "me dot you at host dot co dot uk"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "...",
        "🙂",
        "🇩🇪👍🏽",
        "---",
        "**",
        "__",
        "`",
        "\ud800",
        "\u200b\ufeff",
        "\x00\x07",
        "?!",
        "[]()",
        "<br>",
        "&nbsp;",
    ],
)
def test_nothing_speakable_is_nothing(text):
    assert clean(text) == ""


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=60))
def test_any_text_is_survived_and_holds_no_invisible_characters(text):
    cleaned = clean(text)
    assert cleaned == cleaned.strip() and "\n" not in cleaned
    cleaned.encode()


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(alphabet="abc DEFé,.!?'\"ß漢字", max_size=60))
def test_cleaning_twice_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "*" * 5000,
        "_" * 5000,
        "[" * 5000,
        "<a " * 2000,
        "](" * 2000,
        "`" * 5000,
        "a_" * 3000,
        "*a " * 2000,
        "@a." * 2000,
    ],
)
def test_odd_text_costs_no_more_than_its_length_allows(text):
    clean(text)
