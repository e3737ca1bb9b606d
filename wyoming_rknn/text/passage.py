"""A stretch of text that is spoken in one manner."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """Text with how it is to be spoken."""

    text: str
    rate: float = 1.0
    """Speed: 2 is twice as fast."""
    pause_s: float = 0.0
    """Silence before the text, in seconds."""
