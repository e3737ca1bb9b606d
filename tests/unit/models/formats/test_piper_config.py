"""Configs of Piper voices, good and bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats.piper_config import VoiceConfig, bcp47

MINIMAL: dict[str, Any] = {
    "audio": {"sample_rate": 22050},
    "espeak": {"voice": "en-us"},
    "phoneme_id_map": {"_": [0], "a": [14]},
}


def write(folder: Path, config: object, name: str = "en_US-amy-low.onnx.json") -> Path:
    path = folder / name
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


def test_defaults(tmp_path: Path) -> None:
    config = VoiceConfig.read(write(tmp_path, MINIMAL))
    assert config.name == "en_US-amy-low"
    assert (config.rate_hz, config.hop) == (22050, 256)
    assert (config.num_speakers, config.speakers, config.default_speaker_id) == (1, (), 0)
    assert (config.phoneme_type, config.espeak_voice) == ("espeak", "en-us")
    assert config.phoneme_id_map == {"_": (0,), "a": (14,)}
    assert config.languages == ("en-US", "en")
    assert (config.length_scale, config.noise_scale, config.noise_w) == (1.0, 0.667, 0.8)


def test_everything_said(tmp_path: Path) -> None:
    config = VoiceConfig.read(
        write(
            tmp_path,
            {
                **MINIMAL,
                "audio": {"sample_rate": 16000, "quality": "x_low"},
                "language": {"code": "de_DE"},
                "inference": {"length_scale": 1.2, "noise_scale": 0, "noise_w": 0.5},
                "hop_length": 200,
                "num_speakers": 3,
                "speaker_id_map": {"happy": 2, "sad": 0, "calm": 1},
                "default_speaker_id": 1,
                "phoneme_type": "text",
                "dataset": "thorsten",
            },
        )
    )
    assert (config.rate_hz, config.hop, config.quality, config.dataset) == (16000, 200, "x_low", "thorsten")
    assert config.languages == ("de-DE", "de")
    assert (config.length_scale, config.noise_scale, config.noise_w) == (1.2, 0.0, 0.5)
    assert config.speakers == ("sad", "calm", "happy")
    assert (config.default_speaker_id, config.phoneme_type) == (1, "text")


def test_speakers_without_names_are_numbers(tmp_path: Path) -> None:
    config = VoiceConfig.read(write(tmp_path, {**MINIMAL, "num_speakers": 3}))
    assert config.speakers == ("0", "1", "2")


def test_text_voice_needs_no_espeak(tmp_path: Path) -> None:
    config = {**MINIMAL, "phoneme_type": "text", "language": {"code": "uk_UA"}}
    del config["espeak"]
    assert VoiceConfig.read(write(tmp_path, config)).language == "uk-UA"


@pytest.mark.parametrize("name", ["config.json", "piper.json", "model.onnx.json"])
def test_config_of_a_pair_is_named_after_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "ljspeech"
    folder.mkdir()
    assert VoiceConfig.read(write(folder, MINIMAL, name)).name == "ljspeech"


def test_byte_order_mark(tmp_path: Path) -> None:
    assert VoiceConfig.read(write(tmp_path, "\ufeff" + json.dumps(MINIMAL))).rate_hz == 22050


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("en_US", "en-US"),
        ("en-us", "en-US"),
        ("de", "de"),
        ("zh_hans_cn", "zh-Hans-CN"),
        ("es_419", "es-419"),
        ("en-gb-x-rp", "en-GB-x-rp"),
        ("pt_BR.UTF-8", "pt-BR"),
    ],
)
def test_language_tags(tag: str, expected: str) -> None:
    assert bcp47(tag) == expected


def test_mandarin_by_espeaks_name(tmp_path: Path) -> None:
    assert VoiceConfig.read(write(tmp_path, {**MINIMAL, "espeak": {"voice": "cmn"}})).language == "zh"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissing, match=r"gone\.onnx\.json does not exist; put"):
        VoiceConfig.read(tmp_path / "gone.onnx.json")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("", "is not JSON"),
        ("<html>", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "is not the config of a Piper voice"),
        ({"model_type": "vits", "sample_rate": 22050}, "audio and phoneme_id_map missing"),
        ({**MINIMAL, "prosody_id_map": {"a": 1}}, "piper-plus"),
        ({**MINIMAL, "inference": {"noise_scale_w": 0.8}}, "piper-plus"),
        ({**MINIMAL, "phoneme_type": "pinyin"}, "'pinyin', which is not supported"),
        ({**MINIMAL, "phoneme_type": 3}, "phoneme_type must be a string"),
        ({**MINIMAL, "audio": "loud"}, "audio must be an object"),
        ({**MINIMAL, "audio": {}}, "audio.sample_rate must be a whole number"),
        ({**MINIMAL, "audio": {"sample_rate": 0}}, "audio.sample_rate must be"),
        ({**MINIMAL, "audio": {"sample_rate": True}}, "audio.sample_rate must be"),
        ({**MINIMAL, "espeak": {}}, "espeak.voice must be"),
        ({**MINIMAL, "phoneme_id_map": {}}, "phoneme_id_map must be"),
        ({**MINIMAL, "phoneme_id_map": {"a": 1}}, "phoneme_id_map must be"),
        ({**MINIMAL, "phoneme_id_map": {"a": [-1]}}, "phoneme_id_map must be"),
        ({**MINIMAL, "speaker_id_map": {"a": "b"}}, "speaker_id_map must be"),
        ({**MINIMAL, "num_speakers": -1}, "num_speakers must be"),
        ({**MINIMAL, "num_speakers": True}, "num_speakers must be"),
        ({**MINIMAL, "hop_length": 0}, "hop_length must be"),
        ({**MINIMAL, "inference": {"length_scale": 0}}, "inference.length_scale must be"),
        ({**MINIMAL, "inference": {"noise_w": float("nan")}}, "inference.noise_w must be"),
        ({**MINIMAL, "language": {"code": 7}}, "language.code must be"),
    ],
)
def test_unusable(config: object, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, config)
    with pytest.raises(ModelInvalid, match=reason) as failure:
        VoiceConfig.read(path)
    assert str(path) in str(failure.value)


def test_far_too_large(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="too large"):
        VoiceConfig.read(write(tmp_path, " " * (5 * 1024 * 1024)))


def test_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.onnx.json").mkdir()
    with pytest.raises(ModelInvalid, match="cannot be read"):
        VoiceConfig.read(tmp_path / "a.onnx.json")
