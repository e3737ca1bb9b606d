"""What the engines can do, as Wyoming `info`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from wyoming.event import Event
from wyoming.info import AsrModel as AsrModelInfo
from wyoming.info import AsrProgram, Attribution, Info, TtsProgram, TtsVoice, TtsVoiceSpeaker

from wyoming_rknn import __version__
from wyoming_rknn.asr.engine import AsrEngine, AsrModel
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import TtsEngine, Voice

_ATTRIBUTION = Attribution(name="wyoming-rknn", url="")

TtsOffer: TypeAlias = Sequence[tuple[TtsEngine, Sequence[Voice]]]
AsrOffer: TypeAlias = Sequence[tuple[AsrEngine, Sequence[AsrModel]]]
_Key: TypeAlias = tuple[tuple[tuple[str, tuple[Voice, ...]], ...], tuple[tuple[str, tuple[AsrModel, ...]], ...]]


@dataclass(frozen=True, slots=True)
class Manners:
    """What the settings say of how speech-to-text is served."""

    partials: bool
    needs_vad: bool
    """Whether the client has to find out when the speaker has stopped."""

    @classmethod
    def of(cls, settings: Settings) -> "Manners":
        """Return what the settings say."""
        return cls(partials=settings.partial_interval > 0, needs_vad=settings.vad_endpointing == 0)


class InfoCache:
    """The descriptions of what is offered now, made anew only when that changes: everyone polls them."""

    def __init__(self) -> None:
        self._events: dict[object, tuple[_Key, Event]] = {}

    def describe(self, port: object, tts: TtsOffer, asr: AsrOffer, manners: Manners) -> Event:
        """Return the `info` event for the programs that a port offers, in the order given."""
        key = (
            tuple((engine.name, tuple(voices)) for engine, voices in tts),
            tuple((engine.name, tuple(models)) for engine, models in asr),
        )
        known = self._events.get(port)
        if known is None or known[0] != key:
            known = self._events[port] = (key, info(tts, asr, manners).event())
        return known[1]


def info(tts: TtsOffer, asr: AsrOffer, manners: Manners) -> Info:
    """Describe programs, in the order given: Home Assistant takes the first of each kind."""
    return Info(
        tts=[_tts_program(engine, voices) for engine, voices in tts],
        asr=[_asr_program(engine, models, manners) for engine, models in asr],
    )


def _tts_program(engine: TtsEngine, voices: Sequence[Voice]) -> TtsProgram:
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


def _asr_program(engine: AsrEngine, models: Sequence[AsrModel], manners: Manners) -> AsrProgram:
    return AsrProgram(
        name=engine.name,
        description=engine.description,
        attribution=_ATTRIBUTION,
        installed=True,
        version=__version__,
        models=[_asr_model(model) for model in sorted(models, key=lambda model: model.name)],
        supports_transcript_streaming=engine.partials and manners.partials,
        requires_external_vad=manners.needs_vad,
    )


def _asr_model(model: AsrModel) -> AsrModelInfo:
    return AsrModelInfo(
        name=model.name,
        description=model.description,
        attribution=_ATTRIBUTION,
        installed=True,
        version=None,
        languages=sorted(model.languages),
    )
