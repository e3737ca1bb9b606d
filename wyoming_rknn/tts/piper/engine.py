"""The Piper engine: every voice found on disk, spoken in windows."""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from wyoming_rknn.audio import Waveform, apply_gain
from wyoming_rknn.errors import EngineError, GraphNotSplittable, ModelInvalid, VoiceNotFound
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.models.store import Store
from wyoming_rknn.runtime import onnx
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SPEAKER_SEPARATOR, Prosody, SpeechRequest, Voice
from wyoming_rknn.tts.piper.parts import load_parts
from wyoming_rknn.tts.piper.phonemes import phonemize, to_ids
from wyoming_rknn.tts.piper.voice import CutVoice, PiperVoice, Scales, Utterance, WholeVoice
from wyoming_rknn.tts.piper.windows import Growth

_LOGGER = logging.getLogger(__name__)

MAX_LISTED_SPEAKERS = 32
"""Voices with more speakers are listed once: nobody finds a name among hundreds."""
_AHEAD = 1
"""Windows computed beyond the one being taken, so that the device works while the network does."""


def create(settings: Settings) -> "PiperEngine":
    """Return the engine for the settings' data folders."""
    return PiperEngine(settings, Store(settings.data_dirs))


@dataclass(slots=True)
class _Loaded:
    config: VoiceConfig
    voice: PiperVoice
    reported: set[str] = field(default_factory=set)
    """Phonemes that the voice lacks and that were logged already."""


class PiperEngine:
    """Speak with Piper voices."""

    name = "piper"
    description = "Piper: neural voices, streamed while they are synthesised"

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._growth = Growth(settings.first_window, settings.window_growth, settings.max_window)
        self._loaded: dict[str, _Loaded] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._reported: set[str] = set()

    def voices(self) -> Sequence[Voice]:
        """Return all voices, and each speaker of those with few as a voice of its own."""
        return sorted((voice for manifest in self._scan() for voice in _listed(manifest)), key=lambda voice: voice.name)

    def prepare(self, voice: str) -> None:
        """Load a voice. Blocks, for seconds when it is cut for the first time."""
        self._load(voice.partition(SPEAKER_SEPARATOR)[0])

    def speak(self, request: SpeechRequest, stream: Stream) -> Iterator[Waveform]:
        """Return the audio of a sentence, window by window; its encoder is queued at once."""
        name, _, listed_speaker = request.voice.partition(SPEAKER_SEPARATOR)
        loaded = self._load(name)
        config = loaded.config
        ids, missing = to_ids(phonemes := self._phonemize(request.text, config), config.phoneme_id_map)
        if not phonemes:
            return iter(())
        if news := missing.keys() - loaded.reported:
            loaded.reported |= news
            _LOGGER.warning("voice %s has no sound for %s; left out", name, " ".join(sorted(map(repr, news))))
        speaker_id = _speaker_id(config, request.speaker or listed_speaker)
        work = partial(loaded.voice.encode, ids, self._scales(config, request.prosody), speaker_id)
        encoding = stream.submit(work, at_s=stream.reserved_s)
        return self._decode(encoding, stream)

    def close(self) -> None:
        """Free all voices."""
        with self._guard:
            loaded, self._loaded = self._loaded, {}
        for entry in loaded.values():
            entry.voice.close()

    def _decode(self, encoding: "Future[Utterance]", stream: Stream) -> Iterator[Waveform]:
        utterance = encoding.result()
        begin_s = stream.reserve(utterance.seconds)
        computing: deque[Future[Waveform]] = deque()
        for piece in utterance.pieces(self._growth):
            stream.check()
            computing.append(stream.submit(piece.compute, at_s=begin_s + piece.begin_s))
            if len(computing) > _AHEAD:
                yield self._finish(computing.popleft().result())
        while computing:
            yield self._finish(computing.popleft().result())

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

    def _load(self, name: str) -> _Loaded:
        if (loaded := self._loaded.get(name)) is not None:
            return loaded
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if (loaded := self._loaded.get(name)) is None:
                manifests = {manifest.name: manifest for manifest in self._scan()}
                if name not in manifests:
                    raise VoiceNotFound(name, manifests)
                loaded = self._loaded[name] = self._open(manifests[name])
            return loaded

    def _open(self, manifest: Manifest) -> _Loaded:
        config = VoiceConfig.read(manifest.files["config"])
        load = partial(onnx.load, threads=self._settings.inference_threads)
        voice: PiperVoice
        try:
            parts = load_parts(manifest.files, self._settings.cache)
        except GraphNotSplittable as error:
            if "graph" not in manifest.files:
                raise
            _LOGGER.info("voice %s cannot be cut (%s): each sentence is spoken in one go", manifest.name, error)
            voice = WholeVoice(manifest.files["graph"], config.rate_hz, load)
        else:
            # A decoder that is not understood tells nothing of its hop.
            if parts.hop not in (0, config.hop):
                raise ModelInvalid(
                    f"{manifest.files['config'].name} says {config.hop} samples per frame, the graph makes "
                    f"{parts.hop}; take the config that belongs to the voice"
                )
            voice = CutVoice(parts, config.hop, config.rate_hz, load)
        return _Loaded(config, voice)

    def _scan(self) -> Sequence[Manifest]:
        found = self._store.scan("tts")
        for problem in found.problems:
            if (line := f"{problem.path}: {problem.message}") not in self._reported:
                self._reported.add(line)
                _LOGGER.warning("%s", line)
        return found.manifests


def _listed(manifest: Manifest) -> Iterator[Voice]:
    voice = Voice(
        manifest.name,
        manifest.languages,
        manifest.description,
        manifest.rate_hz,
        manifest.speakers,
        reads_phonemes=True,
    )
    yield voice
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
