"""`models add` of files on this machine and of addresses, and what it makes ready."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from hub_voices import put, voice_files
from serving_files import FileServer, listing

VOICE = "de_DE-otto-low"
FILES = voice_files(VOICE)
GRAPH, CONFIG = f"{VOICE}.onnx", f"{VOICE}.onnx.json"


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    with FileServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def data(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def voice(tmp_path):
    return put(tmp_path / "stick", FILES)


@pytest.fixture
def cut(monkeypatch):
    """Return the names of the voices that would be cut; cutting takes seconds."""
    names = []
    monkeypatch.setattr("wyoming_rknn.cli.models.add._cut", lambda folder, settings: names.append(folder.name))
    return names


def split_entries(tmp_path):
    return [path.parent for path in (tmp_path / "cache").rglob("decoder.onnx")]


def test_a_voice_is_copied_recorded_and_cut_once(run, data, voice, tmp_path, monkeypatch):
    monkeypatch.setattr("wyoming_rknn.cli.models.add._NOTICE_S", 0.0)
    code, out, err = run("models", "add", voice / GRAPH, "--data-dir", data)
    monkeypatch.setattr("wyoming_rknn.cli.models.add._NOTICE_S", 60.0)
    assert (code, out.decode()) == (0, f"{data / VOICE}\n")
    assert f"{VOICE}: it is cut for streaming, once, which takes some seconds\n" in err
    assert len(split_entries(tmp_path)) == 1
    known = json.loads((data / VOICE / "manifest.json").read_bytes())
    assert (known["name"], known["kind"], known["source"]) == (VOICE, "tts", {"path": GRAPH})
    assert set(known["files"]) == set(FILES)
    before = listing(data)
    assert run("models", "add", voice / GRAPH, "--data-dir", data) == (0, f"{data / VOICE}\n".encode(), "")
    assert listing(data) == before
    assert run("models", "verify", "--data-dir", data)[0] == 0
    assert run("models", "remove", VOICE, "--data-dir", data)[0] == 0
    assert listing(data) == {}


def test_a_voice_that_cannot_be_cut_is_installed_all_the_same(run, data, tmp_path):
    given = put(tmp_path / "stick", voice_files(VOICE) | {GRAPH: uncuttable()})
    code, out, err = run("models", "add", given, "--data-dir", data)
    assert (code, out.decode()) == (0, f"{data / VOICE}\n")
    assert f"{VOICE}: each sentence is spoken in one go: {GRAPH} cannot be split" in err
    assert "Traceback" not in err


def uncuttable():
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["output"], to=TensorProto.FLOAT)],
        "g",
        [
            helper.make_tensor_value_info("input", TensorProto.INT64, [1, "n"]),
            helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, "n"])],
    )
    return helper.make_model(graph, opset_imports=[onnx.OperatorSetIdProto(version=14)]).SerializeToString()


def test_folders_archives_and_names(run, data, voice, cut, tmp_path):
    archive = tmp_path / "voices.zip"
    with zipfile.ZipFile(archive, "w") as files:
        for name, content in FILES.items():
            files.writestr(f"top/{name}", content)
    assert run("models", "add", voice, archive, "--data-dir", data) == (0, f"{data / VOICE}\n".encode() * 2, "")
    code, _, err = run("models", "add", archive, "--name", "emil", "--data-dir", data)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in data.iterdir()) == [VOICE, "emil"]
    assert cut == [VOICE, VOICE, "emil"]


def test_a_word_is_a_name_first_and_then_a_path(run, data, voice, cut, monkeypatch):
    monkeypatch.chdir(voice.parent)
    assert run("models", "add", voice.name, "--data-dir", data)[0] == 0
    code, _, err = run("models", "add", "de_DE-thorsten-medum", "--data-dir", data)
    assert code == 1
    assert "did you mean de_DE-thorsten-medium" in err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lesac", "en_US-lessac-high or en_US-lessac-low or en_US-lessac-medium"),
        ("Thorstn", "de_DE-thorsten-high or de_DE-thorsten-low or de_DE-thorsten-medium"),
        ("sensevoce", "sensevoice-small-funasr-fp32 or sensevoice-small-funasr-int8"),
        ("lessac", "en_US-lessac-high or en_US-lessac-low or en_US-lessac-medium"),
        ("en_US-lesac", "en_US-lessac-low or en_US-lessac-high or en_US-lessac-medium"),
    ],
)
def test_a_name_that_is_mistyped(run, data, one_line, typed, meant):
    code, _, err = run("models", "add", typed, "--data-dir", data)
    assert code == 1
    assert f"no model of the catalogue is called {typed!r}; did you mean {meant}" in one_line(err)


def test_a_name_like_nothing(run, data, one_line):
    err = run("models", "add", "sano", "--data-dir", data)[2]
    assert "'sano'; `wyoming-rknn models list --available` shows what there is" in one_line(err)


def test_an_address(run, data, server, cut):
    for name, content in FILES.items():
        server.plain(name, content)
    code, out, err = run("models", "add", f"{server.url}/files/{GRAPH}?x=1", "--data-dir", data)
    assert (code, out.decode()) == (0, f"{data / VOICE}\n")
    assert f"{VOICE}: 100 % of" in err
    assert cut == [VOICE]
    code, out, _ = run("models", "list", "--json", "--data-dir", data)
    assert [model["name"] for model in json.loads(out)] == [VOICE]


def test_a_page_of_the_hub_is_fetched_from_its_mirror(run, data, server, cut):
    for name, content in FILES.items():
        server.hub(name, content)
    page = f"https://huggingface.co/someone/voices/blob/main/dir/{GRAPH}"
    assert run("models", "add", page, "--data-dir", data)[0] == 0
    assert set(server.paths()[:2]) <= {f"/someone/voices/resolve/main/dir/{name}" for name in FILES} | {
        path for path in server.served if path.startswith("/storage/")
    }
    assert listing(data).keys() == {f"{VOICE}/{name}" for name in (*FILES, "manifest.json")}


def test_an_archive_at_an_address(run, data, server, cut, monkeypatch):
    monkeypatch.setattr("wyoming_rknn.models.adopt._SHOWN_BYTES", 0)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as files:
        for name, content in FILES.items():
            files.writestr(name, content)
    server.plain("otto.zip", stream.getvalue())
    code, _, err = run("models", "add", f"{server.url}/files/otto.zip", "--data-dir", data)
    assert code == 0
    assert "otto: 100 % of" in err
    assert "otto, unpacking: 100 % of" in err
    assert [path.name for path in data.iterdir()] == [VOICE]


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (("./nix.onnx",), 1, "nix.onnx does not exist; give a Piper voice's .onnx"),
        (("https://huggingface.co/rhasspy/piper-voices",), 2, "is a page of a repository, not a file of it; give"),
        (("ftp://example.org/a.onnx",), 2, "is no http:// or https:// address"),
        (("http://127.0.0.1:9/a.onnx",), 1, "127.0.0.1:9 cannot be reached"),
        (("en_US-lessac-medium", "--name", "x"), 2, "--name x is for a PATH or URL"),
        (("./a", "./b", "--name", "x"), 2, "--name x is for one model"),
        (("./a", "--name", "../x"), 2, "'../x' cannot be a model's name"),
    ],
)
def test_what_cannot_be_added(run, data, one_line, monkeypatch, words, code, advice):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    done, out, err = run("models", "add", *words, "--data-dir", data)
    assert (done, out) == (code, b"")
    # Where a server is asked, how much has come is told first.
    assert advice in one_line(err.removeprefix("a: 0.0 MB\n"))
    assert not data.exists() or listing(data) == {}


def test_what_is_wrong_with_a_later_name_is_told_before_anything_is_done(run, data, voice, cut):
    code, _, err = run("models", "add", voice, "nonsense", "--data-dir", data)
    assert code == 1
    assert "no model of the catalogue is called 'nonsense'" in err
    assert not data.exists()


def test_a_voice_in_the_data_folder_itself_stays_there(run, data, cut):
    put(data, FILES)
    assert run("models", "add", Path(data, GRAPH), "--data-dir", data) == (0, f"{data}\n".encode(), "")
    assert listing(data) == FILES
    assert cut == []
