"""From a text, whole or still arriving, to the audio of its sentences in order."""

import queue
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from wyoming_rknn.audio import Waveform, silence
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.text import ssml
from wyoming_rknn.text.normalize import speakable
from wyoming_rknn.text.passage import Passage
from wyoming_rknn.text.sentences import FLUSH_AFTER_S, SentenceSplitter
from wyoming_rknn.tts.engine import Prosody, SpeechRequest, TtsEngine, Voice

_PIECE_CHARS = 400
"""A long text is split piece by piece, so that its first sentence is not kept waiting by the rest."""


class TextFeed:
    """The text of one reply: written by the server as it arrives, read as passages by the narrator's thread."""

    def __init__(self, language: str, *, is_ssml: bool = False, reads_phonemes: bool = False) -> None:
        self._language = language
        self._is_ssml = is_ssml
        self._reads_phonemes = reads_phonemes
        self._arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._splitter = SentenceSplitter(language)
        self._unsplit: deque[str] = deque()
        self._ready: deque[Passage] = deque()
        self._markup: list[str] = []
        self._last_arrival = time.monotonic()
        self._paused = False
        self._ended = False

    def write(self, text: str) -> None:
        """Append text."""
        if text:
            self._arrived.put(text)

    def end(self) -> None:
        """Note that no more text comes."""
        self._arrived.put(None)

    def poll(self) -> Passage | None:
        """Return the next passage if there is one already."""
        while not self._ready and self._advance(wait=False):
            pass
        return self._ready.popleft() if self._ready else None

    def next(self) -> Passage | None:
        """Return the next passage, waiting for it, or `None` at the end of the text."""
        while not self._ready and self._advance(wait=True):
            pass
        return self._ready.popleft() if self._ready else None

    def _advance(self, wait: bool) -> bool:
        """Split a little more; return whether there may be more to split."""
        if self._unsplit:
            self._take(self._splitter.feed(self._unsplit.popleft()))
            return True
        if self._ended:
            return False
        try:
            # A complete sentence at the end of the text is spoken when the text pauses, not when it goes on.
            quiet_s = max(0.0, self._last_arrival + FLUSH_AFTER_S - time.monotonic())
            text = self._arrived.get(wait, None if self._paused else quiet_s)
        except queue.Empty:
            if self._paused or time.monotonic() < self._last_arrival + FLUSH_AFTER_S:
                return wait
            self._paused = True
            self._take(self._splitter.pause())
            return wait or bool(self._ready)
        self._last_arrival = time.monotonic()
        self._paused = False
        if text is None:
            self._ended = True
            self._finish()
        elif self._is_ssml:
            self._markup.append(text)
        else:
            self._unsplit.extend(text[i : i + _PIECE_CHARS] for i in range(0, len(text), _PIECE_CHARS))
        return True

    def _finish(self) -> None:
        if self._is_ssml:
            for passage in ssml.parse("".join(self._markup), phonemes=self._reads_phonemes):
                self._split_passage(passage)
        else:
            self._take(self._splitter.finish())

    def _split_passage(self, passage: Passage) -> None:
        splitter = SentenceSplitter(self._language)
        pause_s = passage.pause_s
        for sentence in (*splitter.feed(passage.text), *splitter.finish()) or ("",):
            self._ready.append(Passage(sentence, passage.rate, pause_s))
            pause_s = 0.0

    def _take(self, sentences: list[str]) -> None:
        self._ready.extend(Passage(sentence) for sentence in sentences)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a whole reply is spoken."""

    speaker: str | None = None
    sentence_silence_s: float = 0.0
    prosody: Prosody = Prosody()


class Narrator:
    """Speak a feed's passages with one voice, encoding the next while one is being decoded."""

    def __init__(self, engine: TtsEngine, voice: Voice, manner: Manner, stream: Stream) -> None:
        self._engine = engine
        self._voice = voice
        self._manner = manner
        self._stream = stream
        self._begun = False

    def narrate(self, feed: TextFeed) -> Iterator[Waveform]:
        """Yield the reply's audio, float32 at the voice's rate; blocks. Raises what `TtsEngine.speak` raises."""
        begun: _Begun | None = None
        while True:
            if begun is None:
                if (passage := feed.next()) is None:
                    return
                begun = self._speak(passage)
            if begun.pause.size:
                yield begun.pause
            ahead: _Begun | None = None
            for waveform in begun.spoken:
                yield waveform
                # Not before the first window: what comes next must neither delay it nor be planned before it.
                if ahead is None and (following := feed.poll()) is not None:
                    ahead = self._speak(following)
            begun = ahead

    def _speak(self, passage: Passage) -> "_Begun":
        """Begin a passage; its encoder is under way when this returns."""
        self._stream.check()
        text = speakable(passage.text, self._voice.language, keep_phonemes=self._voice.reads_phonemes)
        pause_s = passage.pause_s + (self._manner.sentence_silence_s if text and self._begun else 0.0)
        pause = silence(pause_s, self._voice.rate_hz)
        self._stream.reserve(pause_s)
        spoken: Iterator[Waveform] = iter(())
        if text:
            self._begun = True
            prosody = self._manner.prosody
            prosody = replace(prosody, length_scale=(prosody.length_scale or 1.0) / passage.rate)
            request = SpeechRequest(text, self._voice.name, self._manner.speaker, prosody)
            spoken = self._engine.speak(request, self._stream)
        return _Begun(pause, spoken)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A passage whose encoder is under way: the silence before it, and its audio."""

    pause: Waveform
    spoken: Iterator[Waveform]
