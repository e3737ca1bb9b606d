"""What others' checkers say of the add-on; each skips where its program is not installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDON = ROOT / "addon"
SERVICES = ADDON / "rootfs/etc/s6-overlay/s6-rc.d"
SCRIPTS = [*sorted(SERVICES.rglob("run")), *sorted(SERVICES.rglob("finish"))]
YAML = [ROOT / "repository.yaml", ADDON / "config.yaml", *sorted((ADDON / "translations").glob("*.yaml"))]
YAML_RULES = "{extends: default, rules: {document-start: disable, line-length: {max: 120}}}"
IGNORED_BY_HADOLINT = ("DL3006", "DL3008", "DL3013", "DL3042")
"""Home Assistant's own exceptions that matter here: base images and packages come without versions."""


def check(program, *words):
    """Run a checker and return what it complains of."""
    # Of the environment that runs the tests, too, whose folder need not be on the path.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    found = shutil.which(program, path=path)
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([found, *map(str, words)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shellcheck(path):
    assert check("shellcheck", "-e", "SC1008", "-s", "bash", path) == (0, "")


def test_hadolint():
    ignored = [word for rule in IGNORED_BY_HADOLINT for word in ("--ignore", rule)]
    assert check("hadolint", *ignored, ADDON / "Dockerfile") == (0, "")


def test_yamllint():
    assert check("yamllint", "--strict", "-d", YAML_RULES, *YAML) == (0, "")


@pytest.fixture
def profile():
    text = (ADDON / "apparmor.txt").read_text(encoding="utf-8")
    if not Path("/etc/apparmor.d/abstractions/base").is_file():
        pytest.skip("AppArmor's abstractions are not installed")
    return text


def load(tmp_path, text):
    path = tmp_path / "apparmor.txt"
    path.write_text(text, encoding="utf-8")
    code, told = check("apparmor_parser", "-Q", "-K", "-T", path)
    # Without AppArmor in the kernel it says so, which is no fault of the profile.
    return code, [line for line in told.splitlines() if "interface file missing" not in line]


def test_the_profile_is_one(profile, tmp_path):
    assert load(tmp_path, profile) == (0, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/usr/bin/python3.11 cx", "/usr/bin/python3* cx"),
        ("file,\n", "file\n"),
        ("network netlink raw,", "network netlinc raw,"),
    ],
    ids=["conflicting modifiers", "a comma is missing", "misspelt"],
)
def test_a_broken_profile_is_noticed(profile, tmp_path, old, new):
    assert old in profile
    code, told = load(tmp_path, profile.replace(old, new, 1))
    assert code != 0
    assert told
