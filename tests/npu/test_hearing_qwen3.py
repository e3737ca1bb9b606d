"""Qwen3-ASR with its encoder on the NPU: our export with the CPU as a spare, and rkvoice-stream's with librkllmrt."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from npu import stand_in
from npu.control import Control
from npu.double_llm import building
from npu.voices import npu_settings
from qwen3_layouts import GOLDEN, HIDDEN, encoder_in_parts, merged_encoder
from qwen3_signals import signal

from wyoming_rknn.asr.engine import Bias, Transcript
from wyoming_rknn.asr.qwen3.engine import create
from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.npu.selftest import Golden, golden_path
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import CPU, LLM, NPU
from wyoming_rknn.settings import Settings

SAMPLES = signal(3, 5.2, "")
TEXT_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


class Hearing:
    """An engine, and what it computes on."""

    def __init__(self, settings: Settings) -> None:
        self.runtimes = Runtimes.of(settings)
        self.scheduler = self.runtimes.scheduler()
        self.engine = create(settings, self.runtimes)

    def __call__(self, samples: np.ndarray = SAMPLES) -> Transcript:
        session = self.engine.open(self.engine.models()[0].name, None, Bias())
        session.accept(samples)
        try:
            return session.finish(self.scheduler.stream())
        finally:
            session.close()

    def jobs(self, device: str) -> int:
        return self.scheduler.jobs(device)

    def close(self) -> None:
        self.engine.close()
        assert self.scheduler.close(20)
        self.runtimes.close()


@pytest.fixture
def hearing(double, tmp_path, control) -> Iterator[Callable[..., Hearing]]:
    """Return a function that makes an engine for the models in "data"."""
    made = []

    def make(**settings: object) -> Hearing:
        made.append(Hearing(npu_settings(double, tmp_path / "data", tmp_path / "cache", **settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fixed(path: Path, **shapes: tuple[int, ...]) -> bytes:
    """Return a graph with fixed shapes; its output is the one that its name tells."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    return bytes(model.SerializeToString())


@pytest.fixture
def ours(tmp_path) -> Path:
    """Return our export with its encoder for an NPU."""
    folder = tmp_path / "data" / "qwen"
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("manifest.json"))
    mel = fixed(folder / "audio_conv.onnx", mel=(1, 128, 100), features=(1, 13, 48))
    stand_in.write(folder / "audio_conv.rknn", mel)
    for rows in (26, 52, 104):
        shapes = {"features": (1, rows, 48), "mask": (1, 1, rows, rows), "embeddings": (1, rows, HIDDEN)}
        stand_in.write(folder / f"audio_encoder.{rows}.rknn", fixed(folder / "audio_encoder.onnx", **shapes))
    return folder


def test_audio_is_encoded_on_the_npu(hearing, ours):
    npu, cpu = hearing(), hearing(runtime="onnx")
    heard = npu()
    assert heard.text
    assert heard == cpu()
    # Six seconds of convolutions, and one window.
    assert npu.jobs(NPU) == 6 + 1
    assert cpu.jobs(NPU) == 0
    assert cpu.jobs(CPU) == npu.jobs(CPU) + 2


def test_what_the_npu_fails_to_encode_the_cpu_encodes(hearing, ours, control):
    npu = hearing()
    heard = npu()
    control.set(run_rc=-1)
    assert npu() == heard
    control.set()


def test_a_piece_that_cannot_be_loaded_leaves_the_encoder_to_the_cpu(hearing, ours, caplog):
    path = ours / "audio_encoder.52.rknn"
    content = bytearray(path.read_bytes())
    at = content.index(b"RKNN-TEST-DOUBLE")
    content[at : at + 4] = b"JUNK"
    path.write_bytes(content)
    npu = hearing()
    assert npu() == hearing(runtime="onnx")()
    assert npu.jobs(NPU) == 0
    assert len([record for record in caplog.records if "the CPU encodes audio instead" in record.message]) == 1


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """Return the test double of librkllmrt.so."""
    if shutil.which("gcc") is None:
        pytest.skip("no test double of librkllmrt.so: there is no gcc to build it")
    return building.build(tmp_path_factory.mktemp("double_llm") / "librkllmrt.so", "1.2.3")


@pytest.fixture
def llm(tmp_path, monkeypatch) -> Control:
    """Let the double's language model do what a test asks for."""
    switch = Control(tmp_path / "llm.control", tmp_path / "llm.log")
    monkeypatch.setenv("RKLLM_DOUBLE_CONTROL", str(switch.path))
    monkeypatch.setenv("RKLLM_DOUBLE_LOG", str(switch.log))
    return switch


def children() -> list[str]:
    return [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


@pytest.fixture(params=["merged", "parts"])
def rkvoice(request, tmp_path) -> Path:
    """Return a tree as rkvoice-stream has it, for two SoCs."""
    folder, made = tmp_path / "data" / "asr", tmp_path / "made"
    for soc in ("rk3576", "rk3588"):
        (folder / "encoder" / soc).mkdir(parents=True)
        for seconds in (2, 4, 15):
            if request.param == "merged":
                paths = {"merged": merged_encoder(made / "merged.onnx", seconds)}
            else:
                paths = dict(zip(("frontend", "backend"), encoder_in_parts(made, seconds), strict=True))
            for part, path in paths.items():
                name = f"qwen3_asr_encoder_{part}.fp16.{seconds}s.{soc}.rknn"
                stand_in.write(folder / "encoder" / soc / name, path.read_bytes(), target=soc)
        (folder / "decoder").mkdir(exist_ok=True)
        (folder / "decoder" / f"decoder_qwen3.w8a8.{soc}.rkllm").write_bytes(soc.encode())
    shutil.copyfile(GOLDEN / "embeddings.npy", folder / "embed_tokens.npy")
    for name in TEXT_FILES:
        shutil.copyfile(GOLDEN / name, folder / name)
    return folder


def test_a_language_model_in_librkllmrt_hears_the_same_rows(hearing, rkvoice, library, llm, tmp_path):
    npu = hearing(rkllm_library=library)
    (model,) = npu.engine.models()
    assert (model.name, model.description) == ("asr", "asr (Qwen3-ASR, w8a8, rk3588)")
    shutil.copytree(GOLDEN, tmp_path / "data" / "ours")
    cpu = hearing(runtime="onnx")
    tokenizer = cpu.engine._installed.load("ours").tokenizer
    ids = [*tokenizer.encode("language English"), tokenizer.special("<asr_text>"), *tokenizer.encode("Turn it on.")]
    llm.set(tokens=" ".join(map(str, ids)), hidden=HIDDEN)
    heard = npu()
    assert (heard.text, heard.language) == ("Turn it on.", "en")
    parts = 2 if any("backend" in path.name for path in rkvoice.rglob("*.rknn")) else 1
    assert (npu.jobs(NPU), npu.jobs(LLM)) == (parts, 1)
    (run,) = llm.calls("run")
    prompts = []
    model = cpu.engine._installed.load("ours")
    opened = model.open_generator

    def noted():
        generator = opened()
        generate = generator.generate

        def noting(ids, audio, *rest):
            prompts.append((ids, audio))
            return generate(ids, audio, *rest)

        generator.generate = noting
        return generator

    model.open_generator = noted
    cpu()
    ((ids, audio),) = prompts
    table = np.load(GOLDEN / "embeddings.npy").astype(np.float64)
    pad = tokenizer.special("<|audio_pad|>")
    expected = table[[token for token in ids if token != pad]].sum() + audio.sum(dtype=np.float64)
    assert int(run.notes["rows"]) == len(ids)
    assert abs(float(run.notes["sum"]) - expected) < 1e-2 * abs(expected) + 0.05


def test_a_language_model_that_cannot_be_loaded_is_told_and_leaves_nothing(hearing, rkvoice, library, llm, control):
    npu = hearing(rkllm_library=library)
    llm.set(init_rc=-1)
    with pytest.raises(ModelInvalid) as failure:
        npu()
    assert "\n" not in str(failure.value)
    assert npu.engine.models() == []
    assert str(npu.engine.problems()["asr"]) == str(failure.value)
    assert not children()
    end = time.monotonic() + 20
    while len(control.calls("rknn_destroy")) < len(control.calls("rknn_init")):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_closing_ends_the_language_models_process(hearing, rkvoice, library, llm):
    npu = hearing(rkllm_library=library)
    llm.set(tokens="5", hidden=HIDDEN)
    npu()
    assert len(children()) == 1
    npu.engine.close()
    assert not children()


def test_without_librkllmrt_it_is_not_offered(hearing, rkvoice, tmp_path):
    npu = hearing(rkllm_library=tmp_path / "librkllmrt.so")
    assert npu.engine.models() == []
    assert "--rkllm-library" in str(npu.engine.problems()["asr"])


def test_our_export_goes_with_a_language_model_in_librkllmrt(hearing, ours, library, llm):
    """The second-based encoder, on the NPU or on the CPU, in front of what Rockchip's toolkit made."""
    (ours / "decoder.onnx").rename(ours / "decoder_qwen3.w8a8.rk3588.rkllm")
    npu = hearing(rkllm_library=library)
    (model,) = npu.engine.models()
    assert (model.name, model.description) == ("qwen", "qwen (Qwen3-ASR, w8a8, rk3588)")
    llm.set(tokens="70 71 72", hidden=HIDDEN)
    heard = npu()
    assert heard.text
    assert (npu.jobs(NPU), npu.jobs(LLM)) == (6 + 1, 1)
    for path in ours.glob("*.rknn"):
        path.unlink()
    cpu = hearing(rkllm_library=library)
    assert cpu() == heard
    assert (cpu.jobs(NPU), cpu.jobs(LLM)) == (0, 1)


def test_a_piece_that_does_not_reproduce_its_golden_is_left_to_the_cpu(hearing, ours, caplog):
    path = ours / "audio_conv.rknn"
    wrong = Golden({"mel": np.ones((1, 128, 100), np.float32)}, {"features": np.ones((1, 13, 48), np.float32)})
    assert Golden.beside(path) is None
    wrong.write(golden_path(path))
    assert np.array_equal(Golden.beside(path).outputs["features"], wrong.outputs["features"])
    npu = hearing()
    assert npu() == hearing(runtime="onnx")()
    assert npu.jobs(NPU) == 0
    assert any("fails its self-test" in record.message for record in caplog.records)
