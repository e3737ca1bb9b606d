import json
import math
import os
import threading
import zipfile

import numpy as np
import pytest

from wyoming_rknn.errors import AcceleratorError, ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.npu.selftest import Golden, Verdict, Verdicts, compare, examine, golden_path, snr_db
from wyoming_rknn.runtime.accelerator import Versions

VERSIONS = Versions("2.3.2 (429f97ae6b@2025-04-09T09:09:27)", "0.9.8")
Z = np.linspace(-2, 2, 192 * 55, dtype=np.float32).reshape(1, 192, 55)
SOUND = np.sin(np.arange(1, 1 + 256 * 55, dtype=np.float32)).reshape(1, 1, -1)
GOLDEN = Golden({"z": Z, "length": np.array([55], np.int64)}, {"output": SOUND}, 45.0)


class Graph:
    """Gives what a function makes of the golden output; counts its runs."""

    def __init__(self, answer):
        self.answer = answer
        self.feeds = []

    def run(self, feeds, cancellation=None):
        self.feeds.append(feeds)
        result = self.answer(SOUND.copy())
        return result if isinstance(result, dict) else {"output": result}


def rounded(sound):
    return sound.astype(np.float16).astype(np.float32)


def raising(error):
    def answer(_):
        raise error

    return Graph(answer)


def test_a_golden_survives_the_disk(tmp_path):
    GOLDEN.write(path := tmp_path / "decoder.golden.npz")
    read = Golden.read(path)
    assert list(read.inputs) == ["z", "length"]
    assert np.array_equal(read.inputs["z"], Z)
    assert read.inputs["length"].dtype == np.int64
    assert read.outputs["output"].dtype == np.float32
    assert np.array_equal(read.outputs["output"], SOUND)
    assert read.floor_db == 45.0


def test_a_golden_is_written_where_it_is_said(tmp_path):
    GOLDEN.write(tmp_path / "golden")
    assert [path.name for path in tmp_path.iterdir()] == ["golden"]


def test_names_of_tensors_may_hold_anything(tmp_path):
    golden = Golden({"/enc/Mul_2:0 ü": Z}, {"encoder:out/x": SOUND})
    golden.write(path := tmp_path / "golden.npz")
    read = Golden.read(path)
    assert (list(read.inputs), list(read.outputs)) == (["/enc/Mul_2:0 ü"], ["encoder:out/x"])


def test_a_graphs_golden_lies_beside_it(tmp_path):
    assert golden_path(tmp_path / "encoder-3s.rknn") == tmp_path / "encoder-3s.golden.npz"


def test_a_golden_that_is_missing_is_told(tmp_path):
    with pytest.raises(ModelFileMissing, match="does not exist; convert the model anew"):
        Golden.read(tmp_path / "golden.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"floor_db": np.float64(45)},
        {"input:z": Z},
        {"output:y": SOUND},
        {"z": Z, "y": SOUND},
        {"input:": Z, "output:y": SOUND},
        {"input:z": Z, "output:y": SOUND, "floor_db": np.float64(math.nan)},
        {"input:z": Z, "output:y": SOUND, "floor_db": np.zeros(3)},
        {"input:z": Z, "output:y": np.full(3, np.nan, np.float32)},
        {"input:z": Z, "output:y": np.zeros(0, np.float32)},
        {"input:z": np.array(["text"]), "output:y": SOUND},
        {"input:z": np.array([None]), "output:y": SOUND},
    ],
    ids=str,
)
def test_other_archives_are_no_goldens(tmp_path, arrays):
    np.savez(path := tmp_path / "golden.npz", **arrays)
    with pytest.raises(ModelInvalid, match=r"golden\.npz is not a golden: .*; convert the model anew"):
        Golden.read(path)


def test_a_damaged_golden_is_invalid_wherever_it_is_damaged(tmp_path):
    GOLDEN.write(path := tmp_path / "golden.npz")
    content = path.read_bytes()
    damaged = [content[:length] for length in range(0, len(content), 2503)]
    for at in range(0, len(content), 1499):
        damaged.append(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    damaged += [b"RKNN" + bytes(100), b"\x93NUMPY" + bytes(10)]
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            Golden.read(path)
        except ModelError:
            refused += 1
    assert refused >= len(damaged) * 0.9


def test_an_array_larger_than_memory_is_invalid(tmp_path):
    with zipfile.ZipFile(path := tmp_path / "golden.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000000,), }"
        header += b" " * (118 - len(header) - 1) + b"\n"
        archive.writestr("input:z.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8))
    with pytest.raises(ModelInvalid):
        Golden.read(path)


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_golden_runs_no_code(tmp_path):
    objects = np.array([Intruder(tmp_path / "intruded")], object)
    np.savez(tmp_path / "golden.npz", **{"input:z": objects, "output:y": SOUND})
    with pytest.raises(ModelInvalid):
        Golden.read(tmp_path / "golden.npz")
    assert not (tmp_path / "intruded").exists()


def test_a_folder_is_no_golden(tmp_path):
    with pytest.raises(ModelFileMissing):
        Golden.read(tmp_path)


def test_snr():
    assert snr_db(SOUND, SOUND) == math.inf
    assert snr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)
    assert snr_db(np.zeros(4), np.ones(4)) == -math.inf
    assert math.isnan(snr_db(SOUND, np.full_like(SOUND, np.inf)))
    assert math.isnan(snr_db(SOUND, np.full_like(SOUND, np.nan)))
    # The squares are beyond 16- and 32-bit floats, and differences beyond unsigned integers.
    assert snr_db(np.array([3e30, 0], np.float32), np.array([3e30, 3e29], np.float32)) == pytest.approx(20.0)
    assert snr_db(np.array([10, 0], np.uint8), np.array([10, 1], np.uint8)) == pytest.approx(20.0)
    with pytest.raises(ValueError, match="shape"):
        snr_db(np.zeros((2, 1)), np.zeros(2))


def test_what_16_bit_floats_give_passes():
    graph = Graph(rounded)
    verdict = examine(graph, GOLDEN)
    assert verdict.passed
    assert verdict.reason == ""
    assert 60 < verdict.snr_db < 90
    assert 0 <= verdict.run_ms < 60_000
    assert all(feeds is GOLDEN.inputs for feeds in graph.feeds)
    assert len(graph.feeds) > 1


def test_exactly_the_same_passes_too():
    assert examine(Graph(lambda sound: sound), GOLDEN).snr_db == math.inf


def test_axes_do_not_matter_but_order_does():
    assert examine(Graph(lambda sound: sound.reshape(1, -1, 1, 1)), GOLDEN).passed
    assert not examine(Graph(lambda sound: sound.reshape(256, 55).T), GOLDEN).passed


def test_the_floor_is_the_goldens():
    noisy = Graph(lambda sound: sound + np.float32(0.01))
    found = examine(noisy, GOLDEN)
    assert not found.passed
    assert found.snr_db == pytest.approx(37, abs=0.5)
    assert found.reason == "differs from what ONNX Runtime computes: 37.0 dB, at least 45 dB are due"
    assert examine(noisy, Golden(GOLDEN.inputs, GOLDEN.outputs, 30.0)).passed


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (np.zeros_like, "gives nothing but zeros in 'output'"),
        (lambda sound: sound * np.float32(np.nan), "gives NaN or infinity in 'output'"),
        (lambda sound: np.where(sound > 0.999, np.float32(np.inf), sound), "gives NaN or infinity in 'output'"),
        (lambda sound: sound[..., 1:], "gives 'output' the shape [1, 1, 14079] instead of [1, 1, 14080]"),
        (lambda sound: sound[0, :, :0], "gives 'output' the shape [1, 0] instead of [1, 1, 14080]"),
        (lambda sound: {"audio": sound}, "has no output 'output' but 'audio'"),
        (lambda sound: {}, "has no output 'output' but none"),
        (lambda sound: -sound, "differs from what ONNX Runtime computes: -6.0 dB, at least 45 dB are due"),
    ],
)
def test_what_cannot_be_right_fails(answer, reason):
    verdict = examine(Graph(answer), GOLDEN)
    assert (verdict.passed, verdict.reason) == (False, reason)
    assert verdict.compared


def test_silence_may_be_right():
    quiet = np.zeros((1, 1, 8), np.float32)
    golden = Golden({"z": Z}, {"output": quiet})
    assert compare(golden, {"output": quiet}).passed
    assert not compare(golden, {"output": quiet + 1}).passed


def test_the_worst_output_counts():
    golden = Golden({"z": Z}, {"a": SOUND, "b": SOUND})
    verdict = compare(golden, {"a": SOUND, "b": rounded(SOUND), "more": SOUND})
    assert verdict.snr_db == snr_db(SOUND, rounded(SOUND))
    assert not compare(golden, {"a": -SOUND, "b": SOUND}).passed
    assert not compare(golden, {"b": -SOUND, "a": SOUND}).passed


@pytest.mark.parametrize("error", [AcceleratorError("rknn_run gave -1"), ValueError("odd"), MemoryError()])
def test_a_run_that_fails_is_a_reason(error):
    verdict = examine(raising(error), GOLDEN)
    assert not verdict.passed
    assert not verdict.compared
    assert verdict.reason.startswith("cannot be computed: ")
    assert str(error) in verdict.reason
    assert verdict.run_ms is None


def test_a_run_that_fails_later_is_enough():
    answers = iter([rounded, np.zeros_like, rounded, rounded])
    verdict = examine(Graph(lambda sound: next(answers)(sound)), GOLDEN)
    assert verdict.reason == "gives nothing but zeros in 'output'"


class Cores:
    """Runs wait for each other until all cores are busy, of which the last one may be broken."""

    def __init__(self, count, broken=None):
        self.count = count
        self.broken = broken
        self.busy = 0
        self.most = 0
        self.guard = threading.Condition()

    def run(self, feeds, cancellation=None):
        with self.guard:
            core = self.busy
            self.busy += 1
            self.most = max(self.most, self.busy)
            self.guard.notify_all()
            self.guard.wait_for(lambda: self.most == self.count, timeout=0.05)
        try:
            if core == self.broken:
                raise AcceleratorError(f"core {core} failed")
            return {"output": rounded(SOUND)}
        finally:
            with self.guard:
                self.busy -= 1


def test_all_cores_are_tested():
    assert examine(cores := Cores(3), GOLDEN, cores=3).passed
    assert cores.most == 3
    verdict = examine(Cores(3, broken=2), GOLDEN, cores=3)
    assert (verdict.passed, verdict.compared) == (False, False)
    assert verdict.reason == "cannot be computed: core 2 failed"
    assert examine(cores := Cores(3), GOLDEN).passed
    assert cores.most == 1


def test_what_goes_wrong_only_together_is_told():
    runs = []

    def answer(sound):
        runs.append(sound)
        return -sound if len(runs) > 3 else sound

    reason = "differs from what ONNX Runtime computes: -6.0 dB, at least 45 dB are due, when 2 cores compute at once"
    assert examine(Graph(answer), GOLDEN, cores=2).reason == reason


@pytest.fixture
def model(tmp_path):
    (path := tmp_path / "decoder.rknn").write_bytes(b"RKNN")
    return path


PASSED = Verdict(True, 58.25, 20.5)
FAILED = Verdict(False, 12.5, None, "differs")


@pytest.mark.parametrize("verdict", [PASSED, FAILED, Verdict(True, math.inf, 0.1), Verdict(False, None, None, "zeros")])
def test_a_verdict_is_remembered(tmp_path, model, verdict):
    Verdicts(tmp_path / "new" / "folder").remember(model, VERSIONS, "rk3588", verdict)
    assert Verdicts(tmp_path / "new" / "folder").recall(model, VERSIONS, "rk3588") == verdict


def test_a_verdict_is_a_small_file_of_json(tmp_path, model):
    Verdicts(tmp_path / "cache").remember(model, VERSIONS, "rk3588", Verdict(True, math.inf, 1.0))
    (path,) = (tmp_path / "cache/self-tests").iterdir()
    assert path.suffix == ".json"
    stored = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert stored["of"]["library"] == VERSIONS.library


def test_what_was_never_tested_is_not_known(tmp_path, model):
    verdicts = Verdicts(tmp_path / "cache")
    assert verdicts.recall(model, VERSIONS, "rk3588") is None
    assert verdicts.recall(tmp_path / "gone.rknn", VERSIONS, "rk3588") is None
    verdicts.remember(tmp_path / "gone.rknn", VERSIONS, "rk3588", PASSED)
    assert verdicts.recall(tmp_path / "gone.rknn", VERSIONS, "rk3588") is None


def test_a_verdict_holds_for_what_was_tested_only(tmp_path, model):
    verdicts = Verdicts(tmp_path / "cache")
    verdicts.remember(model, VERSIONS, "rk3588", PASSED)
    assert verdicts.recall(model, Versions("2.3.0", VERSIONS.driver), "rk3588") is None
    assert verdicts.recall(model, Versions(VERSIONS.library, "0.9.6"), "rk3588") is None
    assert verdicts.recall(model, VERSIONS, "rk3576") is None
    assert verdicts.recall(model, VERSIONS, None) is None
    (tmp_path / "other").mkdir()
    (twin := tmp_path / "other/decoder.rknn").write_bytes(b"RKNN")
    os.utime(twin, ns=(model.stat().st_atime_ns, model.stat().st_mtime_ns))
    assert verdicts.recall(twin, VERSIONS, "rk3588") is None
    verdicts.remember(twin, VERSIONS, "rk3588", FAILED)
    assert verdicts.recall(twin, VERSIONS, "rk3588") == FAILED
    assert verdicts.recall(model, VERSIONS, "rk3588") == PASSED


def test_a_verdict_does_not_outlive_the_file(tmp_path, model):
    verdicts = Verdicts(tmp_path / "cache")
    verdicts.remember(model, VERSIONS, "rk3588", PASSED)
    before = model.stat()
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert verdicts.recall(model, VERSIONS, "rk3588") is None
    model.write_bytes(b"RKNN longer")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verdicts.recall(model, VERSIONS, "rk3588") is None


def test_a_newer_verdict_replaces_the_older(tmp_path, model):
    verdicts = Verdicts(tmp_path / "cache")
    verdicts.remember(model, VERSIONS, "rk3588", FAILED)
    verdicts.remember(model, VERSIONS, "rk3588", PASSED)
    assert verdicts.recall(model, VERSIONS, "rk3588") == PASSED
    assert len(list((tmp_path / "cache/self-tests").iterdir())) == 1


def test_an_npu_that_failed_is_asked_again(tmp_path, model):
    verdicts = Verdicts(tmp_path / "cache")
    verdicts.remember(model, VERSIONS, "rk3588", examine(raising(AcceleratorError("it hung")), GOLDEN))
    assert verdicts.recall(model, VERSIONS, "rk3588") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, model):
    (tmp_path / "cache").write_text("a file")
    verdicts = Verdicts(tmp_path / "cache")
    verdicts.remember(model, VERSIONS, "rk3588", PASSED)
    assert verdicts.recall(model, VERSIONS, "rk3588") is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"of": 1}', b'{"verdict": {}}'])
def test_a_damaged_verdict_is_none(tmp_path, model, content):
    verdicts = Verdicts(tmp_path / "cache")
    verdicts.remember(model, VERSIONS, "rk3588", PASSED)
    (path,) = (tmp_path / "cache/self-tests").iterdir()
    path.write_bytes(content)
    assert verdicts.recall(model, VERSIONS, "rk3588") is None


def test_a_verdict_of_another_make_is_none(tmp_path, model):
    verdicts = Verdicts(tmp_path / "cache")
    verdicts.remember(model, VERSIONS, "rk3588", PASSED)
    (path,) = (tmp_path / "cache/self-tests").iterdir()
    stored = json.loads(path.read_text())
    for change in ({"verdict": {}}, {"verdict": None}, {"verdict": stored["verdict"] | {"snr_db": "much"}}):
        path.write_text(json.dumps(stored | change))
        assert verdicts.recall(model, VERSIONS, "rk3588") is None


def test_threads_share_verdicts(tmp_path, model):
    verdicts = Verdicts(tmp_path / "cache")
    seen = []

    def work():
        for _ in range(50):
            verdicts.remember(model, VERSIONS, "rk3588", PASSED)
            seen.append(verdicts.recall(model, VERSIONS, "rk3588"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.count(PASSED) == 200
