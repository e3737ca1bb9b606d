"""What is read of an `.rknn` file, and what is said of one that is no such file."""

import struct
from pathlib import Path

import pytest
from tiny_rknn import DECODER, body, container, trailer_of, write_rknn

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats.rknn_file import RknnFile, RknnTensor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decoder.rknn"


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelInvalid) as caught:
        RknnFile.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_a_file_says(path: Path) -> None:
    file = RknnFile.read(write_rknn(path, *DECODER, targets=["RK3588", "rk3576"], custom_string="a=1; b = x=y;c;=d"))
    assert file.inputs == (RknnTensor("z", (1, 192, 55)), RknnTensor("y_mask", (1, 1, 55)))
    assert file.outputs == (RknnTensor("output", (1, 1, 1, 14_080)),)
    assert (file.targets, file.toolkit, file.size) == (("rk3588", "rk3576"), "2.3.2", path.stat().st_size)
    assert file.custom_string == "a=1; b = x=y;c;=d"
    assert file.metadata == {"a": "1", "b": "x=y"}


def test_the_body_is_not_needed(path: Path) -> None:
    path.write_bytes(container(b"", trailer_of(*DECODER)))
    file = RknnFile.read(path)
    assert (file.custom_string, dict(file.metadata)) == ("", {})
    assert len(file.inputs) == 2


def test_names_of_layers_are_in_its_head(path: Path) -> None:
    file = RknnFile.read(write_rknn(path, *DECODER, names=["/dec/ups.0/ConvTranspose"]))
    assert b"/dec/ups.0/ConvTranspose" in file.head()
    path.unlink()
    assert file.head() == b""


def test_cut_short_anywhere(path: Path) -> None:
    whole = write_rknn(path, *DECODER, custom_string="k=v").read_bytes()
    for length in range(len(whole)):
        message = refusal(path, whole[:length])
        assert "cut short" in message
        assert "download it or convert the model again" in message
    path.write_bytes(whole + b"more")
    assert RknnFile.read(path).toolkit == "2.3.2"


def test_any_byte_changed_is_read_or_refused(path: Path) -> None:
    whole = write_rknn(path, *DECODER, custom_string="k=v").read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert len(RknnFile.read(path).custom_string) <= 1024
        except ModelInvalid:
            continue


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\x08\x07\x12\x07pytorch" * 99, "is no RKNN file"),
        (b"RKNN\0\0\0\1" + bytes(200), "is no RKNN file"),
        (b"version https://git-lfs.github.com/spec/v1", "is no RKNN file"),
        (b"CYPTRKNN" + bytes(200), "is encrypted"),
        (container(b"x", {}, version=7), "of version 7, 6 is known"),
        (container(b"x", {})[:65] + struct.pack("<Q", 1 << 63), "cut short"),
        (container(b"x", b" " * (5 << 20)), "lacks a trailer of sensible length"),
        (container(b"x", b"{"), "lacks a trailer in JSON"),
        (container(b"x", b'{"version": "\xff"}'), "lacks a trailer in JSON"),
        (container(b"x", b"[" * 100_000), "lacks a trailer in JSON"),
        (container(b"x", b"[]"), "lacks an object"),
        (container(b"x", {}), "lacks input_num"),
    ],
)
def test_what_is_no_file_of_ours(content: bytes, fault: str, path: Path) -> None:
    assert fault in refusal(path, content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, None) for key in ("input_num", "output_num", "norm_tensor", "target_platform")),
        *(("input_num", value) for value in (0, -1, True, "2", 3, 10**30)),
        *(("target_platform", value) for value in ("rk3588", [], [1], ["\ud800"])),
        *(("norm_tensor", value) for value in ({}, [], [{}] * 3, [[1]] * 3, [{"url": "x", "size": [1, -1]}] * 3)),
        ("norm_tensor", [{"url": "x", "size": [1.5]}] * 3),
        ("norm_tensor", [{"url": "\ud800", "size": [1]}] * 3),
        ("norm_tensor", [{"url": "x", "size": [1] * 17}] * 3),
    ],
)
def test_trailers_without_sense(key: str, value: object, path: Path) -> None:
    message = refusal(path, container(b"", {**trailer_of(*DECODER), key: value}))
    assert "as a damaged file does" in message


@pytest.mark.parametrize("value", [None, 2, "\ud800"])
def test_a_toolkit_may_be_unknown(value: object, path: Path) -> None:
    file = RknnFile.read(write_rknn(path, *DECODER, version=value))
    assert file.toolkit == ""
    assert file.toolkit_remark("2.3.2") is None


def test_custom_strings_that_are_none(path: Path) -> None:
    long = body("x" * 1025)
    torn = body("x" * 100)[:-50]
    other = body("é").replace("é".encode(), b"\xff\xff")
    no_field = struct.pack("<I4sHHi", 12, b"RKNN", 4, 4, 4)
    for content in (long, torn, other, no_field, b"", b"\xff" * 40, struct.pack("<I", 0) * 20):
        path.write_bytes(container(content, trailer_of(*DECODER)))
        assert RknnFile.read(path).custom_string == ""


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(ModelFileMissing, match=r"does not exist; put the model's \.rknn there"):
        RknnFile.read(path)
    path.mkdir()
    with pytest.raises(ModelInvalid, match="cannot be read"):
        RknnFile.read(path)


@pytest.mark.parametrize("soc", ["rk3588", "RK3588", "rk3588s", "rk3582", None])
def test_the_right_soc(soc: str | None, path: Path) -> None:
    file = RknnFile.read(write_rknn(path, *DECODER))
    assert file.runs_on(soc)
    file.check_soc(soc)


def test_rk3566_and_rk3568_are_one(path: Path) -> None:
    file = RknnFile.read(write_rknn(path, *DECODER, targets=["rk3566"]))
    assert [file.runs_on(soc) for soc in ("rk3566", "rk3568", "rk3562", "rk3588")] == [True, True, False, False]


def test_the_wrong_soc(path: Path) -> None:
    file = RknnFile.read(write_rknn(path, *DECODER))
    with pytest.raises(ModelInvalid, match=r"made for rk3588, this board is an rk3576; .*--target rk3576"):
        file.check_soc("rk3576")
    other = RknnFile.read(write_rknn(path, *DECODER, targets=["rk3576"]))
    with pytest.raises(ModelInvalid, match=r"made for rk3576, this board is an rk3582; .*--target rk3588"):
        other.check_soc("rk3582")


def test_toolkit_and_library(path: Path) -> None:
    file = RknnFile.read(write_rknn(path, *DECODER))
    assert file.toolkit_remark("2.3.2 (429f97ae6b@2025-04-09T09:09:27)") is None
    assert file.toolkit_remark("unknown") is None
    assert "librknnrt is 1.6.0, which is older: update" in (file.toolkit_remark("1.6.0 (9a7b5d24c@2023)") or "")
    assert "should it fail" in (file.toolkit_remark("2.10.0") or "")
