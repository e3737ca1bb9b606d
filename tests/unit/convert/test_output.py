import errno
import json
import os
import shutil
import time
from pathlib import Path
from types import MappingProxyType

import pytest

from wyoming_rknn.convert import output
from wyoming_rknn.convert.report import GraphReport
from wyoming_rknn.errors import ConversionError, UsageError
from wyoming_rknn.models import record
from wyoming_rknn.models.store import Store


def graph(folder, snr_db=58.126):
    return GraphReport(
        "decoder.rknn", "decoder.golden.npz", 55, snr_db, 5e-4, 1.234, ("Reshape:z",), 0, 9, folder, 11, ("odd",)
    )


def convert(out, *names, **more):
    with output.workspace(out) as folder:
        for name in names or ("decoder.rknn",):
            (folder / name).write_bytes(name.encode())
        options = {"graphs": (graph(folder),), **more}
        output.write_manifest(
            folder,
            kind="tts",
            layout="piper-parts",
            name="v",
            source=("v.onnx", "ab"),
            target="rk3588",
            toolkit="2.3.2",
            **options,
        )
        return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_conversion_appears_whole_with_its_manifest(tmp_path):
    out = tmp_path / "new" / "voice"
    workspace = convert(out, "decoder.rknn", "config.json", more={"parts": {"hop": 256}})

    assert names(out) == ["config.json", "decoder.rknn", "manifest.json"]
    assert names(out.parent) == ["voice"] and not workspace.exists()
    assert out.stat().st_mode & 0o777 == 0o755
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"]["decoder.rknn"]["bytes"] == 12
    assert set(manifest["files"]) == {"config.json", "decoder.rknn"}
    assert manifest["parts"] == {"hop": 256}
    assert (manifest["format"], manifest["source"]) == (1, {"file": "v.onnx", "sha256": "ab"})
    assert manifest["graphs"] == [
        {
            "file": "decoder.rknn",
            "golden": "decoder.golden.npz",
            "frames": 55,
            "context_frames": 11,
            "snr_db": 58.13,
            "max_abs_error": 5e-4,
            "seconds": 1.23,
            "cpu_layers": ["Reshape:z"],
            "regtask_lines": 0,
            "errors": ["odd"],
        }
    ]


@pytest.mark.parametrize(
    ("listed", "part", "licence"),
    [("v.onnx", "", "CC0"), ("v.onnx", "v.onnx", "CC0"), ("another.onnx", "v.onnx", None), (None, "", None)],
)
def test_the_licence_is_that_of_what_was_converted(tmp_path, listed, part, licence):
    source = tmp_path / "source"
    source.mkdir()
    (source / "v.onnx").write_bytes(b"graph")
    if listed is not None:
        files = MappingProxyType({listed: record.RecordedFile(5)})
        record.write(source, record.Record("v", layout="piper", files=files, licence="CC0"), "1.0")
    convert(tmp_path / "v", made_of=source / part)
    assert json.loads((tmp_path / "v" / "manifest.json").read_text()).get("licence") == licence


def test_the_manifest_tells_what_the_result_speaks(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"audio": {"sample_rate": 16000}, "espeak": {"voice": "de"}, "phoneme_id_map": {"_": [0]}})
    )
    with output.workspace(tmp_path / "v") as folder:
        for name in ("encoder.onnx", "decoder.onnx"):
            (folder / name).write_bytes(b"input_lengths scales")
        shutil.copy(tmp_path / "config.json", folder)
        output.write_manifest(
            folder, kind="tts", layout="piper-parts", name="v", source=("v.onnx", "ab"), target="rk3588",
            toolkit="2.3.2", graphs=(), more={"parts": {"stages": {"decoder": {}}}},
        )  # fmt: skip
    known = record.read(tmp_path / "v")
    assert (known.languages, known.rate_hz, known.targets, known.is_converted) == (("de",), 16000, ("rk3588",), True)
    (voice,) = Store((tmp_path / "v",)).scan().manifests
    assert (voice.source, voice.bytes) == ("v.onnx", known.bytes)


def test_the_manifest_is_json_even_without_any_noise(tmp_path):
    convert(tmp_path / "v", graphs=(graph(tmp_path, float("inf")),))
    text = (tmp_path / "v" / "manifest.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["graphs"][0]["snr_db"] > 100


def test_a_former_conversion_is_replaced(tmp_path):
    convert(tmp_path / "v", "decoder.rknn", "flow.onnx")
    convert(tmp_path / "v", "decoder.rknn")
    assert names(tmp_path / "v") == ["decoder.rknn", "manifest.json"]
    assert names(tmp_path) == ["v"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "v").mkdir()
    convert(tmp_path / "v")
    assert names(tmp_path / "v") == ["decoder.rknn", "manifest.json"]


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"files": {"notes.txt": {}}}', '{"format": 1, "layout": 2}'])
def test_a_folder_with_other_files_is_refused(tmp_path, manifest):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "notes.txt").write_text("mine")
    if manifest is not None:
        (tmp_path / "v" / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match=r"v holds (notes\.txt|manifest\.json), .*not of a former conversion"):
        convert(tmp_path / "v")
    assert (tmp_path / "v" / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["v"]


def test_a_file_put_to_a_former_conversion_is_kept(tmp_path):
    convert(tmp_path / "v")
    (tmp_path / "v" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        convert(tmp_path / "v")


def test_a_file_is_no_place(tmp_path):
    (tmp_path / "v").write_text("mine")
    with pytest.raises(UsageError, match="v is a file"):
        convert(tmp_path / "v")


def test_a_failure_leaves_what_was_there(tmp_path):
    convert(tmp_path / "v")
    with pytest.raises(ZeroDivisionError), output.workspace(tmp_path / "v") as folder:
        (folder / "half.rknn").write_bytes(b"half")
        raise ZeroDivisionError
    assert names(tmp_path / "v") == ["decoder.rknn", "manifest.json"]
    assert names(tmp_path) == ["v"]


def test_a_full_disk_is_told(tmp_path):
    with (
        pytest.raises(ConversionError, match=r"v cannot be written \(No space left on device\); choose another"),
        output.workspace(tmp_path / "v"),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversionError, match="cannot be written"):
        convert(tmp_path / "file" / "v")


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    old, fresh, other = (tmp_path / name for name in (".tmp-v-old", ".tmp-v-fresh", ".tmp-w-old"))
    for folder in (old, fresh, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (time.time() - 100_000,) * 2)
    convert(tmp_path / "v")
    assert names(tmp_path) == [".tmp-v-fresh", ".tmp-w-old", "v"]


@pytest.fixture
def mounted(monkeypatch):
    """Return a function that turns folders into mount points, as far as this process can tell."""
    points, is_mount, rename = set(), Path.is_mount, Path.rename

    def busy(path, target):
        if {str(path), str(target)} & points:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    def mount(folder, is_known=True):
        folder.mkdir(exist_ok=True)
        points.add(str(folder))
        monkeypatch.setattr(Path, "is_mount", lambda path: (is_known and str(path) in points) or is_mount(path))

    monkeypatch.setattr(Path, "rename", busy)
    return mount


@pytest.mark.parametrize("is_known", [True, False])
def test_a_mount_point_is_filled(tmp_path, mounted, is_known):
    out = tmp_path / "v"
    mounted(out, is_known)
    (out / "lost+found").mkdir()
    convert(out, "decoder.rknn", "flow.onnx")
    convert(out, "decoder.rknn", "new.onnx")
    assert names(out) == ["decoder.rknn", "lost+found", "manifest.json", "new.onnx"]
    assert names(tmp_path) == ["v"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        convert(out)


def test_a_failure_leaves_what_was_in_a_mount_point(tmp_path, mounted, monkeypatch):
    out, move = tmp_path / "v", shutil.move
    mounted(out)
    convert(out, "decoder.rknn", "flow.onnx")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(path, target):
        if target.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return move(path, target)

    monkeypatch.setattr(shutil, "move", full)
    with pytest.raises(ConversionError, match="No space left"):
        convert(out, "decoder.rknn", "new.onnx")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_mount_point_without_manifest_is_never_taken_for_whole(tmp_path, mounted, monkeypatch):
    out, move, seen = tmp_path / "v", shutil.move, []
    mounted(out)
    convert(out)

    def watched(path, target):
        seen.append((target.name, (out / "manifest.json").exists()))
        return move(path, target)

    monkeypatch.setattr(shutil, "move", watched)
    convert(out, "decoder.rknn", "zz.onnx")
    assert seen == [("decoder.rknn", False), ("zz.onnx", False), ("manifest.json", False)]


def test_only_files_within_are_replaced(tmp_path, mounted):
    out = tmp_path / "v"
    mounted(out)
    convert(out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["../mine"] = {}
    (out / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "mine").write_text("mine")
    convert(out)
    assert names(tmp_path) == ["mine", "v"]


def test_a_folder_below_one_that_cannot_be_written_is_filled(tmp_path, monkeypatch):
    out = tmp_path / "v"
    out.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert convert(out).parent == out
    assert names(out) == ["decoder.rknn", "manifest.json"]


def test_what_a_link_leads_to_is_replaced(tmp_path):
    convert(tmp_path / "real" / "v")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "v")
    convert(tmp_path / "link", "new.onnx")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real" / "v") == ["manifest.json", "new.onnx"]
    assert names(tmp_path) == ["link", "real"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_former_conversion_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch, error):
    out, rename = tmp_path / "v", Path.rename
    convert(out)
    times = []

    def failing(path, target):
        if target == out and not times:
            times.append(path)
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ConversionError if isinstance(error, OSError) else KeyboardInterrupt):
        convert(out, "new.onnx")
    assert names(out) == ["decoder.rknn", "manifest.json"]
    assert names(tmp_path) == ["v"]


def test_a_place_can_be_looked_at_before_any_work(tmp_path):
    output.check(tmp_path / "new")
    convert(tmp_path / "v")
    output.check(tmp_path / "v")
    (tmp_path / "v" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        output.check(tmp_path / "v")
    assert names(tmp_path) == ["v"]
