"""Which bucket decodes, and what happens when 16-bit floats overflow."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from computing import on_cpu
from sensevoice_doubles import FakeGraph
from tiny_sensevoice import PIECES, VOCABULARY, build_graph, install

from wyoming_rknn.asr.sensevoice.graphs import open_bucket
from wyoming_rknn.asr.sensevoice.model import Model, open_model
from wyoming_rknn.asr.sensevoice.tokens import Vocabulary
from wyoming_rknn.errors import Cancelled, EngineError, ModelInvalid
from wyoming_rknn.features.fbank import Cmvn
from wyoming_rknn.models.formats.sensevoice import detect
from wyoming_rknn.runtime.scheduler import Scheduler

CMVN = Cmvn(np.zeros(560, np.float32), np.ones(560, np.float32))
EMBEDDING = np.zeros((16, 560), np.float32)
ONE, YOU = PIECES.index("▁one"), PIECES.index("你")


def model(*graphs: FakeGraph, name: str = "mine", **options: object) -> Model:
    buckets = [open_bucket(Path("a.onnx"), lambda _path, g=g: g, VOCABULARY, CMVN, EMBEDDING) for g in graphs]
    return Model(name, Vocabulary(PIECES), buckets, **options)


def saying(token: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: np.full(len(rows), token)


def overflowing_above(limit: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return an answer that is infinite for features that are not small enough."""

    def answer(rows: np.ndarray) -> np.ndarray:
        logits = np.eye(VOCABULARY)[[ONE] * len(rows)]
        return logits if abs(rows).max() <= limit else logits * np.inf

    return answer


def frames(count: int, value: float = 8.0) -> np.ndarray:
    return np.full((count, 80), value, np.float32)


def text(one: Model, count: int = 12, **options: object) -> str:
    scheduler = Scheduler()
    decoded = one.decode(frames(count, **options), None, scheduler.stream())
    assert scheduler.close(10)
    return "".join(piece.text for piece in decoded.pieces)


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
class TestOverflow:
    @pytest.mark.parametrize(("limit", "attempts"), [(8, 1), (4, 2), (2, 3)])
    def test_speech_is_made_smaller_until_it_fits(
        self, limit: float, attempts: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        graph = FakeGraph("happyme531", 9, overflowing_above(limit))
        one = model(graph)
        assert [text(one), text(one)] == [" one", " one"]
        assert [feeds["speech"][0, 4:6].max() for feeds in graph.fed] == [8, 4, 2][:attempts] * 2
        assert one.overflows == (0 if attempts == 1 else 2)
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == (attempts > 1)
        assert all("mine" in line and "(1 so far)" in line for line in warnings)

    def test_the_count_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        one = model(FakeGraph("funasr", None, overflowing_above(4)))
        for _ in range(3):
            text(one)
        assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
        assert "(3 so far)" in caplog.messages[-1]

    def test_then_another_model_decodes(self) -> None:
        graph, asked = FakeGraph("happyme531", 9, overflowing_above(1)), []

        def fallback(rows: int) -> Model:
            asked.append(rows)
            # It may have to be loaded: the device must not wait for that.
            assert threading.current_thread() is threading.main_thread()
            return model(FakeGraph("funasr", None, saying(YOU)), name="other")

        assert text(model(graph, fallback=fallback)) == "你"
        assert (len(graph.fed), asked) == (3, [2])

    def test_raw_features_are_tried_once(self) -> None:
        graph = FakeGraph("npu", 9, overflowing_above(1))
        other = model(FakeGraph("funasr", None, saying(YOU)), name="other")
        assert text(model(graph, fallback=lambda _rows: other)) == "你"
        assert len(graph.fed) == 1

    def test_when_nothing_helps(self) -> None:
        with pytest.raises(EngineError, match=r"model mine computed no numbers.*--asr-model"):
            text(model(FakeGraph("npu", 9, overflowing_above(1))))
        other = model(FakeGraph("funasr", None, overflowing_above(1)), fallback=lambda _rows: pytest.fail("a circle"))
        with pytest.raises(EngineError, match="model mine computed"):
            text(model(FakeGraph("npu", 9, overflowing_above(1)), fallback=lambda _rows: other))


@pytest.mark.parametrize(("count", "bucket"), [(1, 0), (18, 0), (19, 1), (30, 1), (31, 2), (60, 2)])
def test_the_smallest_bucket_that_fits(count: int, bucket: int) -> None:
    graphs = [FakeGraph("npu", rows, saying(ONE)) for rows in (3, 5, 10)]
    one = model(*graphs)
    assert text(one, count) == " one"
    assert [len(graph.fed) for graph in graphs] == [int(number == bucket) for number in range(3)]
    assert one.longest_frames == 60


def test_the_prompt_takes_room() -> None:
    assert model(FakeGraph("rkvoice", 344)).longest_frames == 340 * 6
    assert model(FakeGraph("happyme531", 171)).longest_frames == 167 * 6
    assert model(FakeGraph("npu", 83)).longest_frames == 83 * 6
    assert model(FakeGraph("funasr")).longest_frames == 3000


def test_each_bucket_is_warmed_up() -> None:
    graphs = [FakeGraph("npu", rows) for rows in (3, 50)]
    one = model(*graphs)
    one.warm_up()
    assert [len(graph.fed) for graph in graphs] == [1, 1]
    one.close()
    assert all(graph.closed for graph in graphs)


def test_a_graph_that_overflows_in_silence_can_be_used_all_the_same() -> None:
    with np.errstate(invalid="ignore"):
        model(FakeGraph("npu", 9, lambda rows: np.full((len(rows), VOCABULARY), np.nan))).warm_up()


def test_a_graph_that_cannot_be_run(tmp_path: Path) -> None:
    def fail(_rows: np.ndarray) -> np.ndarray:
        raise EngineError("the accelerator is on fire")

    with pytest.raises(ModelInvalid, match="model mine cannot be run: the accelerator is on fire"):
        model(FakeGraph("npu", 9, fail)).warm_up()
    graph = FakeGraph("funasr", None, fail)
    (manifest,) = detect(install(tmp_path / "s", model=build_graph("funasr"))).manifests
    with pytest.raises(ModelInvalid, match="cannot be run"):
        open_model(manifest, lambda _path: graph, itn=True)
    assert graph.closed


def test_what_was_loaded_is_freed_if_the_rest_cannot_be(tmp_path: Path) -> None:
    graphs = {f"m-{frames}": build_graph("npu", frames=frames) for frames in (10, 20)}
    (manifest,) = detect(install(tmp_path / "s", **graphs)).manifests
    doubles = iter((FakeGraph("npu", 10), FakeGraph("npu", 20, vocabulary=3)))
    loaded = []

    def load(_path: Path) -> FakeGraph:
        loaded.append(next(doubles))
        return loaded[-1]

    with pytest.raises(ModelInvalid, match="answers with 3 tokens"):
        open_model(manifest, load, itn=True)
    assert [graph.closed for graph in loaded] == [True, True]


@pytest.mark.parametrize("layout", ["funasr", "sherpa", "npu", "happyme531", "rkvoice"])
def test_real_graphs_of_each_layout_run(layout: str, tmp_path: Path) -> None:
    graph = build_graph(layout, frames=None if layout in ("funasr", "sherpa") else 30)
    (manifest,) = detect(install(tmp_path / "s", model=graph)).manifests
    one = open_model(manifest, on_cpu().load, itn=True)
    random = np.random.default_rng(1).normal(size=(50, 80)).astype(np.float32)
    scheduler = Scheduler()
    assert one.decode(random, "en", scheduler.stream()).pieces
    given_up = scheduler.stream()
    given_up.cancel()
    with pytest.raises(Cancelled):
        one.decode(random, None, given_up)
    assert scheduler.close(10)
    one.close()
