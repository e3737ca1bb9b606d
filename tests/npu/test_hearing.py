"""SenseVoice with its encoder on the NPU: the same text, by buckets, and from the CPU when the NPU fails."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from computing import on_cpu
from npu import stand_in
from npu.voices import DATA, ROOT, npu_settings
from protocol.harness.clips import known_clips

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.sensevoice.engine import create
from wyoming_rknn.cli.doctor.verify import check_models
from wyoming_rknn.errors import AcceleratorError, ModelInvalid
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import CPU, NPU
from wyoming_rknn.settings import Settings

MODEL = DATA / "asr" / "sensevoice-overfit"
SCRIPT = ROOT / "script" / "sensevoice-layouts"


@pytest.fixture(scope="session")
def clips():
    """Return recordings of less than 3, of 3 to 5 and of more than 5 seconds."""
    if not MODEL.is_dir():
        pytest.skip("no test model: set WYOMING_RKNN_TEST_DATA to the folder with asr/ and speech/")
    known = known_clips(DATA / "speech")
    middle = next(clip for clip in known if 3.1 < clip.samples.size / 16_000 < 4.8)
    return [known[0], known[5], middle, known[-1]]


def fixed(path: Path) -> bytes:
    """Return a static graph whose outputs say what their shapes are."""
    graph = on_cpu().load(path)
    feeds = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in graph.inputs}
    results = graph.run(feeds)
    model = onnx.load(path)
    for value in model.graph.output:
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, results[value.name].shape))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def buckets(tmp_path_factory, clips) -> Path:
    """Return a folder with sherpa-onnx's layout for 3, 5 and 10 seconds."""
    folder = tmp_path_factory.mktemp("buckets") / "model"
    folder.mkdir()
    shutil.copyfile(MODEL / "tokens.txt", folder / "tokens.txt")
    for seconds in (3, 5, 10):
        stand_in.write(folder / f"encoder-{seconds}s.rknn", fixed(MODEL / f"rknn-{seconds}s.onnx"))
    return folder


class Hearing:
    """An engine, and what it computes on."""

    def __init__(self, settings: Settings) -> None:
        self.runtimes = Runtimes.of(settings)
        self.scheduler = self.runtimes.scheduler()
        self.engine = create(settings, self.runtimes)

    def __call__(self, clip, model: str | None = None) -> str:
        session = self.engine.open(model or self.engine.models()[0].name, None, Bias())
        session.accept(clip.samples.astype("float32") / 32768)
        try:
            return session.finish(self.scheduler.stream()).text
        finally:
            session.close()

    def jobs(self, device: str) -> int:
        return self.scheduler.jobs(device)

    def close(self) -> None:
        assert self.scheduler.close(20)
        self.engine.close()
        self.runtimes.close()


@pytest.fixture
def hearing(double, tmp_path, control) -> Iterator[Callable[..., Hearing]]:
    """Return a function that makes an engine for a folder of models."""
    made = []

    def make(folder: Path, **settings: object) -> Hearing:
        made.append(Hearing(npu_settings(double, folder.parent, tmp_path / "cache", **settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def with_cpu_graph(buckets: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "both" / "model"
    shutil.copytree(buckets, folder)
    for name in ("model_quant.onnx", "am.mvn"):
        shutil.copyfile(MODEL / name, folder / name)
    return folder


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_clips_are_heard_on_the_npu_in_the_shortest_bucket(hearing, buckets, clips, control, caplog):
    npu = hearing(buckets)
    for clip in clips:
        assert npu(clip) == clip.text
    assert (npu.jobs(CPU), npu.jobs(NPU)) == (0, len(clips))
    # Rows of 60 ms in the smallest graph that takes them; the first three runs warmed it up.
    sizes = [call.notes["inputs"] for call in control.calls("rknn_inputs_set")]
    assert len(set(sizes[-len(clips) :])) == 3
    assert not warnings(caplog)


@pytest.mark.parametrize("layout", ["happyme531", "rkvoice"])
def test_layouts_with_prompt_rows_outside(hearing, clips, tmp_path, layout):
    made = tmp_path / "made"
    subprocess.run([sys.executable, SCRIPT, layout, MODEL / "model.onnx", made], check=True, capture_output=True)
    folder = tmp_path / "data" / "model"
    folder.mkdir(parents=True)
    for path in made.iterdir():
        if path.suffix == ".onnx":
            stand_in.write(folder / f"{path.stem}.rk3588.rknn", fixed(path))
        else:
            shutil.copyfile(path, folder / path.name)
    npu = hearing(folder)
    for clip in clips[:2]:
        assert npu(clip) == clip.text
    assert npu.jobs(NPU) == 2


def test_of_a_folder_with_both_the_npu_hears(hearing, buckets, clips, tmp_path):
    folder = with_cpu_graph(buckets, tmp_path)
    npu, cpu = hearing(folder), hearing(folder, runtime="onnx")
    assert npu(clips[0]) == cpu(clips[0]) == clips[0].text
    assert (npu.jobs(CPU), npu.jobs(NPU)) == (0, 1)
    assert (cpu.jobs(CPU), cpu.jobs(NPU)) == (1, 0)


@pytest.mark.parametrize("fault", [{"run_rc": -1}, {"output": "nan"}, {"hang": "all"}], ids=str)
def test_what_the_npu_fails_to_hear_the_cpu_hears(hearing, buckets, clips, tmp_path, control, caplog, fault):
    npu = hearing(with_cpu_graph(buckets, tmp_path))
    assert npu(clips[0]) == clips[0].text
    control.set(**fault)
    for clip in clips[:2]:
        assert npu(clip) == clip.text
    control.set()
    assert len(warnings(caplog)) == 1


def test_without_another_graph_a_failure_is_told(hearing, buckets, clips, control):
    npu = hearing(buckets)
    assert npu(clips[0]) == clips[0].text
    control.set(run_rc=-1)
    with pytest.raises(AcceleratorError, match="rknn_run"):
        npu(clips[1])
    control.set()
    assert npu(clips[1]) == clips[1].text


def test_a_bucket_that_fails_gives_way_to_a_longer_one(hearing, buckets, clips, control):
    npu = hearing(buckets)
    assert npu(clips[0]) == clips[0].text
    short = npu.engine._installed.load("model")._buckets[0]
    run = short.graph.run
    short.graph.run = lambda *_: (_ for _ in ()).throw(AcceleratorError("no"))
    assert npu(clips[0]) == clips[0].text
    short.graph.run = run
    assert npu(clips[0]) == clips[0].text


def test_a_bucket_that_cannot_be_loaded_is_done_without(hearing, buckets, clips, tmp_path, caplog):
    folder = tmp_path / "data" / "model"
    shutil.copytree(buckets, folder)
    short = folder / "encoder-3s.rknn"
    content = bytearray(short.read_bytes())
    # The container is whole, what is in it is not.
    at = content.index(b"RKNN-TEST-DOUBLE")
    content[at : at + 4] = b"JUNK"
    short.write_bytes(content)
    npu = hearing(folder)
    assert npu(clips[0]) == clips[0].text
    (warning,) = warnings(caplog)
    assert "does without encoder-3s.rknn" in warning


def test_models_that_only_an_npu_could_compute_are_not_offered_without_one(hearing, buckets):
    cpu = hearing(buckets, runtime="onnx")
    assert not cpu.engine.models()
    (problem,) = cpu.engine.problems().values()
    assert "is for an NPU, and none is used here" in str(problem)


def test_models_for_another_board_are_not_offered(hearing, buckets):
    other = hearing(buckets, soc="rk3576")
    assert not other.engine.models()
    (problem,) = other.engine.problems().values()
    assert "is made for rk3588, this board is an rk3576" in str(problem)


def test_a_model_that_the_npu_refuses_is_told(hearing, buckets, control):
    control.set(init_rc=-6)
    npu = hearing(buckets)
    with pytest.raises(ModelInvalid, match="RKNN_ERR_MODEL_INVALID"):
        npu.engine.prepare("model")
    assert not npu.engine.models()


def test_doctor_has_as_much_patience_as_the_engine(hearing, buckets, double, tmp_path, monkeypatch):
    npu = hearing(buckets)
    accelerator, limits_s = npu.runtimes.accelerator, []
    load = accelerator.load
    monkeypatch.setattr(
        accelerator, "load", lambda path, **more: limits_s.append(more["timeout_s"]) or load(path, **more)
    )
    npu.engine.prepare("model")
    assert list(check_models(npu_settings(double, buckets.parent, tmp_path / "cache"), npu.runtimes))
    assert [round(limit_s, 2) for limit_s in limits_s] == [2.0, 2.49, 5.01] * 2
