"""The SenseVoice engine: every SenseVoice model found on disk."""

import logging
from collections.abc import Mapping, Sequence

from wyoming_rknn.asr.engine import AsrModel, Bias
from wyoming_rknn.asr.sensevoice import choice
from wyoming_rknn.asr.sensevoice.graphs import Load, loader
from wyoming_rknn.asr.sensevoice.model import Model, open_model
from wyoming_rknn.asr.sensevoice.session import SenseVoiceSession
from wyoming_rknn.errors import ModelError, ModelNotFound, SpeechServerError
from wyoming_rknn.features.fbank import SHIFT
from wyoming_rknn.models.formats import sensevoice
from wyoming_rknn.models.manifest import Detected, Manifest
from wyoming_rknn.models.shelf import Shelf
from wyoming_rknn.models.store import Store
from wyoming_rknn.npu.offer import offered
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)


def create(settings: Settings, runtimes: Runtimes) -> "SenseVoiceEngine":
    """Return the engine for the settings' data folders, and for the model that they name by its path."""
    store = Store(settings.data_dirs, soc=runtimes.npu_soc)
    return SenseVoiceEngine(settings, store, runtimes, loader(runtimes, settings.cache))


class SenseVoiceEngine:
    """Hear with SenseVoice models."""

    name = "sensevoice"
    description = "SenseVoice: Chinese, Cantonese, English, Japanese and Korean in one pass"
    partials = True

    def __init__(self, settings: Settings, store: Store, runtimes: Runtimes, load: Load) -> None:
        self._settings = settings
        self._store = store
        self._runtimes = runtimes
        self._load_graph = load
        self._wanted = choice.Wanted(settings.asr_model) if settings.asr_model else None
        # A model named by its path may lie beside the data folders.
        folders = () if self._wanted is None else (self._wanted.folder,)
        self._outside = Store(folders, (sensevoice.detect,), max_depth=0)
        self._shelf: Shelf[Model] = Shelf(self._open)
        self._reported: set[str] = set()

    def models(self) -> Sequence[AsrModel]:
        """Return all models but broken ones: the one that the settings name, then the quickest first."""
        manifests = self._scan().manifests
        broken = self._shelf.problems(manifests)
        usable = [manifest for manifest in manifests if manifest.name not in broken]
        chosen = None if self._wanted is None else self._wanted.choose(usable)
        ordered = sorted(usable, key=lambda manifest: manifest is not chosen)
        return [
            AsrModel(manifest.name, manifest.languages, manifest.description, chosen=manifest is chosen)
            for manifest in ordered
        ]

    def problems(self) -> Mapping[str, SpeechServerError]:
        """Return, by model name, what is wrong with files that look like a model, and with models found broken."""
        found = self._scan()
        broken = self._shelf.problems(found.manifests)
        return {problem.name: problem.error() for problem in (*found.problems, *broken.values())}

    def prepare(self, model: str) -> None:
        """Load a model and run each of its graphs once. Blocks. Raises `ModelError`, `ModelNotFound`."""
        self._load(model)

    def open(self, model: str, language: str | None, bias: Bias) -> SenseVoiceSession:
        """Begin an utterance in one of the five languages, or in one that the model is to find out.

        `model` is a model's name or that of its folder, in any spelling. Blocks while it is loaded. Words that are
        likely cannot be used. Raises `ModelError`, `ModelNotFound`.
        """
        return SenseVoiceSession(self._load(model), language)

    def close(self) -> None:
        """Free all models."""
        for model in self._shelf.clear():
            model.close()

    def _load(self, name: str) -> Model:
        if (loaded := self._shelf.get(name)) is not None:
            return loaded
        manifests = self._scan().manifests
        manifest = choice.named(name, manifests)
        if manifest is None:
            raise ModelNotFound(name, (manifest.name for manifest in manifests))
        return self._shelf.load(manifest)

    def _open(self, manifest: Manifest) -> Model:
        model = open_model(
            manifest, self._load_graph, not self._settings.no_itn, lambda rows: self._fallback(manifest, rows)
        )
        _LOGGER.info("model %s is loaded", manifest.description)
        return model

    def _fallback(self, manifest: Manifest, rows: int) -> Model | None:
        """Return another model in the same folder, for the CPU, that takes so many rows of features."""
        folder = choice.folder_of(manifest)
        for other in self._scan().manifests:
            if other.name == manifest.name or choice.folder_of(other) != folder or other.has_npu:
                continue
            try:
                model = self._shelf.load(other)
            except ModelError as error:
                _LOGGER.debug("model %s cannot stand in for %s: %s", other.name, manifest.name, error)
                continue
            if model.longest_frames >= rows * SHIFT:
                return model
        return None

    def _scan(self) -> Detected:
        """Return the models in all folders, the best one first."""
        found, outside = self._store.scan(sensevoice.KIND), self._outside.scan(sensevoice.KIND)
        known = [manifest for manifest in found.manifests if manifest.format in sensevoice.FORMATS]
        named = outside.manifests
        problems = {problem.path.resolve(): problem for problem in (*outside.problems, *found.problems)}
        for problem in problems.values():
            if (line := f"{problem.path}: {problem.message}") not in self._reported:
                self._reported.add(line)
                _LOGGER.warning("%s", line)
        # What is surely meant as a path goes before what happens to have the same name.
        is_path = self._wanted is not None and self._wanted.is_path
        models = choice.merged(named, known) if is_path else choice.merged(known, named)
        return offered(Detected(tuple(choice.ranked(models)), tuple(problems.values())), self._runtimes)
