"""A decoder of a fixed width says what the whole voice says; whatever it fails to say the CPU says."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from computing import on_cpu

from wyoming_rknn.audio import to_int16
from wyoming_rknn.errors import AcceleratorError, ModelInvalid
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.models.formats.piper_npu import NpuDecoder
from wyoming_rknn.runtime.scheduler import CPU, NPU
from wyoming_rknn.tts.piper.npu import NpuStage
from wyoming_rknn.tts.piper.parts import VoiceParts, load_parts
from wyoming_rknn.tts.piper.voice import CutVoice, Scales, WholeVoice
from wyoming_rknn.tts.piper.windows import Growth

QUIET = Scales(0.0, 1.75, 0.0)
CONTEXT = {"random-tiny": 11, "random-tiny-high": 13, "random-tiny-2speakers": 11}


class Fixed:
    """A decoder that takes one width only, computed by ONNX Runtime."""

    usable = True
    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, parts: VoiceParts, width: int) -> None:
        self.graph = on_cpu().load(parts.decoder.graph)
        self.inputs, self.outputs = self.graph.inputs, self.graph.outputs
        self.width = width
        self.runs = 0
        self.fails = False

    def run(self, feeds, cancellation=None):
        assert feeds["z"].shape[-1] == self.width
        self.runs += 1
        if self.fails:
            raise AcceleratorError("no")
        return self.graph.run({name: value for name, value in feeds.items() if name != "y_mask"})

    def close(self):
        self.graph.close()


class Speaking:
    """A voice with a decoder of a fixed width, and the whole voice."""

    def __init__(self, graph: Path, cache: Path, width: int = 55, **changes: object) -> None:
        self.config = VoiceConfig.read(graph.with_suffix(".onnx.json"))
        load = on_cpu(2).load
        self.whole = WholeVoice(graph, self.config.rate_hz, load)
        parts = load_parts({"graph": graph}, cache)
        self.fixed = Fixed(parts, width)
        described = {
            "file": Path("decoder.rknn"),
            "frames": width,
            "channels": parts.channels,
            "hop": parts.hop,
            "context_frames": parts.decoder.context_frames,
            "input": "z",
            "mask": None,
            "conditions": parts.decoder.conditions,
            "condition_shapes": dict.fromkeys(parts.decoder.conditions, (1, -1, 1)),
            "output": parts.decoder.output,
            "golden": None,
            "flow_inside": False,
            "margin_is_short": False,
        }
        stage = NpuStage(self.fixed, NpuDecoder(**(described | changes)))
        self.cut = CutVoice(parts, self.config.hop, self.config.rate_hz, load, lambda _reference: stage)

    def ids(self, phonemes: int) -> list[int]:
        sounds = sorted(ids[0] for phoneme, ids in self.config.phoneme_id_map.items() if phoneme not in "_^$ ")
        return [1, 0, *(part for index in range(phonemes) for part in (sounds[index * 7 % len(sounds)], 0)), 2]

    def expected(self, phonemes: int, speaker_id: int = 0) -> np.ndarray:
        (piece,) = self.whole.encode(self.ids(phonemes), QUIET, speaker_id).pieces(Growth())
        return to_int16(piece.compute()).astype(int)

    def pieces(self, phonemes: int, speaker_id: int = 0):
        return list(self.cut.encode(self.ids(phonemes), QUIET, speaker_id).pieces(Growth()))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def speaking(voices: Callable[[str], Path], cache: Path) -> Callable[..., Speaking]:
    return lambda name="random-tiny", **changes: Speaking(voices(name), cache, **changes)


def without_cpu(voice: Speaking) -> Speaking:
    """Take the decoder for the CPU away."""
    voice.cut._decoder = None
    voice.cut._parts = replace(voice.cut._parts, decoder=None)
    return voice


def joined(pieces, compute) -> np.ndarray:
    return to_int16(np.concatenate([compute(piece) for piece in pieces])).astype(int)


def on_npu(piece):
    if piece.prepare is not None:
        piece.prepare()
    return piece.compute()


@pytest.mark.parametrize(
    ("name", "width"),
    [("random-tiny", 55), ("random-tiny-high", 55), ("random-tiny-2speakers", 55), ("random-tiny-high", 32)],
)
def test_fixed_windows_are_one_shot_audio(speaking, name, width):
    voice = speaking(name, width=width)
    for phonemes in (24, 60, 200):
        pieces = voice.pieces(phonemes, voice.config.num_speakers - 1)
        expected = voice.expected(phonemes, voice.config.num_speakers - 1)
        assert {piece.device for piece in pieces} == {NPU}
        assert voice.cut._parts.decoder.context_frames == CONTEXT[name]
        spoken = joined(pieces, on_npu)
        assert spoken.shape == expected.shape
        assert np.abs(spoken - expected).max() <= 1


def test_the_flow_is_computed_on_the_cpu_before_the_window_that_needs_it_and_only_then(speaking):
    voice = speaking()
    pieces = voice.pieces(200)
    assert pieces[0].prepare is not None
    assert 1 < sum(piece.prepare is not None for piece in pieces) < len(pieces) / 2
    for piece in pieces:
        if piece.prepare is not None:
            piece.prepare()
    # Prepared, windows can be computed in any order, all at once.
    spoken = [piece.compute() for piece in reversed(pieces)][::-1]
    assert np.abs(to_int16(np.concatenate(spoken)).astype(int) - voice.expected(200)).max() <= 1


def test_the_spare_gives_the_same(speaking):
    voice = speaking()
    spoken = joined(voice.pieces(60), lambda piece: piece.spare())
    assert np.abs(spoken - voice.expected(60)).max() <= 1
    assert not voice.fixed.runs


def test_spares_and_windows_may_be_mixed(speaking):
    voice = speaking()
    turns = iter(range(1000))
    spoken = joined(voice.pieces(200), lambda piece: piece.spare() if next(turns) % 3 == 1 else on_npu(piece))
    assert np.abs(spoken - voice.expected(200)).max() <= 1


def test_a_sentence_shorter_than_a_window_is_left_to_the_cpu(speaking):
    voice = speaking(width=120)
    pieces = voice.pieces(3)
    assert {piece.device for piece in pieces} == {CPU}
    assert np.abs(joined(pieces, on_npu) - voice.expected(3)).max() <= 1


def test_what_cannot_be_used_any_more_is_left_to_the_cpu(speaking):
    voice = speaking()
    voice.fixed.usable = False
    pieces = voice.pieces(60)
    assert {piece.device for piece in pieces} == {CPU}
    assert np.abs(joined(pieces, on_npu) - voice.expected(60)).max() <= 1


def test_an_npu_that_breaks_down_in_a_sentence_leaves_the_rest_to_the_cpu(speaking):
    voice = speaking()
    pieces, spoken = voice.cut.encode(voice.ids(200), QUIET, 0).pieces(Growth()), []
    for piece in pieces:
        spoken.append((piece.device, on_npu(piece)))
        voice.fixed.usable = len(spoken) < 4
    devices = [device for device, _ in spoken]
    assert devices == [NPU] * 4 + [CPU] * (len(devices) - 4)
    # Windows grow again from where the CPU takes over.
    sizes = [samples.size // voice.config.hop for _, samples in spoken]
    assert sizes[4] == Growth().first
    assert sizes[-1] > 55
    joined_up = to_int16(np.concatenate([samples for _, samples in spoken])).astype(int)
    assert np.abs(joined_up - voice.expected(200)).max() <= 1


def test_without_a_decoder_for_the_cpu_a_short_sentence_is_padded(speaking):
    voice = without_cpu(speaking(width=120))
    (piece,) = voice.pieces(3)
    assert (piece.device, piece.spare) == (NPU, None)
    expected, spoken = voice.expected(3), joined([piece], on_npu)
    assert spoken.shape == expected.shape
    # Only the last frames hear the padding.
    exact = (expected.size // voice.config.hop - CONTEXT["random-tiny"]) * voice.config.hop
    assert np.abs(spoken - expected)[:exact].max() <= 1


def test_a_mask_covers_what_is_there(speaking):
    voice = speaking(width=120, mask="y_mask")
    seen = []
    run = voice.fixed.run
    voice.fixed.run = lambda feeds, cancellation=None: seen.append(feeds) or run(feeds, cancellation)
    (piece,) = without_cpu(voice).pieces(3)
    frames = on_npu(piece).size // voice.config.hop
    assert seen[0]["y_mask"].shape == (1, 1, 120)
    assert seen[0]["y_mask"].sum() == seen[0]["y_mask"][0, 0, :frames].sum() == frames
    assert not seen[0]["z"][..., frames:].any()


def test_a_voice_without_any_decoder_that_works_says_what_it_needs(voices, cache):
    encoder = load_parts({"graph": voices("random-tiny")}, cache).encoder
    parts = load_parts({"encoder": encoder, "npu-decoder": cache / "decoder.rknn"}, cache)
    with pytest.raises(ModelInvalid, match=r"put its decoder\.onnx beside it"):
        CutVoice(parts, 256, 22_050, on_cpu().load)


def test_an_npu_is_not_asked_for_where_there_is_none(caplog):
    from wyoming_rknn.tts.piper.npu import open_stage

    with caplog.at_level(logging.DEBUG):
        assert open_stage("a", {"npu-decoder": Path("missing.rknn")}, 22_050, on_cpu(), Path(), None) is None
    assert not caplog.records
