"""The text-to-speech programs of this installation, and which voice a request means."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from wyoming_rknn import plugins
from wyoming_rknn.errors import RequestError, SpeechServerError, UsageError, VoiceNotFound, did_you_mean
from wyoming_rknn.names import folded
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import TtsEngine, Voice, speaker_readings

_LOGGER = logging.getLogger(__name__)

ENTRY_POINTS = "wyoming_rknn.tts"
_BUILT_IN_ORDER = ("piper", "espeak-ng")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The voice a request names; all `None` means the default."""

    name: str | None = None
    language: str | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The voice a request gets."""

    engine: TtsEngine
    voice: Voice
    speaker: str | None


class Programs:
    """Engines in the order in which they are offered."""

    def __init__(self, engines: Sequence[TtsEngine], settings: Settings) -> None:
        self._engines = tuple(engines)
        self._settings = settings
        self._missed_default = False
        if settings.tts_engine and settings.tts_engine not in self.names:
            raise UsageError(
                f"--tts-engine {settings.tts_engine!r} is not installed{did_you_mean(settings.tts_engine, self.names)}"
            )

    def offered(self) -> list[tuple[TtsEngine, Sequence[Voice]]]:
        """Return the engines that have voices now, the default one first. Looks at the disk.

        Voices that can only be fetched are among them, marked as not here.
        """
        usable = [(engine, engine.voices()) for engine in self._engines]
        usable = [(engine, voices) for engine, voices in usable if voices]
        # sorted() is stable: the others keep their order.
        return sorted(usable, key=lambda pair: pair[0].name != self._settings.tts_engine)

    @property
    def names(self) -> list[str]:
        """Return what the programs are called, those without voices among them."""
        return [engine.name for engine in self._engines]

    def choose(self, wanted: Wanted, program: str | None = None) -> Choice:
        """Return the voice for a request; the programs are searched in order, `program` first.

        Names are matched exactly, then without regard to case and separators. A bare language takes the default voice
        if it speaks that language. A voice that is not here begins to be fetched when it is named; meanwhile another
        one of its language speaks. Raises `VoiceNotFound`, or what is wrong with the voice where it cannot be used.
        """
        offered = sorted(self.offered(), key=lambda pair: pair[0].name != program)
        listed = [(engine, voice) for engine, these in offered for voice in these]
        voices = [(engine, voice) for engine, voice in listed if voice.is_here]
        if not voices and not wanted.name:
            if self._settings.voice and (found := _by_name(listed, self._settings.voice)) is not None:
                return self._meanwhile(found[0], found[1], listed, program)
            # What is wrong with a voice says more than that there is none.
            raise next(iter(self._problems().values()), None) or VoiceNotFound(wanted.language or "default", ())
        if wanted.name:
            found = _by_name(listed, wanted.name)
            if found is not None and not found[1].is_here:
                return self._meanwhile(found[0], found[1], listed, program)
            if found is None:
                problem = self._problem(wanted.name)
                if not (voices and self._settings.fallback_voice):
                    raise problem or VoiceNotFound(wanted.name, (voice.name for _, voice in listed))
                found = self._default(listed, program)
                reason = problem or f"voice {wanted.name!r} is not installed"
                _LOGGER.warning("%s; %s speaks instead", reason, found[1].name)
            engine, voice, speaker = found
            return Choice(engine, voice, _known_speaker(voice, wanted.speaker) or speaker)
        engine, voice, speaker = self._default(listed, program)
        if wanted.language:
            chosen = _by_language([(engine, voice), *voices], wanted.language)
            if chosen is None:
                tags = (tag for _, voice in voices for tag in voice.languages)
                raise VoiceNotFound(wanted.language, tags, is_language=True)
            if chosen[1] is not voice:
                engine, voice, speaker = (*chosen, None)
        return Choice(engine, voice, _known_speaker(voice, wanted.speaker) or speaker)

    def close(self) -> None:
        """Close all engines."""
        for engine in self._engines:
            engine.close()

    def _default(
        self, listed: Sequence[tuple[TtsEngine, Voice]], program: str | None
    ) -> tuple[TtsEngine, Voice, str | None]:
        """Return the voice that speaks when none is named. One at least must be here."""
        settings = self._settings
        voices = [(engine, voice) for engine, voice in listed if voice.is_here]
        found = _by_name(listed, settings.voice) if settings.voice else None
        # Who selects a program wants to hear it, unless it has no voice.
        if found is not None and (found[0].name == program or voices[0][0].name != program):
            if found[1].is_here:
                return found
            _fetch(found[0], found[1])
            return (*(_of_language(voices, found[1].language) or voices[0]), None)
        # Every request that names no voice comes here.
        if settings.voice and found is None and not self._missed_default:
            self._missed_default = True
            if (problem := self._problem(settings.voice)) is not None:
                _LOGGER.warning("--voice %r cannot be used: %s; another one speaks", settings.voice, problem)
            else:
                close = did_you_mean(settings.voice, (voice.name for _, voice in listed))
                _LOGGER.warning("--voice %r is not installed%s; another one speaks", settings.voice, close)
        first = [(engine, voice) for engine, voice in voices if engine is voices[0][0]]
        return (*(_by_language(first, settings.language or "en-US") or first[0]), None)

    def _meanwhile(
        self, engine: TtsEngine, missing: Voice, listed: Sequence[tuple[TtsEngine, Voice]], program: str | None
    ) -> Choice:
        """Have a voice fetched and return the one that speaks until it is here."""
        _fetch(engine, missing)
        voices = [(engine, voice) for engine, voice in listed if voice.is_here]
        if not voices:
            raise RequestError(
                f"voice {missing.name!r} is being fetched, and no other one is installed to speak until then; try again"
                " later"
            )
        default = self._default(listed, program)
        choice = Choice(*default)
        if _by_language([default[:2]], missing.language) is None:
            choice = Choice(*(_of_language(voices, missing.language) or default[:2]), None)
        _LOGGER.info("voice %s is not here yet; %s speaks instead", missing.name, choice.voice.name)
        return choice

    def _problems(self) -> dict[str, SpeechServerError]:
        """Return what is wrong with voices that cannot be used; the first engine that knows a name wins."""
        problems: dict[str, SpeechServerError] = {}
        for engine in self._engines:
            if isinstance(engine, plugins.Diagnosing):
                problems = {**engine.problems(), **problems}
        return problems

    def _problem(self, name: str) -> SpeechServerError | None:
        problems = self._problems()
        for wanted in (name, *(base for base, _ in speaker_readings(name))):
            if wanted in problems:
                return problems[wanted]
            for known, error in problems.items():
                if folded(known) == folded(wanted):
                    return error
        return None


def load(settings: Settings, runtimes: Runtimes) -> Programs:
    """Create every installed engine; one that fails to import is left out with one warning."""
    engines = plugins.create(ENTRY_POINTS, _BUILT_IN_ORDER, "text-to-speech", settings, runtimes)
    return Programs(list(engines), settings)


def _by_name(voices: Sequence[tuple[TtsEngine, Voice]], name: str) -> tuple[TtsEngine, Voice, str | None] | None:
    if (whole := _by_whole_name(voices, name)) is not None:
        return (*whole, None)
    for base, speaker in speaker_readings(name):
        if (found := _by_whole_name(voices, base)) and (known := _speaker(found[1], speaker)):
            return (*found, known)
    return None


def _by_whole_name(voices: Sequence[tuple[TtsEngine, Voice]], name: str) -> tuple[TtsEngine, Voice] | None:
    for engine, voice in voices:
        if voice.name == name:
            return engine, voice
    for engine, voice in voices:
        if folded(voice.name) == folded(name):
            return engine, voice
    return None


def _by_language(voices: Sequence[tuple[TtsEngine, Voice]], tag: str) -> tuple[TtsEngine, Voice] | None:
    wanted = folded(tag)
    bare = wanted.split("-")[0]
    # From the exact tag to any region of the language.
    for target, full in ((wanted, True), (wanted, False), (bare, True), (bare, False)):
        for engine, voice in voices:
            tags = (folded(language) for language in voice.languages)
            if any(target == (tag if full else tag.split("-")[0]) for tag in tags):
                return engine, voice
    return None


def _of_language(voices: Sequence[tuple[TtsEngine, Voice]], tag: str) -> tuple[TtsEngine, Voice] | None:
    """Return a voice of a language, of whichever region, of the first engine that has one."""
    for first in dict.fromkeys(engine.name for engine, _ in voices):
        if (found := _by_language([pair for pair in voices if pair[0].name == first], tag)) is not None:
            return found
    return None


def _fetch(engine: TtsEngine, voice: Voice) -> None:
    if isinstance(engine, plugins.Fetching):
        engine.fetch(voice.name)


def _speaker(voice: Voice, name: str) -> str | None:
    """Return the voice's own spelling of a speaker given by name, or by number."""
    for speaker in voice.speakers:
        if speaker == name or folded(speaker) == folded(name):
            return speaker
    if name.isdecimal() and int(name) < len(voice.speakers):
        return voice.speakers[int(name)]
    return None


def _known_speaker(voice: Voice, name: str | None) -> str | None:
    if name is None or name == "":
        return None
    if (speaker := _speaker(voice, name)) is None:
        _LOGGER.warning(
            "voice %s has no speaker %r%s; its default speaks", voice.name, name, did_you_mean(name, voice.speakers)
        )
    return speaker
