"""The seam between the server and text-to-speech engines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from wyoming_rknn.audio import Waveform
from wyoming_rknn.runtime.scheduler import Stream

SPEAKER_SEPARATOR = "#"
"""Joins a voice's name and one of its speakers into a voice name of its own."""


def speaker_readings(name: str) -> Iterator[tuple[str, str]]:
    """Yield how a name may fall into voice and speaker, from the last separator to the first.

    Either may contain the separator itself, so a voice of exactly that name goes before them all.
    """
    end = len(name)
    while (end := name.rfind(SPEAKER_SEPARATOR, 0, end)) >= 0:
        yield name[:end], name[end + len(SPEAKER_SEPARATOR) :]


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that can be asked for."""

    name: str
    languages: tuple[str, ...]
    """BCP-47 tags, most specific first, for example ("en-US", "en")."""
    description: str
    rate_hz: int
    """0 if not known, which is so only for a voice that is not here."""
    speakers: tuple[str, ...] = ()
    """Names of speakers within the voice; empty for one speaker."""
    reads_phonemes: bool = False
    """Whether `[[ipa]]` within the text is spoken as phonemes."""
    is_here: bool = True
    """Whether it can speak now; if not, it is only listed, to be fetched when first asked for."""

    @property
    def language(self) -> str:
        """Return the most specific language tag."""
        return self.languages[0] if self.languages else "en"


@dataclass(frozen=True, slots=True)
class Prosody:
    """How a text is to be spoken; `None` leaves the choice to the voice and the settings."""

    length_scale: float | None = None
    """Duration factor: 2 takes twice as long."""
    noise_scale: float | None = None
    noise_w: float | None = None


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One piece of text, at most a sentence long, to be spoken in one breath."""

    text: str
    voice: str
    speaker: str | None = None
    prosody: Prosody = Prosody()


class TtsEngine(Protocol):
    """A text-to-speech program. Shared by all requests; thread-safe."""

    @property
    def name(self) -> str:
        """Return the program's name on the wire."""

    @property
    def description(self) -> str:
        """Return one line for people."""

    def voices(self) -> Sequence[Voice]:
        """Return what is usable now, sorted by name; looks at the disk, so voices come and go.

        With an engine that is `plugins.Fetching`, voices that are not here are among them.
        """

    def prepare(self, voice: str) -> None:
        """Load a voice ahead of its first use. Blocks. Raises `ModelError`, `VoiceNotFound`."""

    def speak(self, request: SpeechRequest, stream: Stream) -> Iterator[Waveform]:
        """Return the audio of `request`, float32 at the voice's rate, one item per window.

        What precedes the first window (phonemes, text encoder) begins with the call itself, so the next sentence can
        be called for while this one is still being taken. Items are computed as they are taken, a few ahead. Nothing
        speakable gives no items. Blocks. Raises `ModelError`, `EngineError`, `VoiceNotFound`, `Cancelled`.
        """

    def close(self) -> None:
        """Free everything."""
