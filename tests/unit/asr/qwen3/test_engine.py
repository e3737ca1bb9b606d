"""The Qwen3-ASR engine: which model is the default, what is told of broken ones, files that come and go."""

import gc
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from computing import on_cpu
from onnx import helper, numpy_helper
from tiny_rknn import write_rknn
from tiny_sensevoice import build_graph, install

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.programs import AsrPrograms, match_language
from wyoming_rknn.asr.qwen3 import engine as module
from wyoming_rknn.asr.qwen3.engine import create
from wyoming_rknn.asr.qwen3.loading import open_model
from wyoming_rknn.asr.qwen3.model import Qwen3Model
from wyoming_rknn.asr.qwen3.session import Qwen3Session
from wyoming_rknn.asr.sensevoice.engine import create as create_sensevoice
from wyoming_rknn.errors import ModelError, ModelFileMissing, ModelInvalid, ModelNotFound, RuntimeUnavailable
from wyoming_rknn.models.formats import qwen3
from wyoming_rknn.models.formats.qwen3 import LANGUAGES
from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.rkllm_library import RkllmLibrary
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

GOLDEN = Path(__file__).parents[3] / "golden" / "qwen3" / "model"


def copied(folder, *decoders):
    """Put the tiny model into a folder, with copies of its language model under these names."""
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("manifest.json"))
    for name in decoders:
        shutil.copyfile(GOLDEN / "decoder.onnx", folder / name)
    return folder


@pytest.fixture
def data(tmp_path):
    """Return a data folder with three models in one folder and one in another."""
    copied(tmp_path / "data" / "small", "decoder.int8.onnx", "decoder.int4.onnx")
    copied(tmp_path / "data" / "Big")
    return tmp_path / "data"


@pytest.fixture
def make(data, tmp_path):
    engines = []

    def make(runtimes=None, **settings):
        chosen = Settings(**{"data_dir": (data,), "cache_dir": tmp_path / "cache", **settings})
        engines.append(create(chosen, runtimes or on_cpu()))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.close()


def names(engine):
    return [model.name for model in engine.models()]


def hear(engine, model, scheduler, language=None, bias=Bias()):  # noqa: B008 - immutable
    session = engine.open(model, language, bias)
    session.accept((0.1 * np.random.default_rng(1).normal(size=16_000)).astype(np.float32))
    transcript = session.finish(scheduler.stream())
    session.close()
    return transcript


def test_the_quickest_comes_first(make):
    engine = make()
    assert names(engine) == ["small/decoder.int8", "small/decoder.int4", "Big", "small/decoder"]
    model = engine.models()[0]
    assert (model.languages, model.chosen) == (LANGUAGES, False)
    assert model.description == "small/decoder.int8 (Qwen3-ASR, int8)"
    assert (engine.name, engine.partials, engine.problems()) == ("qwen3-asr", True, {})


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("small/decoder", "small/decoder"),
        ("Small/Decoder.INT4", "small/decoder.int4"),
        ("big", "Big"),
        ("small", "small/decoder.int8"),
        ("{data}/small/decoder.onnx", "small/decoder"),
        ("{data}/small", "small/decoder.int8"),
        ("{data}/x/../Big/", "Big"),
    ],
)
def test_the_one_that_is_named(wanted, chosen, make, data):
    (data / "x").mkdir()
    engine = make(asr_model=wanted.format(data=data))
    assert next((model.name, model.chosen) for model in engine.models()) == (chosen, True)
    assert sum(model.chosen for model in engine.models()) == 1
    assert len(set(names(engine))) == 4


def test_a_path_outside_the_data_folders(make, tmp_path, scheduler):
    outside = copied(tmp_path / "elsewhere" / "mine")
    for wanted in (outside, outside / "decoder.onnx"):
        engine = make(asr_model=str(wanted))
        assert (names(engine)[0], engine.models()[0].chosen, len(names(engine))) == ("mine", True, 5)
    assert hear(engine, "mine", scheduler) == hear(engine, "Big", scheduler)


def test_it_hears_and_loads_each_model_once(make, scheduler, caplog):
    caplog.set_level("INFO", "wyoming_rknn")
    engine = make()
    engine.prepare("Big")
    first = hear(engine, "BIG", scheduler)
    assert first.text
    assert hear(engine, "Big", scheduler) == first
    assert hear(engine, "small", scheduler) == first
    assert [record.message for record in caplog.records] == [
        "model Big (Qwen3-ASR, fp32) is loaded",
        "model small/decoder.int8 (Qwen3-ASR, int8) is loaded",
    ]
    with pytest.raises(ModelNotFound):
        engine.open("tiny", None, Bias())


def test_a_language_and_words_to_expect_change_what_is_heard(make, scheduler):
    engine = make()
    german = hear(engine, "Big", scheduler, "de")
    assert german.language == "de"
    heard = {german.text, hear(engine, "Big", scheduler, "fil").text, hear(engine, "Big", scheduler).text}
    heard.add(hear(engine, "Big", scheduler, "de", Bias(("Wohnzimmerlampe",))).text)
    assert len(heard) == 4


@pytest.mark.parametrize(
    ("asked", "tag"),
    [("de-AT", "de"), ("EN_us", "en"), ("zh-HK", "yue"), ("zh-TW", "zh"), ("fil-PH", "fil"), ("nb", None)],
)
def test_languages_by_their_tags(asked, tag):
    assert match_language(asked, LANGUAGES) == tag


def test_models_come_and_go(make, data, tmp_path, scheduler):
    engine = make()
    hear(engine, "Big", scheduler)
    (data / "Big" / "embeddings.npy").rename(tmp_path / "embeddings.npy")
    assert "Big" not in names(engine)
    (problem,) = engine.problems().values()
    assert isinstance(problem, ModelFileMissing)
    (tmp_path / "embeddings.npy").rename(data / "Big" / "embeddings.npy")
    assert "Big" in names(engine)
    assert engine.problems() == {}
    shutil.rmtree(data / "small")
    assert names(engine) == ["Big"]


def test_a_model_is_freed_once_nobody_uses_it(data):
    manifest = qwen3.detect(data / "Big").manifests[0]
    closed = threading.Event()
    model = open_model(manifest, Settings(), on_cpu())
    other = Qwen3Model("other", model.encoder, model.tokenizer, model.open_generator, closed.set)
    session = Qwen3Session(other, None, Bias())
    del other
    gc.collect()
    assert not closed.wait(0.05)
    del session
    gc.collect()
    assert closed.wait(20)
    closed.clear()
    other = Qwen3Model("other", model.encoder, model.tokenizer, model.open_generator, closed.set)
    other.close()
    assert closed.is_set()
    closed.clear()
    other.close()
    del other
    gc.collect()
    assert not closed.wait(0.05)
    model.close()


class Counting(Runtimes):
    """The CPU, which notes what it has open."""

    def __init__(self):
        super().__init__(Board(), None, 1)
        self.open = []

    def load(self, model):
        graph = super().load(model)
        self.open.append(model)
        close = graph.close
        graph.close = lambda: (self.open.remove(model), close())
        return graph


def narrow(folder):
    np.save(folder / "embeddings.npy", np.zeros((2000, 32), np.float16))


def short(folder):
    np.save(folder / "embeddings.npy", np.load(folder / "embeddings.npy")[:500])


def nonsense(name):
    def write(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[: len((folder / name).read_bytes()) // 2])

    return write


def swapped(first, second):
    def swap(folder):
        shutil.copyfile(folder / second, folder / first)

    return swap


def edited(name, edit):
    def write(folder):
        graph = onnx.load(folder / name)
        edit(graph.graph)
        onnx.save(graph, folder / name)

    return write


def with_nan(graph):
    for weight in graph.initializer:
        value = numpy_helper.to_array(weight)
        if value.dtype == np.float32 and value.ndim > 1:
            weight.CopyFrom(numpy_helper.from_array(np.full_like(value, np.nan), weight.name))


def fewer_words(graph):
    (logits,) = (node for node in graph.node if "logits" in node.output)
    logits.output[list(logits.output).index("logits")] = "all"
    bounds = [numpy_helper.from_array(np.array([value]), name) for value, name in ((0, "b"), (100, "e"), (1, "a"))]
    graph.initializer.extend(bounds)
    graph.node.append(helper.make_node("Slice", ["all", "b", "e", "a"], ["logits"]))
    (output,) = (output for output in graph.output if output.name == "logits")
    output.type.tensor_type.shape.dim[1].dim_value = 100


def narrower_rows(graph):
    (output,) = graph.output
    node = next(node for node in graph.node if output.name in node.output)
    node.output[list(node.output).index(output.name)] = "all"
    bounds = [numpy_helper.from_array(np.array([value]), name) for value, name in ((0, "b"), (32, "e"), (2, "a"))]
    graph.initializer.extend(bounds)
    graph.node.append(helper.make_node("Slice", ["all", "b", "e", "a"], [output.name]))
    output.type.tensor_type.shape.dim[2].dim_value = 32


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (narrow, ("reads rows of 64 numbers", "rows of 32")),
        (short, ("500 rows", "tokenizer")),
        (nonsense("embeddings.npy"), ("embeddings.npy is no table of embeddings",)),
        (nonsense("vocab.json"), ("no tokenizer that can be read",)),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), ("the tokenizer has no <|im_start|>",)),
        (swapped("decoder.onnx", "audio_conv.onnx"), ("decoder.onnx is no language model",)),
        (swapped("audio_conv.onnx", "decoder.onnx"), ("audio encoder of Big cannot be run",)),
        (swapped("audio_encoder.onnx", "audio_conv.onnx"), ("audio encoder of Big cannot be run",)),
        (edited("decoder.onnx", fewer_words), ("decoder.onnx knows 100 tokens",)),
        (edited("decoder.onnx", with_nan), ("decoder.onnx computes no numbers",)),
        (edited("audio_encoder.onnx", with_nan), ("audio encoder of Big computes NaN",)),
        (edited("audio_encoder.onnx", narrower_rows), ("gives [13, 32] numbers", "reads [13, 64]")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_files_that_do_not_go_together(damage, told, make, data):
    damage(data / "Big")
    runtimes = Counting()
    engine = make(runtimes)
    with pytest.raises(ModelError) as failure:
        engine.prepare("Big")
    message = str(failure.value)
    assert all(part in message for part in told), message
    assert "\n" not in message
    assert runtimes.open == []
    # It is offered no more, and the reason is known.
    assert "Big" not in names(engine)
    assert str(engine.problems()["Big"]) == message
    engine.prepare("small")
    assert len(runtimes.open) == 3
    engine.close()
    assert runtimes.open == []


def rkllm(folder, *socs):
    for soc in socs:
        (folder / "encoder" / soc).mkdir(parents=True)
        shapes = {"input_features": (1, 128, 200)}, {"audio_embeds": (1, 26, 64)}
        write_rknn(folder / "encoder" / soc / f"asr_merged.2s.{soc}.rknn", *shapes, targets=(soc,))
        (folder / f"qwen3.{'w8a8' if soc == 'rk3588' else 'w4a16'}.{soc}.rkllm").write_bytes(b"weights")
    shutil.copyfile(GOLDEN / "embeddings.npy", folder / "embed_tokens.npy")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(GOLDEN / name, folder / name)
    return folder


class Npu:
    """An NPU that nothing is computed on."""


def board(soc):
    return Runtimes(Board(soc=soc), Npu(), 1)


def test_a_piece_for_an_npu_that_is_broken_is_told_of_each_model(make, data, scheduler, caplog):
    (data / "small" / "audio_encoder.26.rknn").write_bytes(b"RKNN")
    engine = make()
    assert len(names(engine)) == 4
    assert sorted(engine.problems()) == ["small/decoder", "small/decoder.int4", "small/decoder.int8"]
    assert len(caplog.records) == 1
    assert hear(engine, "small", scheduler) == hear(engine, "Big", scheduler)


def test_a_model_for_an_npu_needs_one(make, data):
    rkllm(data / "llm", "rk3588")
    engine = make()
    assert "llm" not in names(engine)
    assert "for an NPU" in str(engine.problems()["llm"])


def test_a_model_whose_library_is_missing_is_not_offered(make, data, tmp_path, monkeypatch):
    rkllm(data / "llm", "rk3588")
    library = tmp_path / "librkllmrt.so"
    engine = make(board("rk3588"), rkllm_library=library)
    assert "llm" not in names(engine)
    problem = engine.problems()["llm"]
    assert isinstance(problem, ModelInvalid)
    assert str(problem).startswith(f"{data / 'llm' / 'qwen3.w8a8.rk3588.rkllm'} cannot be run: {library}")
    assert "--rkllm-library" in str(problem)
    with pytest.raises(ModelNotFound):
        engine.prepare("llm")
    # It is looked for again each time.
    library.write_bytes(b"")
    monkeypatch.setattr(module, "find_library", lambda *_: RkllmLibrary(library, "1.2.3"))
    assert names(engine)[0] == "llm"
    assert engine.problems() == {}

    def gone(*_):
        raise RuntimeUnavailable("gone")

    monkeypatch.setattr(module, "find_library", gone)
    assert names(engine)[0] == "llm"
    library.unlink()
    assert "llm" not in names(engine)


def test_of_models_for_several_socs_the_boards_is_offered(make, data, monkeypatch):
    rkllm(data / "llm", "rk3588", "rk3576")
    monkeypatch.setattr(module, "find_library", lambda *_: RkllmLibrary(GOLDEN / "vocab.json", "1.2.3"))
    for soc, quality in (("rk3588", "w8a8"), ("rk3588s", "w8a8"), ("rk3576", "w4a16")):
        engine = make(board(soc))
        assert engine.models()[0].description == f"llm (Qwen3-ASR, {quality}, {soc.rstrip('s')})"
        assert engine.problems() == {}
    # One that there is for another SoC only is no problem here.
    for name in ("fp16.rk3576", "w4a16.rk3588"):
        (data / "llm" / f"qwen3.{name}.rkllm").write_bytes(b"weights")
    engine = make(board("rk3588"))
    assert [name for name in names(engine) if "llm" in name] == ["llm/qwen3.w4a16", "llm/qwen3.w8a8"]
    assert engine.problems() == {}
    for name in ("fp16.rk3576", "w4a16.rk3588"):
        (data / "llm" / f"qwen3.{name}.rkllm").unlink()
    engine = make(board("rk3568"))
    assert "llm" not in names(engine)
    assert "this board is an rk3568" in str(engine.problems()["llm"])


def test_sensevoice_in_the_same_folder(make, data):
    install(data / "sense", model=build_graph("funasr"))
    (data / "small" / "audio_conv.onnx").unlink()
    settings = Settings(data_dir=(data,))
    engines = [create_sensevoice(settings, on_cpu()), make()]
    assert [names(engine) for engine in engines] == [["sense"], ["Big"]]
    assert [sorted(engine.problems()) for engine in engines] == [
        [],
        ["small/decoder", "small/decoder.int4", "small/decoder.int8"],
    ]
    programs = AsrPrograms(engines, settings)
    assert [engine.name for engine, _ in programs.offered()] == ["sensevoice", "qwen3-asr"]
    assert programs.choose(model="Big", language="sv").language == "sv"
    chosen = AsrPrograms(engines, Settings(data_dir=(data,), asr_engine="qwen3-asr"))
    assert chosen.choose().model.name == "Big"
    programs.close()
