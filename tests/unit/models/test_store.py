"""Looking for models in data folders."""

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wyoming_rknn.models.formats import piper
from wyoming_rknn.models.manifest import Detected, Manifest
from wyoming_rknn.models.store import Store

CONFIG: dict[str, Any] = {
    "audio": {"sample_rate": 22050},
    "espeak": {"voice": "en"},
    "phoneme_id_map": {"_": [0]},
}


def add(folder: Path, name: str, rate_hz: int = 22050) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(b"graph")
    (folder / f"{name}.onnx.json").write_text(json.dumps({**CONFIG, "audio": {"sample_rate": rate_hz}}))


def names(found: Detected) -> list[str]:
    return [manifest.name for manifest in found.manifests]


def counting(calls: list[Path]) -> Callable[[Path], Detected]:
    def detect(folder: Path) -> Detected:
        calls.append(folder)
        return piper.detect(folder)

    return detect


def test_sorted_by_name_from_every_depth(tmp_path: Path) -> None:
    add(tmp_path / "en" / "en_US" / "amy" / "low", "en_US-amy-low")
    add(tmp_path, "zoe")
    add(tmp_path / "Bob", "Bob")
    add(tmp_path / "1" / "2" / "3" / "4" / "5", "deep")
    add(tmp_path / "1" / "2" / "3" / "4" / "5" / "6", "too-deep")
    assert names(Store([tmp_path]).scan()) == ["Bob", "deep", "en_US-amy-low", "zoe"]


def test_first_folder_that_has_a_name_wins(tmp_path: Path) -> None:
    add(tmp_path / "b", "amy", 16000)
    add(tmp_path / "a", "amy", 22050)
    assert [manifest.rate_hz for manifest in Store([tmp_path / "b", tmp_path / "a"]).scan().manifests] == [16000]
    assert [manifest.rate_hz for manifest in Store([tmp_path]).scan().manifests] == [22050]


def test_voices_come_and_go(tmp_path: Path) -> None:
    store = Store([tmp_path])
    assert names(store.scan()) == []
    add(tmp_path / "a", "amy")
    assert names(store.scan()) == ["amy"]
    add(tmp_path / "a", "amy", 16000)
    os.utime(tmp_path / "a" / "amy.onnx.json", (1, 1))
    assert [manifest.rate_hz for manifest in store.scan().manifests] == [16000]
    (tmp_path / "a" / "amy.onnx").unlink()
    found = store.scan()
    assert names(found) == []
    assert len(found.problems) == 1


def test_unchanged_folders_are_not_read_again(tmp_path: Path) -> None:
    calls: list[Path] = []
    store = Store([tmp_path], [counting(calls)])
    for name in ("a", "b"):
        add(tmp_path / name, name)
    store.scan()
    store.scan()
    assert calls == [tmp_path, tmp_path / "a", tmp_path / "b"]
    add(tmp_path / "b", "other")
    assert names(store.scan()) == ["a", "b", "other"]
    assert calls[3:] == [tmp_path, tmp_path / "b"]


def test_a_folder_changes_when_files_two_levels_below_it_do(tmp_path: Path) -> None:
    calls: list[Path] = []
    store = Store([tmp_path], [counting(calls)], max_depth=0)
    for number, name in enumerate(("a", "a/b", "a/b/c"), 1):
        add(tmp_path / name, "voice")
        assert store.scan() == Detected()
        assert len(calls) == min(number, 2)
    (tmp_path / "a" / "b" / "voice.onnx").write_bytes(b"longer graph")
    store.scan()
    assert calls == [tmp_path] * 3


def test_kinds(tmp_path: Path) -> None:
    add(tmp_path, "amy")
    assert names(Store([tmp_path]).scan("tts")) == ["amy"]
    assert names(Store([tmp_path]).scan("asr")) == []


def test_folders_that_are_absent_or_hidden_or_derived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path / ".git", "hidden")
    add(tmp_path / "cache" / "inner", "derived")
    (tmp_path / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    (tmp_path / "file").write_text("no folder")
    found = Store([tmp_path, tmp_path / "absent", tmp_path / "file"]).scan()
    assert (found.manifests, found.problems, caplog.records) == ((), (), [])


def test_links(tmp_path: Path) -> None:
    add(tmp_path / "blobs", "amy")
    data = tmp_path / "data"
    data.mkdir()
    (data / "amy").symlink_to(tmp_path / "blobs")
    (data / "loop").symlink_to(data)
    (data / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "blobs" / "bob.onnx.json").write_text(json.dumps(CONFIG))
    found = Store([data]).scan()
    assert names(found) == ["amy"]
    assert len(found.problems) == 1


def test_unreadable_folder_is_left_out_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(tmp_path / "a", "amy")
    add(tmp_path / "b", "bob")
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    store = Store([tmp_path])
    assert names(store.scan()) == ["bob"]
    assert names(store.scan()) == ["bob"]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert str(tmp_path / "a") in warning.getMessage()


def test_problems_are_reported(tmp_path: Path) -> None:
    add(tmp_path / "a", "amy")
    (tmp_path / "a" / "amy.onnx.json").write_text("{")
    found = Store([tmp_path]).scan()
    assert names(found) == []
    assert [problem.path for problem in found.problems] == [tmp_path / "a" / "amy.onnx"]


def test_overlapping_data_folders(tmp_path: Path) -> None:
    add(tmp_path / "a", "amy")
    (tmp_path / "a" / "bob.onnx.json").write_text(json.dumps(CONFIG))
    found = Store([tmp_path, tmp_path / "a", tmp_path]).scan()
    assert names(found) == ["amy"]
    assert len(found.problems) == 1


def test_many_threads(tmp_path: Path) -> None:
    for number in range(20):
        add(tmp_path / str(number), f"voice-{number:02}")
    store = Store([tmp_path])
    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(names(store.scan()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[f"voice-{number:02}" for number in range(20)]] * 8


def test_of_one_name_the_one_for_the_npu_at_hand_wins_within_a_data_folder(tmp_path: Path) -> None:
    def detect(folder: Path) -> Detected:
        if not (folder / "amy.onnx").exists():
            return Detected()
        targets = (folder.name,) if folder.name.startswith("rk") else ()
        files = {"npu-decoder": folder / "decoder.rknn"} if targets else {"graph": folder / "amy.onnx"}
        return Detected((Manifest("tts", "piper", "amy", files, ("en",), 22050, targets=targets),))

    for folder in ("first/a", "first/rk3576", "first/rk3588", "first/z", "second/rk3576"):
        add(tmp_path / folder, "amy")
    data_dirs = [tmp_path / "first", tmp_path / "second"]

    def chosen(soc: str | None, dirs: list[Path] = data_dirs) -> str:
        (manifest,) = Store(dirs, (detect,), soc=soc).scan().manifests
        return next(iter(manifest.files.values())).parent.name

    assert [chosen(soc) for soc in ("rk3588", "rk3576", "rk3566", None)] == ["rk3588", "rk3576", "a", "a"]
    (tmp_path / "third" / "plain").mkdir(parents=True)
    add(tmp_path / "third" / "plain", "amy")
    # A user's own folder goes before the system's, whatever lies there.
    assert chosen("rk3588", [tmp_path / "third", *data_dirs]) == "plain"
