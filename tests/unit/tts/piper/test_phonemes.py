import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.tts.piper.phonemes import phonemize, to_ids

GOLDEN = Path(__file__).parents[3] / "golden" / "phonemes.tsv"
IDS = {"^": [1], "_": [0], "$": [2], "a": [14], "b": [15, 16]}


def spoken(text, voice="en-us", phoneme_type="espeak"):
    return "".join(phonemize(text, voice, phoneme_type))


def golden():
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(("voice", "text", "phonemes"), golden())
def test_ordinary_sentences_are_spoken_as_piper_phonemize_does(voice, text, phonemes):
    assert spoken(text, voice) == phonemes


def test_each_item_is_one_decomposed_code_point():
    phonemes = phonemize("Der Führer, çã", "pt-br")
    assert all(len(phoneme) == 1 and unicodedata.is_normalized("NFD", phoneme) for phoneme in phonemes)
    assert "\u0303" in phonemes


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("e.g. Mr. Smith came.", "ˌiːdʒˈiː mˈɪstɚ smˈɪθ kˈeɪm."),
        ("J. R. R. Tolkien wrote it.", "dʒˈeɪ ˈɑːɹ ˈɑːɹ tolkˈiːn ɹˈoʊt ɪt."),
        ('He said "Stop!" and left.', "hiː sˈɛd stˈɑːp! ænd lˈɛft."),
        ("Really? Yes", "ɹˈiəli? jˈɛs"),
        ("1. Milk", "wˈʌn, mˈɪlk"),
    ],
)
def test_what_espeak_cuts_within_a_sentence_is_joined(text, phonemes):
    assert spoken(text) == phonemes


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Wait... what", "wˈeɪt, wˌʌt"),
        ("Wait… what?", "wˈeɪt, wˌʌt?"),
        ("Wait . . . what", "wˈeɪt, wˌʌt"),
        ("Wait…what", "wˈeɪt, wˌʌt"),
        ("Wait...", "wˈeɪt."),
        ("Wait…”", "wˈeɪt."),
        ("What?... Yes", "wˌʌt? jˈɛs"),
        ("Well...?", "wˈɛl?"),
        ("...and then", "ænd ðˈɛn"),
    ],
)
def test_an_ellipsis_is_a_pause(text, phonemes):
    assert spoken(text) == phonemes


def test_curly_quotes_are_read_as_straight_ones():
    assert spoken("“It’s”, he said.") == spoken('"It\'s", he said.')


@pytest.mark.parametrize("text", ["", "  \n", "...", "!", "?!", "-", "“”", "[[ ]]", "[[]].", "\u0301", "\0"])
def test_nothing_speakable_gives_nothing(text):
    assert phonemize(text, "en-us") == []
    assert phonemize(text, "en-us", "text") == []


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("[[ hɛlˈoʊ ]]", "hɛlˈoʊ"),
        ("Say [[hɛlˈoʊ]] now.", "sˈeɪ hɛlˈoʊ nˈaʊ."),
        ("Say [[ hɛlˈoʊ ]], now.", "sˈeɪ hɛlˈoʊ, nˈaʊ."),
        ("Say [[hɛlˈoʊ]].", "sˈeɪ hɛlˈoʊ."),
        ("Say [[hɛlˈoʊ]]...", "sˈeɪ hɛlˈoʊ."),
        ("[[hɛlˈoʊ]]... now", "hɛlˈoʊ, nˈaʊ"),
        ("Dr. [[smɪθ]] said", "dˈɑːktɚ smɪθ sˈɛd"),
        ("Go, [[b]]?", "ɡˈoʊ, b?"),
        ("[[a]] [[b]]", "a b"),
        ("[[]]. Hi", "hˈaɪ"),
        ("[[a]][[b]]", "ab"),
        ("[[ç]]", "c\u0327"),
    ],
)
def test_raw_phonemes_stay_as_they_are(text, phonemes):
    assert spoken(text) == phonemes


def test_an_unclosed_bracket_is_text():
    assert spoken("[[unclosed text") == spoken("unclosed text")


def test_nul_and_lone_surrogates_lose_nothing_else():
    assert spoken("Hi\0there \ud800now.") == spoken("Hi there now.")


def test_foreign_words_leave_no_language_flags():
    assert "(" not in spoken("Я люблю Windows и Linux.", "ru")


def test_arabic_gets_its_vowel_marks():
    assert spoken("مرحبا بالعالم", "ar") == spoken("مَرْحَبًا بِالْعَالِمِ", "ar")
    assert "i" in spoken("مرحبا بالعالم", "ar")


def test_text_voices_take_folded_code_points():
    assert spoken("Große  Étude. ", "de", "text") == "grosse e\u0301tude."
    assert spoken("Große [[X]] Étude", "de", "text") == "grosse X e\u0301tude"


def test_text_voices_are_read_as_piper_phonemize_does():
    import piper_phonemize

    text = "Привіт, світе! Ґанок їжака."
    assert [phonemize(text, "uk", "text")] == piper_phonemize.phonemize_codepoints(text)


def test_an_unknown_espeak_voice_is_named_and_disturbs_nobody():
    before = spoken("hello")
    with pytest.raises(ModelInvalid, match=r"no voice 'xx-nope'.*espeak\.voice"):
        phonemize("hello", "xx-nope")
    assert spoken("hello") == before


@pytest.mark.parametrize("phoneme_type", ["pinyin", "hebrew", "japanese", "thai", "openjtalk"])
def test_other_phoneme_types_are_refused_by_name(phoneme_type):
    with pytest.raises(ModelInvalid, match=f"'{phoneme_type}'.*piper-tts"):
        phonemize("hello", "en-us", phoneme_type)


def test_threads_with_different_voices_do_not_mix():
    rows = golden() * 8
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: spoken(row[1], row[0]), rows)) == [row[2] for row in rows]


def test_ids_are_padded_between_and_not_at_the_end():
    assert to_ids(list("ab"), IDS) == ([1, 0, 14, 0, 15, 16, 0, 2], Counter())
    assert to_ids([], IDS) == ([1, 0, 2], Counter())


def test_missing_phonemes_are_skipped_and_counted():
    assert to_ids(list("axbxy"), IDS) == ([1, 0, 14, 0, 15, 16, 0, 2], Counter(x=2, y=1))


@pytest.mark.parametrize("mark", ["^", "_", "$"])
def test_a_map_without_its_marks_is_invalid(mark):
    with pytest.raises(ModelInvalid, match=r"phoneme_id_map has no"):
        to_ids(["a"], {key: ids for key, ids in IDS.items() if key != mark})
