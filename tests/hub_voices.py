"""Small voices: put into a folder, or served by a local hub and listed in a catalogue."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving_files import FileServer
from tiny_piper import VoiceShape, build_voice

TEXT = "a bad egg"
"""Made of letters that these voices know."""
_LETTERS = {letter: [3 + index] for index, letter in enumerate("abcdefghijklmno ")}


def voice_files(
    name: str, rate_hz: int = 8000, language: str = "en_US", speakers: Sequence[str] = (), seed: int = 1
) -> dict[str, bytes]:
    """Return a voice's files by name."""
    config = {
        "audio": {"sample_rate": rate_hz, "quality": "low"},
        "espeak": {"voice": language.split("_")[0]},
        "language": {"code": language},
        "inference": {"noise_scale": 0.0, "length_scale": 2.0, "noise_w": 0.0},
        "phoneme_type": "text",
        "phoneme_id_map": {"_": [0], "^": [1], "$": [2], **_LETTERS},
        "num_symbols": 20,
        "num_speakers": max(1, len(speakers)),
        "speaker_id_map": {speaker: number for number, speaker in enumerate(speakers)},
        "hop_length": 8,
    }
    graph = build_voice(VoiceShape(speakers=max(1, len(speakers))), seed)
    return {f"{name}.onnx": graph.SerializeToString(), f"{name}.onnx.json": json.dumps(config).encode()}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def offer(
    hub: FileServer,
    name: str,
    files: dict[str, bytes],
    language: str = "en-US",
    speakers: Sequence[str] = (),
    **manner: Any,
) -> dict[str, Any]:
    """Let the hub serve a voice, in that manner, and return what a catalogue says of it."""
    remotes = [hub.hub(each, content, **manner) for each, content in files.items()]
    return {
        "name": name,
        "kind": "tts",
        "format": "piper",
        "languages": [language, language.split("-")[0]],
        "quality": "low",
        "speakers": list(speakers),
        "files": [
            {
                "name": each.name,
                "repo": each.source.repo,
                "path": each.source.path,
                "bytes": each.bytes,
                "sha256": each.sha256,
            }
            for each in remotes
        ],
    }


def catalogue(data: Path, *models: dict[str, Any]) -> Path:
    """Write a user's catalogue into a data folder."""
    data.mkdir(parents=True, exist_ok=True)
    path = data / "catalog.json"
    path.write_text(json.dumps({"models": models}))
    return path
