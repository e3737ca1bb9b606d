"""Qwen3-ASR gives transformers' tokens, however it computes them; see `script/qwen3-goldens`."""

import json
from pathlib import Path

import numpy as np
import pytest
from computing import on_cpu
from qwen3_signals import RATE_HZ, signal

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.qwen3 import greedy
from wyoming_rknn.asr.qwen3.audio_encoder import WINDOW, EncodedAudio
from wyoming_rknn.asr.qwen3.encoder_graphs import SplitEncoder, Stage
from wyoming_rknn.asr.qwen3.loading import open_model
from wyoming_rknn.asr.qwen3.prompt import Context, Prompt
from wyoming_rknn.asr.qwen3.session import Qwen3Session, Streaming
from wyoming_rknn.features.log_mel import LogMel
from wyoming_rknn.models.formats import qwen3
from wyoming_rknn.runtime.graph import TensorSpec
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

GOLDEN = Path(__file__).with_name("qwen3")
FACTS = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))
CLIPS = FACTS["clips"]
NEW_TOKENS = FACTS["policy"]["new_tokens"]


def named(clip):
    return f"{clip['seconds']:g}s"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the tiny model."""
    (manifest,) = qwen3.detect(GOLDEN / "model").manifests
    opened = open_model(manifest, Settings(cache_dir=tmp_path_factory.mktemp("cache")), on_cpu())
    yield opened
    opened.close()


@pytest.fixture
def stream():
    scheduler = Scheduler()
    yield scheduler.stream()
    scheduler.close()


def mel_of(clip):
    mel = LogMel()
    mel.accept(signal(clip["seed"], clip["seconds"], clip["loudest"]))
    return mel


def rows_of(model, clip):
    return EncodedAudio(model.encoder).rows(mel_of(clip))


def generated(generator, ids, rows, stream, count=NEW_TOKENS):
    return list(generator.generate(ids, rows, count, stream))


def plain(model, rows):
    return model.prompt(Context(), len(rows), None, ())


@pytest.mark.parametrize("clip", CLIPS, ids=named)
def test_rows_are_those_of_transformers(model, clip):
    rows = rows_of(model, clip)
    with np.load(GOLDEN / "rows.npz") as golden:
        samples, sums = golden[f"rows-{clip['seed']}"], golden[f"sums-{clip['seed']}"]
    assert len(rows) == clip["rows"]
    np.testing.assert_allclose(rows[[0, len(rows) // 2, -1]], samples, rtol=6e-4, atol=6e-4)  # stored in 16 bits
    np.testing.assert_allclose(rows.sum(1), sums, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("clip", CLIPS, ids=named)
def test_prompts_are_those_of_transformers(model, clip):
    pads = [FACTS["special"]["<|audio_pad|>"]] * clip["rows"]
    before, after = clip["prompt"]["before"], clip["prompt"]["after"]
    assert list(model.prompt(Context(), clip["rows"], None, ())) == [*before, *pads, *after]
    assert list(model.prompt(Context(), clip["rows"], "de", ())) == [*before, *pads, *clip["forced"]["after"]]
    context = Context(tuple(clip["context"]["context"].split()))
    assert list(model.prompt(context, clip["rows"], None, ())) == [*clip["context"]["before"], *pads, *after]
    prefixed = model.prompt(Context(), clip["rows"], None, clip["continuation"]["prefix"])
    assert list(prefixed) == [*before, *pads, *after, *clip["continuation"]["prefix"]]


@pytest.mark.parametrize("chunk", [greedy.CHUNK, 16, 7], ids=lambda chunk: f"chunks-of-{chunk}")
@pytest.mark.parametrize("clip", CLIPS, ids=named)
def test_tokens_are_those_of_transformers(model, clip, chunk, stream, monkeypatch):
    monkeypatch.setattr(greedy, "CHUNK", chunk)
    rows = rows_of(model, clip)
    assert generated(model.open_generator(), plain(model, rows), rows, stream) == clip["ids"]


@pytest.mark.parametrize("clip", CLIPS, ids=named)
def test_one_generator_takes_prompt_after_prompt(model, clip, stream):
    """Keys and values that fit are kept, all others are not."""
    rows = rows_of(model, clip)
    generator = model.open_generator()
    prefix = clip["continuation"]["prefix"]
    for _ in range(2):
        assert generated(generator, plain(model, rows), rows, stream) == clip["ids"]
        continued = model.prompt(Context(), len(rows), None, prefix)
        assert generated(generator, continued, rows, stream) == clip["continuation"]["ids"]
        forced = model.prompt(Context(), len(rows), "de", ())
        assert generated(generator, forced, rows, stream) == clip["forced"]["ids"]
        context = Prompt.of(model.tokenizer, clip["context"]["context"], len(rows)).ids
        assert generated(generator, context, rows, stream) == clip["context"]["ids"]


@pytest.mark.parametrize("clip", CLIPS[3::3], ids=named)
def test_a_generator_that_heard_other_audio_before(model, clip, stream):
    rows = rows_of(model, clip)
    generator = model.open_generator()
    for count in (len(rows) // 3, len(rows) - 1):
        heard = rows[:count]
        generated(generator, plain(model, heard), heard, stream, 5)
    changed = rows.copy()
    changed[len(rows) // 2] += 1
    generated(generator, plain(model, changed), changed, stream, 5)
    assert generated(generator, plain(model, rows), rows, stream) == clip["ids"]


class Bucket:
    """A graph of a fixed size, as an NPU has."""

    def __init__(self, graph, size):
        features, mask = graph.inputs
        self._graph = graph
        self.inputs = (
            TensorSpec(features.name, (1, size, features.shape[2]), features.dtype),
            TensorSpec(mask.name, (1, 1, size, size), mask.dtype),
        )
        self.outputs = graph.outputs

    def run(self, feeds, cancellation=None):
        for spec in self.inputs:
            assert feeds[spec.name].shape == spec.shape
        return self._graph.run(feeds, cancellation)


@pytest.mark.parametrize("sizes", [(104,), (26, 52, 104)], ids=str)
@pytest.mark.parametrize("clip", CLIPS, ids=named)
def test_padded_buckets_change_nothing(model, clip, sizes, stream):
    exact = model.encoder
    buckets = tuple(Stage(Bucket(exact.attention[0].graph, size)) for size in sizes)
    encoder = SplitEncoder(exact.convolution, buckets, exact.hidden)
    rows = EncodedAudio(encoder).rows(mel_of(clip))
    np.testing.assert_allclose(rows, rows_of(model, clip), atol=1e-4)
    assert generated(model.open_generator(), plain(model, rows), rows, stream) == clip["ids"]


@pytest.mark.parametrize("clip", [clip for clip in CLIPS if "stream" in clip], ids=named)
def test_streaming_with_rollback(model, clip, stream):
    samples = signal(clip["seed"], clip["seconds"], clip["loudest"])
    hop = FACTS["policy"]["hop_samples"]
    # From the third hop on all but the last tokens are kept.
    session = Qwen3Session(model, None, Bias(), Streaming(free_s=1.0))
    golden = {each["hop"]: each["ids"] for each in clip["stream"]["hops"]}
    seen = 0
    for number, begin in enumerate(range(0, len(samples) - hop + 1, hop), 1):
        session.accept(samples[begin : begin + hop])
        session.partial(stream)
        if number in golden:
            seen += 1
            assert list(session._stretch.hypothesis.ids) == golden[number], f"hop {number}"
    assert seen == len(golden)
    session.accept(samples[len(samples) // hop * hop :])
    session.finish(stream)
    ids = list(session._stretch.hypothesis.ids)
    assert ids == clip["stream"]["ids"][: len(ids)]
    assert len(ids) >= min(len(clip["stream"]["ids"]), 30)


def test_finished_windows_are_encoded_once(model):
    calls = []

    class Counting:
        hidden = model.encoder.hidden

        def encode(self, mel, known, stream=None):
            calls.append(len(mel))
            return model.encoder.encode(mel, known, stream)

    samples = signal(1, 20.0, "beginning")
    mel, audio = LogMel(), EncodedAudio(Counting())
    whole = EncodedAudio(model.encoder)
    for begin in range(0, len(samples), RATE_HZ // 2):
        mel.accept(samples[begin : begin + RATE_HZ // 2])
        rows = audio.rows(mel)
    assert calls.count(WINDOW) == 2 + 2  # once when each is full, once when each is known not to change any more
    np.testing.assert_allclose(rows, whole.rows(mel), atol=1e-4)
