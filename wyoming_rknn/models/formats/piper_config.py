"""What a Piper voice says about itself: `NAME.onnx.json`, or `config.json` beside an encoder and a decoder."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeAlias

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid

PHONEME_TYPES = ("espeak", "text")
"""Ways to turn text into phonemes that are supported."""

_DEFAULT_HOP = 256
_MAX_CONFIG_BYTES = 4 * 1024 * 1024
# espeak-ng names Mandarin by the member language, everybody else by the macrolanguage.
_ESPEAK_TO_BCP47 = {"cmn": "zh", "cmn-latn-pinyin": "zh"}
# Keys that only piper-plus writes; its graphs take other inputs.
_PIPER_PLUS_KEYS = ("prosody_id_map", "prosody_num_symbols", "language_id_map", "num_languages", "gin_channels")

_Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VoiceConfig:
    """A Piper voice's config."""

    name: str
    rate_hz: int
    hop: int
    """Samples per frame of latents."""
    num_speakers: int
    speaker_id_map: Mapping[str, int]
    """Speaker names and their ids; may be empty although there are several speakers."""
    default_speaker_id: int
    phoneme_type: str
    """One of `PHONEME_TYPES`."""
    phoneme_id_map: Mapping[str, tuple[int, ...]]
    espeak_voice: str
    language: str
    """BCP-47, for example "en-US"."""
    quality: str
    dataset: str
    length_scale: float
    noise_scale: float
    noise_w: float

    @property
    def languages(self) -> tuple[str, ...]:
        """Return BCP-47 tags, most specific first: ("en-US", "en")."""
        bare = self.language.split("-")[0]
        return (self.language,) if bare == self.language else (self.language, bare)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Return the speakers' names ordered by id, their ids where they have no names; empty for one speaker."""
        if self.num_speakers <= 1:
            return ()
        if not self.speaker_id_map:
            return tuple(str(speaker) for speaker in range(self.num_speakers))
        return tuple(sorted(self.speaker_id_map, key=lambda name: (self.speaker_id_map[name], name)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a voice's config.

        Raises `ModelFileMissing` if there is no such file, `ModelInvalid` if it is not a config that can be used.
        """
        config = _load(path)
        _refuse_foreign(path, config)
        audio = _section(path, config, "audio")
        inference = _section(path, config, "inference", optional=True)
        language = _section(path, config, "language", optional=True)
        espeak = _section(path, config, "espeak", optional=True)
        espeak_voice = _text(path, espeak, "voice", "espeak.voice", default="")
        phoneme_type = _text(path, config, "phoneme_type", default="espeak")
        if phoneme_type not in PHONEME_TYPES:
            raise ModelInvalid(
                f"{path} wants phonemes of type {phoneme_type!r}, which is not supported; "
                f"use a voice with {' or '.join(PHONEME_TYPES)} phonemes"
            )
        if phoneme_type == "espeak" and not espeak_voice:
            raise _wrong(path, "espeak.voice", "a voice of espeak-ng")
        code = _text(path, language, "code", "language.code", default="")
        speaker_id_map = _speakers(path, config)
        num_speakers = _whole(path, config, "num_speakers", default=max(1, len(speaker_id_map)), low=0)
        dataset = _text(path, config, "dataset", default="")
        return cls(
            name=_name(path, dataset),
            rate_hz=_whole(path, audio, "sample_rate", "audio.sample_rate", low=4000, high=192_000),
            hop=_whole(path, config, "hop_length", default=_DEFAULT_HOP, low=1, high=65_536),
            num_speakers=max(1, num_speakers),
            speaker_id_map=speaker_id_map,
            default_speaker_id=_whole(path, config, "default_speaker_id", default=0, low=0),
            phoneme_type=phoneme_type,
            phoneme_id_map=_phonemes(path, config),
            espeak_voice=espeak_voice,
            language=bcp47(code or _ESPEAK_TO_BCP47.get(espeak_voice.lower(), espeak_voice) or "und"),
            quality=_text(path, audio, "quality", "audio.quality", default=""),
            dataset=dataset,
            length_scale=_number(path, inference, "length_scale", default=1.0, low=0.01),
            noise_scale=_number(path, inference, "noise_scale", default=0.667),
            noise_w=_number(path, inference, "noise_w", default=0.8),
        )


def bcp47(tag: str) -> str:
    """Return a language tag in BCP-47 spelling: "en_us" gives "en-US", "zh_hans_cn" gives "zh-Hans-CN"."""
    parts = tag.replace("_", "-").split(".")[0].split("-")
    spelled = [parts[0].lower()]
    private = False
    for part in parts[1:]:
        if len(part) == 2 and part.isalpha() and not private:
            spelled.append(part.upper())
        elif len(part) == 4 and part.isalpha() and not private:
            spelled.append(part.title())
        else:
            spelled.append(part.lower())
        private = private or len(part) == 1
    return "-".join(part for part in spelled if part)


def looks_like_config(path: Path) -> bool:
    """Tell whether a JSON file means to be a Piper config, valid or not."""
    try:
        config = _load(path)
    except (ModelInvalid, ModelFileMissing):
        return False
    return "phoneme_id_map" in config or ("espeak" in config and "audio" in config)


def _load(path: Path) -> _Json:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise ModelFileMissing(
            f"{path} does not exist; put the voice's .json (often NAME.onnx.json) beside its .onnx"
        ) from None
    except OSError as error:
        raise ModelInvalid(f"{path} cannot be read: {error.strerror}; check its owner and permissions") from error
    if len(content) > _MAX_CONFIG_BYTES:
        raise ModelInvalid(f"{path} is too large for a voice config; download the voice's .json again")
    try:
        config = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path} is not JSON ({error}); download the voice's .json again") from error
    if not isinstance(config, dict):
        raise ModelInvalid(f"{path} is not the config of a Piper voice; download the voice's own .json")
    return config


def _refuse_foreign(path: Path, config: _Json) -> None:
    inference = config.get("inference")
    if any(config.get(key) is not None for key in _PIPER_PLUS_KEYS) or (
        isinstance(inference, dict) and "noise_scale_w" in inference
    ):
        raise ModelInvalid(
            f"{path} belongs to a piper-plus voice, which Piper cannot speak; use a voice made for Piper"
        )
    if "phoneme_id_map" not in config or "audio" not in config:
        missing = " and ".join(key for key in ("audio", "phoneme_id_map") if key not in config)
        raise ModelInvalid(
            f"{path} is not the config of a Piper voice ({missing} missing); download the voice's own .json"
        )


def _section(path: Path, config: _Json, key: str, *, optional: bool = False) -> _Json:
    section = config.get(key)
    if section is None and optional:
        return {}
    if not isinstance(section, dict):
        raise _wrong(path, key, "an object")
    return section


def _text(path: Path, section: _Json, key: str, label: str = "", *, default: str) -> str:
    value = section.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _wrong(path, label or key, "a string")
    return value.strip()


def _whole(
    path: Path,
    section: _Json,
    key: str,
    label: str = "",
    *,
    default: int | None = None,
    low: int,
    high: int = 1_000_000,
) -> int:
    value = section.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(path, label or key, f"a whole number from {low} to {high}")
    return value


def _number(path: Path, inference: _Json, key: str, *, default: float, low: float = 0.0) -> float:
    value = inference.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < low:
        raise _wrong(path, f"inference.{key}", f"a number of at least {low:g}")
    return float(value)


def _speakers(path: Path, config: _Json) -> Mapping[str, int]:
    speakers = config.get("speaker_id_map") or {}
    if not isinstance(speakers, dict) or not all(_is_id(speaker) for speaker in speakers.values()):
        raise _wrong(path, "speaker_id_map", "an object of names and ids")
    return MappingProxyType(dict(speakers))


def _phonemes(path: Path, config: _Json) -> Mapping[str, tuple[int, ...]]:
    phonemes = config["phoneme_id_map"]
    if (
        not isinstance(phonemes, dict)
        or not phonemes
        or not all(isinstance(ids, list) and ids and all(map(_is_id, ids)) for ids in phonemes.values())
    ):
        raise _wrong(path, "phoneme_id_map", "an object of phonemes and lists of ids")
    return MappingProxyType({phoneme: tuple(ids) for phoneme, ids in phonemes.items()})


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _name(path: Path, dataset: str) -> str:
    if path.name.endswith(".onnx.json"):
        stem = path.name.removesuffix(".onnx.json")
        if stem != "model":
            return stem
    return path.absolute().parent.name or dataset or path.stem


def _wrong(path: Path, key: str, expected: str) -> ModelInvalid:
    return ModelInvalid(f"{path}: {key} must be {expected}; download the voice's .json again")
