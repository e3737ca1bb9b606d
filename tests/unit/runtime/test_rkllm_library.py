"""librkllmrt: found, and its version known before it is loaded."""

import logging
import sys
from pathlib import Path

import pytest

from wyoming_rknn.errors import RuntimeUnavailable
from wyoming_rknn.runtime.rkllm_library import LIBRARY, find_library

RECENT = b"\0rkllm_get_kv_cache_size\0"
TOLD = b"\0rkllm-runtime version: %s, rknpu driver version: %%s\0"


@pytest.fixture
def library(tmp_path):
    """Write a shared library for this machine that says something more: `library(b"…", folder=…)`."""

    def library(*words, folder="lib", recent=RECENT):
        path = tmp_path / folder / LIBRARY
        path.parent.mkdir(exist_ok=True)
        # The identification and the machine are all that is looked at, but for sections, of which there are none.
        path.write_bytes(Path(sys.executable).read_bytes()[:20] + bytes(44) + recent + b"".join(words))
        return path

    return library


def refused(*arguments, **options):
    with pytest.raises(RuntimeUnavailable) as caught:
        find_library(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("version", ["1.2.1", "1.2.2", "1.2.3", "1.3.0"])
@pytest.mark.parametrize("form", [TOLD, b"\0%s\0", b"\0%%s\0v%s\0", b"\0%s\0" + TOLD])
def test_a_file_tells_its_version(library, version, form):
    path = library(form.replace(b"%s", version.encode()).replace(b"%%", b"%"))
    found = find_library(path)
    assert (found.path, found.version) == (path, version)


def test_what_is_printed_counts_more_than_other_versions(library):
    assert find_library(library(TOLD % b"1.2.3", b"\0" + b"1.3.1\0")).version == "1.2.3"


INSTALL = "; install librkllmrt 1.2.3 from the board's rknn-llm package, or name the file with --rkllm-library"
NAME = "; name the version of its package with --rkllm-version"


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (b"", f" does not tell its version{NAME}"),
        (b"\0" + b"11.2.3\0" + b"1.2.3.4\0" + b"1.1.0\0" + b"1.2.13\0", f" does not tell its version{NAME}"),
        (b"\0" + b"1.2.3\0" + b"1.3.0\0", f" may be version 1.2.3 or 1.3.0{NAME}"),
        (TOLD % b"1.2.0", f" is version 1.2.0, and only 1.2.1 to 1.2.3 and 1.3.0 can be used{INSTALL}"),
        (TOLD % b"1.3.1", f" is version 1.3.1, and only 1.2.1 to 1.2.3 and 1.3.0 can be used{INSTALL}"),
        (TOLD % b"1.2.1b1", f" is version 1.2.1b1, and only 1.2.1 to 1.2.3 and 1.3.0 can be used{INSTALL}"),
    ],
)
def test_an_unknown_version_is_refused(library, words, refusal):
    path = library(words)
    assert refused(path) == f"{path}{refusal}"


def test_an_old_library_is_refused_whatever_it_says(library):
    path = library(TOLD % b"1.2.3", recent=b"\0")
    assert refused(path) == f"{path} is older than 1.2.1, or no librkllmrt{INSTALL}"
    assert refused(path, "1.2.3") == f"{path} is older than 1.2.1, or no librkllmrt{INSTALL}"


def test_the_version_that_is_set_is_believed(library, caplog):
    caplog.set_level(logging.WARNING)
    assert find_library(library(), "1.2.2").version == "1.2.2"
    assert find_library(library(TOLD % b"1.2.2"), "1.2.2").version == "1.2.2"
    assert not caplog.records
    path = library(TOLD % b"1.3.1")
    assert find_library(path, "1.3.0").version == "1.3.0"
    assert caplog.messages == [f"{path} says that it is 1.3.1, but --rkllm-version says 1.3.0"]


@pytest.mark.parametrize("version", ["1.2.0", "1.1.4", "1.3", "newest", ""])
def test_a_version_that_cannot_be_used_is_refused(library, version):
    words = f"--rkllm-version {version} is no version that can be used; 1.2.1 to 1.2.3 and 1.3.0 are"
    assert refused(library(), version) == words


def test_the_first_library_that_can_be_used_is_taken(library, tmp_path):
    bad, good = library(folder="bad"), library(TOLD % b"1.3.0", folder="good")
    folders = [tmp_path, bad.parent, good.parent]
    assert find_library(None, environment={}, folders=folders).path == good
    assert find_library(None, environment={"LD_LIBRARY_PATH": f":{good.parent}"}, folders=[]).path == good
    assert refused(None, environment={}, folders=[bad.parent]) == f"{bad} does not tell its version{NAME}"
    assert refused(None, environment={}, folders=[tmp_path]) == f"{LIBRARY} was not found{INSTALL}"


def test_a_file_that_is_no_library_is_refused(tmp_path, library):
    gone = tmp_path / "gone.so"
    assert refused(gone) == f"{gone} does not exist{INSTALL}"
    assert refused(tmp_path) == f"{tmp_path} is a folder{INSTALL}"
    text = tmp_path / "text.so"
    text.write_bytes(b"text" * 100)
    assert refused(text) == f"{text} is no shared library{INSTALL}"
    cut = tmp_path / "cut.so"
    cut.write_bytes(Path(sys.executable).read_bytes()[:4096] + RECENT + TOLD % b"1.2.3")
    assert refused(cut) == f"{cut} is incomplete{INSTALL}"
