import pytest

from wyoming_rknn.asr.programs import match_language
from wyoming_rknn.asr.qwen3.languages import NAMES, TAGS, name_of, tag_of


def test_there_are_thirty_each_with_a_name_of_its_own():
    assert len(set(TAGS)) == len(set(NAMES)) == 30
    assert list(TAGS) == sorted(TAGS)


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_leads_to_a_name_and_back(tag):
    assert tag_of(name_of(tag)) == tag
    assert tag_of(f" {name_of(tag).upper()} ") == tag


@pytest.mark.parametrize(
    ("tag", "name"),
    [("de", "German"), ("yue", "Cantonese"), ("fil", "Filipino"), ("zh", "Chinese"), ("fa", "Persian")],
)
def test_names_are_those_of_the_model(tag, name):
    assert name_of(tag) == name


@pytest.mark.parametrize("name", ["", "None", "Klingon", "de", "Germ", "German English"])
def test_what_is_no_language_has_no_tag(name):
    assert tag_of(name) is None


def test_a_tag_that_is_none_has_no_name():
    with pytest.raises(KeyError):
        name_of("nds")


@pytest.mark.parametrize(("wanted", "tag"), [("de-AT", "de"), ("zh-HK", "yue"), ("pt_BR", "pt"), ("nds", None)])
def test_requests_find_their_language(wanted, tag):
    assert match_language(wanted, TAGS) == tag
