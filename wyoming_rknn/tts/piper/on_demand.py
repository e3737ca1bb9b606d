"""Piper with the catalogue's voices: they are listed as if they were installed, and fetched when first asked for."""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wyoming_rknn.audio import Waveform
from wyoming_rknn.errors import ModelInvalid, SpeechServerError, UsageError, VoiceNotFound
from wyoming_rknn.models.background import BackgroundDownloads
from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import CatalogEntry
from wyoming_rknn.models.catalogs import LiveCatalog, catalog_files
from wyoming_rknn.models.download import DownloadOptions
from wyoming_rknn.names import folded
from wyoming_rknn.runtime.scheduler import Stream
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import SPEAKER_SEPARATOR, SpeechRequest, TtsEngine, Voice, speaker_readings
from wyoming_rknn.tts.piper.engine import MAX_LISTED_SPEAKERS, PiperEngine
from wyoming_rknn.tts.piper.parts import load_parts

_LANGUAGE = "en"
"""Whose voices are listed where no language is set."""
_FORMAT = "piper"
_SUFFIXES = (".onnx", ".onnx.json")
_LOW_PRIORITY = 10
"""Nice value, of 0 to 19."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Offer:
    """A model of the catalogue, and what is listed of it."""

    entry: CatalogEntry
    voices: tuple[Voice, ...]


class OnDemandPiper:
    """Speak with the voices that are here, list those that can be fetched. Asks nobody before `fetch` is called."""

    def __init__(self, engine: PiperEngine, settings: Settings, options: DownloadOptions) -> None:
        """Wrap `engine`, which looks into the same settings' data folders."""
        self._engine = engine
        self._settings = settings
        self._languages = settings.auto_download_language or (settings.language or _LANGUAGE,)
        self._catalog = LiveCatalog(catalog_files(settings))
        self._downloads = BackgroundDownloads(options, self._make_ready)
        self._guard = threading.Lock()
        self._known: tuple[Catalog, tuple[_Offer, ...]] | None = None

    @property
    def name(self) -> str:
        """Return the engine's."""
        return self._engine.name

    @property
    def description(self) -> str:
        """Return the engine's."""
        return self._engine.description

    def voices(self) -> Sequence[Voice]:
        """Return the engine's voices and, not here, those of the catalogue that are not among them."""
        under_way = self._downloads.under_way
        here = [
            # One that is there but not cut yet would keep a request waiting.
            replace(voice, is_here=False) if under_way and under_way.intersection(_bases(voice.name)) else voice
            for voice in self._engine.voices()
        ]
        # What is broken may be the user's own: it is told, not replaced.
        taken = {folded(name) for name in (*(voice.name for voice in here), *self._engine.problems())}
        offers = [offer for offer in self._offers() if folded(offer.entry.name) not in taken]
        return sorted((*here, *(voice for offer in offers for voice in offer.voices)), key=lambda voice: voice.name)

    def problems(self) -> Mapping[str, SpeechServerError]:
        """Return the engine's."""
        return self._engine.problems()

    def fetch(self, voice: str) -> None:
        """Begin to fetch a voice that is not here. Returns at once; does nothing for other names."""
        for offer in self._offers():
            if offer.entry.name == voice or any(listed.name == voice for listed in offer.voices):
                self._downloads.begin(offer.entry, self._settings.data_dirs[0] / offer.entry.name)
                return

    def prepare(self, voice: str) -> None:
        """Load a voice that is here; see `TtsEngine`."""
        self._engine.prepare(voice)

    def speak(self, request: SpeechRequest, stream: Stream) -> Iterator[Waveform]:
        """Return the audio of a sentence; see `TtsEngine`."""
        return self._engine.speak(request, stream)

    def close(self) -> None:
        """Give up downloads, free all voices."""
        self._downloads.close()
        self._engine.close()

    def _offers(self) -> tuple[_Offer, ...]:
        catalog = self._catalog.now()
        with self._guard:
            if self._known is None or self._known[0] is not catalog:
                entries = {
                    entry.name: entry for tag in self._languages for entry in catalog.available("tts", language=tag)
                }
                offers = (_Offer(entry, _listed(entry)) for entry in entries.values() if _can_be_fetched(entry))
                self._known = (catalog, tuple(offers))
            return self._known[1]

    def _make_ready(self, entry: CatalogEntry, folder: Path) -> None:
        """Cut and load a voice that has just come."""
        # By the folder's name: the engine finds the same files.
        graph = folder / f"{entry.name}{_SUFFIXES[0]}"
        cutting = threading.Thread(target=self._cut, args=(graph,), name="downloads cut", daemon=True)
        cutting.start()
        cutting.join()
        try:
            self._engine.prepare(entry.name)
        except VoiceNotFound:
            raise self._engine.problems().get(entry.name) or ModelInvalid(
                f"the files of {entry.name} are no voice of that name; mend the catalogue"
            ) from None

    def _cut(self, graph: Path) -> None:
        # In a thread of its own, for none may raise its priority again: loaded at a low one, a voice would keep threads
        # that compute slowly ever after.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
        try:
            load_parts({"graph": graph}, self._settings.cache)
        except SpeechServerError as error:
            # Told when it is loaded, if it matters.
            _LOGGER.debug("%s is not cut: %s", graph.name, error)


def on_demand(engine: PiperEngine, settings: Settings) -> TtsEngine:
    """Return `engine` with the catalogue's voices, or without them where downloads are forbidden or set up wrongly."""
    try:
        options = DownloadOptions.of(os.environ)
    except UsageError as error:
        _LOGGER.warning("--auto-download is without effect: %s", error)
        return engine
    if options.offline:
        _LOGGER.info("--auto-download is without effect: HF_HUB_OFFLINE forbids it")
        return engine
    return OnDemandPiper(engine, settings, options)


def _can_be_fetched(entry: CatalogEntry) -> bool:
    """Tell whether a fetched model becomes a voice of the entry's name."""
    names = {file.name for file in entry.files}
    return entry.format == _FORMAT and all(f"{entry.name}{suffix}" in names for suffix in _SUFFIXES)


def _listed(entry: CatalogEntry) -> tuple[Voice, ...]:
    """Return what the engine will list of a model, as far as the catalogue knows."""
    remarks = [
        entry.languages[0] if entry.languages else "",
        entry.quality,
        f"{entry.num_speakers} speakers" if entry.num_speakers > 1 else "",
    ]
    description = f"{entry.name} ({', '.join(filter(None, remarks))})"
    voice = Voice(
        entry.name, entry.languages, description, 0, entry.speakers, reads_phonemes=True, is_here=False
    )  # fmt: skip
    speakers = entry.speakers if len(entry.speakers) <= MAX_LISTED_SPEAKERS else ()
    return (
        voice,
        *(
            replace(
                voice,
                name=f"{entry.name}{SPEAKER_SEPARATOR}{speaker}",
                description=f"{description}, {speaker}",
                speakers=(),
            )
            for speaker in speakers
        ),
    )


def _bases(name: str) -> set[str]:
    """Return the models of which a listed voice may be one."""
    return {name, *(base for base, _ in speaker_readings(name))}
