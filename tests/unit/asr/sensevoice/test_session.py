"""One utterance: what is decoded when, what is remembered, how long audio is cut and joined."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from wyoming_rknn.asr.engine import Piece
from wyoming_rknn.asr.sensevoice.ctc import Decoded
from wyoming_rknn.asr.sensevoice.session import SenseVoiceSession
from wyoming_rknn.errors import Cancelled, EngineError
from wyoming_rknn.runtime.scheduler import Scheduler, Stream

RATE_HZ = 16_000


@dataclass
class FakeModel:
    """Answers each decoding with the next of its answers, and keeps what it was asked."""

    longest_frames: int = 3000
    answers: list[Decoded] = field(default_factory=list)
    asked: list[np.ndarray] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)
    failure: Exception | None = None

    def decode(self, frames: np.ndarray, language: str | None, stream: Stream) -> Decoded:
        return stream.submit(lambda: self._decode(frames, language), at_s=0.0).result()

    def _decode(self, frames: np.ndarray, language: str | None) -> Decoded:
        assert 0 < len(frames) <= self.longest_frames
        if self.failure is not None:
            raise self.failure
        self.asked.append(frames)
        self.languages.append(language)
        number = len(self.asked)
        return self.answers[number - 1] if self.answers else Decoded((Piece(f" {number}", 0.06),), "en")


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(1).normal(size=round(seconds * RATE_HZ))).astype(np.float32)


def speech(*parts: tuple[float, float]) -> np.ndarray:
    """Return noise and silence, by turns, for so many seconds each."""
    return np.concatenate([part for loud, quiet in parts for part in (noise(loud), noise(quiet, 1e-4))])


@pytest.fixture
def finish(scheduler: Scheduler) -> Callable[[SenseVoiceSession], str]:
    return lambda session: session.finish(scheduler.stream()).text


def test_nothing_is_decoded_below_25_ms(finish: Callable[[SenseVoiceSession], str]) -> None:
    model = FakeModel()
    session = SenseVoiceSession(model, None)
    assert finish(session) == ""
    session.accept(noise(1)[:399])
    assert finish(session) == ""
    assert model.asked == []
    session.accept(noise(1)[:1])
    assert finish(session) == "1"
    assert [len(frames) for frames in model.asked] == [1]


def test_an_unchanged_utterance_is_decoded_once(scheduler: Scheduler) -> None:
    model = FakeModel()
    session = SenseVoiceSession(model, "ja")
    session.accept(noise(1))
    first = session.finish(scheduler.stream())
    assert session.finish(scheduler.stream()) == first == session.partial(scheduler.stream())
    # Less than a frame changes nothing.
    session.accept(noise(0.004))
    assert session.finish(scheduler.stream()) == first
    session.accept(noise(0.5))
    assert session.partial(scheduler.stream()).text == "2"
    assert session.finish(scheduler.stream()).text == "2"
    assert ([len(frames) for frames in model.asked], model.languages) == ([98, 148], ["ja", "ja"])


def test_after_a_failure_it_is_decoded_again(scheduler: Scheduler) -> None:
    model = FakeModel(failure=EngineError("broken"))
    session = SenseVoiceSession(model, None)
    session.accept(noise(1))
    with pytest.raises(EngineError, match="broken"):
        session.finish(scheduler.stream())
    model.failure = None
    given_up = scheduler.stream()
    given_up.cancel()
    with pytest.raises(Cancelled):
        session.finish(given_up)
    assert model.asked == []
    assert session.finish(scheduler.stream()).text == "1"


def test_what_is_too_long_is_cut_in_pauses(finish: Callable[[SenseVoiceSession], str]) -> None:
    model = FakeModel(longest_frames=300)
    session = SenseVoiceSession(model, None)
    session.accept(speech((2.0, 0.3), (0.5, 0.05), (1.5, 0.4), (1.0, 0.0)))
    assert finish(session) == "1 2 3"
    lengths = [len(frames) for frames in model.asked]
    # The first cut is in the pause from 2.0 to 2.3 s, the second in the one from 4.35 to 4.75 s.
    assert abs(lengths[0] - 215) <= 5
    assert abs(lengths[0] + lengths[1] - 455) <= 5
    assert sum(lengths) == 1 + (round(5.75 * RATE_HZ) - 400) // 160


def test_parts_are_not_shorter_than_they_must_be(finish: Callable[[SenseVoiceSession], str]) -> None:
    model = FakeModel(longest_frames=300)
    session = SenseVoiceSession(model, None)
    session.accept(speech((0.5, 0.6), (1.2, 0.2), (2.0, 0.0)))
    assert finish(session) == "1 2"
    # In the pause from 2.3 to 2.5 s, not in the longer one before.
    assert abs(len(model.asked[0]) - 240) <= 5


def test_cuts_stay_and_what_was_cut_off_is_decoded_once(finish: Callable[[SenseVoiceSession], str]) -> None:
    audio = speech(*[(1.3, 0.3), (0.9, 0.2), (2.1, 0.5)] * 4)
    once = FakeModel(longest_frames=300)
    session = SenseVoiceSession(once, None)
    session.accept(audio)
    finish(session)
    growing = FakeModel(longest_frames=300)
    session = SenseVoiceSession(growing, None)
    for begin in range(0, audio.size, 3200):
        session.accept(audio[begin : begin + 3200])
        finish(session)
    ends = [len(frames) for frames in once.asked]
    closed = [frames for frames in growing.asked if len(frames) in ends]
    for expected in once.asked:
        assert sum(np.array_equal(frames, expected) for frames in closed) >= 1
    starts = {frames[0].tobytes() for frames in growing.asked}
    assert starts == {frames[0].tobytes() for frames in once.asked}
    # Each part but the last is decoded a last time when it is complete; before, it is the growing end.
    assert len(growing.asked) <= audio.size // 3200 + len(once.asked) + 1


def test_parts_that_are_done_are_not_decoded_again(finish: Callable[[SenseVoiceSession], str]) -> None:
    model = FakeModel(longest_frames=100)
    session = SenseVoiceSession(model, None)
    session.accept(speech((0.7, 0.2), (0.7, 0.2), (0.6, 0.1)))
    assert finish(session) == "1 2 3"
    session.accept(noise(0.2))
    assert finish(session) == "1 2 4"
    assert len(model.asked) == 4


@pytest.mark.parametrize(
    ("languages", "wanted", "expected"),
    [
        (("en", "en"), None, " one two"),
        (("zh", "yue"), None, " onetwo"),
        (("ja", "ja"), None, " onetwo"),
        (("zh", "en"), None, " one two"),
        (("ko", "ko"), None, " one two"),
        ((None, None), None, " one two"),
        ((None, None), "zh", " onetwo"),
        ((None, "en"), "zh", " one two"),
    ],
)
def test_parts_are_joined_as_their_languages_are_written(
    languages: tuple[str | None, ...], wanted: str | None, expected: str, scheduler: Scheduler
) -> None:
    answers = [Decoded((Piece(text, 0.0),), tag) for text, tag in zip((" one", " two"), languages, strict=True)]
    session = SenseVoiceSession(FakeModel(100, answers), wanted)
    session.accept(speech((0.7, 0.2), (0.6, 0.1)))
    transcript = session.finish(scheduler.stream())
    assert "".join(piece.text for piece in transcript.pieces) == expected
    assert transcript.language == next((tag for tag in languages if tag), None)


def test_times_count_from_the_beginning_and_silent_parts_say_nothing(scheduler: Scheduler) -> None:
    answers = [
        Decoded((Piece(" a", 0.3),), "en"),
        Decoded((), "ko"),
        Decoded((Piece("b", 0.12), Piece(" c", 0.3)), "en"),
    ]
    model = FakeModel(100, answers)
    session = SenseVoiceSession(model, None)
    session.accept(speech((0.7, 0.2), (0.7, 0.2), (0.6, 0.1)))
    transcript = session.finish(scheduler.stream())
    begins = np.cumsum([0, *(len(frames) for frames in model.asked)]) / 100
    assert transcript.text == "a b c"
    assert transcript.language == "en"
    assert [piece.begin_s for piece in transcript.pieces] == pytest.approx([0.3, begins[2] + 0.12, begins[2] + 0.3])


def test_a_closed_session_holds_nothing(finish: Callable[[SenseVoiceSession], str]) -> None:
    session = SenseVoiceSession(FakeModel(), None)
    session.accept(noise(1))
    finish(session)
    session.close()
    assert finish(session) == ""
