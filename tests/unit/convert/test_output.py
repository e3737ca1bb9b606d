import json
import os
import time

import pytest

from wyoming_rknn.convert import output
from wyoming_rknn.convert.report import GraphReport
from wyoming_rknn.errors import ConversionError, UsageError


def graph(folder, snr_db=58.126):
    return GraphReport("decoder.rknn", "decoder.golden.npz", 55, snr_db, 5e-4, 1.234, ("Reshape:z",), 0, 9, folder)


def convert(out, *names, **more):
    with output.workspace(out) as folder:
        for name in names or ("decoder.rknn",):
            (folder / name).write_bytes(name.encode())
        options = {"graphs": (graph(folder),), "context_frames": 11, **more}
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
        }
    ]


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
