import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from unplugged import recorded, without_network

from wyoming_rknn.errors import Cancelled, EngineError, ModelFileMissing, ModelInvalid
from wyoming_rknn.runtime import onnx
from wyoming_rknn.runtime.cancellation import Cancellable

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or ROOT.parent / "shared" / "data")


def doubling_graph():
    """Return an ONNX file's content: y = x + x, i = int64 copy of n."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Identity", ["n"], ["i"])],
        "double",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, None, "frames"]),
            helper.make_tensor_value_info("n", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, None, "frames"]),
            helper.make_tensor_value_info("i", TensorProto.INT64, [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def graph():
    graph = onnx.load(doubling_graph(), threads=1)
    yield graph
    graph.close()


def feeds(value):
    return {"x": np.full((1, 2, 3, 4), value, np.float32), "n": np.array([value], np.int64)}


def test_a_graph_computes(graph):
    outputs = graph.run(feeds(3))
    assert list(outputs) == ["y", "i"]
    assert outputs["y"].dtype == np.float32
    assert (outputs["y"] == 6).all()
    assert outputs["i"].tolist() == [3]


def test_a_graph_tells_what_it_takes_and_gives(graph):
    specs = [(spec.name, spec.shape, spec.dtype) for spec in (*graph.inputs, *graph.outputs)]
    assert specs == [
        ("x", (1, 2, None, None), np.float32),
        ("n", (1,), np.int64),
        ("y", (1, 2, None, None), np.float32),
        ("i", (1,), np.int64),
    ]


def test_a_graph_is_loaded_from_a_file_too(tmp_path):
    (tmp_path / "double.onnx").write_bytes(doubling_graph())
    assert onnx.load(tmp_path / "double.onnx", threads=2).run(feeds(1))["i"].tolist() == [1]


def test_several_threads_may_run_a_graph(graph):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda value: graph.run(feeds(value))["i"].item(), range(40)))
    assert results == list(range(40))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileMissing, match=r"nothing\.onnx does not exist"):
        onnx.load(tmp_path / "nothing.onnx", threads=1)


@pytest.mark.parametrize("content", [b"", b"not a graph", doubling_graph()[:-20]])
def test_what_is_no_graph_is_refused_in_one_line(tmp_path, content, capfd):
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(ModelInvalid, match=r"^broken\.onnx is not an ONNX model") as raised:
        onnx.load(tmp_path / "broken.onnx", threads=1)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelInvalid, match=r"^the graph is not an ONNX model"):
        onnx.load(content, threads=1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {**feeds(1), "x": np.zeros((1, 3, 1, 1), np.float32)},
        {**feeds(1), "x": np.zeros((1, 2, 1, 1), np.float64)},
        {**feeds(1), "z": np.zeros(1)},
    ],
)
def test_what_does_not_fit_is_an_engine_error_of_one_line(graph, wrong):
    with pytest.raises(EngineError, match=r"^ONNX Runtime failed: ") as raised:
        graph.run(wrong)
    assert "\n" not in str(raised.value)


def test_a_closed_graph_fails_politely(graph):
    graph.close()
    graph.close()
    with pytest.raises(EngineError):
        graph.run(feeds(1))


@pytest.fixture(scope="session")
def isolated():
    """Return the words before a command that put it into a network of its own and note its system calls."""
    return [*without_network(), *recorded()]


def trespasses(isolated, home, *arguments):
    """Run Python in an empty home and return what it did to the network and to files beyond its own.

    Its own are the folder `out` and its cache. A socket pair within the process is no network.
    """
    for folder in ("out", "temporary", "cache", "config"):
        (home / folder).mkdir()
    trace = home.parent / f"{home.name}.trace"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "TMPDIR": str(home / "temporary"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Switching the call home off is the program's business, whatever the user's environment says.
        "ORT_DISABLE_TELEMETRY": "0",
    }
    calls = "trace=%network,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2"
    done = subprocess.run(
        [*isolated, "-e", calls, "-e", "signal=none", "-o", str(trace), sys.executable, *arguments],
        cwd=home / "out",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    own = re.compile(rf'"({re.escape(str(home))}/(out|cache/wyoming-rknn)\b|/dev/(null|shm/))|AT_FDCWD, "[^/"]')
    found = []
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        call = line.split(maxsplit=1)[1]
        name = call.split("(")[0]
        if name in ("open", "openat"):
            written = re.search(r"O_(WRONLY|RDWR|CREAT)", call) and not own.search(call)
            if written or re.search(r'"/etc/(resolv\.conf|hosts|nsswitch\.conf)"', call):
                found.append(call)
        elif name in ("creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2"):
            if not own.search(call) and "= -1 EEXIST" not in call and f'"{home}/cache"' not in call:
                found.append(call)
        elif name != "socketpair" and "(" in call and not call.startswith(("+++", "---", "<...")):
            found.append(call)
    left = [path for path in home.rglob("*") if path.is_file() and not own.search(f'"{path}"')]
    return found + left


def test_a_graph_phones_nobody(isolated, tmp_path):
    model = tmp_path / "double.onnx"
    model.write_bytes(doubling_graph())
    code = (
        "import sys, time, pathlib, numpy; from wyoming_rknn.runtime import onnx;"
        "graph = onnx.load(pathlib.Path(sys.argv[1]), threads=2);"
        "graph.run({'x': numpy.ones((1, 2, 1, 1), 'float32'), 'n': numpy.ones(1, 'int64')});"
        # What calls home does so in the background.
        "time.sleep(0.5)"
    )
    (home := tmp_path / "home").mkdir()
    assert trespasses(isolated, home, "-c", code, str(model)) == []


def test_the_built_in_voice_phones_nobody(isolated, tmp_path):
    (home := tmp_path / "home").mkdir()
    say = ("-m", "wyoming_rknn", "say", "hello", "--output", "x.wav", "--tts-engine", "espeak-ng")
    assert trespasses(isolated, home, *say) == []
    assert (home / "out/x.wav").stat().st_size > 10000


def test_a_piper_voice_and_the_process_that_splits_it_phone_nobody(isolated, tmp_path):
    if not (voices := DATA / "voices").is_dir():
        pytest.skip(f"no test data in {DATA}")
    (home := tmp_path / "home").mkdir()
    # It waits for the splitting, which `say` does not.
    bench = ("bench", "tts", "--repeat", "1", "--voice", "random-tiny", "--data-dir", str(voices))
    assert trespasses(isolated, home, "-m", "wyoming_rknn", *bench) == []
    assert list((home / "cache/wyoming-rknn/split").rglob("*.onnx"))


def endless_graph():
    """Return an ONNX file's content: n doublings in a loop, each of which takes a moment."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("MatMul", ["before", "before"], ["square"]),
            helper.make_node("Mul", ["square", "before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [200, 200]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [200, 200]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "endless",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [200, 200]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [200, 200])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_a_run_is_interrupted_when_nobody_waits_any_more(capfd):
    graph = onnx.load(endless_graph(), threads=1)
    work = Cancellable()
    turns = {"n": np.array(1 << 40), "x": np.zeros((200, 200), np.float32)}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(graph.run, turns, work)
        with pytest.raises(TimeoutError):
            running.result(0.3)
        work.cancel()
        with pytest.raises(Cancelled):
            running.result(20)
    few = graph.run({**turns, "n": np.array(2)}, Cancellable())
    assert not few["y"].any()
    assert capfd.readouterr().err == ""
    graph.close()


def test_an_interruptible_run_fails_like_any_other(graph):
    with pytest.raises(EngineError):
        graph.run({"x": np.zeros(1, np.float32)}, Cancellable())
