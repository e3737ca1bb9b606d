"""`models add` where something of that name is already: the catalogue's is mended, somebody's own stays."""

import json

import pytest
from hub_voices import catalogue, offer, put, voice_files
from serving_files import FileServer, listing

VOICE = "de_DE-otto-low"
FILES = voice_files(VOICE)
OWN = voice_files(VOICE, rate_hz=16000, seed=7)
GRAPH, CONFIG = f"{VOICE}.onnx", f"{VOICE}.onnx.json"


@pytest.fixture
def hub(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("wyoming_rknn.cli.models.add._cut", lambda folder, settings: None)
    with FileServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def data(tmp_path, hub):
    """Return a data folder whose catalogue has the voice."""
    catalogue(tmp_path / "models", offer(hub, VOICE, FILES, language="de-DE"))
    return tmp_path / "models"


def without_hashes(data, keep_size=False):
    """Let the catalogue forget what the files are."""
    (model,) = json.loads((data / "catalog.json").read_text())["models"]
    for file in model["files"]:
        del file["sha256"]
        if not keep_size:
            del file["bytes"]
    catalogue(data, model)


def voice_in(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("how", ["copied", "added", "linked", "of unknown size"])
def test_a_voice_of_ones_own_stays(run, data, hub, tmp_path, how):
    own = put(tmp_path / "own", OWN)
    if how == "added":
        assert run("models", "add", own / GRAPH, "--data-dir", data)[0] == 0
    elif how == "linked":
        (data / VOICE).symlink_to(own)
    else:
        put(data / VOICE, OWN)
    if how == "of unknown size":
        without_hashes(data)
    before = listing(data), listing(own)
    code, out, err = run("models", "add", VOICE, "--data-dir", data)
    assert (code, out) == (1, b"")
    assert err.endswith(
        f"{data / VOICE} exists and holds something else; `wyoming-rknn models remove {VOICE}` first, or move it "
        "elsewhere\n"
    )
    assert (listing(data), listing(own)) == before
    assert hub.asked == []
    # What is advised helps.
    assert run("models", "remove", VOICE, "--data-dir", data)[0] == 0
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert voice_in(data / VOICE) == FILES
    assert voice_in(own) == OWN


def test_files_of_others_in_its_folder_stay_and_it_comes_beside_them(run, data, hub):
    put(data / VOICE, {"notes.txt": b"mine"})
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert voice_in(data / VOICE) == FILES
    assert (data / VOICE / "notes.txt").read_bytes() == b"mine"


def test_the_same_voice_that_was_added_from_elsewhere_is_as_good(run, data, hub, tmp_path):
    own = put(tmp_path / "own", FILES)
    assert run("models", "add", own / GRAPH, "--data-dir", data)[0] == 0
    record = (data / VOICE / "manifest.json").read_bytes()
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert (hub.asked, (data / VOICE / "manifest.json").read_bytes()) == ([], record)
    (data / VOICE / CONFIG).unlink()
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 1
    assert not (data / VOICE / CONFIG).exists()


@pytest.mark.parametrize("keep_size", [True, False])
def test_what_only_the_record_proves_damaged_stays_until_it_can_be_fetched(run, data, hub, monkeypatch, keep_size):
    without_hashes(data, keep_size)
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    edited = FILES[CONFIG].replace(b"2.0", b"1.2")
    assert edited != FILES[CONFIG]
    (data / VOICE / CONFIG).write_bytes(edited)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run("models", "add", VOICE, "--data-dir", data)
    assert code == 1
    assert f"{VOICE} is damaged, and HF_HUB_OFFLINE forbids to fetch it; unset it" in err
    assert voice_in(data / VOICE) == {**FILES, CONFIG: edited}
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert voice_in(data / VOICE) == FILES


@pytest.mark.parametrize("where", [".", "de/otto"])
def test_one_that_lies_elsewhere_is_not_fetched_again(run, data, hub, where):
    put(data / where, FILES)
    before = listing(data)
    assert run("models", "add", VOICE, "--data-dir", data) == (0, f"{data / where}\n".encode(), "")
    assert (hub.asked, listing(data)) == ([], before)


def test_a_damaged_one_in_a_folder_below_is_mended_there(run, data, hub):
    put(data / "de/otto", {**FILES, GRAPH: FILES[GRAPH][:-1] + b"!"})
    assert run("models", "add", VOICE, "--data-dir", data)[:2] == (0, f"{data / 'de/otto'}\n".encode())
    assert voice_in(data / "de/otto") == FILES
    assert not (data / VOICE).exists()


@pytest.mark.parametrize("files", [{**FILES, GRAPH: FILES[GRAPH][:-1] + b"!"}, OWN], ids=["damaged", "another"])
def test_a_damaged_one_right_in_the_data_folder_is_in_the_way(run, data, hub, files, one_line):
    put(data, files)
    put(data, voice_files("another"))
    before = listing(data)
    code, _, err = run("models", "add", VOICE, "--data-dir", data)
    assert code == 1
    assert f"holds something else; `wyoming-rknn models remove {VOICE}` first, or move it" in one_line(err)
    assert listing(data) == before


def test_one_of_the_system_is_used_if_it_is_whole_and_left_alone_if_not(run, data, hub, tmp_path):
    system = put(tmp_path / "system", FILES)
    words = ("models", "add", VOICE, "--data-dir", data, "--data-dir", system)
    assert run(*words) == (0, f"{system}\n".encode(), "")
    assert hub.asked == []
    put(system, OWN)
    assert run(*words)[:2] == (0, f"{data / VOICE}\n".encode())
    assert (voice_in(data / VOICE), listing(system)) == (FILES, OWN)
