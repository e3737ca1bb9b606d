"""What the engines can do, as Wyoming `info`."""

from collections.abc import Sequence

from wyoming.event import Event
from wyoming.info import Attribution, Info, TtsProgram, TtsVoice, TtsVoiceSpeaker

from wyoming_rknn import __version__
from wyoming_rknn.tts.engine import TtsEngine, Voice

_ATTRIBUTION = Attribution(name="wyoming-rknn", url="")


class InfoCache:
    """The description of what is offered now, made anew only when that changes: everyone polls it."""

    def __init__(self) -> None:
        self._offered: list[tuple[str, tuple[Voice, ...]]] = []
        self._event = Info().event()

    def describe(self, offered: Sequence[tuple[TtsEngine, Sequence[Voice]]]) -> Event:
        """Return the `info` event for text-to-speech programs, in the order given."""
        key = [(engine.name, tuple(voices)) for engine, voices in offered]
        if key != self._offered:
            self._offered, self._event = key, tts_info(offered).event()
        return self._event


def tts_info(offered: Sequence[tuple[TtsEngine, Sequence[Voice]]]) -> Info:
    """Describe text-to-speech programs, in the order given: Home Assistant takes the first."""
    return Info(tts=[_program(engine, voices) for engine, voices in offered])


def _program(engine: TtsEngine, voices: Sequence[Voice]) -> TtsProgram:
    return TtsProgram(
        name=engine.name,
        description=engine.description,
        attribution=_ATTRIBUTION,
        installed=True,
        version=__version__,
        voices=[_voice(voice) for voice in sorted(voices, key=lambda voice: voice.name)],
        supports_synthesize_streaming=True,
    )


def _voice(voice: Voice) -> TtsVoice:
    return TtsVoice(
        name=voice.name,
        description=voice.description,
        attribution=_ATTRIBUTION,
        installed=True,
        version=None,
        languages=list(voice.languages),
        speakers=[TtsVoiceSpeaker(name=speaker) for speaker in voice.speakers] or None,
    )
