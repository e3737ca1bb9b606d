"""Voices that others made for NPUs: the flow inside the decoder, a mask, no graph for the CPU."""

import json
import logging
import shutil

import numpy as np
import onnx
import pytest
from computing import on_cpu
from npu import stand_in
from npu.voices import DATA, npu_settings, snr_db, split_cache  # noqa: F401 - fixture
from tiny_piper import cut_before_flow

from wyoming_rknn.errors import ModelInvalid, SpeechServerError
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.models.store import Store
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import NPU
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SpeechRequest
from wyoming_rknn.tts.piper.engine import PiperEngine

NAME = "random-tiny"
TEXT = "Turn on the living room lights, please, and then tell us a story about the sea."


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Return the folder of a pair as rhasspy/piper's exporter for streaming writes it: the flow is in the decoder."""
    source = DATA / "voices" / NAME / f"{NAME}.onnx"
    if not source.is_file():
        pytest.skip(f"no test voice {NAME}: set WYOMING_RKNN_TEST_DATA to the folder with voices/")
    folder = tmp_path_factory.mktemp("pair")
    for name, model in zip(("encoder", "decoder"), cut_before_flow(onnx.load(source)), strict=True):
        onnx.save(model, folder / f"{name}.onnx")
    shutil.copyfile(f"{source}.json", folder / "config.json")
    return folder


CONFIGS = {"paroli": "config.json", "rkllama": "piper.json", "rkvoice": "model.onnx.json"}


def install(pair, folder, width, *, layout="paroli", spare=False, channels=None):
    """Put the pair into a folder in somebody's layout, with a decoder for the double.

    With another number of channels it is the decoder of no voice: it adds up what it takes.
    """
    folder.mkdir(parents=True)
    shutil.copyfile(pair / "encoder.onnx", folder / "encoder.onnx")
    shutil.copyfile(pair / "config.json", folder / CONFIGS[layout])
    if spare:
        shutil.copyfile(pair / "decoder.onnx", folder / "decoder.onnx")
    encoder = on_cpu().load(pair / "encoder.onnx")
    feeds = {"input": np.array([[1, 0, 2]]), "input_lengths": np.array([3]), "scales": np.zeros(3, np.float32) + 1}
    model = onnx.load(pair / "decoder.onnx")
    if channels is not None:
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        hop = VoiceConfig.read(pair / "config.json").hop
        sizes = onnx.numpy_helper.from_array(np.array([1, 1, 1, width * hop]), "sizes")
        model.graph.initializer.append(sizes)
        model.graph.node.extend(
            [
                onnx.helper.make_node("ReduceMean", ["z"], ["mean"], keepdims=1),
                onnx.helper.make_node("ReduceMean", ["y_mask"], ["mask"], keepdims=1),
                onnx.helper.make_node("Add", ["mean", "mask"], ["both"]),
                onnx.helper.make_node("Expand", ["both", "sizes"], ["output"]),
            ]
        )
    channels = channels or encoder.run(feeds)["z"].shape[1]
    shapes = {"z": (1, channels, width), "y_mask": (1, 1, width)}
    for value in model.graph.input:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shapes[value.name]))
    hop = VoiceConfig.read(pair / "config.json").hop
    (output,) = model.graph.output
    output.CopyFrom(onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, (1, 1, 1, width * hop)))
    name = "flow_decoder.rknn" if layout == "rkvoice" else "decoder.rknn"
    stand_in.write(folder / name, model.SerializeToString())


def said(settings):
    """Speak with the one voice there is, and tell how many windows the NPU computed."""
    runtimes = Runtimes.of(settings)
    scheduler = runtimes.scheduler()
    engine = PiperEngine(settings, Store(settings.data_dirs), runtimes)
    try:
        (voice,) = engine.voices()
        spoken = np.concatenate(list(engine.speak(SpeechRequest(TEXT, voice.name), scheduler.stream())))
        return spoken, scheduler.jobs(NPU)
    finally:
        assert scheduler.close(10)
        engine.close()
        runtimes.close()


@pytest.fixture
def speak(double, control, split_cache):  # noqa: F811
    """Return a function that speaks with the one voice of a folder on the double."""
    return lambda folder: said(npu_settings(double, folder.parent, split_cache))


@pytest.fixture(scope="session")
def expected(pair, split_cache):  # noqa: F811
    """Return what the whole pair says on the CPU."""
    return said(Settings(data_dir=(pair,), cache_dir=split_cache, runtime="onnx"))[0]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("layout", CONFIGS)
def test_a_wide_window_with_the_flow_inside_is_exact(pair, speak, expected, tmp_path, layout, caplog):
    install(pair, tmp_path / "data" / "voice", 128, layout=layout)
    spoken, jobs = speak(tmp_path / "data" / "voice")
    assert spoken.shape == expected.shape
    assert snr_db(expected, spoken) > 50
    assert jobs > 2
    assert not warnings(caplog)


def test_a_narrow_window_speaks_with_what_margin_it_has_and_says_so(pair, speak, expected, tmp_path, caplog):
    install(pair, tmp_path / "data" / "voice", 55)
    spoken, jobs = speak(tmp_path / "data" / "voice")
    assert spoken.shape == expected.shape
    assert snr_db(expected, spoken) > 20
    assert jobs > 10
    (warning,) = warnings(caplog)
    assert "its 55 frames on the NPU are too few for the flow that is inside" in warning


def test_a_narrow_window_is_left_alone_where_the_cpu_has_a_decoder(pair, speak, expected, tmp_path, caplog):
    install(pair, tmp_path / "data" / "voice", 55, spare=True)
    spoken, jobs = speak(tmp_path / "data" / "voice")
    np.testing.assert_allclose(spoken, expected, rtol=0, atol=1e-6)
    assert jobs == 0
    (warning,) = warnings(caplog)
    assert "is decoded on the CPU" in warning
    assert "too few for the flow that is inside" in warning


def test_a_wide_window_is_proven_by_the_decoder_beside_it(pair, speak, expected, tmp_path, control, caplog):
    caplog.set_level(logging.INFO)
    install(pair, tmp_path / "data" / "voice", 128, spare=True)
    spoken, jobs = speak(tmp_path / "data" / "voice")
    assert snr_db(expected, spoken) > 50
    assert jobs > 2
    assert any("passed its self-test" in record.getMessage() for record in caplog.records)
    # The next start finds another NPU, which computes nonsense.
    control.set(output="wrong", driver="0.9.9")
    spoken, jobs = speak(tmp_path / "data" / "voice")
    np.testing.assert_allclose(spoken, expected, rtol=0, atol=1e-6)
    assert jobs == 0


@pytest.mark.parametrize("spare", [True, False])
def test_a_decoder_that_does_not_fit_the_voice_is_told(pair, speak, expected, tmp_path, spare, caplog):
    install(pair, tmp_path / "data" / "voice", 128, spare=spare, channels=7)
    if spare:
        np.testing.assert_allclose(speak(tmp_path / "data" / "voice")[0], expected, rtol=0, atol=1e-6)
        (warning,) = warnings(caplog)
        assert "does not fit the decoder.onnx beside it" in warning
    else:
        with pytest.raises(SpeechServerError):
            speak(tmp_path / "data" / "voice")


def test_a_config_of_another_voice_is_told(pair, speak, tmp_path):
    folder = tmp_path / "data" / "voice"
    install(pair, folder, 128)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hop_length": 128}))
    with pytest.raises(ModelInvalid, match="its config says 128 samples per frame, its decoder for the NPU makes 256"):
        speak(folder)


def test_without_npu_and_decoder_the_voice_is_not_offered(pair, double, tmp_path, caplog):
    install(pair, tmp_path / "data" / "voice", 128)
    settings = Settings(data_dir=(tmp_path / "data",), cache_dir=tmp_path / "cache", runtime="onnx")
    engine = PiperEngine(settings, Store(settings.data_dirs), Runtimes.of(settings))
    assert not engine.voices()
    (problem,) = engine.problems().values()
    assert "is for an NPU, and none is used here" in str(problem)
    assert len(warnings(caplog)) == 1
