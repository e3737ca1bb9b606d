"""The Piper engine: every voice found on disk, spoken in windows."""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np

from wyoming_rknn.audio import Waveform, apply_gain
from wyoming_rknn.errors import AcceleratorError, EngineError, SpeechServerError, VoiceNotFound
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.models.manifest import Detected, Manifest
from wyoming_rknn.models.shelf import Shelf, footprint
from wyoming_rknn.models.store import Store
from wyoming_rknn.npu.offer import offered
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SPEAKER_SEPARATOR, Prosody, SpeechRequest, TtsEngine, Voice, speaker_readings
from wyoming_rknn.tts.piper.loading import LoadedVoice, VoiceLoader
from wyoming_rknn.tts.piper.phonemes import phonemize, to_ids
from wyoming_rknn.tts.piper.voice import Piece, PiperVoice, Scales, Utterance
from wyoming_rknn.tts.piper.windows import Growth

_LOGGER = logging.getLogger(__name__)

MAX_LISTED_SPEAKERS = 32
"""Voices with more speakers are listed once: nobody finds a name among hundreds."""


def create(settings: Settings, runtimes: Runtimes) -> TtsEngine:
    """Return the engine for the settings' data folders, with what can be fetched if that is set."""
    engine = PiperEngine(settings, Store(settings.data_dirs, soc=runtimes.npu_soc), runtimes)
    if not settings.auto_download:
        return engine
    from wyoming_rknn.tts.piper.on_demand import on_demand

    return on_demand(engine, settings)


@dataclass(frozen=True, slots=True)
class _Speaking:
    """What a reply speaks with."""

    asked_for: str
    loaded: LoadedVoice
    voice: PiperVoice
    """The one that `loaded` had when the reply began."""
    speaker: str
    """The speaker that is part of the name asked for, or empty."""


@dataclass(frozen=True, slots=True)
class _Computing:
    """A window under way."""

    piece: Piece
    at_s: float
    computed: "Future[Waveform]"

    def result(self, stream: Stream) -> Waveform:
        """Wait for it; what an NPU fails to compute the CPU does."""
        try:
            return self.computed.result()
        except AcceleratorError:
            if self.piece.spare is None:
                raise
            return stream.submit(self.piece.spare, at_s=self.at_s).result()


class PiperEngine:
    """Speak with Piper voices."""

    name = "piper"
    description = "Piper: neural voices, streamed while they are synthesised"

    def __init__(self, settings: Settings, store: Store, runtimes: Runtimes) -> None:
        self._settings = settings
        self._store = store
        self._runtimes = runtimes
        self._growth = Growth(settings.first_window, settings.window_growth, settings.max_window)
        size_of = partial(footprint, npu=runtimes.accelerator is not None)
        self._loader = VoiceLoader(settings, runtimes, size_of)
        self._shelf: Shelf[LoadedVoice] = Shelf(self._loader.open, runtimes.memory, size_of)
        self._speaking: WeakKeyDictionary[Stream, _Speaking] = WeakKeyDictionary()
        self._guard = threading.Lock()
        self._reported: set[str] = set()

    def voices(self) -> Sequence[Voice]:
        """Return all voices but broken ones, and each speaker of those with few as a voice of its own."""
        self._forget_replies()
        found = self._scan().manifests
        broken = self._shelf.problems(found)
        manifests = [manifest for manifest in found if manifest.name not in broken]
        speakers = {voice.name: voice for manifest in manifests for voice in _listed_speakers(manifest)}
        voices = speakers | {manifest.name: _listed(manifest) for manifest in manifests}
        return sorted(voices.values(), key=lambda voice: voice.name)

    def problems(self) -> Mapping[str, SpeechServerError]:
        """Return, by voice name, what is wrong with files that look like a voice, and with voices found broken."""
        found = self._scan()
        broken = self._shelf.problems(found.manifests)
        return {problem.name: problem.error() for problem in (*found.problems, *broken.values())}

    def prepare(self, voice: str) -> None:
        """Load a voice. Blocks, for seconds when it is cut for the first time; meanwhile it can speak already."""
        loaded, _ = self._load(voice)
        loaded.settled.wait()

    def speak(self, request: SpeechRequest, stream: Stream) -> Iterator[Waveform]:
        """Return the audio of a sentence, window by window; its encoder is queued at once.

        A voice that is not cut yet gives a sentence as a whole; it is cut meanwhile, for replies that begin later.
        """
        speaking = self._voice_of(request, stream)
        loaded, config = speaking.loaded, speaking.loaded.config
        ids, missing = to_ids(phonemes := self._phonemize(request.text, config), config.phoneme_id_map)
        if not phonemes:
            return iter(())
        if news := missing.keys() - loaded.reported:
            loaded.reported |= news
            _LOGGER.warning("voice %s has no sound for %s; left out", loaded.name, " ".join(sorted(map(repr, news))))
        speaker_id = _speaker_id(config, request.speaker or speaking.speaker)
        work = partial(speaking.voice.encode, ids, self._scales(config, request.prosody), speaker_id)
        encoding = stream.submit(work, at_s=stream.reserved_s)
        return self._decode(encoding, stream)

    def close(self) -> None:
        """Give up cutting, free all voices."""
        self._loader.close()
        for loaded in self._shelf.clear():
            loaded.voice.close()

    def _decode(self, encoding: "Future[Utterance]", stream: Stream) -> Iterator[Waveform]:
        utterance = encoding.result()
        begin_s = stream.reserve(utterance.seconds)
        computing: deque[_Computing] = deque()
        prepared: Future[None] | None = None
        for piece in utterance.pieces(self._growth):
            stream.check()
            at_s = begin_s + piece.begin_s
            if piece.prepare is not None:
                prepared = stream.submit(piece.prepare, at_s=at_s)
            computed = stream.submit(piece.compute, at_s=at_s, device=piece.device, after=prepared)
            computing.append(_Computing(piece, at_s, computed))
            # Beyond the window being taken: one, so that the device works while the network does, or one for each core.
            if len(computing) > stream.slots(piece.device):
                yield self._finish(computing.popleft().result(stream))
        while computing:
            yield self._finish(computing.popleft().result(stream))

    def _finish(self, samples: Waveform) -> Waveform:
        if not np.isfinite(samples).all():
            raise EngineError("the voice's graph computed no numbers but NaN or infinity; `models list` names its file")
        return apply_gain(samples, self._settings.volume)

    def _phonemize(self, text: str, config: VoiceConfig) -> list[str]:
        return phonemize(text, config.espeak_voice, config.phoneme_type)

    def _scales(self, config: VoiceConfig, prosody: Prosody) -> Scales:
        settings = self._settings
        return Scales(
            noise=_first(prosody.noise_scale, settings.noise_scale, config.noise_scale),
            length=config.length_scale * settings.length_scale * _first(prosody.length_scale, 1.0),
            noise_w=_first(prosody.noise_w, settings.noise_w, config.noise_w),
        )

    def _load(self, name: str) -> tuple[LoadedVoice, str]:
        """Return a voice, loaded, and the speaker that is part of its name."""
        # What is named exactly goes before everything else.
        if (loaded := self._shelf.get(name)) is not None:
            return loaded, ""
        manifests = {manifest.name: manifest for manifest in self._scan().manifests}
        for base, speaker in ((name, ""), *speaker_readings(name)):
            if base in manifests:
                return self._shelf.load(manifests[base]), speaker
        raise VoiceNotFound(name, manifests)

    def _voice_of(self, request: SpeechRequest, stream: Stream) -> _Speaking:
        """Return what speaks a request; a reply keeps its voice, whatever happens to the files, cut or whole."""
        self._forget_replies()
        with self._guard:
            kept = self._speaking.get(stream)
        if kept is None or kept.asked_for != request.voice:
            loaded, speaker = self._load(request.voice)
            kept = _Speaking(request.voice, loaded, loaded.voice, speaker)
            with self._guard:
                self._speaking[stream] = kept
        return kept

    def _forget_replies(self) -> None:
        """Let go of the voices of replies that are over, whoever still holds those."""
        with self._guard:
            over = [self._speaking.pop(stream) for stream in list(self._speaking) if stream.cancelled]
        # Freed without the guard, for which others wait.
        over.clear()

    def _scan(self) -> Detected:
        found = offered(self._store.scan("tts"), self._runtimes)
        for problem in found.problems:
            if (line := f"{problem.path}: {problem.message}") not in self._reported:
                self._reported.add(line)
                _LOGGER.warning("%s", line)
        return found


def _listed(manifest: Manifest) -> Voice:
    return Voice(
        manifest.name,
        manifest.languages,
        manifest.description,
        manifest.rate_hz,
        manifest.speakers,
        reads_phonemes=True,
    )


def _listed_speakers(manifest: Manifest) -> Iterator[Voice]:
    if len(manifest.speakers) <= MAX_LISTED_SPEAKERS:
        for speaker in manifest.speakers:
            yield Voice(
                f"{manifest.name}{SPEAKER_SEPARATOR}{speaker}",
                manifest.languages,
                f"{manifest.description}, {speaker}",
                manifest.rate_hz,
                reads_phonemes=True,
            )


def _speaker_id(config: VoiceConfig, speaker: str | None) -> int:
    if speaker and speaker in config.speakers:
        return config.speaker_id_map.get(speaker, config.speakers.index(speaker))
    return config.default_speaker_id


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
