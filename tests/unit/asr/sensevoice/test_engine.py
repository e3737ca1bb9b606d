"""The SenseVoice engine: which model is the default, what is told of broken ones, files that come and go."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from computing import on_cpu
from sensevoice_doubles import FakeGraph
from tiny_sensevoice import PIECES, VOCABULARY, build_graph, install

from wyoming_rknn.asr.engine import AsrModel, Bias
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.asr.sensevoice.engine import SenseVoiceEngine, create
from wyoming_rknn.errors import EngineError, ModelError, ModelFileMissing, ModelInvalid, ModelNotFound
from wyoming_rknn.runtime import onnx as runtime
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

LANGUAGES = ("en", "ja", "ko", "yue", "zh")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data folder with four models in one folder and one in another."""
    install(
        tmp_path / "data" / "small",
        model=build_graph("funasr"),
        model_quant=build_graph("funasr", int8=True),
        a_sherpa=build_graph("sherpa"),
        **{f"npu-{seconds}s": build_graph("npu", frames=frames) for seconds, frames in ((3, 50), (5, 83))},
    )
    install(tmp_path / "data" / "Big", model=build_graph("funasr"))
    return tmp_path / "data"


@pytest.fixture
def make(data: Path) -> Callable[..., SenseVoiceEngine]:
    return lambda **settings: create(Settings(**{"data_dir": (data,), **settings}), on_cpu())


def names(engine: SenseVoiceEngine) -> list[str]:
    return [model.name for model in engine.models()]


def noise(seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).normal(size=round(16000 * seconds))).astype(np.float32)


def hear(engine: SenseVoiceEngine, model: str, scheduler: Scheduler, seconds: float = 1.0) -> str:
    session = engine.open(model, None, Bias())
    session.accept(noise(seconds))
    text = session.finish(scheduler.stream()).text
    session.close()
    return text


def test_the_quickest_comes_first(make: Callable[..., SenseVoiceEngine]) -> None:
    engine = make()
    assert names(engine) == ["small/model_quant", "Big", "small/a_sherpa", "small/model", "small/npu"]
    assert engine.models()[0] == AsrModel(
        "small/model_quant", LANGUAGES, "small/model_quant (SenseVoice, int8)", chosen=False
    )
    assert (engine.name, engine.partials, engine.problems()) == ("sensevoice", True, {})


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("small/model", "small/model"),
        ("Small/A-Sherpa", "small/a_sherpa"),
        ("big", "Big"),
        ("small", "small/model_quant"),
        ("SMALL", "small/model_quant"),
        ("small npu", "small/npu"),
        ("{data}/small/model.onnx", "small/model"),
        ("{data}/small/npu-3s.onnx", "small/npu"),
        ("{data}/small/npu-5s.onnx", "small/npu"),
        ("{data}/small", "small/model_quant"),
        ("{data}/small/", "small/model_quant"),
        ("{data}/x/../Big/model.onnx", "Big"),
    ],
)
def test_the_one_that_is_named(
    wanted: str, chosen: str, make: Callable[..., SenseVoiceEngine], data: Path, scheduler: Scheduler
) -> None:
    (data / "x").mkdir()
    engine = make(asr_model=wanted.format(data=data))
    models = engine.models()
    assert (models[0].name, models[0].chosen) == (chosen, True)
    assert [model.chosen for model in models[1:]] == [False] * 4
    assert len({model.name for model in models}) == 5
    assert hear(engine, models[0].name, scheduler)


def test_a_name_that_is_unknown(make: Callable[..., SenseVoiceEngine], data: Path) -> None:
    for wanted in ("tiny", str(data / "tiny"), str(data / "tiny.onnx"), str(data / "small" / "x.onnx"), str(data)):
        engine = make(asr_model=wanted)
        assert names(engine)[0] == "small/model_quant"
        assert not any(model.chosen for model in engine.models())


def test_a_path_outside_the_data_folders(
    make: Callable[..., SenseVoiceEngine], tmp_path: Path, scheduler: Scheduler
) -> None:
    outside = install(tmp_path / "elsewhere" / "mine", model=build_graph("funasr"))
    install(outside / "deeper", model=build_graph("funasr"))
    for wanted in (outside, outside / "model.onnx"):
        engine = make(asr_model=str(wanted))
        assert names(engine)[0] == "mine"
        assert engine.models()[0].chosen
        assert len(names(engine)) == 6
        assert hear(engine, "mine", scheduler)
        engine.close()


def test_a_path_goes_before_a_name(
    make: Callable[..., SenseVoiceEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "Big", model=build_graph("funasr", int8=True), other=build_graph("sherpa"))
    monkeypatch.chdir(tmp_path)

    def chosen(wanted: str) -> list[str]:
        return [model.description for model in make(asr_model=wanted).models() if model.chosen]

    assert chosen("./Big") == ["Big/model (SenseVoice, int8)"]
    assert chosen("Big/other.onnx") == ["Big/other (SenseVoice)"]
    assert chosen("Big") == ["Big (SenseVoice)"]
    # One with the name of another takes its place.
    (tmp_path / "Big" / "other.onnx").unlink()
    assert chosen("./Big") == ["Big (SenseVoice, int8)"]
    assert names(make(asr_model="./Big")).count("Big") == 1
    assert chosen("Big") == ["Big (SenseVoice)"]


def test_a_link_is_not_another_model(make: Callable[..., SenseVoiceEngine], data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data / "small")
    engine = make(asr_model=str(tmp_path / "link" / "model.onnx"))
    models = engine.models()
    assert len(models) == 5
    assert models[0].chosen


def test_a_graph_may_be_a_link(make: Callable[..., SenseVoiceEngine], data: Path, tmp_path: Path) -> None:
    folder = install(tmp_path / "linked")
    (folder / "model.onnx").symlink_to(data / "small" / "model.onnx")
    engine = make(asr_model=str(folder / "model.onnx"))
    assert (engine.models()[0].name, len(engine.models())) == ("linked", 6)


def test_models_are_opened_by_any_spelling(make: Callable[..., SenseVoiceEngine], scheduler: Scheduler) -> None:
    engine = make()
    for name in ("small/model_quant", "SMALL/Model Quant", "small", "big", "small-npu"):
        engine.prepare(name)
        assert hear(engine, name, scheduler)
    with pytest.raises(ModelNotFound, match=r"'bigg' is not installed; did you mean Big"):
        engine.open("bigg", None, Bias())
    with pytest.raises(ModelNotFound):
        engine.prepare("tiny")


def test_a_model_is_loaded_once(make: Callable[..., SenseVoiceEngine], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = make()
    for name in ("Big", "big", "Big"):
        engine.prepare(name)
    assert [line for line in caplog.messages if "is loaded" in line] == ["model Big (SenseVoice) is loaded"]


def test_a_broken_model_is_left_out_once_it_is_known(make: Callable[..., SenseVoiceEngine], data: Path) -> None:
    (data / "small" / "tokens.txt").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES[:-1])))
    engine = make(asr_model="small")
    assert names(engine)[0] == "small/model_quant"
    for _ in range(2):
        with pytest.raises(ModelInvalid, match="answers with 12 tokens, the tokens beside it are 11"):
            engine.prepare("small/model_quant")
    assert names(engine) == ["small/a_sherpa", "Big", "small/model", "small/npu"]
    assert engine.models()[0].chosen
    assert {name: type(error) for name, error in engine.problems().items()} == {"small/model_quant": ModelInvalid}
    # Mended, it is there again.
    (data / "small" / "tokens.txt").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)))
    assert names(engine)[0] == "small/model_quant"
    assert engine.problems() == {}
    engine.prepare("small")


@pytest.mark.parametrize("layout", ["funasr", "rkvoice"])
@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("am.mvn", b"<Nnet>", "AddShift"),
        ("tokens.txt", b"one\n", "line 1"),
        ("embedding.npy", b"rubbish", "is not an array"),
    ],
)
def test_files_beside_the_graph_that_are_broken(
    layout: str, name: str, content: bytes, problem: str, tmp_path: Path
) -> None:
    folder = install(tmp_path / "data" / "s", m=build_graph(layout, frames=None if layout == "funasr" else 30))
    (folder / name).write_bytes(content)
    engine = create(Settings(data_dir=(tmp_path / "data",)), on_cpu())
    if (layout, name) == ("funasr", "embedding.npy"):
        engine.prepare("s")
        return
    with pytest.raises(ModelError, match=problem):
        engine.prepare("s")
    assert names(engine) == []


def test_files_that_are_missing_are_told(
    make: Callable[..., SenseVoiceEngine], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "Big" / "am.mvn").unlink()
    engine = make()
    assert "Big" not in names(engine)
    assert isinstance(engine.problems()["Big"], ModelFileMissing)
    assert len([line for line in caplog.messages if "put the model's am.mvn beside it" in line]) == 1
    assert make(asr_model=str(data / "Big")).problems().keys() == {"Big"}
    with pytest.raises(ModelNotFound):
        engine.prepare("Big")


def test_an_unloadable_graph(make: Callable[..., SenseVoiceEngine], data: Path) -> None:
    graph = build_graph("funasr")
    graph.graph.node[0].op_type = "Unheard"
    onnx.save(graph, data / "Big" / "model.onnx")
    with pytest.raises(ModelInvalid, match=r"model\.onnx is not an ONNX model"):
        make().prepare("Big")


def test_models_come_and_go(make: Callable[..., SenseVoiceEngine], data: Path, scheduler: Scheduler) -> None:
    engine = make()
    session = engine.open("Big", None, Bias())
    (data / "Big").rename(data.parent / "Big")
    assert "Big" not in names(engine)
    with pytest.raises(ModelNotFound):
        engine.open("Big", None, Bias())
    session.accept(noise())
    assert session.finish(scheduler.stream()).text
    (data.parent / "Big").rename(data / "Big")
    before = hear(engine, "Big", scheduler)
    other = build_graph("funasr")
    weights = next(weight for weight in other.graph.initializer if weight.name == "weights")
    turned = -onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(turned, "weights"))
    onnx.save(other, data / "Big" / "model.onnx")
    os.utime(data / "Big" / "model.onnx", (1, 1))
    assert hear(engine, "Big", scheduler) != before


def test_without_itn_the_model_is_told(tmp_path: Path, scheduler: Scheduler) -> None:
    data = install(tmp_path / "data" / "s", model=build_graph("funasr"))
    asked = []
    for settings in (Settings(data_dir=(data,)), Settings(data_dir=(data,), no_itn=True)):
        graph = FakeGraph("funasr")
        engine = SenseVoiceEngine(settings, on_cpu(), lambda _path, graph=graph: graph)
        hear(engine, "s", scheduler)
        asked.append(graph.fed[-1]["textnorm"].tolist())
        engine.close()
        assert graph.closed
    assert asked == [[14], [15]]


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
def test_on_overflow_another_model_of_the_folder_decodes(
    data: Path, scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """First the quickest that takes audio so long; what is broken is passed over, other folders are not looked at."""
    used = []

    def answer(rows: np.ndarray) -> np.ndarray:
        return np.eye(VOCABULARY)[[PIECES.index("好")] * len(rows)]

    def load(path: Path) -> FakeGraph:
        def run(rows: np.ndarray) -> np.ndarray:
            used.append(path.stem)
            return answer(rows) * (np.nan if "npu" in path.stem else 1)

        if path.stem == "model_quant":
            return FakeGraph("funasr", vocabulary=3)
        real = runtime.load(path, threads=1)
        layout = "sherpa" if path.stem == "a_sherpa" else "npu" if "npu" in path.stem else "funasr"
        return FakeGraph(layout, real.inputs[0].shape[1], run, real.metadata)

    settings = Settings(data_dir=(data,), asr_model="small/npu")
    engine = SenseVoiceEngine(settings, on_cpu(), load)
    engine.prepare("small/npu")
    used.clear()
    assert hear(engine, "small/npu", scheduler) == "好"
    assert used == ["npu-3s", "a_sherpa", "a_sherpa"]
    assert hear(engine, "small/npu", scheduler, 4.0) == "好"
    assert used[3:] == ["npu-5s", "a_sherpa"]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
def test_on_overflow_what_is_too_short_does_not_help(tmp_path: Path, scheduler: Scheduler) -> None:
    install(tmp_path / "s", a=build_graph("rkvoice", frames=20), b=build_graph("npu", frames=83))

    def load(path: Path) -> FakeGraph:
        said = np.eye(VOCABULARY)[PIECES.index("好")]
        if path.stem == "a":
            return FakeGraph("rkvoice", 20, lambda rows: np.tile(said, (len(rows), 1)))
        return FakeGraph("npu", 83, lambda rows: np.full((len(rows), VOCABULARY), np.nan))

    settings = Settings(data_dir=(tmp_path,))
    engine = SenseVoiceEngine(settings, on_cpu(), load)
    assert hear(engine, "s/b", scheduler, 0.9) == "好"
    with pytest.raises(EngineError, match="model s/b computed"):
        hear(engine, "s/b", scheduler, 4.0)


def test_the_server_chooses_it(make: Callable[..., SenseVoiceEngine]) -> None:
    settings = Settings(asr_model="small/npu", language="zh")
    programs = AsrPrograms([make(asr_model="small/npu")], settings)
    chosen = programs.choose(language="zh-HK")
    assert (chosen.model.name, chosen.language) == ("small/npu", "yue")
    assert programs.choose(model="Big").model.name == "Big"


def test_no_data_folder(tmp_path: Path) -> None:
    engine = create(Settings(data_dir=(tmp_path / "missing",)), on_cpu())
    assert (names(engine), engine.problems()) == ([], {})
    engine.close()
