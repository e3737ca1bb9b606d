"""What every `info` event must be."""

import re

from protocol.harness.client import Event
from wyoming.event import Event as WyomingEvent
from wyoming.info import Info

# RFC 5646 without grandfathered tags: language[-extlang][-script][-region][-variant][-extension][-private use].
BCP_47 = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})(?:-[A-Z][a-z]{3})?(?:-(?:[A-Z]{2}|\d{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|\d[a-z0-9]{3}))*(?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*(?:-x(?:-[a-z0-9]{1,8})+)?"
)


def _check_artifact(artifact: dict) -> None:
    assert isinstance(artifact["name"], str)
    assert artifact["name"]
    assert isinstance(artifact["attribution"]["name"], str)
    assert isinstance(artifact["attribution"]["url"], str)
    assert artifact["installed"] is True
    assert isinstance(artifact["description"], str | None)
    assert isinstance(artifact["version"], str | None)


def check_info(info: Event) -> None:
    """Assert that an `info` is complete, and in order where there are names."""
    for kind in ("asr", "tts", "handle", "intent", "wake", "mic", "snd"):
        assert isinstance(info.data.get(kind, []), list)
    for program in info.data["tts"]:
        _check_artifact(program)
        assert program["supports_synthesize_streaming"] is True
        names = [voice["name"] for voice in program["voices"]]
        assert names == sorted(set(names))
        for voice in program["voices"]:
            _check_artifact(voice)
            assert voice["languages"]
            for tag in voice["languages"]:
                assert BCP_47.fullmatch(tag), tag
            for speaker in voice["speakers"] or []:
                assert isinstance(speaker["name"], str)
    for program in info.data["asr"]:
        _check_artifact(program)
        for flag in ("supports_transcript_streaming", "requires_external_vad"):
            assert isinstance(program[flag], bool)
        # What Home Assistant does with the microphone is left to it.
        for flag in ("prefers_auto_gain_enabled", "prefers_noise_reduction_enabled"):
            assert program.get(flag, True) is True
        names = [model["name"] for model in program["models"]]
        assert names == sorted(set(names))
        assert names
        for model in program["models"]:
            _check_artifact(model)
            assert model["languages"]
            assert model["languages"] == sorted(set(model["languages"]))
            for tag in model["languages"]:
                assert BCP_47.fullmatch(tag), tag
    # Home Assistant's own reader takes it.
    Info.from_event(WyomingEvent("info", info.data))
