"""The seam between the server and speech-to-text engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wyoming_rknn.audio import Waveform
from wyoming_rknn.runtime.scheduler import Stream

RATE_HZ = 16_000
"""What all engines hear: 16 kHz, mono, float32."""


@dataclass(frozen=True, slots=True)
class AsrModel:
    """A model that can be asked for."""

    name: str
    languages: tuple[str, ...]
    """BCP-47 tags, sorted. A request for none of them leaves the choice to the model."""
    description: str
    chosen: bool = False
    """Whether it is the one that `--asr-model` names."""


@dataclass(frozen=True, slots=True)
class Bias:
    """Words that the speaker is likely to use, most likely first; engines that cannot be biased ignore them."""

    names: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A word or a part of one."""

    text: str
    """As it stands in the transcript, with the space before it."""
    begin_s: float
    """Where it was heard, in seconds from the beginning of the utterance."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said."""

    pieces: tuple[Piece, ...] = ()
    language: str | None = None
    """BCP-47 tag of what was spoken, where the engine knows."""

    @property
    def text(self) -> str:
        """Return the pieces as one text; empty if nothing was said."""
        return "".join(piece.text for piece in self.pieces).strip()


class AsrSession(Protocol):
    """One utterance. One call at a time, from any thread.

    A transcript is always of everything accepted so far, and more audio may be accepted after it: the speaker may go
    on after a pause.
    """

    def accept(self, samples: Waveform) -> None:
        """Take in the audio that follows, float32 [n] at `RATE_HZ`, any n; does what can be done ahead."""

    def partial(self, stream: Stream) -> Transcript:
        """Return what can be told while the speaker goes on; its end may still change. Blocks, as `finish` does."""

    def finish(self, stream: Stream) -> Transcript:
        """Return the transcript, computed through `stream`. Blocks. Raises `ModelError`, `EngineError`, `Cancelled`."""

    def close(self) -> None:
        """Free what the utterance holds."""


class AsrEngine(Protocol):
    """A speech-to-text program. Shared by all requests; thread-safe; immutable once loaded."""

    @property
    def name(self) -> str:
        """Return the program's name on the wire."""

    @property
    def description(self) -> str:
        """Return one line for people."""

    @property
    def partials(self) -> bool:
        """Tell whether `AsrSession.partial` is quick enough to be asked for while someone speaks."""

    def models(self) -> Sequence[AsrModel]:
        """Return what is usable now, the default first; looks at the disk, so models come and go."""

    def prepare(self, model: str) -> None:
        """Load a model ahead of its first use. Blocks. Raises `ModelError`, `ModelNotFound`."""

    def open(self, model: str, language: str | None, bias: Bias) -> AsrSession:
        """Begin an utterance in one of the model's languages, or in one that the model is to find out.

        Blocks while the model is loaded. Raises `ModelError`, `ModelNotFound`.
        """

    def close(self) -> None:
        """Free everything."""
