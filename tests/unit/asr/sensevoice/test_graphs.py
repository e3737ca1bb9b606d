"""What each layout is fed with, what is read from its answer, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from computing import on_cpu
from sensevoice_doubles import FakeGraph
from tiny_sensevoice import VOCABULARY, build_graph, install, kaldi_cmvn

from wyoming_rknn.asr.sensevoice.graphs import Bucket, PromptIds, open_bucket, read_cmvn, read_embedding
from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.features.fbank import Cmvn

EMBEDDING = np.repeat(np.arange(16, dtype=np.float32)[:, None], 560, 1)
CMVN = Cmvn(np.full(560, -1, np.float32), np.full(560, 2, np.float32))
ROWS = np.repeat(np.array([[3.0], [5.0], [7.0]], np.float32), 560, 1)


def bucket(graph: FakeGraph, cmvn: Cmvn | None = CMVN) -> Bucket:
    return open_bucket(Path("some.onnx"), lambda _path: graph, VOCABULARY, cmvn, EMBEDDING)


def fed(graph: FakeGraph, language: str | None = None, itn: bool = True, scale: float = 1.0) -> dict[str, list[float]]:
    """Return what the graph is fed for three rows; of features the first column, since all are alike."""
    best = bucket(graph).best(ROWS, language, itn, scale)
    assert best is not None
    assert best.shape == (7,)
    (feeds,) = graph.fed
    return {name: (value[0, :, 0] if value.ndim == 3 else value).tolist() for name, value in feeds.items()}


def test_funasr() -> None:
    expected = {"speech": [4, 8, 12], "speech_lengths": [3], "language": [0], "textnorm": [14]}
    assert fed(FakeGraph("funasr")) == expected
    assert fed(FakeGraph("funasr"), "yue", itn=False) == expected | {"language": [7], "textnorm": [15]}


def test_sherpa_has_cmvn_in_its_metadata() -> None:
    notes = {"neg_mean": ",".join(["1"] * 560), "inv_stddev": ",".join(["0.5"] * 560)}
    expected = {"x": [2, 3, 4], "x_length": [3], "language": [0], "text_norm": [14]}
    assert fed(FakeGraph("sherpa", metadata=notes)) == expected


def test_sherpa_for_the_npu_takes_raw_features_and_zeros() -> None:
    assert fed(FakeGraph("npu", 5), "ko") == {"x": [3, 5, 7, 0, 0], "prompt": [12, 1, 2, 14]}


@pytest.mark.parametrize("layout", ["happyme531", "rkvoice"])
def test_prompt_outside(layout: str) -> None:
    assert fed(FakeGraph(layout, 9), "zh", itn=False) == {"speech": [3, 1, 2, 15, 4, 8, 12, 12, 12]}


def test_fixed_length_with_the_prompt_inside() -> None:
    assert fed(FakeGraph("funasr", 4))["speech"] == [4, 8, 12, 12]
    assert fed(FakeGraph("funasr", 4))["speech_lengths"] == [3]


def test_only_speech_is_scaled() -> None:
    graph = FakeGraph("happyme531", 7, metadata={"SPEECH_SCALE": "0.5"})
    assert fed(graph) == {"speech": [0, 1, 2, 14, 2, 4, 6]}
    assert fed(FakeGraph("happyme531", 7, metadata={"SPEECH_SCALE": "0.5"}), scale=0.5)["speech"][4:] == [1, 2, 3]
    assert fed(FakeGraph("funasr"), scale=0.25)["speech"] == [1, 2, 3]


def test_raw_features_are_not_scaled() -> None:
    assert fed(FakeGraph("npu", 3), scale=0.5)["x"] == [3, 5, 7]
    assert not bucket(FakeGraph("npu", 3)).can_scale
    assert bucket(FakeGraph("funasr")).can_scale


def test_languages_and_text_norm_of_the_metadata() -> None:
    notes = {"lang_auto": "1", "lang_zh": "2", "with_itn": "5", "without_itn": "6"}
    assert fed(FakeGraph("funasr", metadata=notes))["language"] == [1]
    assert fed(FakeGraph("funasr", metadata=notes), "zh")["language"] == [2]
    assert fed(FakeGraph("funasr", metadata=notes), "ja")["language"] == [11]
    assert fed(FakeGraph("funasr", metadata=notes))["textnorm"] == [5]
    assert fed(FakeGraph("funasr", metadata=notes), itn=False)["textnorm"] == [6]
    assert PromptIds().of_language("de") == 0
    with pytest.raises(ModelInvalid, match="language that is no number"):
        bucket(FakeGraph("funasr", metadata={"lang_en": "English"}))


@pytest.mark.parametrize(("layout", "frames"), [("funasr", None), ("npu", 9), ("happyme531", 13), ("rkvoice", 13)])
def test_the_padding_has_no_say(layout: str, frames: int | None) -> None:
    def answer(rows: np.ndarray) -> np.ndarray:
        logits = np.eye(VOCABULARY)[[7, 0, 8] + [9] * (len(rows) - 3)]
        logits[3:, 2] = np.nan
        return logits

    best = bucket(FakeGraph(layout, frames, answer)).best(ROWS, None, True)
    assert best is not None
    assert best.tolist() == [0, 0, 0, 0, 7, 0, 8]


@pytest.mark.parametrize(("layout", "frames"), [("funasr", None), ("happyme531", 13)])
@pytest.mark.parametrize("values", [(np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf)])
def test_what_is_not_finite_is_noticed(layout: str, frames: int | None, values: tuple[float, ...]) -> None:
    def answer(rows: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(rows), VOCABULARY))
        logits[2, : len(values)] = values
        return logits

    assert bucket(FakeGraph(layout, frames, answer)).best(ROWS, None, True) is None


def test_large_numbers_are_finite() -> None:
    def answer(rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), VOCABULARY), 6e4)

    assert bucket(FakeGraph("funasr", None, answer)).best(ROWS, None, True) is not None


def test_16_bit_graphs() -> None:
    graph = build_graph("npu", frames=9)
    for value in (*graph.graph.input[:1], *graph.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for place, weight in enumerate(graph.graph.initializer):
        numbers = onnx.numpy_helper.to_array(weight).astype(np.float16)
        graph.graph.initializer[place].CopyFrom(onnx.numpy_helper.from_array(numbers, weight.name))
    small = ROWS / 100
    halves = open_bucket(Path("a"), lambda _path: load(graph), VOCABULARY, None, None).best(small, None, True)
    whole = build_graph("npu", frames=9)
    singles = open_bucket(Path("a"), lambda _path: load(whole), VOCABULARY, None, None).best(small, None, True)
    assert halves is not None
    assert singles is not None
    assert halves.tolist() == singles.tolist()


def load(graph: onnx.ModelProto):
    from wyoming_rknn.runtime import onnx as runtime

    return runtime.load(graph.SerializeToString(), threads=1)


@pytest.mark.parametrize("dtype", [onnx.TensorProto.INT32, onnx.TensorProto.INT64])
def test_numbers_of_either_width(dtype: int, tmp_path: Path) -> None:
    graph = build_graph("funasr")
    for value in graph.graph.input[1:]:
        value.type.tensor_type.elem_type = dtype
    onnx.save(graph, tmp_path / "a.onnx")
    assert open_bucket(tmp_path / "a.onnx", on_cpu().load, VOCABULARY, CMVN, None).best(ROWS, "en", True) is not None


def refused(graph: FakeGraph, problem: str) -> None:
    with pytest.raises(ModelInvalid, match=problem):
        bucket(graph)
    assert graph.closed


def test_graphs_that_are_refused() -> None:
    refused(FakeGraph("funasr", vocabulary=400), "answers with 400 tokens, the tokens beside it are 12")
    refused(FakeGraph("happyme531", 9, vocabulary=400), "answers with 400 tokens")
    refused(FakeGraph("rkvoice", None), r"is not SenseVoice: it takes speech \[1, '\?', 560\]")
    refused(FakeGraph("sherpa", metadata={"neg_mean": "1,2", "inv_stddev": "a,b"}), "are not lists of numbers")
    refused(FakeGraph("sherpa", metadata={"neg_mean": "1,2"}), "are not lists of numbers")
    refused(FakeGraph("sherpa", metadata={"neg_mean": "1,2", "inv_stddev": "1,2"}), "must hold 560")
    refused(FakeGraph("sherpa", metadata={"normalize_samples": "1"}), "normalize_samples=1, not 0")
    refused(FakeGraph("sherpa", metadata={"lfr_window_size": "5"}), "lfr_window_size=5, not 7")
    for scale in ("0", "-1", "2", "nan", "half"):
        refused(FakeGraph("happyme531", 9, metadata={"speech_scale": scale}), "must be above 0 and at most 1")


@pytest.mark.parametrize("shape", [(6, VOCABULARY), (7, VOCABULARY + 1), (VOCABULARY,)])
def test_an_answer_of_another_shape(shape: tuple[int, ...]) -> None:
    one = bucket(FakeGraph("funasr"))
    one.graph.run = lambda _feeds, _cancellation: {"logits": np.zeros((1, *shape), np.float32)}
    with pytest.raises(ModelInvalid, match="for 7 frames and 12 tokens"):
        one.best(ROWS, None, True)


def test_reading_what_lies_beside(tmp_path: Path) -> None:
    folder = install(tmp_path / "s")
    assert read_cmvn(folder / "am.mvn").scale.tolist() == [1.0] * 560
    assert read_embedding(folder / "embedding.npy").shape == (16, 560)
    (folder / "am.mvn").write_text(kaldi_cmvn(np.zeros(3), np.ones(3)))
    with pytest.raises(ModelInvalid, match="560"):
        read_cmvn(folder / "am.mvn")
    (folder / "am.mvn").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelInvalid, match="cannot be read"):
        read_cmvn(folder / "am.mvn")
    with pytest.raises(ModelFileMissing, match=r"am\.mvn does not exist"):
        read_cmvn(tmp_path / "am.mvn")
    with pytest.raises(ModelFileMissing, match=r"embedding\.npy does not exist"):
        read_embedding(tmp_path / "embedding.npy")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((16, 80), np.float32),
        np.zeros(16 * 560),
        np.full((16, 560), np.nan),
        np.array([None]),
        np.full((16, 560), "x"),
    ],
    ids=["shape", "flat", "nan", "object", "text"],
)
def test_an_embedding_that_is_none(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "embedding.npy", array)
    with pytest.raises(ModelInvalid, match=r"embedding\.npy"):
        read_embedding(tmp_path / "embedding.npy")


def test_an_embedding_of_rubbish_and_of_64_bits(tmp_path: Path) -> None:
    for content in (b"", b"rubbish", b"PK\x03\x04"):
        (tmp_path / "embedding.npy").write_bytes(content)
        with pytest.raises(ModelInvalid, match="is not an array"):
            read_embedding(tmp_path / "embedding.npy")
    np.save(tmp_path / "embedding.npy", np.ones((16, 560), np.float64))
    assert read_embedding(tmp_path / "embedding.npy").dtype == np.float32
