import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from npu.stand_in_toolkit import StandInToolkit
from onnx import numpy_helper
from tiny_piper import CHANNELS, VoiceShape, build_voice

from wyoming_rknn.convert.piper import convert_voice
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.errors import ConversionError, ModelFileMissing, ModelInvalid, UsageError
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.npu.selftest import Golden
from wyoming_rknn.runtime.onnx import load
from wyoming_rknn.tts.piper.parts import load_parts

DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
CONFIG = {
    "audio": {"sample_rate": 16_000},
    "espeak": {"voice": "en"},
    "num_speakers": 1,
    "phoneme_id_map": {"_": [0], "^": [1], "$": [2], **{chr(97 + number): [3 + number] for number in range(15)}},
}
HOP = 8
EVERY_FILE = [
    "config.json",
    "decoder.golden.npz",
    "decoder.onnx",
    "decoder.rknn",
    "encoder.onnx",
    "flow.onnx",
    "manifest.json",
]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return a function that makes a small voice, and a cache in which it is cut but once."""
    folder = tmp_path_factory.mktemp("voices")

    def make(shape=None, name="tiny", config=CONFIG):
        path = folder / f"{name}.onnx"
        if not path.exists():
            onnx.save(build_voice(shape), path)
            Path(f"{path}.json").write_text(json.dumps(config))
        return path

    return make


@pytest.fixture
def cache(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "cache"


@pytest.fixture
def convert(made, cache, tmp_path):
    def run(source=None, target="rk3588", toolkit=None, out="out", **options):
        return convert_voice(
            source or made(), target, tmp_path / out, ConvertOptions(**options), toolkit or StandInToolkit(), cache
        )

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_voice_becomes_a_folder(convert, made, cache, tmp_path):
    toolkit = StandInToolkit()
    report = convert(toolkit=toolkit)

    assert names(tmp_path / "out") == EVERY_FILE
    assert names(tmp_path) == ["out"]
    assert (report.out, report.target, report.toolkit) == (tmp_path / "out", "rk3588", "2.3.2")
    assert report.snr_db > 50 and 0 < report.max_abs_error < 0.1
    assert report.cpu_layers == ("Reshape:z_rs",)
    assert report.rknn_bytes == (tmp_path / "out" / "decoder.rknn").stat().st_size
    assert (tmp_path / "out" / "config.json").read_bytes() == Path(f"{made()}.json").read_bytes()
    # The compiler is given fixed shapes and an input that the voice's own encoder made.
    (request,) = toolkit.requests
    assert request.name == "tiny decoder" and request.target == "rk3588"
    assert request.inputs["z"].shape == (1, CHANNELS, 55)
    parts = load_parts({"graph": made()}, cache)
    context = parts.decoder.context_frames
    rknn = RknnFile.read(tmp_path / "out" / "decoder.rknn")
    assert [tensor.shape for tensor in rknn.inputs] == [(1, CHANNELS, 55)]
    digest = json.loads((tmp_path / "out" / "manifest.json").read_text())["source"]["sha256"]
    assert rknn.custom_string == (
        f"frames=55;hop={HOP};context={context};channels={CHANNELS};rate_hz=16000;source={digest[:16]}"
    )


def test_the_manifest_describes_the_parts(convert, made, cache, tmp_path):
    convert()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())

    assert (manifest["kind"], manifest["layout"], manifest["name"]) == ("tts", "piper-parts", "tiny")
    assert sorted(manifest["files"]) == [name for name in EVERY_FILE if name != "manifest.json"]
    assert manifest["source"]["file"] == "tiny.onnx" and len(manifest["source"]["sha256"]) == 64
    cut = load_parts({"graph": made()}, cache)
    files = {role: tmp_path / "out" / f"{role}.onnx" for role in ("encoder", "flow", "decoder")}
    read = load_parts({**files, "manifest": tmp_path / "out" / "manifest.json"}, cache)
    assert read == replace(
        cut,
        encoder=files["encoder"],
        flow=replace(cut.flow, graph=files["flow"]),
        decoder=replace(cut.decoder, graph=files["decoder"]),
    )
    (graph,) = manifest["graphs"]
    assert (graph["frames"], graph["context_frames"]) == (55, cut.decoder.context_frames)
    assert (graph["file"], graph["golden"]) == ("decoder.rknn", "decoder.golden.npz")


def test_the_golden_is_what_the_cpu_computes_of_real_latents(convert, tmp_path):
    convert()
    golden = Golden.read(tmp_path / "out" / "decoder.golden.npz")

    assert golden.inputs["z"].std() > 0.1 and golden.outputs["output"].any()
    result = load(tmp_path / "out" / "decoder.onnx", threads=1).run(golden.inputs)
    np.testing.assert_allclose(result["output"], golden.outputs["output"], atol=1e-6)
    assert golden.floor_db == 45.0


def test_the_same_voice_gives_the_same_files(convert, tmp_path):
    convert(out="one")
    convert(out="two")
    for name in EVERY_FILE[:-1]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_voice_of_several_speakers_has_its_condition_computed_on_the_cpu(convert, made, tmp_path):
    config = {**CONFIG, "num_speakers": 3, "speaker_id_map": {"a": 0, "b": 1, "c": 2}}
    convert(made(VoiceShape(speakers=3), "three", config))

    rknn = RknnFile.read(tmp_path / "out" / "decoder.rknn")
    golden = Golden.read(tmp_path / "out" / "decoder.golden.npz")
    assert [tensor.name for tensor in rknn.inputs] == ["z", "cond"]
    assert rknn.inputs[1].shape == golden.inputs["cond"].shape == (1, 8, 1)
    assert golden.inputs["cond"].any()


def test_a_voice_without_a_flow_has_none(convert, made, tmp_path):
    convert(made(VoiceShape(flow=False), "flowless"))
    assert names(tmp_path / "out") == [name for name in EVERY_FILE if name != "flow.onnx"]


@pytest.mark.parametrize(("target", "frames"), [("rk3588", 55), ("rk3576", 55), ("rk3566", 32), ("rk3568", 32)])
def test_windows_are_as_wide_as_the_chip_takes(convert, target, frames):
    toolkit = StandInToolkit()
    report = convert(target=target, toolkit=toolkit)
    assert toolkit.requests[0].inputs["z"].shape[-1] == report.graphs[0].frames == frames


def test_the_width_can_be_chosen(convert):
    assert convert(frames=120).graphs[0].frames == 120


def test_options_reach_the_toolkit(convert):
    toolkit = StandInToolkit()
    convert(toolkit=toolkit, timeout_s=7.0, allow_regtask=True)
    assert (toolkit.requests[0].timeout_s, toolkit.requests[0].allow_regtask) == (7.0, True)
    convert(toolkit=toolkit)
    assert toolkit.requests[1].timeout_s == 600.0
    assert toolkit.requests[1].smaller == "take fewer frames with --frames N"


def test_what_a_window_gives_is_told(convert, made, cache, caplog):
    context = load_parts({"graph": made()}, cache).decoder.context_frames
    report = convert(frames=3 * context)
    assert (report.graphs[0].context_frames, report.graphs[0].used_frames) == (context, context)
    assert caplog.records == []
    frames = 2 * context + 1
    assert convert(frames=frames).graphs[0].used_frames == 1
    (warning,) = caplog.records
    assert f"only 1 of {frames} frames of each window of tiny are used" in warning.message
    assert f"computes {frames:.1f} times what is heard" in warning.message


def test_errors_of_the_compiler_are_noted(convert, tmp_path):
    report = convert(toolkit=StandInToolkit(built={"errors": ("Meet unsupported layout",)}))
    assert report.graphs[0].errors == ("Meet unsupported layout",)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["graphs"][0]["errors"] == [
        "Meet unsupported layout"
    ]


def test_weights_in_another_file_are_part_of_the_source(convert, tmp_path):
    sources = []
    for size in (1.0, 0.5):
        model = build_voice()
        weights = next(tensor for tensor in model.graph.initializer if tensor.raw_data and len(tensor.raw_data) > 400)
        values = numpy_helper.to_array(weights) * np.float32(size)
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
        path = tmp_path / "large.onnx"
        (tmp_path / "large.onnx.data").unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location="large.onnx.data", size_threshold=200)
        Path(f"{path}.json").write_text(json.dumps(CONFIG))
        convert(path)
        sources.append((path.read_bytes(), json.loads((tmp_path / "out" / "manifest.json").read_text())["source"]))
    (graph, first), (same, second) = sources
    assert graph == same and first["sha256"] != second["sha256"]


def test_a_width_without_room_for_context_is_refused(convert, tmp_path):
    with pytest.raises(UsageError, match=r"--frames 3 is too few for tiny, which needs (\d+) .* set --frames \d+"):
        convert(frames=3)
    with pytest.raises(UsageError, match="--frames 0 must be 1 or more"):
        convert(frames=0)
    with pytest.raises(UsageError, match=r"--seconds is for recognisers; .*--frames N"):
        convert(seconds=(3,))
    assert names(tmp_path) == []


def test_a_folder_with_parts_can_be_converted_again(convert, tmp_path):
    convert(out="one")
    report = convert(tmp_path / "one", target="rk3576", out="two")

    assert names(report.out) == EVERY_FILE
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert (first["source"], first["parts"]) == (second["source"], second["parts"])
    assert second["target"] == "rk3576"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda outputs: {name: value * np.nan for name, value in outputs.items()}, "NaN or infinity"),
        (lambda outputs: {name: value * 0 for name, value in outputs.items()}, "nothing but zeros"),
        (lambda outputs: {name: value * 1.01 for name, value in outputs.items()}, r"40\.\d dB, at least 45 dB"),
        (lambda outputs: {}, "has no output 'output'"),
    ],
)
def test_a_result_that_cannot_be_right_fails(convert, tmp_path, spoil, message):
    with pytest.raises(ConversionError, match=f"tiny decoder for rk3588, simulated, .*{message}"):
        convert(toolkit=StandInToolkit(spoil=spoil))
    assert names(tmp_path) == []


def test_a_toolkit_that_fails_leaves_the_former_conversion(convert, tmp_path):
    class Failing(StandInToolkit):
        def build(self, request):
            raise ConversionError("not today")

    convert()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ConversionError, match="not today"):
        convert(toolkit=Failing())
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert names(tmp_path) == ["out"]


def test_a_folder_that_is_in_use_is_refused_before_any_work(convert, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    toolkit = StandInToolkit()
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        convert(toolkit=toolkit)
    assert toolkit.requests == []


def test_an_unknown_target_is_refused(convert):
    with pytest.raises(UsageError, match=r"--target rk3588s? is not supported|--target rk358 .*did you mean .*rk3588"):
        convert(target="rk358")


def test_a_voice_without_a_place_to_cut_is_refused(convert, made):
    uncuttable = made(VoiceShape(upsampled=False), "uncuttable")
    with pytest.raises(ConversionError, match=r"uncuttable\.onnx cannot be split: .*; .*leave this voice to the CPU"):
        convert(uncuttable)


def test_a_shared_voice_that_cannot_be_cut_is_refused(convert):
    source = DATA / "voices" / "sano-duo" / "sano-duo.onnx"
    if not source.is_file():
        pytest.skip("no test voice sano-duo: set WYOMING_RKNN_TEST_DATA to the folder with voices/")
    with pytest.raises(ConversionError, match=r"sano-duo\.onnx cannot be split: .*leave this voice to the CPU"):
        convert(source)


def test_a_pair_is_converted(convert):
    source = DATA / "voices" / "sano-kristin"
    if not source.is_dir():
        pytest.skip("no test voice sano-kristin: set WYOMING_RKNN_TEST_DATA to the folder with voices/")
    report = convert(source)
    assert names(report.out) == [name for name in EVERY_FILE if name != "flow.onnx"]
    assert json.loads((report.out / "manifest.json").read_text())["source"]["file"] == "sano-kristin"


@pytest.mark.parametrize("name", ["gone.onnx", "gone"])
def test_a_voice_that_is_not_there_is_told(convert, tmp_path, name):
    with pytest.raises((ModelFileMissing, UsageError), match="gone"):
        convert(tmp_path / name)


def test_a_folder_without_a_voice_is_told(convert, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileMissing, match="empty holds no voice"):
        convert(tmp_path / "empty")


def test_a_folder_with_several_voices_is_told(convert, made, tmp_path):
    voice = made()
    (tmp_path / "many").mkdir()
    for name in ("a", "b"):
        (tmp_path / "many" / f"{name}.onnx").write_bytes(voice.read_bytes())
        (tmp_path / "many" / f"{name}.onnx.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UsageError, match=r"many holds 2 voices .*name the \.onnx file of one"):
        convert(tmp_path / "many")


def test_what_is_no_voice_is_told(convert, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    Path(f"{broken}.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelInvalid, match="broken"):
        convert(broken)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"notes\.txt is no voice"):
        convert(tmp_path / "notes.txt")
