"""Speech through every layout: the clips that the tests' model knows come out exactly."""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from computing import on_cpu

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.sensevoice.engine import SenseVoiceEngine, create
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

SCRIPT = Path(__file__).parents[4] / "script" / "sensevoice-layouts"
FORMATS = {
    "model": ("model.onnx", "am.mvn", "tokens.txt"),
    "model_quant": ("model_quant.onnx", "am.mvn", "tokens.txt"),
    "sherpa": ("sherpa.onnx", "tokens.txt"),
    "rknn": ("rknn-3s.onnx", "rknn-5s.onnx", "rknn-10s.onnx", "tokens.txt"),
}
MADE = ("happyme531", "rkvoice")


def copied(model: Path, names: Iterable[str], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        shutil.copyfile(model / name, folder / name)
    return folder


def made(layout: str, graph: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, layout, graph, folder, *options], capture_output=True, text=True)


@pytest.fixture(scope="module")
def engine(shared: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return an engine with each format in a folder of its own."""
    data, model = tmp_path_factory.mktemp("data"), shared / "asr" / "sensevoice-overfit"
    for name, files in FORMATS.items():
        copied(model, files, data / name)
    for layout in MADE:
        done = made(layout, model / "model.onnx", data / layout)
        assert (done.returncode, done.stderr) == (0, "")
    external = copied(model, ("am.mvn", "tokens.txt"), data / "external")
    graph = onnx.load(model / "model.onnx")
    onnx.save(graph, external / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    copied(model, ("rknn-3s.onnx", "tokens.txt"), data / "short")
    engine = create(Settings(data_dir=(data,)), on_cpu(2))
    yield engine
    engine.close()


def transcribe(engine: SenseVoiceEngine, model: str, language: str | None, samples: np.ndarray, scheduler: Scheduler):
    session = engine.open(model, language, Bias())
    for begin in range(0, samples.size, 4000):
        session.accept(samples[begin : begin + 4000])
    transcript = session.finish(scheduler.stream())
    session.close()
    return transcript


@pytest.mark.parametrize("model", [*FORMATS, *MADE, "external"])
@pytest.mark.parametrize("given", [False, True], ids=["auto", "given"])
def test_every_clip_in_every_format(model: str, given: bool, engine: SenseVoiceEngine, clips, scheduler) -> None:
    heard, expected = {}, {}
    for name, clip in clips.items():
        language = clip.language if given and clip.language in engine.models()[0].languages else None
        heard[name] = transcribe(engine, model, language, clip.samples, scheduler).text
        expected[name] = clip.text
    assert heard == expected


def test_the_language_that_was_heard(engine: SenseVoiceEngine, clips, scheduler) -> None:
    heard = {
        name: transcribe(engine, "model", None, clip.samples, scheduler).language
        for name, clip in clips.items()
        if clip.language in ("en", "ja", "ko", "yue", "zh")
    }
    assert heard == {name: clips[name].language for name in heard}


def test_times_go_up_and_stay_inside(engine: SenseVoiceEngine, clips, scheduler) -> None:
    clip = clips["en_turn_on_the_living_room_lamp"]
    pieces = transcribe(engine, "model", None, clip.samples, scheduler).pieces
    begins = [piece.begin_s for piece in pieces]
    assert begins == sorted(begins)
    assert 0 <= begins[0] < begins[-1] < clip.samples.size / 16000
    assert "".join(piece.text for piece in pieces) == f" {clip.text}"


def concatenated(clips, names: Sequence[str], pause_s: float) -> np.ndarray:
    random = np.random.default_rng(1)
    pause = (3e-4 * random.normal(size=round(pause_s * 16000))).astype(np.float32)
    return np.concatenate([part for name in names for part in (clips[name].samples, pause)])


def test_40_seconds_in_a_bucket_of_3(engine: SenseVoiceEngine, clips, scheduler) -> None:
    """Of clips that fit, each is heard as if it were alone: it is cut in the pauses, not in words."""
    names = (
        "en_whats_the_weather_like",
        "tts_zh_living_room_light",
        "tts_yue_living_room_light",
        "tts_en_living_room_light",
        "en_nevermind",
        "tts_ko_living_room_light",
        "en_pause",
    ) * 2
    audio = concatenated(clips, names, 0.6)
    assert audio.size / 16000 > 37
    expected = " ".join(clips[name].text for name in names).replace("灯。 开", "灯。开")
    assert transcribe(engine, "short", None, audio, scheduler).text == expected


def test_a_minute_is_heard_to_its_end(engine: SenseVoiceEngine, clips, scheduler) -> None:
    """The model knows no long audio, but where it is cut it hears the clip that follows."""
    names = ["en_turn_on_the_living_room_lamp", "tts_en_living_room_light", "en_one_two_three"] * 7
    audio = concatenated(clips, names, 0.6)
    assert audio.size / 16000 > 60
    transcript = transcribe(engine, "model", "en", audio, scheduler)
    assert len(transcript.pieces) > 100
    assert transcript.pieces[-1].begin_s > audio.size / 16000 - 3
    gaps = np.diff([piece.begin_s for piece in transcript.pieces])
    assert 0 <= gaps.min() <= gaps.max() < 3


def test_noise_of_any_length(engine: SenseVoiceEngine, scheduler: Scheduler) -> None:
    noise = np.random.default_rng(1).normal(size=20000).astype(np.float32) / 100
    for size in (0, 399, 400, 401, 560, 1360, 20000):
        for model in ("model", "rknn", "happyme531"):
            transcribe(engine, model, None, noise[:size], scheduler)
    transcribe(engine, "model", None, np.zeros(16000, np.float32), scheduler)


def test_layouts_are_made_as_they_are_published(engine: SenseVoiceEngine, shared: Path, tmp_path: Path) -> None:
    graph = shared / "asr" / "sensevoice-overfit" / "model.onnx"
    for layout, frames, shape in (("happyme531", 171, [1, 400, 171]), ("rkvoice", 344, [1, 344, 400])):
        done = made(layout, graph, tmp_path / layout, "--speech-scale", "0.5")
        assert done.returncode == 0
        model = onnx.load(tmp_path / layout / "sense-voice-encoder.onnx")
        (given,), (answer,) = model.graph.input, model.graph.output
        assert given.name == "speech"
        assert [axis.dim_value for axis in given.type.tensor_type.shape.dim] == [1, frames, 560]
        assert [axis.dim_value for axis in answer.type.tensor_type.shape.dim] == shape
        assert {entry.key: entry.value for entry in model.metadata_props} == {"SPEECH_SCALE": "0.5"}
        assert np.load(tmp_path / layout / "embedding.npy").shape == (16, 560)
        assert (tmp_path / layout / "am.mvn").is_file()


def test_what_is_no_export_is_refused(shared: Path, tmp_path: Path) -> None:
    done = made("rkvoice", shared / "asr" / "sensevoice-overfit" / "rknn-3s.onnx", tmp_path / "out")
    assert done.returncode == 1
    assert "no export of FunASR" in done.stderr
    assert not (tmp_path / "out").exists()
