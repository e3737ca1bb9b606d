"""Parts of voices through the child process and the cache."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_piper import VoiceShape, build_voice

from wyoming_rknn.errors import Cancelled, GraphNotSplittable, ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.models.store import Store
from wyoming_rknn.runtime.cancellation import Cancellable
from wyoming_rknn.runtime.graph import Graph, Tensor
from wyoming_rknn.runtime.onnx import load
from wyoming_rknn.tts.piper import cache, parts
from wyoming_rknn.tts.piper.parts import VoiceParts, known_parts, load_parts, split_to

CONFIG = {
    "audio": {"sample_rate": 22050},
    "espeak": {"voice": "en-us"},
    "phoneme_id_map": {"a": [1]},
    "hop_length": 8,
}


def feeds(graph: Graph, speaker: int) -> dict[str, Tensor]:
    fed: dict[str, Tensor] = {
        "input": np.arange(1, 10, dtype=np.int64)[np.newaxis],
        "input_lengths": np.array([9], np.int64),
        "scales": np.array([0.0, 1.0, 0.0], np.float32),
        "sid": np.array([speaker], np.int64),
    }
    return {spec.name: fed[spec.name] for spec in graph.inputs}


def speak(voice: VoiceParts, speaker: int = 0) -> Tensor:
    encoder = load(voice.encoder, threads=1)
    encoded = encoder.run(feeds(encoder, speaker))
    signal = encoded[voice.latents]
    for stage in (voice.flow, voice.decoder):
        if stage is not None:
            conditions = {name: encoded[name] for name in stage.conditions}
            signal = load(stage.graph, threads=1).run({stage.input: signal, **conditions})[stage.output]
    return signal.ravel()


def whole(path: Path, speaker: int = 0) -> Tensor:
    graph = load(path, threads=1)
    return graph.run(feeds(graph, speaker))["output"].ravel()


def entries(cache_dir: Path) -> list[Path]:
    return sorted(path.parent for path in cache_dir.glob("split/*/manifest.json"))


def no_child(*_: object, **__: object) -> None:
    raise AssertionError("a child process was started")


def test_first_use_splits_and_the_next_one_takes_the_cache(
    tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_dir = tmp_path / "cache"
    first = load_parts({"graph": tiny_voice}, cache_dir)
    assert (first.hop, first.channels, first.latents) == (8, 6, "z_p")
    assert first.flow is not None
    assert (first.flow.context_frames, first.decoder.context_frames) == (4, 6)
    assert first.max_diff <= 1e-6
    np.testing.assert_allclose(speak(first), whole(tiny_voice), rtol=0, atol=1e-6)
    monkeypatch.setattr(subprocess, "Popen", no_child)
    assert load_parts({"graph": tiny_voice}, cache_dir) == first
    (entry,) = entries(cache_dir)
    manifest = json.loads((entry / "manifest.json").read_text())
    assert manifest["format"] == cache.FORMAT
    assert manifest["voice"] == "tiny.onnx"
    assert sorted(manifest["files"]) == ["decoder.onnx", "encoder.onnx", "flow.onnx"]


def test_nothing_is_written_beside_the_voice_nor_left_in_the_cache(tiny_voice: Path, tmp_path: Path) -> None:
    load_parts({"graph": tiny_voice}, tmp_path / "cache")
    assert list(tiny_voice.parent.iterdir()) == [tiny_voice]
    (entry,) = entries(tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache" / "split").iterdir()} == {entry.name, "stamps", "CACHEDIR.TAG"}


def test_cache_below_a_data_folder_is_not_taken_for_voices(tiny_voice: Path, tmp_path: Path) -> None:
    load_parts({"graph": tiny_voice}, tmp_path / "data" / "cache")
    found = Store([tmp_path / "data"]).scan()
    assert (found.manifests, found.problems) == ((), ())


def test_speakers(tmp_path: Path) -> None:
    path = tmp_path / "three.onnx"
    onnx.save(build_voice(VoiceShape(speakers=3)), path)
    voice = load_parts({"graph": path}, tmp_path / "cache")
    assert voice.flow is not None
    assert (voice.flow.conditions, voice.decoder.conditions) == (("g",), ("cond",))
    for speaker in range(3):
        np.testing.assert_allclose(speak(voice, speaker), whole(path, speaker), rtol=0, atol=1e-6)


def test_moved_voice_is_not_split_again(tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_parts({"graph": tiny_voice}, tmp_path / "cache")
    moved = tiny_voice.rename(tmp_path / "elsewhere.onnx")
    monkeypatch.setattr(subprocess, "Popen", no_child)
    assert load_parts({"graph": moved}, tmp_path / "cache") == first


def test_replaced_voice_is_split_again(tiny_voice: Path, tmp_path: Path) -> None:
    load_parts({"graph": tiny_voice}, tmp_path / "cache")
    onnx.save(build_voice(seed=2), tiny_voice)
    again = load_parts({"graph": tiny_voice}, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 2
    np.testing.assert_allclose(speak(again), whole(tiny_voice), rtol=0, atol=1e-6)


def _truncate(entry: Path) -> None:
    content = (entry / "flow.onnx").read_bytes()
    (entry / "flow.onnx").write_bytes(content[:100])


def _remove_decoder(entry: Path) -> None:
    (entry / "decoder.onnx").unlink()


def _break_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text('{"format": 1, "fi')


def _empty_manifest(entry: Path) -> None:
    manifest = json.loads((entry / "manifest.json").read_text())
    (entry / "manifest.json").write_text(json.dumps({**manifest, "description": {}}))


def _other_format(entry: Path) -> None:
    manifest = json.loads((entry / "manifest.json").read_text())
    (entry / "manifest.json").write_text(json.dumps({**manifest, "format": cache.FORMAT + 1}))


def _replace_by_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("not a folder")


@pytest.mark.parametrize(
    "damage",
    [_truncate, _remove_decoder, _break_manifest, _empty_manifest, _other_format, _replace_by_file],
)
def test_damaged_entries_are_made_again(damage: Callable[[Path], None], tiny_voice: Path, tmp_path: Path) -> None:
    first = load_parts({"graph": tiny_voice}, tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    damage(entry)
    assert load_parts({"graph": tiny_voice}, tmp_path / "cache") == first
    assert json.loads((entry / "manifest.json").read_text())["format"] == cache.FORMAT
    assert cache.read(entry) is not None
    np.testing.assert_allclose(speak(first), whole(tiny_voice), rtol=0, atol=1e-6)


def test_splitting_the_same_voice_at_once(tiny_voice: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: load_parts({"graph": tiny_voice}, tmp_path / "cache"), range(4)))
    assert all(voice == made[0] for voice in made)
    assert len(entries(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache" / "split").glob(".tmp-*"))
    np.testing.assert_allclose(speak(made[0]), whole(tiny_voice), rtol=0, atol=1e-6)


def test_voice_without_a_place_to_cut_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flat.onnx"
    onnx.save(build_voice(VoiceShape(upsampled=False)), path)
    with pytest.raises(GraphNotSplittable, match=r"flat\.onnx cannot be split: no upsampling"):
        load_parts({"graph": path}, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", no_child)
        with pytest.raises(GraphNotSplittable, match=r"flat\.onnx cannot be split: no upsampling"):
            load_parts({"graph": path}, tmp_path / "cache")
    # A later version may know how.
    monkeypatch.setattr("wyoming_rknn.__version__", "0.0.0+other")
    started: list[object] = []
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args) or start(*args, **kwargs))
    with pytest.raises(GraphNotSplittable):
        load_parts({"graph": path}, tmp_path / "cache")
    assert started


def test_missing_voice(tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissing, match=r"gone\.onnx does not exist"):
        load_parts({"graph": tmp_path / "gone.onnx"}, tmp_path / "cache")


def test_broken_voice(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ModelInvalid, match=r"broken\.onnx: this is no ONNX model"):
        load_parts({"graph": path}, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_foreign_graph(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    onnx.save(build_voice(VoiceShape(inputs=("x", "x_length", "scales"))), path)
    with pytest.raises(ModelInvalid, match=r"foreign\.onnx.*no Piper voice"):
        load_parts({"graph": path}, tmp_path / "cache")


def in_memory(voice: VoiceParts) -> bool:
    sources = [voice.encoder, voice.decoder.graph, *([voice.flow.graph] if voice.flow else [])]
    return all(isinstance(source, bytes) for source in sources)


def test_cache_that_cannot_be_made(tiny_voice: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the folder should be")
    voice = load_parts({"graph": tiny_voice}, blocked)
    assert in_memory(voice)
    np.testing.assert_allclose(speak(voice), whole(tiny_voice), rtol=0, atol=1e-6)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert str(blocked) in warning.getMessage()
    assert "--cache-dir" in warning.getMessage()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 16 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(small_disk: Path, tiny_voice: Path, caplog: pytest.LogCaptureFixture) -> None:
    voice = load_parts({"graph": tiny_voice}, small_disk)
    assert in_memory(voice)
    np.testing.assert_allclose(speak(voice), whole(tiny_voice), rtol=0, atol=1e-6)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "No space left" in warning.getMessage()
    assert entries(small_disk) == []
    assert not list((small_disk / "split").glob(".tmp-*"))


def test_entry_that_cannot_be_published(
    tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "publish", refuse)
    voice = load_parts({"graph": tiny_voice}, tmp_path / "cache")
    assert in_memory(voice)
    np.testing.assert_allclose(speak(voice), whole(tiny_voice), rtol=0, atol=1e-6)
    assert "Permission denied" in caplog.text


def test_read_only_voice_and_read_only_cache(small_disk: Path, tiny_voice: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    voice = Path(shutil.copy(tiny_voice, small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert not in_memory(load_parts({"graph": voice}, tmp_path / "cache"))
    kept = load_parts({"graph": voice}, small_disk)
    assert in_memory(kept)
    np.testing.assert_allclose(speak(kept), whole(voice), rtol=0, atol=1e-6)


def test_what_a_killed_process_left_is_removed(tiny_voice: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "split"
    old, fresh = root / ".tmp-old", root / ".tmp-fresh"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "encoder.onnx").write_bytes(b"half")
    os.utime(old, (0, 0))
    load_parts({"graph": tiny_voice}, tmp_path / "cache")
    assert not old.exists()
    assert fresh.exists()


def test_child_that_takes_too_long(tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHILD_TIMEOUT_S", 0.01)
    with pytest.raises(GraphNotSplittable, match="within"):
        load_parts({"graph": tiny_voice}, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []
    assert not list((tmp_path / "cache" / "split").glob(".tmp-*"))


def test_splitting_that_is_given_up_ends_the_child_and_leaves_nothing(
    tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cancellation = tmp_path / "cache" / "split", Cancellable()
    assert known_parts({"graph": tiny_voice}, tmp_path / "cache") is None
    monkeypatch.setattr(sys, "executable", str(interpreter(tmp_path, "import time; time.sleep(60)")))
    with ThreadPoolExecutor(1) as pool:
        splitting = pool.submit(load_parts, {"graph": tiny_voice}, tmp_path / "cache", cancellation)
        while not list(root.glob(".tmp-*")):
            assert not splitting.done()
        cancellation.cancel()
        with pytest.raises(Cancelled):
            splitting.result(30)
    assert [path.name for path in root.iterdir()] == ["stamps"]


def test_a_voice_that_is_replaced_while_it_is_split_does_not_pass_for_the_old_one(
    tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, start = tiny_voice.read_bytes(), subprocess.Popen

    def replace_and_start(*arguments: Any, **options: Any) -> Any:
        onnx.save(build_voice(seed=2), tiny_voice)
        return start(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", replace_and_start)
        with pytest.raises(ModelInvalid, match=r"tiny\.onnx was replaced while it was split"):
            load_parts({"graph": tiny_voice}, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []
    tiny_voice.write_bytes(old)
    assert known_parts({"graph": tiny_voice}, tmp_path / "cache") is None


def interpreter(folder: Path, program: str) -> Path:
    """Return a file that runs a program whatever it is asked to run."""
    path = folder / "interpreter"
    path.write_text(f"#!{sys.executable}\n{program}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9, perhaps for want of memory"),
        ("raise RuntimeError('no luck')", "exit code 1: RuntimeError: no luck"),
        ("pass", "exit code 0"),
    ],
)
def test_child_that_dies(
    program: str, reason: str, tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(interpreter(tmp_path, program)))
    with pytest.raises(GraphNotSplittable, match=reason):
        load_parts({"graph": tiny_voice}, tmp_path / "cache")


def test_server_process_never_loads_onnx(tiny_voice: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from wyoming_rknn.tts.piper.parts import load_parts; "
        "load_parts({'graph': Path(sys.argv[1])}, Path(sys.argv[2])); "
        "sys.exit(bool({'onnx', 'onnxruntime', 'wyoming_rknn.tts.piper.cut'} & set(sys.modules)))"
    )
    project = str(Path(parts.__file__).parents[3])
    subprocess.run(
        [sys.executable, "-c", program, str(tiny_voice), str(tmp_path / "cache")],
        check=True,
        env={**os.environ, "PYTHONPATH": project},
    )


def add_config(voice: Path) -> Path:
    voice.with_name(voice.name + ".json").write_text(json.dumps(CONFIG))
    return voice


@pytest.mark.parametrize("speakers", [1, 3])
def test_voice_split_for_other_programs_is_a_voice_of_ours(speakers: int, tmp_path: Path) -> None:
    voice = tmp_path / "en_US-someone-low.onnx"
    onnx.save(build_voice(VoiceShape(speakers=speakers)), voice)
    out = tmp_path / "data" / "someone"
    written = split_to(add_config(voice), out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "decoder.onnx", "encoder.onnx"]
    assert sorted(written) == sorted(out.iterdir())
    (manifest,) = Store([tmp_path / "data"]).scan().manifests
    assert (manifest.format, manifest.name) == ("piper-pair", "someone")
    pair = load_parts(manifest.files, tmp_path / "cache")
    assert pair.encoder == out / "encoder.onnx"
    assert pair.flow is None
    assert pair.decoder.context_frames == 6
    assert pair.decoder.conditions == (("g",) if speakers > 1 else ())
    for speaker in range(speakers):
        np.testing.assert_allclose(speak(pair, speaker), whole(voice, speaker), rtol=0, atol=1e-6)
    assert split_to(voice, out) == written


def test_split_for_other_programs_tells_what_is_wrong(tiny_voice: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissing, match=r"gone\.onnx does not exist"):
        split_to(tmp_path / "gone.onnx", tmp_path / "out")
    with pytest.raises(ModelFileMissing, match=r"tiny\.onnx\.json does not exist"):
        split_to(tiny_voice, tmp_path / "out")
    add_config(tiny_voice)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(ModelError, match="blocked cannot be written"):
        split_to(tiny_voice, blocked)
    tiny_voice.write_bytes(b"broken")
    with pytest.raises(ModelInvalid):
        split_to(tiny_voice, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_split_for_other_programs_on_a_full_disk(small_disk: Path, tiny_voice: Path) -> None:
    with pytest.raises(ModelError, match="No space left"):
        split_to(add_config(tiny_voice), small_disk)
    assert list(small_disk.iterdir()) == []


def test_shared_pair(voices: Callable[[str], Path], tmp_path: Path) -> None:
    folder = voices("sano-kristin").parent
    files = {"encoder": folder / "encoder.onnx", "decoder": folder / "decoder.onnx"}
    pair = load_parts(files, tmp_path / "cache")
    assert pair.encoder == files["encoder"]
    assert (pair.latents, pair.hop, pair.channels, pair.flow) == ("z", 256, 192, None)
    assert pair.decoder.context_frames == 11


def test_shared_voice(voices: Callable[[str], Path], tmp_path: Path) -> None:
    voice = load_parts({"graph": voices("random-tiny")}, tmp_path / "cache")
    assert voice.flow is not None
    assert (voice.hop, voice.flow.context_frames, voice.decoder.context_frames) == (256, 32, 11)
    assert voice.max_diff <= 1e-6
