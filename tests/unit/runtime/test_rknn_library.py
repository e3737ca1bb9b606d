import struct
from pathlib import Path

import pytest

from wyoming_rknn.errors import RuntimeUnavailable
from wyoming_rknn.runtime import rknn, rknn_library
from wyoming_rknn.runtime.rknn_library import LIBRARY, CallFailed, open_library


def loaded_library():
    """Return some shared library of this machine, which is no librknnrt."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in lines if "/libc.so" in line or "/libc-" in line)


def elf(machine):
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(44)


def test_the_header_is_read_as_the_format_says():
    assert rknn_library._ELF_HEADER.size == 64


def refusal(path, **places):
    with pytest.raises(RuntimeUnavailable) as caught:
        open_library(path, **places)
    assert caught.value.code == "runtime-unavailable"
    return str(caught.value)


def test_a_file_that_is_not_there():
    assert refusal(Path("/nowhere/x.so")).startswith("/nowhere/x.so does not exist; install")


def test_a_folder(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path} is a folder; name the file {tmp_path / LIBRARY} with --rknn-library"


def test_a_file_that_is_no_library(tmp_path):
    path = tmp_path / LIBRARY
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x7fELF"):
        path.write_bytes(content)
        assert refusal(path).startswith(f"{path} is no shared library; install the board's rknpu2 runtime")


@pytest.mark.parametrize(
    ("machine", "kind"), [(40, "32-bit Arm"), (3, "32-bit x86"), (243, "RISC-V"), (9, "machine 9")]
)
def test_a_library_for_another_machine(tmp_path, machine, kind):
    path = tmp_path / LIBRARY
    path.write_bytes(elf(machine))
    assert f"{path} is made for {kind}, this program needs one for" in refusal(path)


def test_a_damaged_library_for_this_machine(tmp_path):
    path = tmp_path / LIBRARY
    whole = loaded_library().read_bytes()
    for size in (64, 4096, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refusal(path) == f"{path} is incomplete; copy or install it again"
    path.write_bytes(whole[:64] + bytes(len(whole) - 64))
    assert refusal(path).startswith(f"{path} cannot be loaded: ")


def test_another_library():
    path = loaded_library()
    assert refusal(path).startswith(f"{path} is no librknnrt that can be used, it lacks rknn_init; install")


def test_the_accelerator_is_refused_with_the_same_words():
    with pytest.raises(RuntimeUnavailable, match="does not exist"):
        rknn.open_accelerator(Path("/nowhere/x.so"), 3, True)


def test_no_library_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(rknn_library, "LIBRARY", "librknnrt-that-nobody-has.so")
    message = refusal(None, environment={}, folders=[tmp_path])
    assert message.startswith("librknnrt-that-nobody-has.so was not found; install")


def test_what_was_found_and_is_unusable_is_what_the_refusal_speaks_of(tmp_path, monkeypatch):
    name = "librknnrt-that-nobody-has.so"
    monkeypatch.setattr(rknn_library, "LIBRARY", name)
    early, usual = tmp_path / "early", tmp_path / "usual"
    for folder in (early, usual):
        folder.mkdir()
        (folder / name).write_text("no library")
    environment = {"LD_LIBRARY_PATH": f"{tmp_path}/none:{early}:"}
    assert refusal(None, environment=environment, folders=[usual]).startswith(f"{early / name} is no shared library")
    assert refusal(None, environment={}, folders=[usual]).startswith(f"{usual / name} is no shared library")


def test_errors_are_named():
    assert str(CallFailed("rknn_init", -13)) == (
        "rknn_init returned -13 (RKNN_ERR_TARGET_PLATFORM_UNMATCH): "
        "the file was made for another SoC; convert the model with --target for this board"
    )
    assert str(CallFailed("rknn_run", -8)) == "rknn_run returned -8 (RKNN_ERR_INPUT_INVALID)"
    assert str(CallFailed("rknn_run", -77)) == "rknn_run returned -77 (an error unknown to rknn_api.h)"
    assert CallFailed("rknn_run", -77).code == "accelerator-error"
