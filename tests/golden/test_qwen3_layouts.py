"""Whoever laid out a Qwen3-ASR model, it says the same; see `qwen3_layouts`."""

import json
from pathlib import Path

import numpy as np
import pytest
from computing import on_cpu
from qwen3_layouts import encoder_in_parts, merged_encoder, sherpa
from qwen3_signals import signal

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.qwen3 import greedy
from wyoming_rknn.asr.qwen3.audio_encoder import EncodedAudio, Seconds, rows_of
from wyoming_rknn.asr.qwen3.encoder_graphs import Stage, WholeEncoder
from wyoming_rknn.asr.qwen3.loading import open_model
from wyoming_rknn.asr.qwen3.prompt import Context
from wyoming_rknn.asr.qwen3.session import Qwen3Session
from wyoming_rknn.errors import AcceleratorError
from wyoming_rknn.features.log_mel import LogMel
from wyoming_rknn.models.formats import qwen3
from wyoming_rknn.runtime import onnx
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

GOLDEN = Path(__file__).with_name("qwen3")
FACTS = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))
CLIPS = {clip["seconds"]: clip for clip in FACTS["clips"]}
AUDIO_ID = FACTS["special"]["<|audio_pad|>"]


def opened(folder):
    (manifest,) = qwen3.detect(folder).manifests
    return open_model(manifest, Settings(), on_cpu())


@pytest.fixture(scope="module")
def ours():
    model = opened(GOLDEN / "model")
    yield model
    model.close()


@pytest.fixture(scope="module", params=[True, False], ids=["mask", "no-mask"])
def sherpas(request, tmp_path_factory):
    folder = sherpa(tmp_path_factory.mktemp("sherpa") / "qwen", AUDIO_ID, with_mask=request.param)
    model = opened(folder)
    yield model
    model.close()


@pytest.fixture
def stream():
    scheduler = Scheduler()
    yield scheduler.stream()
    scheduler.close()


def samples_of(clip):
    return signal(clip["seed"], clip["seconds"], clip["loudest"])


def rows(encoder, samples):
    mel = LogMel()
    mel.accept(samples)
    return EncodedAudio(encoder).rows(mel)


def generated(model, generator, heard, stream, kept=(), language=None):
    ids = model.prompt(Context(), len(heard), language, kept)
    return list(generator.generate(ids, heard, FACTS["policy"]["new_tokens"], stream))


@pytest.mark.parametrize("chunk", [greedy.CHUNK, 16])
@pytest.mark.parametrize("seconds", [0.5, 2.37, 9.3])
def test_sherpas_layout_gives_transformers_tokens(seconds, chunk, sherpas, stream, monkeypatch):
    monkeypatch.setattr(greedy, "CHUNK", chunk)
    clip = CLIPS[seconds]
    heard = rows(sherpas.encoder, samples_of(clip))
    generator = sherpas.open_generator()
    prefix = clip["continuation"]["prefix"]
    for _ in range(2):
        assert generated(sherpas, generator, heard, stream) == clip["ids"]
        assert generated(sherpas, generator, heard, stream, prefix) == clip["continuation"]["ids"]
        assert generated(sherpas, generator, heard, stream, language="de") == clip["forced"]["ids"]


def test_sherpas_rows_are_ours(ours, sherpas):
    samples = samples_of(CLIPS[12.3])
    np.testing.assert_allclose(rows(sherpas.encoder, samples), rows(ours.encoder, samples), atol=1e-5)


@pytest.mark.parametrize("seconds", [5.21])
def test_sherpas_layout_hears_the_same_while_someone_speaks(seconds, ours, sherpas, stream):
    """Hypothesis by hypothesis, each with its roll-back."""
    samples = samples_of(CLIPS[seconds])
    sessions = [Qwen3Session(model, None, Bias()) for model in (ours, sherpas)]
    hop = FACTS["policy"]["hop_samples"]
    for begin in range(0, len(samples), hop):
        for session in sessions:
            session.accept(samples[begin : begin + hop])
            session.partial(stream)
        first, second = (session._stretch.hypothesis for session in sessions)
        assert first == second
    assert len(first.ids) > 5
    assert sessions[0].finish(stream) == sessions[1].finish(stream)


def loaded(path):
    return Stage(onnx.load(path, threads=1))


@pytest.fixture(scope="module", params=["merged", "parts"])
def whole(request, ours, tmp_path_factory):
    """Return rkvoice-stream's encoder for 2, 4 and 15 s."""
    folder, buckets = tmp_path_factory.mktemp("whole"), []
    for seconds in (2, 4, 15):
        if request.param == "merged":
            paths = (merged_encoder(folder / f"merged.{seconds}s.onnx", seconds),)
        else:
            paths = encoder_in_parts(folder, seconds)
        buckets.append(tuple(map(loaded, paths)))
    return WholeEncoder(tuple(buckets), ours.encoder.hidden)


def windows(frames, seed=3):
    return np.random.default_rng(seed).normal(size=(frames, 128)).astype(np.float32)


@pytest.mark.parametrize("frames", [50, 99, 100, 150, 200, 237, 400, 401, 800])
def test_whole_encoders_give_our_rows(frames, ours, whole):
    mel = windows(frames)
    expected = ours.encoder.encode(mel, Seconds())
    assert len(expected) == rows_of(frames)
    np.testing.assert_allclose(whole.encode(mel, Seconds()), expected, atol=1e-4)


def test_without_a_graph_as_long_as_a_window_attention_reaches_less_far(ours, whole):
    mel = windows(800)
    short = WholeEncoder(whole.buckets[:2], whole.hidden)
    expected = [ours.encoder.encode(mel[begin : begin + 400], Seconds()) for begin in (0, 400)]
    np.testing.assert_allclose(short.encode(mel, Seconds()), np.concatenate(expected), atol=1e-4)


class Failing:
    """A graph that its NPU gives up."""

    def __init__(self, graph):
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def run(self, feeds, cancellation=None):
        raise AcceleratorError("the NPU gave up")


def test_a_longer_graph_stands_in_for_one_that_fails(ours, whole):
    mel = windows(150)
    broken = tuple(Stage(Failing(stage.graph)) for stage in whole.buckets[0])
    encoder = WholeEncoder((broken, *whole.buckets[1:]), whole.hidden)
    np.testing.assert_allclose(encoder.encode(mel, Seconds()), ours.encoder.encode(mel, Seconds()), atol=1e-4)
    with pytest.raises(AcceleratorError):
        WholeEncoder((broken,), whole.hidden).encode(mel, Seconds())
