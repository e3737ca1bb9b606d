"""The test double of librknnrt.so itself: its interface, its numbers, its cores, its faults."""

import ctypes
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from npu.control import Control
from npu.driving import UNDEFINED, Context, Library, Output, TensorAttr
from npu.stand_in import fix_shapes
from numpy.typing import NDArray
from onnx import TensorProto, helper

SHAPE = (1, 4, 6)


def graph_bytes(shape: tuple[int | str, ...] = SHAPE) -> bytes:
    """Return a graph: y = tanh(3 x), big = 1000 x, next = count + 1."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "three"], ["tripled"]),
            helper.make_node("Tanh", ["tripled"], ["y"]),
            helper.make_node("Mul", ["x", "thousand"], ["big"]),
            helper.make_node("Add", ["count", "one"], ["next"]),
        ],
        "small",
        [value("x", TensorProto.FLOAT, shape), value("count", TensorProto.INT32, [2])],
        [
            value("y", TensorProto.FLOAT, shape),
            value("big", TensorProto.FLOAT, shape),
            value("next", TensorProto.INT32, [2]),
        ],
        [
            helper.make_tensor("three", TensorProto.FLOAT, [1], [3]),
            helper.make_tensor("thousand", TensorProto.FLOAT, [1], [1000]),
            helper.make_tensor("one", TensorProto.INT32, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def library(double: Path, control: Control) -> Iterator[Library]:
    loaded = Library(double)
    before = loaded.contexts
    yield loaded
    control.set()
    assert loaded.contexts == before, "a test left contexts behind"


@pytest.fixture
def model(stand_in: Callable[..., Path]) -> Path:
    return stand_in(graph_bytes(), custom_string="frames=6;context=1")


@pytest.fixture
def context(library: Library, model: Path) -> Iterator[Context]:
    opened = library.open(model)
    yield opened
    opened.destroy()


X = np.linspace(-1.2, 1.2, 24, dtype=np.float32).reshape(SHAPE)
COUNT = np.array([1, -7], np.int32)


def rounded(array: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def run(context: Context, x: NDArray[np.float32] = X) -> tuple[int, NDArray[np.float32]]:
    """Compute y; the code is the first one that is no success."""
    y = np.full(SHAPE, 7, np.float32)
    return context.set(x, COUNT) or context.run() or context.get(y), y


def expected(x: NDArray[np.float32] = X) -> NDArray[np.float32]:
    return rounded(np.tanh(rounded(x) * 3))


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@contextmanager
def let_go_after(control: Control) -> Iterator[None]:
    """End every hang, so that a failed test does not wait for one."""
    try:
        yield
    finally:
        control.set()


# ---- the interface ----


def test_tells_of_the_models_tensors(context: Context) -> None:
    number = (ctypes.c_uint32 * 2)()
    assert context.query(0, number) == 0
    assert list(number) == [2, 3]
    facts = []
    for command, index in ((1, 0), (1, 1), (2, 2), (14, 0), (15, 1)):
        attr = TensorAttr(index=index, h_stride=99)
        assert context.query(command, attr) == 0
        assert (attr.index, attr.fmt, attr.qnt_type, attr.scale, attr.h_stride) == (index, UNDEFINED, 0, 1, 0)
        facts.append((attr.name, list(attr.dims[: attr.n_dims]), attr.n_elems, attr.size, attr.type))
    assert facts == [
        (b"x", [1, 4, 6], 24, 48, 1),
        (b"count", [2], 2, 8, 6),
        (b"next", [2], 2, 8, 6),
        (b"x", [1, 4, 6], 24, 48, 1),
        (b"big", [1, 4, 6], 24, 48, 1),
    ]


def test_tells_versions_and_the_custom_string(context: Context) -> None:
    versions, custom = ((ctypes.c_char * 256) * 2)(), ctypes.create_string_buffer(1024)
    assert context.query(5, versions) == 0
    assert [text.value for text in versions] == [b"2.3.2 (double)", b"0.9.8"]
    assert context.query(7, custom) == 0
    assert custom.value == b"frames=6;context=1"


def test_refuses_other_queries(context: Context) -> None:
    room = ctypes.create_string_buffer(b"\xaa" * 40000, 40000)
    assert context.query(13, room) == -5
    assert context.query(1, TensorAttr(index=2)) == -5
    assert context.query(1, TensorAttr(index=0), 375) == -5
    assert context.query(5, room, 511) == -5
    assert room.raw == b"\xaa" * 40000


def test_a_query_writes_no_more_than_its_answer(context: Context) -> None:
    room = ctypes.create_string_buffer(b"\xaa" * 40000, 40000)
    assert context.query(5, room) == 0
    assert room.raw[512:] == b"\xaa" * (40000 - 512)


def test_takes_a_model_by_path_and_by_its_bytes(library: Library, model: Path) -> None:
    for source in (model, model.read_bytes()):
        context = library.open(source)
        assert run(context)[0] == 0
        assert context.destroy() == 0


def test_refuses_what_no_library_takes(library: Library, model: Path, context: Context) -> None:
    assert library.init(model, flag=0x100000)[0] == -5
    assert library.init(model.with_name("none.rknn"))[0] == -1
    assert Context(library.c, ctypes.c_uint64(12345)).run() == -7
    assert context.set(X[:, :, :5].copy(), COUNT) == -8
    assert context.set(X, COUNT, COUNT) == -5
    assert context.run() == -8  # nothing is set
    assert context.set(X, COUNT) == 0
    assert context.get(np.empty(SHAPE, np.float32)) == -9  # nothing has run
    assert context.run() == 0
    assert context.get(np.empty((1, 4, 5), np.float32)) == -9
    assert context.get(np.empty(SHAPE, np.float32), index=3) == -9


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda content: content[:-1], -6),
        (lambda content: content[:40], -6),
        (lambda content: b"ONNX" + content[4:], -6),
        (lambda content: content[:8] + b"\x07" + content[9:], -6),
        (lambda content: content.replace(b"RKNN-TEST-DOUBLE", b"ANOTHER--COMPILER"[:16], 1), -6),
        (lambda content: content.replace(b'"target_platform": ["rk3588"', b'"target_platform": ["rk3576"'), -13),
        (lambda content: content.replace(b'"target_platform": ["rk3588"', b'"target_platform": ["rk35888'), -13),
    ],
    ids=["truncated", "header only", "not RKNN", "version 7", "not a stand-in", "rk3576", "rk35888"],
)
def test_refuses_models_that_it_cannot_run(
    library: Library, model: Path, change: Callable[[bytes], bytes], code: int
) -> None:
    assert library.init(change(model.read_bytes()))[0] == code


def test_duplicates_share_the_model_and_outlive_the_original(library: Library, model: Path) -> None:
    original = library.open(model)
    rc, copy = original.dup()
    assert rc == 0
    assert library.contexts == 2
    assert original.destroy() == 0
    rc, y = run(copy)
    assert rc == 0
    np.testing.assert_allclose(y, expected(), rtol=1e-3)
    assert copy.destroy() == 0
    assert copy.destroy() == -7


@pytest.mark.parametrize("use", [lambda c: c.query(0, (ctypes.c_uint32 * 2)()), run, lambda c: c.mask(1)])
def test_a_used_context_cannot_be_duplicated(context: Context, use: Callable[[Context], object]) -> None:
    use(context)
    assert context.dup()[0] == -1


def test_lends_outputs_until_they_are_released(context: Context) -> None:
    assert context.set(X, COUNT) == 0
    assert context.run() == 0
    outputs = (Output * 2)(Output(want_float=1, index=0), Output(want_float=0, index=2))
    assert context.c.rknn_outputs_get(context.handle, 2, outputs, None) == 0
    assert [output.size for output in outputs] == [96, 8]
    y = np.ctypeslib.as_array(ctypes.cast(outputs[0].buf, ctypes.POINTER(ctypes.c_float)), (24,)).reshape(SHAPE)
    np.testing.assert_allclose(y, expected(), rtol=1e-3)
    assert list((ctypes.c_int32 * 2).from_address(outputs[1].buf)) == [2, -6]
    assert context.c.rknn_outputs_release(context.handle, 2, outputs) == 0
    assert context.c.rknn_outputs_release(context.handle, 2, outputs) == -9


def test_a_context_serves_one_thread_at_a_time(context: Context, control: Control) -> None:
    control.set(hang="all")
    with ThreadPoolExecutor(1) as pool, let_go_after(control):
        running = pool.submit(run, context)
        wait_for(lambda: control.calls("hang"))
        assert context.query(0, (ctypes.c_uint32 * 2)()) == -1
        control.set()
        assert running.result(timeout=10)[0] == 0


# ---- numbers ----


def test_floats_are_rounded_to_float16(context: Context) -> None:
    rc, y = run(context)
    assert rc == 0
    np.testing.assert_allclose(y, expected(), rtol=1e-3)
    np.testing.assert_array_equal(y, rounded(y))
    halves = np.empty(SHAPE, np.float16)
    assert context.get(halves) == 0
    np.testing.assert_array_equal(halves, y)


def test_inputs_are_rounded_before_the_graph_computes(context: Context) -> None:
    assert run(context, np.full(SHAPE, 1.0004, np.float32))[0] == 0
    big = np.empty(SHAPE, np.float32)
    assert context.get(big, index=1) == 0
    assert (big == 1000).all()  # 1000.4 would be 1000.5


def test_what_float16_cannot_hold_becomes_infinite(context: Context) -> None:
    x = X.copy()
    x[0, 0, :2] = 65.5, 66.0
    assert run(context, x)[0] == 0
    big = np.empty(SHAPE, np.float32)
    assert context.get(big, index=1) == 0
    assert list(big[0, 0, :2]) == [65504.0, np.inf]
    assert run(context, np.full(SHAPE, 1e6, np.float32))[0] == 0
    assert context.get(big, index=1) == 0
    assert np.isinf(big).all()


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_inputs_of_any_type_are_converted(context: Context, kind: type[np.generic]) -> None:
    x = (np.arange(24) % 3).astype(kind).reshape(SHAPE)
    count = np.array([3, 100], kind)
    assert context.set(x, count) == 0
    assert context.run() == 0
    big, following = np.empty(SHAPE, np.float32), np.empty(2, np.int32)
    assert context.get(big, 1) == context.get(following, 2) == 0
    np.testing.assert_array_equal(big, x.astype(np.float32) * 1000)
    assert list(following) == [4, 101]


def test_float16_passes_through(context: Context) -> None:
    assert context.set(X.astype(np.float16), COUNT, pass_through=True) == 0
    assert context.run() == 0
    y = np.empty(SHAPE, np.float32)
    assert context.get(y) == 0
    np.testing.assert_allclose(y, expected(), rtol=1e-3)


def test_rounds_as_numpy_does(library: Library, stand_in: Callable[..., Path]) -> None:
    # An Arm CPU remarks on numbers that signal, as x86 does not.
    with np.errstate(invalid="ignore"):
        every_half = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(every_half[np.isfinite(every_half)])
    between = finite[:-1] / 2 + finite[1:] / 2
    any_float = np.random.default_rng(0).integers(0, 2**32, 50000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([every_half, between, np.nextafter(between, np.float32(0)), any_float])
    values = np.where(np.isnan(values), np.float32(np.nan), values)[None]
    value = helper.make_tensor_value_info
    a, b = ([value(name, TensorProto.FLOAT, values.shape)] for name in "ab")
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "same", a, b)
    same = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    context = library.open(stand_in(same.SerializeToString()))
    result = np.empty(values.shape, np.float16)
    assert context.set(values) == context.run() == context.get(result) == 0
    assert context.destroy() == 0
    with np.errstate(over="ignore"):
        right = values.astype(np.float16)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(right))
    np.testing.assert_array_equal(result, right)


# ---- cores ----


@pytest.mark.parametrize(
    ("soc", "good", "bad"),
    [
        ("rk3588", [0, 1, 2, 4, 3, 7, 0xFFFF], [8, 5, -1]),
        ("rk3576", [0, 1, 2, 3, 0xFFFF], [4, 7]),
        ("rk3568", [], [0, 1, 2]),
    ],
)
def test_core_masks_are_those_of_the_soc(
    library: Library,
    stand_in: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    soc: str,
    good: list[int],
    bad: list[int],
) -> None:
    monkeypatch.setenv("RKNN_DOUBLE_SOC", soc)
    context = library.open(stand_in(graph_bytes(), target=soc))
    assert [context.mask(mask) for mask in good] == [0] * len(good)
    assert all(context.mask(mask) < 0 for mask in bad)
    assert context.destroy() == 0


def timed(contexts: list[Context], runs: int) -> float:
    """Run each context so often in a thread of its own; return seconds."""
    start = threading.Barrier(len(contexts) + 1)

    def work(context: Context) -> None:
        assert context.set(X, COUNT) == 0
        start.wait()
        assert [context.run() for _ in range(runs)] == [0] * runs

    with ThreadPoolExecutor(len(contexts)) as pool:
        jobs = [pool.submit(work, context) for context in contexts]
        start.wait()
        begin = time.monotonic()
        for job in jobs:
            job.result()
    return time.monotonic() - begin


@pytest.mark.parametrize("masks", [(1, 2, 4), (0, 0, 0)], ids=["one each", "any"])
def test_runs_on_several_cores_go_on_at_once(
    library: Library, model: Path, control: Control, masks: tuple[int, int, int]
) -> None:
    first = library.open(model)
    contexts = [first, first.dup()[1], first.dup()[1]]
    control.set(run_ms=20)
    assert [context.mask(1) for context in contexts] == [0, 0, 0]
    one = timed(contexts, 4)
    assert [context.mask(mask) for context, mask in zip(contexts, masks, strict=True)] == [0, 0, 0]
    three = timed(contexts, 4)
    assert one >= 12 * 0.020
    assert three >= 4 * 0.020
    assert three < one * 0.6
    cores = [call.notes["cores"] for call in control.calls("rknn_run")]
    assert set(cores[:12]) == {"0x1"}
    assert set(cores[12:]) == {"0x1", "0x2", "0x4"}
    assert [context.destroy() for context in contexts] == [0, 0, 0]


def test_a_core_does_one_run_at_a_time(library: Library, model: Path, control: Control) -> None:
    first = library.open(model)
    contexts = [first, first.dup()[1], first.dup()[1]]
    control.set(run_ms=5)
    assert [context.mask(mask) for context, mask in zip(contexts, (1, 1, 3), strict=True)] == [0, 0, 0]
    timed(contexts, 5)
    spans = sorted(
        (float(call.notes["begin_ms"]), float(call.notes["begin_ms"]) + float(call.notes["ms"]))
        for call in control.calls("rknn_run")
    )
    assert len(spans) == 15
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert [context.destroy() for context in contexts] == [0, 0, 0]


# ---- faults ----


@pytest.mark.parametrize("code", [-1, -6, -13])
def test_init_fails_as_asked(
    library: Library, model: Path, monkeypatch: pytest.MonkeyPatch, control: Control, code: int
) -> None:
    monkeypatch.setenv("RKNN_DOUBLE_INIT_RC", str(code))
    assert library.init(model)[0] == code
    control.set(init_rc=-3)
    assert library.init(model)[0] == -3
    assert [call.rc for call in control.calls("rknn_init")] == [code, -3]


@pytest.mark.parametrize("variable", ["RKNN_DOUBLE_RUNMS=3", "RKNN_DOUBLE_RUN_MS=soon", "RKNN_DOUBLE_HANG=4"])
def test_a_setting_that_is_none_is_refused(
    library: Library, model: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(*variable.split("="))
    assert library.init(model)[0] == -1


@pytest.mark.parametrize(
    ("setting", "call"),
    [
        ("dup_rc", lambda c: c.dup()[0]),
        ("query_rc", lambda c: c.query(0, (ctypes.c_uint32 * 2)())),
        ("core_mask_rc", lambda c: c.mask(1)),
        ("inputs_rc", lambda c: c.set(X, COUNT)),
        ("run_rc", lambda c: c.set(X, COUNT) or c.run()),
        ("outputs_rc", lambda c: run(c)[0]),
    ],
)
def test_a_call_fails_as_asked(
    context: Context, control: Control, setting: str, call: Callable[[Context], int]
) -> None:
    control.set(**{setting: -3})
    assert call(context) == -3
    control.set()
    assert run(context)[0] == 0


def test_another_version_is_told(library: Library, model: Path, control: Control) -> None:
    control.set(version="1.5.2 (c6b7b351a@2023-08-23)", driver="0.8.2")
    context = library.open(model)
    versions = ((ctypes.c_char * 256) * 2)()
    assert context.query(5, versions) == 0
    assert [text.value for text in versions] == [b"1.5.2 (c6b7b351a@2023-08-23)", b"0.8.2"]
    assert context.destroy() == 0


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("zeros", lambda y: not y.any()),
        ("nan", lambda y: np.isnan(y).all()),
        ("inf", lambda y: np.isinf(y).all()),
        ("wrong", lambda y: np.allclose(y, expected() / 2, rtol=1e-3)),
        ("right", lambda y: np.allclose(y, expected(), rtol=1e-3)),
    ],
)
def test_outputs_are_spoiled_as_asked(
    context: Context, control: Control, fault: str, check: Callable[[NDArray[np.float32]], bool]
) -> None:
    control.set(output=fault, good_runs=1)
    assert np.allclose(run(context)[1], expected(), rtol=1e-3)
    rc, y = run(context)
    assert rc == 0
    assert check(y)


def test_a_failed_run_leaves_the_outputs_of_the_one_before(context: Context, control: Control) -> None:
    control.set(run_rc=-1, good_runs=1)
    assert run(context)[0] == 0
    assert context.set(np.zeros_like(X), COUNT) == 0
    assert context.run() == -1
    y = np.empty(SHAPE, np.float32)
    assert context.get(y) == 0
    np.testing.assert_allclose(y, expected(), rtol=1e-3)


def test_faults_can_be_those_of_one_core(library: Library, model: Path, control: Control) -> None:
    first = library.open(model)
    contexts = [first, first.dup()[1], first.dup()[1]]
    control.set(run_rc=-1, fault_core=1)
    assert [context.mask(mask) for context, mask in zip(contexts, (1, 2, 4), strict=True)] == [0, 0, 0]
    assert [run(context)[0] for context in contexts] == [0, -1, 0]
    assert [context.destroy() for context in contexts] == [0, 0, 0]


def test_a_core_that_hangs_holds_up_itself_alone_until_it_is_let_go(
    library: Library, model: Path, control: Control
) -> None:
    first = library.open(model)
    contexts = [first, first.dup()[1], first.dup()[1]]
    assert [context.mask(mask) for context, mask in zip(contexts, (1, 2, 2), strict=True)] == [0, 0, 0]
    control.set(hang=1)
    with ThreadPoolExecutor(2) as pool, let_go_after(control):
        hanging = pool.submit(run, contexts[1])
        wait_for(lambda: control.calls("hang"))
        behind = pool.submit(run, contexts[2])
        assert run(contexts[0])[0] == 0
        assert not hanging.done()
        assert not behind.done()
        control.set()
        for job in (hanging, behind):
            rc, y = job.result(timeout=10)
            assert rc == 0
            np.testing.assert_allclose(y, expected(), rtol=1e-3)
    assert [context.destroy() for context in contexts] == [0, 0, 0]


def test_a_core_hangs_after_so_many_good_runs(context: Context, control: Control) -> None:
    control.set(hang="all", good_runs=2)
    with ThreadPoolExecutor(1) as pool, let_go_after(control):
        good = [pool.submit(run, context) for _ in range(2)]
        assert [job.result(timeout=10)[0] for job in good] == [0, 0]
        hanging = pool.submit(context.run)
        wait_for(lambda: control.calls("hang"))
        control.set(hang="none")
        assert hanging.result(timeout=10) == 0


def test_a_context_may_be_destroyed_while_it_hangs(library: Library, model: Path, control: Control) -> None:
    context = library.open(model)
    control.set(hang="all")
    assert context.set(X, COUNT) == 0
    with ThreadPoolExecutor(1) as pool, let_go_after(control):
        hanging = pool.submit(context.run)
        wait_for(lambda: control.calls("hang"))
        assert context.destroy() == 0
        assert control.calls("rknn_destroy")[0].notes["while_running"] == "1"
        control.set()
        assert hanging.result(timeout=10) == 0


# ---- other processes ----


def test_serves_a_process_without_onnxruntime(double: Path, model: Path, control: Control) -> None:
    code = (
        "import ctypes, sys, numpy; context = ctypes.c_uint64();"
        "rc = ctypes.CDLL(sys.argv[1]).rknn_init(ctypes.byref(context), sys.argv[2].encode(), 0, 0, None);"
        "print(rc, 'onnxruntime' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(double), str(model)], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("0 False\n", "")
    (call,) = control.calls("rknn_init")
    assert call.notes["flag"] == "0x0"


def test_says_how_to_name_onnxruntime_when_it_is_not_found(
    double: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RKNN_DOUBLE_ORT", str(tmp_path / "none.so"))
    code = (
        "import ctypes, sys; context = ctypes.c_uint64();"
        "print(ctypes.CDLL(sys.argv[1]).rknn_init(ctypes.byref(context), sys.argv[2].encode(), 0, 0, None))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(double), str(model)], capture_output=True, text=True)
    assert done.stdout == "-1\n"
    assert "set RKNN_DOUBLE_ORT" in done.stderr


def test_a_stand_in_has_fixed_shapes(stand_in: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="x has no fixed shape"):
        stand_in(graph_bytes((1, 4, "frames")))
    with pytest.raises(ValueError, match="1023 bytes at most"):
        stand_in(graph_bytes(), custom_string="x" * 1024)


def test_shapes_can_be_fixed(library: Library, stand_in: Callable[..., Path]) -> None:
    fixed = fix_shapes(graph_bytes((1, 4, "frames")), {"x": SHAPE})
    onnx.checker.check_model(onnx.load_from_string(fixed))
    context = library.open(stand_in(fixed))
    rc, y = run(context)
    assert rc == 0
    np.testing.assert_allclose(y, expected(), rtol=1e-3)
    assert context.destroy() == 0
