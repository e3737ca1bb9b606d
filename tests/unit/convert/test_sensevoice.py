import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from npu.stand_in_toolkit import StandInToolkit
from onnx import numpy_helper
from tiny_sensevoice import build_graph, install

from wyoming_rknn.asr.sensevoice.graphs import PromptIds, read_cmvn, read_embedding
from wyoming_rknn.convert.probe import Probe
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.convert.sensevoice import agreement, convert_sensevoice, kaldi
from wyoming_rknn.convert.sensevoice_static import embedding_of
from wyoming_rknn.errors import ConversionError, ModelFileMissing, UsageError
from wyoming_rknn.features.fbank import Cmvn
from wyoming_rknn.models.formats import sensevoice as files_of
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.npu.selftest import Golden
from wyoming_rknn.runtime.onnx import load

GOLDEN = Path(__file__).parents[2] / "golden" / "sensevoice"
VOCABULARY = 220


@pytest.fixture
def source(tmp_path):
    """Return a function that puts some of the files of the tests' own model into a folder."""

    def make(*names, folder="source"):
        made = tmp_path / folder
        made.mkdir()
        for name in names or ("model.onnx", "am.mvn"):
            shutil.copyfile(GOLDEN / name, made / name)
        shutil.copyfile(GOLDEN / "tokens.txt", made / "tokens.txt")
        return made

    return make


@pytest.fixture
def convert(tmp_path):
    def run(path, target="rk3588", toolkit=None, out="out", **options):
        options.setdefault("seconds", (1,))
        return convert_sensevoice(
            path, target, tmp_path / out, ConvertOptions(**options), toolkit or StandInToolkit(), tmp_path
        )

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_an_export_becomes_a_folder_of_buckets(convert, source, tmp_path):
    toolkit = StandInToolkit()
    report = convert(source(), toolkit=toolkit, seconds=(2, 1))

    out = tmp_path / "out"
    graphs = ["encoder-1s.golden.npz", "encoder-1s.rknn", "encoder-2s.golden.npz", "encoder-2s.rknn"]
    assert names(out) == ["am.mvn", "embedding.npy", *graphs, "manifest.json", "tokens.txt"]
    assert names(tmp_path) == ["out", "source"]
    assert (report.out, report.target, report.toolkit) == (out, "rk3588", "2.3.2")
    assert [(graph.file, graph.frames) for graph in report.graphs] == [("encoder-1s.rknn", 24), ("encoder-2s.rknn", 40)]
    assert report.snr_db > 55
    # The longest first: what it is tried with is the most.
    assert [request.out.name for request in toolkit.requests] == ["encoder-2s.rknn", "encoder-1s.rknn"]
    told = manifest(out)
    assert (told["kind"], told["layout"], told["name"]) == ("asr", "sensevoice-rknn", "source")
    assert told["source"]["file"] == "source" and told["target"] == "rk3588"
    assert [graph["golden"] for graph in told["graphs"]] == ["encoder-1s.golden.npz", "encoder-2s.golden.npz"]
    assert told["agreement"] == {"encoder-1s.rknn": 1.0, "encoder-2s.rknn": 1.0}
    assert told["divisors"] == {"encoder-1s.rknn": 1, "encoder-2s.rknn": 1}
    assert set(told["files"]) == set(names(out)) - {"manifest.json"}


def test_what_is_written_is_what_the_server_reads(convert, source, tmp_path):
    convert(source(), seconds=(1, 2))
    (found,) = files_of.detect(tmp_path / "out").manifests
    assert [path.name for path in files_of.graphs(found.files)] == ["encoder-1s.rknn", "encoder-2s.rknn"]
    embedding = embedding_of(onnx.load(GOLDEN / "model.onnx").graph)
    assert np.array_equal(read_embedding(found.files[files_of.EMBEDDING_ROLE]), embedding)
    mine, theirs = read_cmvn(found.files[files_of.CMVN_ROLE]), read_cmvn(GOLDEN / "am.mvn")
    assert np.array_equal(mine.shift, theirs.shift) and np.array_equal(mine.scale, theirs.scale)
    rknn = RknnFile.read(tmp_path / "out" / "encoder-1s.rknn")
    layout = Layout.of(rknn.inputs, rknn.outputs)
    assert layout is not None
    assert (layout.capacity, layout.transposed, layout.vocabulary) == (20, True, VOCABULARY)


def test_the_golden_is_fed_as_the_server_feeds_and_heard_by_the_export(convert, source, tmp_path):
    convert(source())
    golden = Golden.read(tmp_path / "out" / "encoder-1s.golden.npz")
    (name, fed), *others = golden.inputs.items()
    assert (name, fed.shape, others) == ("speech", (1, 24, 560), [])
    ids = PromptIds()
    embedding = read_embedding(tmp_path / "out" / "embedding.npy")
    prompt = [ids.of_language("zh"), 1, 2, ids.of_text_norm(True)]
    assert np.array_equal(fed[0, :4], embedding[prompt])
    # CMVN outside; espeak-ng's noise is not the same each time in one process.
    expected = read_cmvn(GOLDEN / "am.mvn").apply(Probe().rows(20, "zh"))
    assert np.abs(fed[0, 4:] - expected).mean() < 0.2 < np.abs(expected).mean()
    feeds = {
        "speech": fed[:, 4:],
        "speech_lengths": np.array([20], np.int32),
        "language": np.array(prompt[:1], np.int32),
        "textnorm": np.array(prompt[-1:], np.int32),
    }
    logits = load(GOLDEN / "model.onnx", threads=1).run(feeds)["ctc_logits"]
    (result,) = golden.outputs.values()
    assert np.abs(result.transpose(0, 2, 1) - logits).max() < 1e-3


def test_sherpa_keeps_cmvn_and_languages_in_its_metadata(convert, source, tmp_path):
    convert(source("sherpa.onnx"))
    mine, theirs = read_cmvn(tmp_path / "out" / "am.mvn"), read_cmvn(GOLDEN / "am.mvn")
    assert np.allclose(mine.shift, theirs.shift, rtol=1e-4) and np.allclose(mine.scale, theirs.scale, rtol=1e-4)
    rknn = RknnFile.read(tmp_path / "out" / "encoder-1s.rknn")
    notes = rknn.metadata
    assert {"lfr_window_size": "7", "lang_yue": "7", "with_itn": "14", "frames": "24"}.items() <= notes.items()
    assert "neg_mean" not in notes and notes["source"] == manifest(tmp_path / "out")["source"]["sha256"][:16]
    assert len(rknn.custom_string) < 1024


def test_an_export_in_two_files(convert, source):
    report = convert(source("model_dynamo.onnx", "model_dynamo.onnx.data", "am.mvn"))
    assert [graph.frames for graph in report.graphs] == [24]


def test_static_graphs_are_taken_as_they_are(convert, source, tmp_path):
    toolkit = StandInToolkit()
    report = convert(source("rknn-3s.onnx", "rknn-10s.onnx"), toolkit=toolkit, seconds=(1, 2))
    out = tmp_path / "out"
    assert [(graph.file, graph.frames) for graph in report.graphs] == [
        ("encoder-3s.rknn", 50),
        ("encoder-10s.rknn", 167),
    ]
    assert not {"am.mvn", "embedding.npy"} & set(names(out))
    golden = Golden.read(out / "encoder-3s.golden.npz")
    assert {name: value.shape for name, value in golden.inputs.items()} == {"x": (1, 50, 560), "prompt": (4,)}
    # Not normalised: the graph does it.
    assert golden.inputs["x"].max() > 10
    assert {name: value.shape for name, value in golden.outputs.items()} == {"logits": (1, 54, VOCABULARY)}
    (found,) = files_of.detect(out).manifests
    assert len(files_of.graphs(found.files)) == 2


def test_static_graphs_keep_their_scale(convert, tmp_path):
    graph = build_graph("happyme531", frames=24, metadata={"SPEECH_SCALE": "0.5"})
    install(tmp_path / "source", encoder=graph, again=graph)
    convert(tmp_path / "source" / "encoder.onnx")
    assert names(tmp_path / "out")[:2] == ["am.mvn", "embedding.npy"]
    rknn = RknnFile.read(tmp_path / "out" / "encoder-1s.rknn")
    assert rknn.metadata["SPEECH_SCALE"] == "0.5"
    golden = Golden.read(tmp_path / "out" / "encoder-1s.golden.npz")
    assert np.abs(golden.inputs["speech"]).max() < 0.5 * np.abs(Probe().rows(20, "zh")).max() + 0.1


def inflate(path, factor):
    """Multiply the encoder's last layer before its norm, as it is in the published model."""
    model = onnx.load(path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    narrowing = [
        weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and list(weights[node.input[1]].dims) == [24, 12]
    ]
    weight = narrowing[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(model, path)


def test_what_would_overflow_is_rescaled(convert, source, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = source()
    inflate(folder / "model.onnx", 20_000)
    report = convert(folder, seconds=(1, 2))
    assert report.snr_db > 55
    (divisor,) = set(manifest(tmp_path / "out")["divisors"].values())
    assert divisor >= 8
    assert RknnFile.read(tmp_path / "out" / "encoder-2s.rknn").metadata["divisor"] == str(divisor)
    assert f"3 layers are rescaled by 1/{divisor}, exactly" in caplog.text
    # Compared with what the graph gave before.
    golden = Golden.read(tmp_path / "out" / "encoder-1s.golden.npz")
    feeds = {"speech": golden.inputs["speech"][:, 4:], "speech_lengths": np.array([20], np.int32)}
    feeds |= {"language": np.array([3], np.int32), "textnorm": np.array([14], np.int32)}
    expected = load(folder / "model.onnx", threads=1).run(feeds)["ctc_logits"]
    (result,) = golden.outputs.values()
    assert np.abs(result.transpose(0, 2, 1) - expected).max() < 1e-2


def test_what_the_simulator_gets_wrong_is_refused(convert, source, tmp_path):
    folder = source()

    def shuffled(outputs):
        return {name: np.roll(value, 1, 1) for name, value in outputs.items()}

    def noisy(outputs):
        return {
            name: value
            + np.float32(0.02) * np.random.default_rng(1).normal(size=value.shape).astype(np.float32) * value.std()
            for name, value in outputs.items()
        }

    for spoil, problem in (
        (lambda outputs: {name: value * np.nan for name, value in outputs.items()}, "NaN or infinity .*65504"),
        (lambda outputs: {name: value * 0 for name, value in outputs.items()}, "nothing but zeros"),
        (noisy, r"3\d\.\d dB, at least 45 dB are due"),
    ):
        with pytest.raises(ConversionError, match=f"source encoder-1s for rk3588, simulated, .*{problem}"):
            convert(folder, toolkit=StandInToolkit(spoil=spoil))
    with pytest.raises(ConversionError, match=r"finds other tokens than ONNX Runtime in \d+\.\d% of the frames"):
        convert(folder, toolkit=StandInToolkit(spoil=shuffled), floor_db=-99.0)
    assert names(tmp_path) == ["source"]


def test_a_toolkit_that_fails_leaves_nothing(convert, source, tmp_path):
    class Failing(StandInToolkit):
        def build(self, request):
            raise ConversionError("it does not fit")

    with pytest.raises(ConversionError, match="it does not fit"):
        convert(source(), toolkit=Failing())
    assert names(tmp_path) == ["source"]


def test_wrong_use(convert, source, tmp_path):
    folder = source("model_quant.onnx", "am.mvn")
    with pytest.raises(UsageError, match="rk3589 is not supported; did you mean rk3588"):
        convert(folder, target="rk3589")
    for seconds, told in (((), r"\(none\)"), ((3, 0, 31), "0,31")):
        with pytest.raises(UsageError, match=f"--seconds {told} must be whole numbers from 1 to 30"):
            convert(folder, seconds=seconds)
    with pytest.raises(UsageError, match=r"--frames is for voices; .*--seconds LIST"):
        convert(folder, frames=55)
    with pytest.raises(ConversionError, match="quantised to 8 bits"):
        convert(folder)
    with pytest.raises(ModelFileMissing, match="does not exist"):
        convert(tmp_path / "nowhere")
    assert names(tmp_path) == ["source"]


def test_a_graph_that_computes_no_numbers_is_refused(convert, source):
    folder = source()
    inflate(folder / "model.onnx", np.inf)
    with pytest.raises(ConversionError, match="NaN or infinity even on the CPU"):
        convert(folder)


def test_the_requests_carry_the_options(convert, source):
    toolkit = StandInToolkit()
    convert(source(), target="rk3576", toolkit=toolkit, timeout_s=77.0, allow_regtask=True)
    (request,) = toolkit.requests
    assert (request.name, request.target, request.timeout_s, request.allow_regtask) == (
        "source encoder-1s",
        "rk3576",
        77.0,
        True,
    )


def test_requests_leave_a_graph_of_full_size_time_and_tell_how_to_make_it_smaller(convert, source, tmp_path):
    toolkit = StandInToolkit(built={"errors": ("odd",)})
    report = convert(source(), toolkit=toolkit)
    assert (toolkit.requests[0].timeout_s, toolkit.requests[0].smaller) == (
        3600.0,
        "take shorter graphs with --seconds LIST",
    )
    assert report.graphs[0].errors == ("odd",)
    assert manifest(tmp_path / "out")["graphs"][0]["errors"] == ["odd"]


def test_frames_agree_if_their_tokens_do_or_are_as_likely():
    layout = dataclasses.replace(Layout("speech", 7, logits="y", vocabulary=4, transposed=True), lengths=None)
    logits = np.zeros((1, 4, 7), np.float32)
    logits[0, [0, 1, 2, 3, 0, 1, 2], range(7)] = 10
    assert agreement(layout, {"y": logits}, {"y": logits}) == 1.0
    other = logits.copy()
    other[0, 3, :2] = 11
    assert agreement(layout, {"y": logits}, {"y": other}) == pytest.approx(5 / 7)
    close = logits.copy()
    close[0, 3, :2] = 9.95
    assert agreement(layout, {"y": close}, {"y": other}) == 1.0
    straight = dataclasses.replace(layout, transposed=False)
    turned = [{"y": value.transpose(0, 2, 1)} for value in (logits, other)]
    assert agreement(straight, *turned) == pytest.approx(5 / 7)
    # The simulator's shapes may have other axes of 1.
    assert agreement(layout, {"y": logits}, {"y": other[0]}) == pytest.approx(5 / 7)


def test_cmvn_is_written_as_kaldi_writes_it():
    random = np.random.default_rng(1)
    cmvn = Cmvn(random.normal(size=560).astype(np.float32), random.normal(size=560).astype(np.float32))
    again = Cmvn.from_kaldi(kaldi(cmvn))
    assert np.array_equal(again.shift, cmvn.shift) and np.array_equal(again.scale, cmvn.scale)
