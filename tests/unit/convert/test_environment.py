import json
import logging
import platform
import shutil
import stat
import sys
import threading
import time

import pytest

from wyoming_rknn.convert import environment
from wyoming_rknn.convert.environment import prepare
from wyoming_rknn.errors import ConversionError, UsageError
from wyoming_rknn.models.store import CACHE_TAG

# Plays a Python, its venv and its pip. What it is called with goes to calls.log beside it.
PYTHON = """\
#!/bin/sh
here={here}
case "$*" in
*"-c "*) cat "$here/version" 2> /dev/null || echo "3.11 x86_64"; exit;;
esac
echo "$*" >> "$here/calls.log"
for last; do :; done
fault=$(cat "$here/fault" 2> /dev/null)
case "$*" in
*"-m venv "*)
    if [ "$fault" = venv ]; then echo "Error: ensurepip is not available." >&2; exit 1; fi
    if [ "$fault" = slow ]; then sleep 0.2; fi
    mkdir -p "$last/bin" && ln -s "$here/python" "$last/bin/python";;
*"-m pip "*)
    env | grep -E '^(PYTHON|PIP_)' >> "$here/variables.log"
    case "$fault" in
    network) echo "WARNING: Retrying" >&2; echo "ERROR: No matching distribution found for setuptools<81" >&2; exit 1;;
    space) echo "ERROR: Could not install packages: [Errno 28] No space left on device" >&2; exit 1;;
    esac
    previous=
    for argument; do
        if [ "$previous" = --target ]; then mkdir -p "$argument/rknn"; fi
        previous=$argument
    done;;
esac
"""


@pytest.fixture(autouse=True)
def on_x86(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.fixture
def python(tmp_path):
    """Return what plays a Python."""
    folder = tmp_path / "base"
    folder.mkdir()
    path = folder / "python"
    path.write_text(PYTHON.replace("{here}", str(folder)))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def calls(python):
    return lambda: (python.parent / "calls.log").read_text().splitlines()


def test_an_environment_is_made_once(tmp_path, python, calls, caplog):
    caplog.set_level(logging.INFO)
    cache = tmp_path / "cache"
    made = prepare("2.3.2", cache, python)

    root = cache / "toolkit"
    assert made.python == root / "dependencies-py3.11" / "bin" / "python"
    assert made.paths == (root / "2.3.2-py3.11",)
    assert (made.paths[0] / "rknn").is_dir()
    assert (root / CACHE_TAG).is_file()
    # Progress is a line; nothing of the work is left.
    assert [record.message.split(" in ")[0] for record in caplog.records] == [
        "making the environment of rknn-toolkit2 2.3.2 with Python 3.11",
        "the environment of rknn-toolkit2 2.3.2 is ready after 0 s",
    ]
    assert not list(root.glob(".tmp-*"))
    venv, dependencies, toolkit = calls()
    assert "-m venv" in venv
    assert all(requirement in dependencies for requirement in environment.DEPENDENCIES)
    assert "torch" not in dependencies and "opencv" not in dependencies
    # A pip.conf may say otherwise.
    assert "--no-user" in dependencies and "--no-user" in toolkit
    assert "--no-deps" in toolkit and toolkit.endswith("rknn-toolkit2==2.3.2")

    assert prepare("2.3.2", cache, python) == made
    assert len(calls()) == 3


def test_versions_share_what_they_depend_on(tmp_path, python, calls):
    first = prepare("2.3.2", tmp_path, python)
    second = prepare("2.5.0", tmp_path, python)
    assert first.python == second.python and first.paths != second.paths
    assert len(calls()) == 4 and calls()[-1].endswith("rknn-toolkit2==2.5.0")


def test_the_toolkit_sees_nothing_of_the_users_python(tmp_path, python, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("PYTHONHOME", "/mine")
    monkeypatch.setenv("PIP_TARGET", "/mine")
    monkeypatch.setenv("PIP_PROXY", "proxy:1")
    variables = prepare("2.3.2", tmp_path, python).variables()
    assert variables["PYTHONPATH"] == str(tmp_path / "toolkit" / "2.3.2-py3.11")
    assert variables["PYTHONNOUSERSITE"] == "1" and "PYTHONHOME" not in variables
    assert variables["ORT_DISABLE_TELEMETRY"] == "1"
    seen = (python.parent / "variables.log").read_text()
    assert "/mine" not in seen and "PIP_PROXY=proxy:1" in seen


def test_an_environment_that_is_there_needs_no_python(tmp_path, python, calls, monkeypatch):
    (python.parent / "version").write_text("3.12 x86_64\n")
    made = prepare("2.3.2", tmp_path, python)
    assert made.python.parent.parent.name == "dependencies-py3.12"

    def none(chosen):
        raise ConversionError("none was found")

    monkeypatch.setattr(environment, "find_python", none)
    assert prepare("2.3.2", tmp_path) == made
    # Another version of the toolkit joins it.
    assert prepare("2.5.0", tmp_path).python == made.python
    assert len(calls()) == 4
    made.python.unlink()
    made.python.symlink_to(tmp_path / "gone")
    with pytest.raises(ConversionError, match="none was found"):
        prepare("2.3.2", tmp_path)


def test_of_several_environments_the_one_that_is_whole_is_taken(tmp_path, python):
    prepare("2.5.0", tmp_path, python)
    (python.parent / "version").write_text("3.12 x86_64\n")
    made = prepare("2.3.2", tmp_path, python)
    assert prepare("2.3.2", tmp_path) == made
    assert prepare("2.5.0", tmp_path).python.parent.parent.name == "dependencies-py3.11"


def test_the_package_that_is_named_goes_with_the_python(tmp_path, python):
    (python.parent / "version").write_text("3.12 x86_64\n")
    (python.parent / "fault").write_text("venv")
    with pytest.raises(ConversionError, match=r"apt install python3\.12-venv"):
        prepare("2.3.2", tmp_path, python)


def test_a_creation_that_was_cut_short_is_done_again(tmp_path, python, calls):
    root = tmp_path / "toolkit"
    (root / ".tmp-dead" / "lib").mkdir(parents=True)
    (root / "dependencies-py3.11" / "lib").mkdir(parents=True)
    prepare("2.3.2", tmp_path, python)
    assert not list(root.glob(".tmp-*"))
    assert not (root / "dependencies-py3.11" / "lib").exists()
    assert len(calls()) == 3


@pytest.mark.parametrize("marker", ["", "[]", '{"format": 0}', '{"format": 1, "requirements": ["numpy"]}'])
def test_an_environment_of_other_requirements_is_made_again(tmp_path, python, calls, marker):
    made = prepare("2.3.2", tmp_path, python)
    (made.paths[0] / "complete.json").write_text(marker)
    prepare("2.3.2", tmp_path, python)
    assert len(calls()) == 4
    assert json.loads((made.paths[0] / "complete.json").read_text())["requirements"] == ["rknn-toolkit2==2.3.2"]


def test_an_environment_whose_python_is_gone_is_made_again(tmp_path, python, calls):
    made = prepare("2.3.2", tmp_path, python)
    made.python.unlink()
    made.python.symlink_to(tmp_path / "gone")
    prepare("2.3.2", tmp_path, python)
    assert len(calls()) == 5
    assert made.python.exists()


def test_two_at_once_make_it_once(tmp_path, python, calls, caplog):
    caplog.set_level(logging.INFO)
    (python.parent / "fault").write_text("slow")
    threads = [threading.Thread(target=prepare, args=("2.3.2", tmp_path, python)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls()) == 3
    assert "waiting for another process" in caplog.text


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("venv", r"cannot make virtual environments: .*ensurepip is not available; .*python3\.11-venv"),
        ("network", r"pip could not install the toolkit: No matching distribution found for .*check the network"),
        ("space", r"toolkit has no room for the toolkit, which needs 800 MB; free some .*--cache-dir"),
    ],
)
def test_a_failure_is_told_and_leaves_nothing(tmp_path, python, fault, message):
    (python.parent / "fault").write_text(fault)
    with pytest.raises(ConversionError, match=message):
        prepare("2.3.2", tmp_path / "cache", python)
    assert sorted(path.name for path in (tmp_path / "cache" / "toolkit").iterdir()) == [".lock", CACHE_TAG]

    (python.parent / "fault").unlink()
    prepare("2.3.2", tmp_path / "cache", python)


def test_pip_that_never_ends_is_told(tmp_path, python, monkeypatch):
    monkeypatch.setattr(environment, "_PIP_TIMEOUT_S", 0.05)
    (python.parent / "fault").write_text("slow")
    started = time.monotonic()
    with pytest.raises(ConversionError, match=r"-m venv .* did not end within .*check the network"):
        prepare("2.3.2", tmp_path, python)
    assert time.monotonic() - started < 30


def test_a_full_disk_is_told_before_anything_is_downloaded(tmp_path, python, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000_000))
    with pytest.raises(ConversionError, match="no room for the toolkit"):
        prepare("2.3.2", tmp_path, python)
    assert not (python.parent / "calls.log").exists()


def test_a_cache_that_cannot_be_written_is_told(tmp_path, python):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ConversionError, match=r"cannot be written \(.*\); choose another folder with --cache-dir"):
        prepare("2.3.2", tmp_path / "cache", python)


def test_other_machines_are_refused(tmp_path, python, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ConversionError, match=r"converted on an x86-64 Linux .* on aarch64; convert there"):
        prepare("2.3.2", tmp_path, python)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConversionError, match="x86-64 Linux"):
        prepare("2.3.2", tmp_path, python)


def test_an_unknown_version_is_refused(tmp_path, python):
    with pytest.raises(UsageError, match=r"--toolkit 2\.3\.3 is not supported; did you mean 2\.3\.2"):
        prepare("2.3.3", tmp_path, python)


def test_a_chosen_python_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--toolkit-python"):
        prepare("2.3.2", tmp_path, tmp_path / "gone")
