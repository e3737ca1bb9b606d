import re
import socket
from pathlib import Path

import pytest

from wyoming_rknn.errors import UsageError
from wyoming_rknn.server.instance import default_base, host_label, instance_id, instance_names

MACHINE = "3d1219c7c4c5404aaa1f6d2a48adfda4"


@pytest.fixture
def machine_id(tmp_path: Path) -> Path:
    path = tmp_path / "machine-id"
    path.write_text(MACHINE + "\n")
    return path


def test_id_is_stable_short_and_does_not_show_the_machine_id(machine_id: Path, tmp_path: Path) -> None:
    first = instance_id(tmp_path / "state", machine_id)
    assert first == instance_id(None, machine_id)
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert first not in MACHINE
    assert not (tmp_path / "state").exists()


def test_id_differs_between_machines(machine_id: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(MACHINE[::-1])
    assert instance_id(None, machine_id) != instance_id(None, other)


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "0" * 32, "not an id", "\xff\xfe"])
def test_without_a_machine_id_one_is_drawn_once_and_kept(content: str | None, tmp_path: Path) -> None:
    machine_id = tmp_path / "machine-id"
    if content is not None:
        machine_id.write_text(content, encoding="latin-1")
    first = instance_id(tmp_path / "a" / "state", machine_id)
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert instance_id(tmp_path / "a" / "state", machine_id) == first
    assert instance_id(tmp_path / "b", machine_id) != first


def test_a_damaged_state_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "instance-id").write_bytes(b"\xff\0")
    first = instance_id(tmp_path, tmp_path / "none")
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert instance_id(tmp_path, tmp_path / "none") == first


def test_where_nothing_can_be_kept_the_host_name_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(socket, "gethostname", lambda: "kitchen")
    kitchen = instance_id(blocked / "state", tmp_path / "none")
    assert kitchen == instance_id(None, tmp_path / "none")
    monkeypatch.setattr(socket, "gethostname", lambda: "attic")
    assert instance_id(None, tmp_path / "none") != kitchen


def test_default_base(tmp_path: Path) -> None:
    assert re.fullmatch("rknn-[0-9a-f]{8}", default_base(tmp_path))


def test_names_by_what_the_ports_serve() -> None:
    assert instance_names("rknn-1a", ["all", "tts", "asr"]) == ["rknn-1a", "rknn-1a-tts", "rknn-1a-asr"]


def test_further_ports_of_a_kind_are_numbered_in_order() -> None:
    assert instance_names("x", ["tts", "all", "tts", "all", "tts"]) == ["x-tts", "x", "x-tts-2", "x-2", "x-tts-3"]


@pytest.mark.parametrize(
    ("base", "name"),
    [("Living Room", "Living Room"), ("Küche", "Küche"), ("a.b", "a-b"), (" x\n\t", "x"), (".x.", "x")],
)
def test_names_are_one_dns_label(base: str, name: str) -> None:
    assert instance_names(base, ["all"]) == [name]


@pytest.mark.parametrize("letter", ["x", "ü", "語", "😀"])
def test_long_names_leave_room_in_a_label(letter: str) -> None:
    name = instance_names(letter * 100, ["tts"] * 99)[98]
    assert name.endswith("-tts-99")
    assert len(f"{name}-99".encode()) <= 63


@pytest.mark.parametrize("base", ["", "  ", "...", "\x00\n"])
def test_a_name_without_content_is_refused(base: str) -> None:
    with pytest.raises(UsageError, match="--zeroconf"):
        instance_names(base, ["all"])


def test_host_label_is_the_instance_where_a_host_name_can_spell_it() -> None:
    assert host_label("rknn-1a2b-tts", "board") == "rknn-1a2b-tts"
    assert host_label("RKNN", "board") == "rknn"


def test_host_label_never_takes_the_machines_own_name() -> None:
    assert host_label("Board", "board.example.org") == "board-wyoming"


@pytest.mark.parametrize(
    "names", [("Küche", "Kache", "K che", "K-che"), ("語", "声"), ("a" * 40 + "ü" + "b", "a" * 40 + "ü" + "c")]
)
def test_host_labels_of_different_instances_differ_and_are_host_names(names: tuple[str, ...]) -> None:
    labels = [host_label(name, "board") for name in names]
    assert len(set(labels)) == len(names)
    for label in labels:
        assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label)
