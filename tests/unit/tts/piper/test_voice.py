"""Windowed speech is one-shot speech, whatever the windows."""

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from wyoming_rknn.audio import to_int16
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.runtime import onnx
from wyoming_rknn.tts.piper.parts import load_parts
from wyoming_rknn.tts.piper.voice import CutVoice, Scales, WholeVoice
from wyoming_rknn.tts.piper.windows import Growth

# The settings' bounds and defaults: first window 8 to 64, growth 1 to 4, largest 16 to 1024.
POLICIES = [Growth(*policy) for policy in product((8, 16, 22, 64), (1.0, 2.0, 4.0), (16, 128, 1024))]
QUIET = partial(Scales, noise=0.0, noise_w=0.0)


class Both:
    """A voice cut and whole."""

    def __init__(self, graph: Path, cache: Path) -> None:
        self.config = VoiceConfig.read(graph.with_suffix(".onnx.json"))
        load = partial(onnx.load, threads=2)
        self.whole = WholeVoice(graph, self.config.rate_hz, load)
        self.cut = CutVoice(load_parts({"graph": graph}, cache), self.config.hop, self.config.rate_hz, load)

    def ids(self, phonemes: int) -> list[int]:
        sounds = sorted(ids[0] for phoneme, ids in self.config.phoneme_id_map.items() if phoneme not in "_^$ ")
        return [1, 0, *(part for index in range(phonemes) for part in (sounds[index * 7 % len(sounds)], 0)), 2]

    def one_shot(self, ids: list[int], length: float, speaker_id: int) -> np.ndarray:
        (piece,) = self.whole.encode(ids, QUIET(length=length), speaker_id).pieces(Growth())
        return to_int16(piece.compute())

    def windowed(self, ids: list[int], length: float, speaker_id: int, growth: Growth) -> np.ndarray:
        pieces = self.cut.encode(ids, QUIET(length=length), speaker_id).pieces(growth)
        return to_int16(np.concatenate([piece.compute() for piece in pieces]))


@pytest.fixture(scope="module")
def both(voices: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Both]:
    return cache(lambda name: Both(voices(name), tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("name", ["random-tiny", "random-tiny-high", "random-tiny-2speakers", "sano-hfc"])
def test_windowed_audio_is_one_shot_audio(both: Callable[[str], Both], name: str) -> None:
    voice = both(name)
    length = voice.config.length_scale
    for phonemes, speaker_id in ((8, 0), (60, max(0, voice.config.num_speakers - 1))):
        ids = voice.ids(phonemes)
        expected = voice.one_shot(ids, length, speaker_id).astype(int)
        assert expected.any()
        for growth in POLICIES:
            windowed = voice.windowed(ids, length, speaker_id, growth).astype(int)
            assert windowed.shape == expected.shape
            assert np.abs(windowed - expected).max() <= 1, growth


@pytest.mark.parametrize("name", ["random-tiny", "random-tiny-high", "random-tiny-2speakers", "sano-hfc"])
def test_sentences_of_one_to_twenty_seconds(both: Callable[[str], Both], name: str) -> None:
    voice = both(name)
    seen_s = []
    for phonemes in (24, 60, 200, 480):
        ids = voice.ids(phonemes)
        expected = voice.one_shot(ids, 1.75, 0).astype(int)
        seen_s.append(expected.size / voice.config.rate_hz)
        assert np.abs(voice.windowed(ids, 1.75, 0, Growth()).astype(int) - expected).max() <= 1
    assert min(seen_s) < 2.5
    assert max(seen_s) > 18


def test_speakers_differ(both: Callable[[str], Both]) -> None:
    voice = both("random-tiny-2speakers")
    ids = voice.ids(20)
    first, second = (voice.windowed(ids, 1.75, speaker_id, Growth()) for speaker_id in (0, 1))
    assert first.size != second.size or (first != second).any()


def test_first_window_needs_little_of_the_flow(both: Callable[[str], Both], monkeypatch) -> None:
    """What precedes the first sound is bounded, however long the sentence is."""
    voice = both("random-tiny")
    fed: list[int] = []
    flow = voice.cut._flow
    assert flow is not None

    class Counting:
        inputs, outputs, close = flow.inputs, flow.outputs, flow.close

        def run(self, feeds):
            fed.append(next(iter(feeds.values())).shape[-1])
            return flow.run(feeds)

    monkeypatch.setattr(voice.cut, "_flow", Counting())
    utterance = voice.cut.encode(voice.ids(300), QUIET(length=1.75), 0)
    pieces = utterance.pieces(Growth(first=16))
    next(pieces).compute()
    assert fed == [16 + 11 + 32]
    for piece in pieces:
        piece.compute()
    frames = round(utterance.seconds * 22050 / 256)
    assert frames > 1000
    assert sum(fed) < 1.6 * frames
