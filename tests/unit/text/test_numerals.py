import pytest

from wyoming_rknn.text.numerals import Number, Speller, parse


@pytest.mark.parametrize(
    ("text", "decimal", "expected"),
    [
        ("21", ".", Number(21)),
        ("21.5", ".", Number(21, "5")),
        ("21.5", ",", Number(21, "5")),
        ("21,50", ".", Number(21, "50")),
        ("0.125", ",", Number(0, "125")),
        ("1,234", ".", Number(1234)),
        ("1.234", ",", Number(1234)),
        ("1.234", ".", Number(1, "234")),
        ("1,234", ",", None),
        ("1,234.50", ",", Number(1234, "50")),
        ("1.234,50", ".", Number(1234, "50")),
        ("1,234,567", ",", Number(1234567)),
        ("1 234,5", ",", Number(1234, "5")),
        ("1'234.5", ".", Number(1234, "5")),
        ("007", ".", None),
        ("1,23,4", ".", None),
        ("1.2.3", ".", None),
    ],
)
def test_a_number_is_read_by_its_languages_rules_or_not_at_all(text, decimal, expected):
    assert parse(text, decimal) == expected


def test_a_language_without_words_is_an_error():
    with pytest.raises(ValueError, match="nowhere"):
        Speller("nowhere")
