"""The SenseVoice engine: every SenseVoice model found on disk."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from wyoming_rknn.asr.choice import folder_of
from wyoming_rknn.asr.engine import AsrModel, Bias
from wyoming_rknn.asr.installed import InstalledModels
from wyoming_rknn.asr.sensevoice.graphs import Load, loader
from wyoming_rknn.asr.sensevoice.model import Model, open_model
from wyoming_rknn.asr.sensevoice.ranking import ranked
from wyoming_rknn.asr.sensevoice.session import SenseVoiceSession
from wyoming_rknn.errors import ModelError, SpeechServerError
from wyoming_rknn.features.fbank import SHIFT
from wyoming_rknn.models.formats import sensevoice
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.models.shelf import footprint
from wyoming_rknn.runtime.memory import MIB
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)


def create(settings: Settings, runtimes: Runtimes) -> "SenseVoiceEngine":
    """Return the engine for the settings' data folders, and for the model that they name by its path."""
    return SenseVoiceEngine(settings, runtimes, loader(runtimes, settings.cache))


class SenseVoiceEngine:
    """Hear with SenseVoice models."""

    name = "sensevoice"
    description = "SenseVoice: Chinese, Cantonese, English, Japanese and Korean in one pass"
    partials = True

    def __init__(self, settings: Settings, runtimes: Runtimes, load: Load) -> None:
        self._settings = settings
        self._runtimes = runtimes
        self._load_graph = load
        self._installed = InstalledModels(settings, runtimes, sensevoice.detect, ranked, self._open, self._size_of)

    def models(self) -> Sequence[AsrModel]:
        """Return all models but broken ones: the one that the settings name, then the quickest first."""
        return self._installed.models()

    def problems(self) -> Mapping[str, SpeechServerError]:
        """Return, by model name, what is wrong with files that look like a model, and with models found broken."""
        return self._installed.problems()

    def prepare(self, model: str) -> None:
        """Load a model and run each of its graphs once. Blocks. Raises `ModelError`, `ModelNotFound`."""
        self._installed.load(model)

    def open(self, model: str, language: str | None, bias: Bias) -> SenseVoiceSession:
        """Begin an utterance in one of the five languages, or in one that the model is to find out.

        `model` is a model's name or that of its folder, in any spelling. Blocks while it is loaded. Words that are
        likely cannot be used. Raises `ModelError`, `ModelNotFound`.
        """
        return SenseVoiceSession(self._installed.load(model), language)

    def close(self) -> None:
        """Free all models."""
        for model in self._installed.clear():
            model.close()

    def _open(self, manifest: Manifest) -> Model:
        fitting = self._fitting(manifest)
        if left_out := len(manifest.files) - len(fitting.files):
            _LOGGER.warning(
                "model %s does without its %d longest graphs, for which --memory-budget has no room: it takes %d MB "
                "with them; what is longer is cut at pauses",
                manifest.name,
                left_out,
                footprint(manifest) // MIB,
            )
        model = open_model(
            fitting, self._load_graph, not self._settings.no_itn, lambda rows: self._fallback(manifest, rows)
        )
        _LOGGER.info("model %s is loaded", manifest.description)
        return model

    def _fitting(self, manifest: Manifest) -> Manifest:
        """Return a model without the longest of its graphs that the memory's budget has no room for, but with one."""
        budget = self._runtimes.memory.budget_bytes
        graphs = [role for role in manifest.files if role.split("-")[0] == sensevoice.GRAPH_ROLE]
        while budget is not None and footprint(manifest) > budget and len(graphs) > 1:
            longest = graphs.pop()
            manifest = replace(manifest, files={role: file for role, file in manifest.files.items() if role != longest})
        return manifest

    def _size_of(self, manifest: Manifest) -> int:
        return footprint(self._fitting(manifest))

    def _fallback(self, manifest: Manifest, rows: int) -> Model | None:
        """Return another model in the same folder, for the CPU, that takes so many rows of features."""
        folder = folder_of(manifest)
        for other in self._installed.manifests():
            if other.name == manifest.name or folder_of(other) != folder or other.has_npu:
                continue
            try:
                model = self._installed.load_manifest(other)
            except ModelError as error:
                _LOGGER.debug("model %s cannot stand in for %s: %s", other.name, manifest.name, error)
                continue
            if model.longest_frames >= rows * SHIFT:
                return model
        return None
