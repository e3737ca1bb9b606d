"""`models list --available`, `models add` and `models remove` against a hub on this machine."""

import json
from pathlib import Path

import pytest
from serving_files import FileServer, Served

from wyoming_rknn.models import piper_voices

VOICE = "de_DE-otto-low"
CONFIG = {
    "audio": {"sample_rate": 16000, "quality": "low"},
    "espeak": {"voice": "de"},
    "language": {"code": "de_DE"},
    "phoneme_id_map": {"_": [0]},
    "num_symbols": 1,
    "num_speakers": 1,
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with FileServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Return a data folder whose own catalogue has a voice and more."""
    # Each voice that is added would take a child process: `test_add` lets some be cut.
    monkeypatch.setattr("wyoming_rknn.cli.models.add._cut", lambda folder, settings: None)
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def offer(data, server, **manner):
    """Let the hub have a voice, and the data folder's own catalogue too."""
    files = [
        server.hub(f"{VOICE}.onnx", b"input_lengths scales" * 1000, **manner),
        server.hub(f"{VOICE}.onnx.json", json.dumps(CONFIG).encode()),
    ]
    described = [
        {
            "name": file.name,
            "repo": file.source.repo,
            "revision": file.source.revision,
            "path": file.source.path,
            "bytes": file.bytes,
            "sha256": file.sha256,
        }
        for file in files
    ]
    voice = {"name": VOICE, "kind": "tts", "format": "piper", "languages": ["de-DE", "de"], "quality": "low"}
    models = [
        {**voice, "files": described, "remark": "Its licence is not known."},
        {**voice, "name": "by-hand", "home": "someone/by-hand"},
        {**voice, "name": "of-tomorrow", "format": "sounds", "files": described},
    ]
    (data / "catalog.json").write_text(json.dumps({"models": models}))


def test_all_that_can_be_had_is_listed(run, data):
    code, out, err = run("models", "list", "--available", "--data-dir", data)
    lines = out.decode().splitlines()
    assert (code, err) == (0, "")
    (lessac,) = (line for line in lines if line.startswith("en_US-lessac-medium "))
    assert lessac.split() == ["en_US-lessac-medium", "tts", "en-US", "medium", "63.2", "MB"]
    voices = [line for line in lines if line.split()[1] == "tts" and line.split()[0].count("-") == 2]
    assert len(voices) >= 176


def test_the_list_of_a_language_shows_what_is_installed_and_what_is_not_for_this_program(run, data, server):
    offer(data, server)
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    code, out, _ = run("models", "list", "--available", "--language", "de", "--data-dir", data)
    lines = {line.split()[0]: line for line in out.decode().splitlines()}
    assert code == 0
    assert lines[VOICE].endswith("installed")
    assert lines["by-hand"].endswith("by hand")
    assert lines["of-tomorrow"].endswith("not used by this version")
    assert "de_DE-thorsten-medium" in lines
    assert "en_US-lessac-medium" not in lines
    code, out, _ = run("models", "list", "--available", "--language", "de", "--json", "--data-dir", data)
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert [found[name]["usable"] for name in (VOICE, "by-hand", "of-tomorrow")] == [True, False, False]
    assert found[VOICE]["installed"]


def test_installed_models_are_listed_by_language_too(run, data, server):
    offer(data, server)
    run("models", "add", VOICE, "--data-dir", data)
    for tag, count in (("de", 1), ("de_DE", 1), ("en", 0)):
        code, out, _ = run("models", "list", "--language", tag, "--data-dir", data)
        assert (code, len(out.splitlines())) == (0, count)


def test_a_language_that_nothing_speaks(run, data):
    code, out, err = run("models", "list", "--available", "--language", "tlh", "--data-dir", data)
    assert (code, out, err) == (0, b"", "no model of the catalogue knows 'tlh'\n")


def test_a_model_is_fetched_and_is_a_voice_from_then_on(run, data, server):
    offer(data, server)
    code, out, err = run("models", "add", "de de otto LOW", "--data-dir", data)
    assert (code, out.decode()) == (0, f"{data / VOICE}\n")
    assert "100 % of" in err
    assert f"{VOICE}: Its licence is not known." in err
    assert {path.name for path in (data / VOICE).iterdir()} == {f"{VOICE}.onnx", f"{VOICE}.onnx.json", "manifest.json"}
    assert run("models", "list", "--data-dir", data)[1].decode().split()[:2] == [VOICE, "tts"]
    # What is whole is not asked for again.
    before = len(server.asked)
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert len(server.asked) == before


def test_what_is_damaged_is_fetched_again(run, data, server):
    offer(data, server)
    run("models", "add", VOICE, "--data-dir", data)
    graph = data / VOICE / f"{VOICE}.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + b"!")
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert graph.read_bytes() == content


def test_a_mirror_serves_in_place_of_the_hub(run, data, server, monkeypatch):
    offer(data, server)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run("models", "add", VOICE, "--model-url", server.url, "--data-dir", data)[0] == 0


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("de_DE-oto-low", "did you mean de_DE-otto-low"),
        ("by-hand", "must be fetched by hand, which files it has is not known; https://huggingface.co/someone/by-hand"),
        ("of-tomorrow", "no engine of this version uses its format, sounds"),
    ],
)
def test_what_cannot_be_fetched_is_told_before_anything_is(run, data, server, name, advice):
    offer(data, server)
    code, out, err = run("models", "add", VOICE, name, "--data-dir", data)
    assert (code, out) == (1, b"")
    assert advice in err
    assert err.count("\n") == 1
    assert not server.asked
    assert not (data / VOICE).exists()


def test_a_hub_that_cannot_be_reached_is_told(run, data, server, monkeypatch):
    offer(data, server)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run("models", "add", VOICE, "--data-dir", data)
    assert code == 1
    assert err.splitlines()[-1].startswith("wyoming-rknn: 127.0.0.1:9 ")
    assert not (data / VOICE).exists()


def test_a_wrong_mirror_is_wrong_use(run, data, server):
    offer(data, server)
    code, _, err = run("models", "add", VOICE, "--model-url", "mirror", "--data-dir", data)
    assert code == 2
    assert "--model-url must be an address such as" in err


def test_a_model_is_removed_with_its_folder(run, data, server):
    offer(data, server)
    run("models", "add", VOICE, "--data-dir", data)
    (data / VOICE / "MODEL_CARD").write_text("a voice")
    code, out, err = run("models", "remove", "DE_de otto low", "--data-dir", data)
    assert (code, out.decode(), err) == (0, f"{data / VOICE}\n", "")
    assert sorted(path.name for path in data.iterdir()) == ["catalog.json"]


def test_what_else_lies_there_is_left(run, data, server):
    offer(data, server)
    run("models", "add", VOICE, "--data-dir", data)
    # One right in the data folder, one with a stranger beside it.
    for path in (data / VOICE).glob(f"{VOICE}*"):
        path.rename(data / path.name.replace("otto", "emil"))
    run("models", "add", VOICE, "--data-dir", data)
    (data / VOICE / "notes.txt").write_text("mine")
    for name in (VOICE, "de_DE-emil-low"):
        assert run("models", "remove", name, "--data-dir", data)[0] == 0
    assert sorted(path.name for path in data.rglob("*")) == ["catalog.json", VOICE, "notes.txt"]


def test_only_what_is_installed_can_be_removed(run, data, server):
    offer(data, server)
    run("models", "add", VOICE, "--data-dir", data)
    code, out, err = run("models", "remove", VOICE, "de_DE-oto-low", "--data-dir", data)
    assert (code, out) == (1, b"")
    assert err == f"wyoming-rknn: model 'de_DE-oto-low' is not installed; did you mean {VOICE}?\n"
    assert (data / VOICE).is_dir()


def test_what_may_not_be_deleted_is_told(run, data, server, monkeypatch):
    offer(data, server)
    run("models", "add", VOICE, "--data-dir", data)

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    code, _, err = run("models", "remove", VOICE, "--data-dir", data)
    assert code == 1
    assert err.endswith(f"{VOICE}.onnx cannot be deleted: Permission denied; check its owner\n")


def test_the_default_suits_board_and_language(run, data, server):
    offer(data, server)
    # A user's own catalogue goes before the package's, so the server of this test has the voice.
    known = json.loads((data / "catalog.json").read_text())
    known["models"][0]["name"] = "de_DE-thorsten-low"
    (data / "catalog.json").write_text(json.dumps(known))
    code, out, _ = run("models", "add", "default", "--language", "de", "--soc", "rk3566", "--data-dir", data)
    assert (code, out.decode()) == (0, f"{data / 'de_DE-thorsten-low'}\n")


def test_there_is_no_default_for_a_language_that_nothing_knows(run, data, server):
    code, out, err = run("models", "add", "default", "--language", "tlh", "--data-dir", data)
    assert (code, out) == (1, b"")
    assert "no model of the catalogue knows 'tlh'; choose a language with --language" in err


def test_the_list_of_voices_is_renewed(run, data, server):
    files = {
        f"de/de_DE/otto/low/{name}": {"size_bytes": 1000, "md5_digest": "0" * 32}
        for name in (f"{VOICE}.onnx", f"{VOICE}.onnx.json", "MODEL_CARD")
    }
    language = {"code": "de_DE", "family": "de", "region": "DE", "name_english": "German", "country_english": "Germany"}
    voice = {"key": VOICE, "name": "otto", "language": language, "quality": "low", "num_speakers": 1}
    voices = {VOICE: {**voice, "speaker_id_map": {}, "files": files, "aliases": []}}
    server.served["/rhasspy/piper-voices/resolve/main/voices.json"] = Served(json.dumps(voices).encode())
    code, out, err = run("models", "update", "--data-dir", data)
    assert (code, out.decode(), err) == (0, f"1 voices, 1 of them new\n{VOICE}\n", "")
    code, out, _ = run("models", "list", "--available", "--language", "de", "--data-dir", data)
    assert VOICE in out.decode()
    assert "de_DE-thorsten-medium" in out.decode()


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"a": 1}'])
def test_a_list_that_is_none_is_told_and_changes_nothing(run, data, server, content):
    server.served["/rhasspy/piper-voices/resolve/main/voices.json"] = Served(content)
    before = run("models", "list", "--available", "--data-dir", data)[1]
    code, out, err = run("models", "update", "--data-dir", data)
    assert (code, out) == (1, b"")
    assert err.count("\n") == 1
    assert run("models", "list", "--available", "--data-dir", data)[1] == before


def test_a_voice_of_another_form_is_left_out_of_the_list_and_named(run, data, server):
    voices = {key: listed_voice(key) for key in ("en_US-new-low", "en_US-odd-low")}
    for file in voices["en_US-odd-low"]["files"].values():
        file["md5_digest"] = ""
    server.served["/rhasspy/piper-voices/resolve/main/voices.json"] = Served(json.dumps(voices).encode())
    code, out, err = run("models", "update", "--data-dir", data)
    assert (code, out.decode()) == (0, "1 voices, 1 of them new\nen_US-new-low\n")
    assert err == "en_US-odd-low is left out: the list does not describe it as it does the others\n"


def test_a_list_that_could_not_be_read_again_replaces_nothing(run, data, server, monkeypatch, tmp_path):
    path = "/rhasspy/piper-voices/resolve/main/voices.json"
    server.served[path] = Served(json.dumps({VOICE: listed_voice(VOICE)}).encode())
    run("models", "update", "--data-dir", data)
    (known,) = (tmp_path / "cache").rglob("catalog.json")
    before = known.read_text()
    monkeypatch.setattr("wyoming_rknn.models.catalog_form._MAX_BYTES", len(before))
    server.served[path] = Served(json.dumps({key: listed_voice(key) for key in (VOICE, "en_US-new-low")}).encode())
    code, out, err = run("models", "update", "--data-dir", data)
    assert (code, out) == (1, b"")
    assert err.endswith("is of no use, the one from before stays; try later\n")
    assert known.read_text() == before
    assert [path.name for path in known.parent.glob("catalog.json*")] == ["catalog.json"]


def listed_voice(key):
    """Return a voice as the hub's list has it."""
    files = {path: {"size_bytes": 1, "md5_digest": "a" * 32} for path in piper_voices.paths(key)}
    return {"key": key, "files": files, "language": {}}
