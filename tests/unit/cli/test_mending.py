"""`models verify` names damaged files, `models add` fetches them again, `models remove` takes all of a model away."""

import io
import json
import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import tiny_sensevoice
from downloading import options
from hub_voices import put, voice_files
from serving_files import FileServer

from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.download import fetch
from wyoming_rknn.models.installing import finish_for

VOICE = "de_DE-otto-low"
FILES = (f"{VOICE}.onnx", f"{VOICE}.onnx.json")
CONFIG = {
    "audio": {"sample_rate": 16000, "quality": "low"},
    "espeak": {"voice": "de"},
    "language": {"code": "de_DE"},
    "phoneme_id_map": {"_": [0]},
    "num_symbols": 1,
    "num_speakers": 1,
}
REMOVE = f"delete it with `wyoming-rknn models remove {VOICE}`, then "
Run: TypeAlias = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with FileServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def data(tmp_path: Path, server: FileServer) -> Path:
    """Return a data folder whose catalogue has a voice, as files and as an archive of which nothing is known."""
    folder = tmp_path / "models"
    folder.mkdir()
    contents = b"input_lengths scales" * 1000, json.dumps(CONFIG).encode()
    files = [server.hub(name, content) for name, content in zip(FILES, contents, strict=True)]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in zip(FILES, contents, strict=True):
            info = tarfile.TarInfo(f"voice/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    packed = server.plain("otto.tar", archive.getvalue())
    voice = {"kind": "tts", "format": "piper", "languages": ["de-DE", "de"], "licence": "CC0"}
    known = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
    places = [{"repo": file.source.repo, "revision": "main", "path": file.source.path} for file in files]
    unpacked = {"name": "otto.tar", "url": packed.source.url, "unpack": [f"voice/{name}" for name in FILES]}
    models = [
        {**voice, "name": VOICE, "files": [{**file, **place} for file, place in zip(known, places, strict=True)]},
        {**voice, "name": "packed-otto", "files": [unpacked]},
    ]
    (folder / "catalog.json").write_text(json.dumps({"models": models}))
    return folder


@pytest.fixture
def verify(run: Run, data: Path) -> Callable[..., tuple[int, list[str]]]:
    """Return what verifies and returns the exit code and the lines."""

    def verify(*names: str) -> tuple[int, list[str]]:
        code, out, _ = run("models", "verify", *names, "--data-dir", data, "--runtime", "onnx")
        return code, out.decode().splitlines()

    return verify


def install(data: Path, server: FileServer, name: str = VOICE) -> None:
    """Do what `models add` does before it cuts a voice, which takes the most time."""
    entry = Catalog.load([data / "catalog.json"]).find(name)
    fetch(entry, data / name, options(server), finish=finish_for(entry))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize(
    ("model", "damage", "words"),
    [
        (VOICE, shorten, "bytes, manifest.json says"),
        (VOICE, Path.unlink, "is missing"),
        # The catalogue knows nothing of what is in the archive.
        ("packed-otto", spoil, "is not what was installed: its sha256 is not the one in manifest.json"),
        ("packed-otto", shorten, "bytes, manifest.json says"),
    ],
)
def test_what_is_damaged_is_named_and_fetched_again(
    model: str, damage: Callable[[Path], object], words: str, run: Run, data: Path, verify: Any, server: FileServer
) -> None:
    install(data, server, model)
    assert verify() == (0, [f"ok    model {VOICE}: piper, on the CPU"])
    whole = {path.name: path.read_bytes() for path in (data / model).iterdir()}
    for number, name in enumerate(FILES, 1):
        damage(data / model / name)
        code, lines = verify()
        failures = [line for line in lines if line.startswith("fail")]
        # All of them, once each, though without its config nobody finds a voice.
        assert (code, len(failures), len(lines)) == (1, number, 2 * number)
        assert f"fail  model {model}: {data / model / name} " in failures[-1] and words in failures[-1]
        assert lines[-1].endswith(f"fetch it again with `wyoming-rknn models add {model}`")
    for name in (model.upper(), VOICE):
        assert sum(line.startswith("fail") for line in verify(name)[1]) == len(FILES)
    assert run("models", "add", model, "--data-dir", data)[0] == 0
    assert verify()[0] == 0
    assert {path.name: path.read_bytes() for path in (data / model).iterdir()} == whole


def test_what_was_fetched_before_there_were_records_is_compared_with_the_catalogue(
    run: Run, data: Path, verify: Any, server: FileServer
) -> None:
    install(data, server)
    (data / VOICE / "manifest.json").unlink()
    assert verify()[0] == 0
    spoil(data / VOICE / FILES[0])
    code, (line, fix) = verify()
    assert (code, line) == (
        1, f"fail  model {VOICE}: {data / VOICE / FILES[0]} is not the file that the catalogue knows",
    )  # fmt: skip
    assert fix.endswith(f"fetch it again with `wyoming-rknn models add {VOICE}`")
    assert verify(VOICE)[0] == 1
    # Without a record, another size means that somebody has a voice of his own under this name.
    shorten(data / VOICE / FILES[0])
    assert verify()[0] == 0
    # What is whole gets its record without a word to a server.
    fetch(Catalog.load([data / "catalog.json"]).find(VOICE), data / VOICE, options(server))
    assert not (data / VOICE / "manifest.json").exists()
    server.asked.clear()
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert (data / VOICE / "manifest.json").exists() and server.asked == []


def test_a_copy_elsewhere_is_not_what_add_mends(run: Run, data: Path, verify: Any, server: FileServer) -> None:
    install(data, server)
    (data / VOICE).rename(data / "copy")
    spoil(data / "copy" / FILES[0])
    fix = f"delete it with `wyoming-rknn models remove {VOICE}`, then `wyoming-rknn models add {VOICE}`"
    assert verify()[1][-1].endswith(fix)
    # Who cannot be found cannot be removed so.
    (data / "copy" / FILES[1]).unlink()
    left = f"{data / 'copy' / FILES[0]} and {data / 'copy' / 'manifest.json'}"
    assert verify()[1][-1].endswith(f"delete {left}, then `wyoming-rknn models add {VOICE}`")


def test_of_a_voice_right_in_the_data_folder_nothing_else_is_to_be_deleted(
    run: Run, data: Path, verify: Any, server: FileServer
) -> None:
    install(data, server)
    for name in FILES:
        (data / VOICE / name).rename(data / name)
        (data / name.replace("otto", "emil")).write_bytes((data / name).read_bytes())
    shutil.rmtree(data / VOICE)
    spoil(data / FILES[0])
    remove = f"wyoming-rknn models remove {VOICE}"
    assert verify()[1][1].endswith(f"delete it with `{remove}`, then `wyoming-rknn models add {VOICE}`")
    assert run(*remove.split()[1:], "--data-dir", data)[0] == 0
    assert verify() == (0, ["ok    model de_DE-emil-low: piper, on the CPU"])


def test_all_that_came_together_is_to_be_removed_together(run: Run, data: Path, verify: Any) -> None:
    folder = put(data / "group", voice_files("otto") | voice_files("my emil"))
    files = {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()}
    content = {"format": 1, "layout": "piper", "name": "group", "source": {"url": "https://x.example/group.zip"}}
    (folder / "manifest.json").write_text(json.dumps({**content, "files": files}))
    config = folder / "otto.onnx.json"
    config.write_text(config.read_text() + " ")
    # As a name is given to a shell.
    command = "wyoming-rknn models remove 'my emil' otto"
    fix = f"-> delete it with `{command}`, then `wyoming-rknn models add https://x.example/group.zip`"
    assert fix in verify()[1][1]
    assert run(*shlex.split(command)[1:], "--data-dir", data)[0] == 0
    assert not folder.exists()


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ({"url": "https://x.example/otto.onnx"}, f"{REMOVE}`wyoming-rknn models add https://x.example/otto.onnx`"),
        # What others wrote into it is nothing to paste.
        ({"url": "https://x.example/a; rm -rf"}, f"{REMOVE}`wyoming-rknn models add 'https://x.example/a; rm -rf'`"),
        ({"catalog": "a; rm -rf ~"}, f"{REMOVE}`wyoming-rknn models add 'a; rm -rf ~'`"),
        ({"path": "/media/otto; rm -rf ~"}, "-> copy it again"),
        ({"file": "otto.onnx", "sha256": "ab"}, "copy it again, or convert the model anew with `wyoming-rknn"),
        (None, "-> copy it again"),
    ],
)  # fmt: skip
def test_the_fix_suits_where_a_model_is_from(
    source: object, fix: str, run: Run, data: Path, verify: Any, server: FileServer
) -> None:
    install(data, server)
    path = data / VOICE / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))
    spoil(data / VOICE / FILES[0])
    code, lines = verify()
    assert code == 1
    assert fix in lines[-1] and lines[-1].count("rm -rf") == fix.count("rm -rf")


def test_other_models_are_not_read_for_one(run: Run, data: Path, verify: Any, server: FileServer) -> None:
    install(data, server)
    spoil(data / VOICE / FILES[0])
    own = data / "own"
    own.mkdir()
    (own / "own.onnx").write_bytes(b"input_lengths scales")
    (own / "own.onnx.json").write_text(json.dumps(CONFIG))
    assert verify("own") == (0, ["ok    model own: piper, on the CPU"])
    assert verify()[0] == 1
    # The doctor, who is to be quick, reads no file whole.
    assert "sha256" not in run("doctor", "--data-dir", data, "--runtime", "onnx")[1].decode()


def test_the_list_tells_what_the_record_does(run: Run, data: Path, server: FileServer) -> None:
    install(data, server)
    (model,) = json.loads(run("models", "list", "--json", "--data-dir", data)[1])
    size = sum((data / VOICE / name).stat().st_size for name in FILES)
    assert (model["licence"], model["source"], model["bytes"]) == ("CC0", "someone/voices@main", size)
    (data / VOICE / "manifest.json").unlink()
    (model,) = json.loads(run("models", "list", "--json", "--data-dir", data)[1])
    assert (model["licence"], model["source"], model["bytes"], model["targets"]) == ("", "", size, [])


@pytest.mark.parametrize("source", [{"catalog": VOICE}, {"file": "otto.pt"}])
def test_all_that_was_installed_is_removed_and_nothing_else(
    source: object, run: Run, data: Path, server: FileServer
) -> None:
    install(data, server)
    path = data / VOICE / "manifest.json"
    content = json.loads(path.read_text())
    (data / VOICE / "extra" / "more").mkdir(parents=True)
    (data / VOICE / "extra" / "more" / "a").write_bytes(b"a")
    content["files"]["extra/more/a"] = {"bytes": 1}
    path.write_text(json.dumps({**content, "source": source}))
    (data / VOICE / "notes.txt").write_text("mine")
    assert run("models", "remove", VOICE, "--data-dir", data)[0] == 0
    assert [path.name for path in (data / VOICE).iterdir()] == ["notes.txt"]


def test_of_two_that_were_installed_together_one_can_be_removed(run: Run, data: Path) -> None:
    folder = data / "pair"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.onnx").write_bytes(b"input_lengths scales")
        (folder / f"{name}.onnx.json").write_text(json.dumps(CONFIG))
    files = {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()}
    record = {"format": 1, "layout": "piper", "name": "pair", "files": files}
    (folder / "manifest.json").write_text(json.dumps(record))
    assert run("models", "remove", "a", "--data-dir", data)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["b.onnx", "b.onnx.json"]
    # What a conversion wrote is needed to use what is left.
    (folder / "manifest.json").write_text(json.dumps({**record, "source": {"file": "b.pt"}}))
    for name in ("a.onnx", "a.onnx.json"):
        (folder / name).write_bytes((folder / name.replace("a.", "b.", 1)).read_bytes())
    assert run("models", "remove", "a", "--data-dir", data)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["b.onnx", "b.onnx.json", "manifest.json"]
    for name in ("a.onnx", "a.onnx.json"):
        (folder / name).write_bytes((folder / name.replace("a.", "b.", 1)).read_bytes())
    assert run("models", "remove", "a", "b", "--data-dir", data)[0] == 0
    assert not folder.exists()


def test_what_two_models_share_stays_until_the_last_is_removed(run: Run, data: Path) -> None:
    folder = tiny_sensevoice.install(data / "h", **{name: tiny_sensevoice.build_graph("sherpa") for name in "ab"})
    assert run("models", "remove", "h/a", "--data-dir", data)[0] == 0
    assert not (folder / "a.onnx").exists() and (folder / "tokens.txt").is_file()
    assert [model["name"] for model in json.loads(run("models", "list", "--json", "--data-dir", data)[1])] == ["h"]
    assert run("models", "remove", "h", "--data-dir", data)[0] == 0
    assert not (folder / "tokens.txt").exists()


def test_of_a_linked_model_the_link_alone_is_removed(run: Run, data: Path, tmp_path: Path) -> None:
    real = put(tmp_path / "disk" / "otto", voice_files("otto"))
    group = put(tmp_path / "disk" / "group", voice_files("a") | voice_files("b"))
    put(tmp_path / "disk" / "above" / "emil", voice_files("emil"))
    for folder in (real, group, tmp_path / "disk" / "above"):
        (data / folder.name).symlink_to(folder)
    everything = sorted((tmp_path / "disk").rglob("*"))
    for name, link in (("otto", "otto"), ("emil", "above")):
        assert run("models", "remove", name, "--data-dir", data)[0] == 0
        assert not (data / link).is_symlink()
    # Another model would be gone with it.
    code, _, err = run("models", "remove", "a", "--data-dir", data)
    assert (code, err.count("\n")) == (1, 1)
    assert f"{data / 'group'} leads to other models, too; delete the files of a in {group} by hand" in err
    assert (data / "group").is_symlink()
    assert run("models", "remove", "a", "b", "--data-dir", data)[0] == 0
    assert sorted(path.name for path in data.iterdir()) == ["catalog.json"]
    assert sorted((tmp_path / "disk").rglob("*")) == everything


def test_in_a_linked_data_folder_models_are_deleted(run: Run, data: Path, tmp_path: Path) -> None:
    put(data / "otto", voice_files("otto"))
    put(data, voice_files("emil"))
    (tmp_path / "link").symlink_to(data)
    assert run("models", "remove", "otto", "emil", "--data-dir", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in data.iterdir()] == ["catalog.json"]
