"""The add-on's configuration and translations: well-formed, and the same as the server's settings."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wyoming_rknn import __version__
from wyoming_rknn import settings as module
from wyoming_rknn.errors import UsageError
from wyoming_rknn.settings import Settings, each, is_repeatable

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ADDON = ROOT / "addon"
LANGUAGES = sorted((ADDON / "translations").glob("*.yaml"))
OPTIONS = {spec.name: spec for spec in each() if "addon" in spec.metadata}
PORT = "10800/tcp"


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def config():
    return load(ADDON / "config.yaml")


def problems(content, schema):
    """Return what a JSON Schema finds wrong."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    rules = json.loads((HERE / schema).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(rules)
    return [error.message for error in jsonschema.Draft202012Validator(rules).iter_errors(content)]


def parsed(rule):
    """Split an option's type in the Supervisor's grammar: name, what is in parentheses, whether it is optional."""
    found = re.fullmatch(r"(\w+)(?:\((.*)\))?(\?)?", rule)
    return found[1], found[2], found[3] is not None


def test_the_configuration_is_one(config):
    assert problems(config, "addon_schema.json") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0.1},
        {"slug": "Wyoming-RKNN"},
        {"arch": ["armv7"]},
        {"init": True},
        {"full_access": True},
        {"watchdog": "tcp://[HOST]:[PORT:10800]"},
        {"devices": ["/dev/rknpu:/dev/rknpu"]},
        {"map": ["share:rw"]},
        {"schema": {"voice": "string"}},
        {"schema": {"volume": "float(0-10)"}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_the_supervisor_refuses_or_ignores_is_seen(config, wrong):
    assert len(problems(config | wrong, "addon_schema.json")) == 1


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_every_option_and_port_is_translated(config, path):
    translation = load(path)
    assert problems(translation, "translation_schema.json") == []
    assert list(translation["configuration"]) == list(config["schema"])
    assert list(translation["network"]) == list(config["ports"]) == [PORT]
    names = [texts["name"] for texts in translation["configuration"].values()]
    assert len(set(names)) == len(names)


def test_there_is_an_english_translation():
    assert ADDON / "translations" / "en.yaml" in LANGUAGES


def test_every_option_is_a_setting_and_its_default_the_servers(config):
    assert list(config["schema"]) == list(OPTIONS)
    for name, spec in OPTIONS.items():
        rule = config["schema"][name]
        assert isinstance(rule, list) == is_repeatable(spec), name
        optional = parsed(rule[0] if isinstance(rule, list) else rule)[2]
        # Only what is optional may be left out of the defaults.
        assert (name in config["options"]) != optional, name
        assert config["options"].get(name, spec.default) == spec.default, name
    assert Settings.merge(config["options"]) == Settings()


def test_options_take_what_the_server_takes(config):
    ranges = {name: (low, high) for name, low, high in module._RANGES}
    for name, spec in OPTIONS.items():
        rule = config["schema"][name]
        kind, limits, _ = parsed(rule[0] if isinstance(rule, list) else rule)
        if kind in ("int", "float"):
            low, high = (float(limit) for limit in limits.split(","))
            assert (low, high) == ranges[name]
            for value in (low, high):
                Settings.merge({name: int(value) if kind == "int" else value})
            with pytest.raises(UsageError):
                Settings.merge({name: int(high) + 1})
        elif kind == "list":
            assert tuple(limits.split("|")) == spec.metadata["choices"]
        elif kind == "bool":
            assert spec.type is bool
        else:
            assert (kind, limits) == ("str", None)
            wanted = ["some", "words"] if is_repeatable(spec) else "word"
            Settings.merge({name: wanted})


def test_every_option_is_in_the_configurations_page_and_in_the_add_ons():
    settings_page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    addon_page = (ADDON / "DOCS.md").read_text(encoding="utf-8")
    for name, spec in OPTIONS.items():
        assert f"| `{name}` |" in settings_page
        assert f"| {spec.metadata['addon']} (`{name}`) |" in addon_page


@pytest.mark.parametrize("script", ["addon", "addon-art"])
def test_what_is_written_by_a_script_is_up_to_date(script):
    done = subprocess.run([sys.executable, ROOT / "script" / script, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_asks_for_no_more_than_it_needs(config):
    # Each of these lowers the Supervisor's security rating, or turns off what keeps an add-on apart.
    lowering = {"full_access", "privileged", "docker_api", "hassio_role", "hassio_api", "ingress", "kernel_modules"}
    lowering |= {"host_network", "host_pid", "host_ipc", "host_uts", "host_dbus", "apparmor", "auth_api", "usb", "uart"}
    assert not lowering & set(config)
    assert [place["type"] for place in config["map"] if place.get("read_only", True) is False] == []
    assert config["ports"] == {PORT: None}


def test_versions_are_the_packages(config):
    assert config["version"] == __version__
    assert f"ARG BUILD_VERSION={__version__}\n" in (ADDON / "Dockerfile").read_text(encoding="utf-8")
    entries = re.findall(r"^## (\S+)", (ADDON / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries[0] == __version__


def test_the_repository_is_one():
    repository = load(ROOT / "repository.yaml")
    assert repository["name"]
    assert set(repository) <= {"name", "url", "maintainer"}
