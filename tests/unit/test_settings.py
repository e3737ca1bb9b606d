import json
from dataclasses import fields
from pathlib import Path

import pytest

from wyoming_rknn import settings as module
from wyoming_rknn.cli.arguments import Parser, add_settings, settings_from
from wyoming_rknn.errors import UsageError
from wyoming_rknn.settings import (
    Settings,
    default_cache_dir,
    default_data_dirs,
    describe_default,
    each,
    from_environment,
    from_file,
    option,
)


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine on which nothing is set, neither a container nor an add-on."""
    for name in (f"WYOMING_RKNN_{spec.name.upper()}" for spec in each()):
        monkeypatch.delenv(name, raising=False)
    for name in ("WYOMING_RKNN_CONFIG", "SUPERVISOR_TOKEN", "container", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "in_container", lambda environment: False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def merged():
    """Return what a command line gives together with the environment and a file."""

    def merge(*words):
        parser = Parser()
        add_settings(parser)
        return settings_from(parser.parse_known_args(words)[0])

    return merge


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_every_setting_says_what_it_is_for():
    for spec in fields(Settings):
        assert spec.metadata["help"].strip(), spec.name
        # argparse formats help texts with %.
        assert "%" not in spec.metadata["help"], spec.name
        assert spec.type is bool or spec.metadata.get("metavar") or spec.metadata.get("choices"), spec.name


def test_every_default_is_within_its_range():
    Settings()


def test_every_setting_can_be_given_in_every_layer(merged, monkeypatch, tmp_path):
    highest = {name: high for name, _, high in module._RANGES}
    for spec in each():
        value = highest.get(spec.name) or spec.metadata.get("choices", ("20",))[-1]
        value = "yes" if spec.type is bool else str(value)
        expected = getattr(Settings.merge({spec.name: value}), spec.name)
        assert expected != spec.default, spec.name
        words = [option(spec.name)] if spec.type is bool else [option(spec.name), value]
        assert getattr(merged(*words), spec.name) == expected
        config = write(tmp_path / "settings.yaml", f"{spec.name.replace('_', '-')}: {value!r}\n")
        assert getattr(merged("--config", str(config)), spec.name) == expected
        with monkeypatch.context() as patch:
            patch.setenv(f"WYOMING_RKNN_{spec.name.upper()}", value)
            assert getattr(merged(), spec.name) == expected


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(merged, monkeypatch, tmp_path):
    config = write(tmp_path / "settings.yaml", "threads: 1\nvoice: from-file\nvolume: 0.5\n")
    monkeypatch.setenv("WYOMING_RKNN_CONFIG", str(config))
    monkeypatch.setenv("WYOMING_RKNN_THREADS", "2")
    monkeypatch.setenv("WYOMING_RKNN_VOICE", "from-environment")
    found = merged("--threads", "3")
    assert (found.threads, found.voice, found.volume, found.max_window) == (3, "from-environment", 0.5, 192)


def test_a_named_file_beats_the_one_in_the_environment(merged, monkeypatch, tmp_path):
    monkeypatch.setenv("WYOMING_RKNN_CONFIG", str(write(tmp_path / "one.yaml", "threads: 1")))
    assert merged("--config", str(write(tmp_path / "two.yaml", "threads: 2"))).threads == 2


def test_an_add_on_reads_its_options(merged, monkeypatch, tmp_path):
    options = write(tmp_path / "options.json", json.dumps({"voice": "sano", "no_zeroconf": True, "language": None}))
    monkeypatch.setattr("wyoming_rknn.cli.arguments.ADDON_OPTIONS", options)
    assert merged().voice is None
    monkeypatch.setattr("wyoming_rknn.cli.arguments.in_container", lambda environment: True)
    assert (merged().voice, merged().no_zeroconf, merged().language) == ("sano", True, None)
    other = write(tmp_path / "other.yaml", "threads: 2")
    assert merged("--config", str(other)).voice is None


def test_a_secret_may_lie_in_a_file(tmp_path):
    secret = write(tmp_path / "voice", "sano\n")
    assert from_environment({"WYOMING_RKNN_VOICE_FILE": str(secret)}) == {"voice": "sano"}
    with pytest.raises(UsageError, match=r"WYOMING_RKNN_VOICE_FILE: cannot read .*: No such file"):
        from_environment({"WYOMING_RKNN_VOICE_FILE": str(tmp_path / "nothing")})


def test_other_variables_are_left_alone():
    environment = {"WYOMING_RKNN_CONFIG": "x", "WYOMING_RKNN_TEST_DATA": "y", "WYOMING": "z", "VOICE": "v"}
    assert from_environment(environment) == {}


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("WYOMING_RKNN_VOISE", "did you mean voice"),
        ("WYOMING_RKNN_VOISE_FILE", "unknown variable WYOMING_RKNN_VOISE_FILE"),
        ("WYOMING_RKNN_", "unknown variable WYOMING_RKNN_"),
    ],
)
def test_an_unknown_variable_is_an_error(variable, advice):
    with pytest.raises(UsageError, match=advice):
        from_environment({variable: "x"})


def test_an_unknown_key_in_a_file_is_an_error(merged, tmp_path):
    config = write(tmp_path / "settings.yaml", "sentence_silense: 1")
    with pytest.raises(UsageError, match="unknown setting 'sentence_silense'; did you mean sentence_silence"):
        merged("--config", str(config))


def test_an_unknown_key_among_an_add_ons_options_is_an_error():
    with pytest.raises(UsageError, match="did you mean max_window"):
        Settings.merge({}, {}, {"max_windows": 3})


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        ("- voice", "s.yaml", "must hold settings"),
        ("1: voice", "s.yaml", "must hold settings"),
        ("[1, 2]", "s.json", "must hold settings"),
        ("{voice", "s.yaml", "not valid JSON or YAML"),
        ("{'voice': 1}", "s.json", "not valid JSON or YAML"),
        ("!!python/object/apply:os.getcwd []", "s.yaml", "not valid JSON or YAML"),
    ],
)
def test_a_broken_file_is_an_error_of_one_line(tmp_path, content, name, complaint):
    with pytest.raises(UsageError, match=complaint) as raised:
        from_file(write(tmp_path / name, content))
    assert "\n" not in str(raised.value)


def test_an_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"--config: cannot read .*missing.yaml: No such file or directory"):
        from_file(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        from_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("voice: é".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        from_file(tmp_path / "latin.yaml")


def test_files_may_be_empty_yaml_or_json(tmp_path):
    assert from_file(write(tmp_path / "empty.yaml", "# nothing\n")) == {}
    assert from_file(write(tmp_path / "s.yml", "data-dir: [a b, c]\nthreads: 2")) == {
        "data-dir": ["a b", "c"],
        "threads": 2,
    }
    assert from_file(write(tmp_path / "s.json", '{"volume": 1e0, "voice": "\\u00e9"}')) == {"volume": 1.0, "voice": "é"}


@pytest.mark.parametrize("word", ["1", "true", "Yes", " on ", "TRUE"])
def test_words_for_yes(word):
    assert Settings.merge({"no_zeroconf": word}).no_zeroconf is True


@pytest.mark.parametrize("word", ["0", "false", "No", "off", ""])
def test_words_for_no(word):
    assert Settings.merge({"no_zeroconf": word}).no_zeroconf is False


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("no_zeroconf", "maybe"),
        ("no_zeroconf", 2),
        ("threads", "two"),
        ("threads", 2.5),
        ("threads", True),
        ("threads", [2]),
        ("volume", "loud"),
        ("volume", {}),
        ("voice", False),
        ("voice", ["a"]),
        ("uri", {"tcp": 1}),
        ("uri", [None]),
        ("uri", 5),
        ("data_dir", True),
        ("cache_dir", "~no-such-user-anywhere/x"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_option(key, value):
    with pytest.raises(UsageError, match=f"{option(key)} cannot be .*: "):
        Settings.merge({key: value})


def test_one_of_several_words_is_demanded():
    with pytest.raises(UsageError, match="--log-level must be one of debug, info, warning, error, not 'loud'"):
        Settings.merge({"log_level": "loud"})


@pytest.mark.parametrize(("name", "low", "high"), module._RANGES)
def test_ranges(name, low, high):
    for value in (low, high):
        assert getattr(Settings(**{name: value}), name) == value
    for value in (low - 0.01, high + 1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"{option(name)} must be between"):
            Settings(**{name: value})


def test_a_range_is_told_in_full():
    with pytest.raises(UsageError, match="--max-payload must be between 1024 and 268435456, not 268435457"):
        Settings(max_payload=268435457)


def test_several_values(merged, monkeypatch):
    monkeypatch.setenv("WYOMING_RKNN_URI", "tcp://a:1  unix:///b")
    assert merged().uri == ("tcp://a:1", "unix:///b")
    assert merged("--uri", "tcp://c:1", "--uri", "tcp://d:2").uri == ("tcp://c:1", "tcp://d:2")
    assert merged("--data-dir", "with space", "--data-dir", "~/voices").data_dir == (
        Path("with space"),
        Path.home() / "voices",
    )
    for nothing in (None, "", []):
        assert Settings.merge({"uri": nothing}).uri == ()


def test_nothing_means_the_default():
    assert Settings.merge({"voice": "", "volume": "", "noise_scale": None, "threads": None}) == Settings()


def test_an_announcement_needs_no_name(merged):
    assert merged("--zeroconf").zeroconf is None
    assert merged("--zeroconf", "kitchen").zeroconf == "kitchen"


def test_models_are_looked_for_in_the_users_own_folder(tmp_path):
    assert default_data_dirs({"XDG_DATA_HOME": "here"})[0] == Path("here/wyoming-rknn")
    assert default_data_dirs({})[0] == tmp_path / ".local/share/wyoming-rknn"
    assert Settings(data_dir=(Path("a"), Path("b"))).data_dirs == (Path("a"), Path("b"))


def test_the_cache_is_the_users_own_or_the_containers(monkeypatch, tmp_path):
    assert default_cache_dir({"XDG_CACHE_HOME": "here"}) == Path("here/wyoming-rknn")
    assert default_cache_dir({}) == tmp_path / ".cache/wyoming-rknn"
    assert Settings(cache_dir=Path("a")).cache == Path("a")
    monkeypatch.setattr(module, "in_container", lambda environment: True)
    assert default_cache_dir({}) == Path("/data/cache")
    assert Path("/data") in default_data_dirs({}) or not Path("/data").is_dir()


def test_defaults_are_shown_as_they_are_written():
    shown = {spec.name: describe_default(spec) for spec in each()}
    assert (shown["voice"], shown["uri"], shown["no_zeroconf"], shown["volume"]) == ("", "", "false", "1.0")


def test_an_empty_variable_is_unset() -> None:
    assert from_environment({"WYOMING_RKNN_VOICE": "", "WYOMING_RKNN_VOLUME_FILE": ""}) == {}


def test_a_variable_and_its_file_contradict_each_other(tmp_path: Path) -> None:
    secret = tmp_path / "voice"
    secret.write_text("amy")
    with pytest.raises(UsageError, match="both WYOMING_RKNN_VOICE and WYOMING_RKNN_VOICE_FILE"):
        from_environment({"WYOMING_RKNN_VOICE": "ann", "WYOMING_RKNN_VOICE_FILE": str(secret)})
