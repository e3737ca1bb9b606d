"""`models add` with every manner a server has, and what is installed after it."""

import json
import shutil
import subprocess
import sys

import pytest
from hub_voices import TEXT, catalogue, offer, voice_files
from serving_files import FileServer, Served, listing, noise

VOICE = "en_US-tiny-low"
FILES = voice_files(VOICE)
GRAPH = f"{VOICE}.onnx"


@pytest.fixture
def hub(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with FileServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def served(hub, data, **manner):
    """Let the hub serve the voice, and return what stands where it stores the graph."""
    entry = offer(hub, VOICE, FILES, **manner)
    catalogue(data, entry)
    (graph,) = (file for file in entry["files"] if file["name"] == GRAPH)
    return hub.served[f"/storage/{graph['sha256']}"]


def installed(run, data):
    """Return the names of the voices that are installed there; all of them are whole."""
    code, out, _ = run("models", "list", "--json", "--data-dir", data)
    names = [model["name"] for model in json.loads(out) if model["kind"] == "tts"]
    assert code == 0
    visible = {path.name for path in data.iterdir() if not path.name.startswith(".")}
    assert visible == {"catalog.json", *names}
    for name in names:
        assert {file: (data / name / file).read_bytes() for file in FILES} == FILES
    return names


@pytest.mark.parametrize(
    "manner",
    [
        {},
        {"piece": 1000, "pause_s": 0.02},
        {"drops": 1, "drop_after": 3000},
        {"drops": 1, "drop_after": 3000, "ranges": False},
    ],
    ids=["good", "slow", "dropping", "dropping, without ranges"],
)
def test_from_a_server_that_gives_in_the_end_a_voice_is_installed(run, tmp_path, hub, manner):
    served(hub, tmp_path / "models", **manner)
    code, out, err = run("models", "add", VOICE, "--data-dir", tmp_path / "models")
    assert (code, out.decode()) == (0, f"{tmp_path / 'models' / VOICE}\n"), err
    assert "Traceback" not in err
    assert installed(run, tmp_path / "models") == [VOICE]
    words = ("say", TEXT, "--voice", VOICE, "--data-dir", tmp_path / "models", "--output", tmp_path / "out.wav")
    assert run(*words)[0] == 0
    assert (tmp_path / "out.wav").stat().st_size > 1000


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("other content", "has the SHA-256"),
        ("other size", "bytes instead of"),
        ("404", "HTTP status 404"),
        ("gated", "accept the licence"),
    ],
)
def test_from_a_server_that_does_not_give_nothing_is_installed_until_it_does(run, tmp_path, hub, fault, reason):
    data = tmp_path / "models"
    graph = served(hub, data, gated=fault == "gated")
    right = graph.content
    path = next(path for path in hub.served if path.endswith(f"/{GRAPH}"))
    page = hub.served[path]
    if fault == "other content":
        graph.content = noise(len(right))
    elif fault == "other size":
        graph.content = right[:-1]
    elif fault == "404":
        hub.served[path] = Served(status=404, error_code="EntryNotFound")
    code, out, err = run("models", "add", VOICE, "--data-dir", data)
    assert (code, out) == (1, b"")
    assert err.splitlines()[-1].startswith("wyoming-rknn: ")
    assert reason in err.splitlines()[-1]
    assert "Traceback" not in err
    assert installed(run, data) == []
    graph.content, hub.served[path] = right, page
    for each in hub.served.values():
        each.gated = False
    assert run("models", "add", VOICE, "--data-dir", data)[0] == 0
    assert installed(run, data) == [VOICE]


def test_onto_a_disk_without_room_nothing_is_installed(tmp_path, hub):
    within = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("file systems may not be mounted here")
    data = tmp_path / "models"
    served(hub, data)
    size = sum(map(len, FILES.values()))
    script = f"""
        mount -t tmpfs -o size={size // 4096 * 4096} none "$1" && cp "$2" "$1/catalog.json" || exit 77
        "$3" -m wyoming_rknn models add {VOICE} --data-dir "$1"
        code=$?
        find "$1" -type f
        exit $code
    """
    shutil.copyfile(data / "catalog.json", tmp_path / "copy.json")
    words = [*within, "sh", "-c", script, "sh", str(data), str(tmp_path / "copy.json"), sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("file systems may not be mounted here")
    assert done.returncode == 1
    assert done.stdout == f"{data / 'catalog.json'}\n"
    assert done.stderr.splitlines()[-1].startswith(f"wyoming-rknn: {VOICE} needs ")
    assert "free some" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in hub.paths() if path.startswith("/storage/")] == []
    assert listing(data).keys() == {"catalog.json"}
