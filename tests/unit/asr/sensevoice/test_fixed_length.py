"""The clips that the tests' model knows, heard by the graphs that `models convert` gives to the toolkit."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from computing import on_cpu

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.sensevoice.engine import create
from wyoming_rknn.convert import sensevoice_static
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

SECONDS = (3, 5, 10, 20)


@pytest.fixture(scope="module", params=["model", "sherpa"])
def engine(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return an engine with a bucket for each length, made of FunASR's or of sherpa-onnx's export."""
    source, folder = shared / "asr" / "sensevoice-overfit", tmp_path_factory.mktemp("data") / "fixed"
    folder.mkdir()
    model = onnx.load(source / f"{request.param}.onnx")
    for name in ("am.mvn", "tokens.txt"):
        shutil.copyfile(source / name, folder / name)
    np.save(folder / "embedding.npy", sensevoice_static.embedding_of(model.graph))
    for seconds in SECONDS:
        graph = sensevoice_static.fix(model, sensevoice_static.frames_for(seconds))
        onnx.save(graph, folder / f"encoder-{seconds}s.onnx")
    engine = create(Settings(data_dir=(folder.parent,)), on_cpu(2))
    yield engine
    engine.close()


@pytest.mark.parametrize("given", [False, True], ids=["auto", "given"])
def test_every_clip(given: bool, engine, clips, scheduler: Scheduler) -> None:
    (model,) = engine.models()
    heard = {}
    for name, clip in clips.items():
        language = clip.language if given and clip.language in model.languages else None
        session = engine.open(model.name, language, Bias())
        for begin in range(0, clip.samples.size, 4000):
            session.accept(clip.samples[begin : begin + 4000])
        heard[name] = session.finish(scheduler.stream()).text
        session.close()
    assert heard == {name: clip.text for name, clip in clips.items()}
