"""The add-on's files: what the Dockerfile copies, what s6 goes by, pictures, and what the pages say."""

import json
import os
import re
import struct
from pathlib import Path

import pytest
import yaml

from wyoming_rknn.cli.arguments import Parser, add_settings, settings_from

ROOT = Path(__file__).parents[2]
ADDON = ROOT / "addon"
SERVICES = ADDON / "rootfs/etc/s6-overlay/s6-rc.d"
DOCKERFILE = (ADDON / "Dockerfile").read_text(encoding="utf-8")
CONFIG = yaml.safe_load((ADDON / "config.yaml").read_text(encoding="utf-8"))
SLUG = CONFIG["slug"]
OUTSIDE = re.compile(r"\.(?!github$).*|rootfs")
"""Where the Supervisor looks for no add-ons."""


def test_there_is_one_add_on():
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not OUTSIDE.fullmatch(name)]
        found += [Path(folder, name) for name in names if re.fullmatch(r"config\..*(?<=\.)(ya?ml|json)", name)]
    assert found == [ADDON / "config.yaml"]


def test_everything_that_the_dockerfile_copies_exists():
    copied = re.findall(r"^(?:COPY|ADD)\s+((?:--\S+\s+)*)(.+?)\s+\S+$", DOCKERFILE, re.MULTILINE)
    assert copied
    for _, sources in copied:
        for source in sources.split():
            assert (ADDON / source).exists(), source


def test_the_dockerfile_builds_from_the_base_and_asks_for_health():
    assert re.search(r"^ARG BUILD_FROM=ghcr\.io/home-assistant/base-debian:bookworm$", DOCKERFILE, re.MULTILINE)
    assert not (ADDON / "build.yaml").exists()
    health = json.loads(DOCKERFILE.split("HEALTHCHECK")[1].split("CMD", 1)[1].splitlines()[0])
    port = next(iter(CONFIG["ports"])).split("/")[0]
    assert health[1:] == ["health", "--uri", f"tcp://127.0.0.1:{port}"]


def test_s6_finds_what_it_goes_by():
    modes = {path.relative_to(SERVICES).as_posix(): path.stat().st_mode & 0o777 for path in SERVICES.rglob("*")}
    files = {name: mode for name, mode in modes.items() if (SERVICES / name).is_file()}
    programs = {f"{SLUG}/run", f"{SLUG}/finish", "discovery/run", "discovery/up"}
    empty = {f"{SLUG}/dependencies.d/base", f"discovery/dependencies.d/{SLUG}"}
    empty |= {f"user/contents.d/{SLUG}", "user/contents.d/discovery"}
    assert set(files) == programs | empty | {f"{SLUG}/type", "discovery/type"}
    for name, mode in files.items():
        assert bool(mode & 0o111) == (name in programs), name
        assert ((SERVICES / name).read_bytes() == b"") == (name in empty), name
    assert (SERVICES / SLUG / "type").read_text() == "longrun\n"
    assert (SERVICES / "discovery" / "type").read_text() == "oneshot\n"
    assert (SERVICES / "discovery" / "up").read_text() == "/etc/s6-overlay/s6-rc.d/discovery/run\n"


def test_the_service_is_one_command_that_the_server_understands(tmp_path):
    text = (SERVICES / SLUG / "run").read_text().replace("\\\n", " ")
    (command,) = (line for line in text.splitlines() if line and not line.startswith("#"))
    words = command.split()
    assert words[0] == "exec"
    assert words[1] == json.loads(DOCKERFILE.split("CMD", 1)[1].splitlines()[0])[0]
    assert words[2] == "serve"
    options = tmp_path / "options.json"
    options.write_text(json.dumps(CONFIG["options"]))
    parser = Parser()
    add_settings(parser)
    given = [str(options) if word == "/data/options.json" else word for word in words[3:]]
    arguments, unknown = parser.parse_known_args(given)
    assert unknown == []
    settings = settings_from(arguments)
    # The Supervisor announces it, Home Assistant would find it twice otherwise.
    assert settings.no_zeroconf
    assert settings.uri == (f"tcp://0.0.0.0:{next(iter(CONFIG['ports'])).split('/')[0]}",)
    # What is fetched must survive an update, which replaces all but /data, and stays out of backups.
    assert str(settings.data_dirs[0]) == "/data/models"
    assert str(settings.cache) == "/data/cache"
    assert CONFIG["backup_exclude"] == ["models*", "cache*"]
    shares = {f"/{place['type']}" for place in CONFIG["map"]}
    assert {f"/{folder.parts[1]}" for folder in settings.data_dirs[1:]} <= shares


def test_discovery_announces_the_port():
    text = (SERVICES / "discovery" / "run").read_text()
    assert set(re.findall(r"\b\d{5}\b", text)) == {next(iter(CONFIG["ports"])).split("/")[0]}
    assert [f"bashio::discovery {service} " in text for service in CONFIG["discovery"]] == [True]


def test_the_profile_is_named_like_the_add_on():
    # The Supervisor looks for exactly one line that begins so, and puts the add-on's full name there.
    profile = (ADDON / "apparmor.txt").read_text(encoding="utf-8")
    assert re.findall(r"^profile (\S+)", profile, re.MULTILINE) == [SLUG]
    for device in CONFIG["devices"]:
        assert f"/dev/{device.split('/')[2]}" in profile
    for folder in ("/data/", "/share/", "/device-tree/", "/dev/dri/", "/sys/"):
        assert folder in profile.split("profile server", 1)[1]


@pytest.mark.parametrize(("name", "size"), [("icon.png", (128, 128)), ("logo.png", (250, 100))])
def test_pictures_have_the_stores_sizes(name, size):
    head = (ADDON / name).read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == size


def test_the_first_paragraph_says_which_systems_reach_the_npu():
    paragraph = (ADDON / "DOCS.md").read_text(encoding="utf-8").split("\n\n")[1]
    for word in ("Home Assistant OS has none", "rknpu", "Green", "RK3588", "CPU", "Docker"):
        assert word in paragraph


@pytest.mark.parametrize("name", ["README.md", "DOCS.md", "CHANGELOG.md", "apparmor.txt", "translations/en.yaml"])
def test_the_store_has_what_it_shows(name):
    assert (ADDON / name).stat().st_size > 0


def test_the_pages_name_options_as_they_are_shown():
    page = (ADDON / "DOCS.md").read_text(encoding="utf-8")
    shown = yaml.safe_load((ADDON / "translations/en.yaml").read_text(encoding="utf-8"))["configuration"]
    names = {texts["name"] for texts in shown.values()}
    # And what Home Assistant itself calls things.
    names |= {"Network", "Watchdog", "Speech-to-text", "Text-to-speech", "Show unused optional configuration options"}
    for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", page):
        assert name in names or "→" in name or name == "Settings" or name.startswith("Add integration"), name
