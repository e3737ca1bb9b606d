import argparse

import pytest

from wyoming_rknn.cli.arguments import Parser, add_settings, quiet_settings, settings_from
from wyoming_rknn.errors import UsageError
from wyoming_rknn.settings import each, option


def parse(*words, names=None):
    parser = Parser(prog="wyoming-rknn")
    verbs = parser.add_subparsers(dest="verb", parser_class=Parser)
    add_settings(verbs.add_parser("serve"), names)
    return parser.parse_args(["serve", *words])


def test_every_setting_is_an_option_with_help():
    parser = argparse.ArgumentParser()
    add_settings(parser)
    options = {string: action for action in parser._actions for string in action.option_strings}
    for spec in each():
        action = options.pop(option(spec.name))
        assert action.help == spec.metadata["help"]
        assert action.metavar or spec.type is bool
    assert set(options) == {"-h", "--help", "--config"}


def test_some_settings_can_be_chosen():
    given = parse("--voice", "x", names=("voice", "threads"))
    assert given.voice == "x"
    with pytest.raises(UsageError, match="unknown option --uri"):
        parse("--uri", "x", names=("voice", "threads"))


def test_what_is_not_given_stays_unset():
    assert set(vars(parse("--threads", "2"))) == {"verb", "config", "threads"}
    assert settings_from(parse("--threads", "2")).threads == 2


def test_options_are_not_abbreviated():
    with pytest.raises(UsageError, match="unknown option --voic; did you mean --voice"):
        parse("--voic", "x")


def test_a_value_may_look_like_an_option_after_an_equals_sign():
    assert parse("--voice=-x").voice == "-x"


def test_every_verb_reads_only_settings_that_exist(monkeypatch):
    # Each names the settings it takes; a wrong name would be ignored in silence.
    from wyoming_rknn.cli import bench, say

    known = {spec.name for spec in each()}
    assert set(say._SETTINGS) <= known
    assert set(bench._SETTINGS) <= known


def test_what_ends_soon_fetches_nothing(monkeypatch):
    monkeypatch.setenv("WYOMING_RKNN_AUTO_DOWNLOAD", "yes")
    assert settings_from(parse()).auto_download
    assert not quiet_settings(parse(names=("voice", "log_level"))).auto_download
