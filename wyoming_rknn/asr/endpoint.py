"""Tell when someone has begun to speak, and when they have stopped."""

import math

FRAME_S = 0.032
"""Length of the frames whose probabilities an `Endpointer` takes: 512 samples at 16 kHz."""
_HYSTERESIS = 0.15
"""How far below the threshold speech has ended; in between goes on what was before. Silero's own rule."""


class Endpointer:
    """Follow one utterance by its frames' probabilities of speech. Has neither clock nor audio.

    One frame at the threshold begins speech, and takes it up again after a pause: `SpeechDetector` is not sure of
    anything before it has weighed several frames, and a word after a pause must not be lost. Times are in seconds from
    the beginning of the audio.
    """

    def __init__(self, threshold: float = 0.5, pause_s: float = 0.15) -> None:
        self._begin_at = threshold
        # A threshold within the hysteresis would leave nothing that counts as silence.
        self._end_below = max(threshold - _HYSTERESIS, threshold / 2)
        self._pause_frames = max(1, math.ceil(pause_s / FRAME_S - 1e-6))
        self._frames = 0
        self._first_speech: int | None = None
        self._after_speech = 0
        self._speaking = False

    def accept(self, probability: float) -> None:
        """Take in how likely it is, 0 to 1, that someone speaks in the next frame."""
        self._frames += 1
        self._speaking = probability >= (self._end_below if self._speaking else self._begin_at)
        if self._speaking:
            self._after_speech = self._frames
            if self._first_speech is None:
                self._first_speech = self._frames - 1

    @property
    def frames(self) -> int:
        """Return how many frames were accepted."""
        return self._frames

    @property
    def heard(self) -> bool:
        """Tell whether someone has begun to speak."""
        return self._first_speech is not None

    @property
    def paused(self) -> bool:
        """Tell whether someone has spoken and been silent for `pause_s` since."""
        return self.heard and self._frames - self._after_speech >= self._pause_frames

    @property
    def silence_s(self) -> float:
        """Return how long it has been silent at the end: since the last frame of speech, or all along."""
        return (self._frames - self._after_speech) * FRAME_S

    @property
    def speech_begin_s(self) -> float:
        """Return where the first frame of speech begins; 0 while nothing was heard.

        Speech began before that if the detector takes its time to be sure: with `SpeechDetector` 0.3 s as a rule.
        """
        return (self._first_speech or 0) * FRAME_S

    @property
    def speech_end_s(self) -> float:
        """Return where the last frame of speech so far ends; 0 while nothing was heard."""
        return self._after_speech * FRAME_S
