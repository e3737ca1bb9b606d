"""The Qwen3-ASR engine: every Qwen3-ASR model found on disk."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from wyoming_rknn.asr.choice import folder_of
from wyoming_rknn.asr.engine import AsrModel, Bias
from wyoming_rknn.asr.installed import InstalledModels
from wyoming_rknn.asr.qwen3.loading import open_model
from wyoming_rknn.asr.qwen3.model import Qwen3Model
from wyoming_rknn.asr.qwen3.session import Qwen3Session
from wyoming_rknn.errors import ModelInvalid, RuntimeUnavailable, SpeechServerError
from wyoming_rknn.models.formats import qwen3
from wyoming_rknn.models.formats.rknn_file import runs_on
from wyoming_rknn.models.manifest import Manifest, Problem
from wyoming_rknn.runtime.rkllm_library import RkllmLibrary, find_library
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)

_QUALITIES = ("int8", "int4", "fp32")
"""From the quickest on a CPU with little loss to the slowest."""


def create(settings: Settings, runtimes: Runtimes) -> "Qwen3Engine":
    """Return the engine for the settings' data folders, and for the model that they name by its path."""
    return Qwen3Engine(settings, runtimes)


class Qwen3Engine:
    """Hear with Qwen3-ASR models."""

    name = "qwen3-asr"
    description = "Qwen3-ASR: 30 languages and 22 dialects of Chinese, with words to expect"
    partials = True

    def __init__(self, settings: Settings, runtimes: Runtimes) -> None:
        self._settings = settings
        self._runtimes = runtimes
        self._library: RkllmLibrary | None = None
        self._installed = InstalledModels(
            settings, runtimes, qwen3.detect, self._ranked, self._open, obstacle=self._obstacle
        )

    def models(self) -> Sequence[AsrModel]:
        """Return all models but broken ones: the one that the settings name, then the best first."""
        return self._installed.models()

    def problems(self) -> Mapping[str, SpeechServerError]:
        """Return, by model name, what is wrong with files that look like a model, and with models found broken."""
        return self._installed.problems()

    def prepare(self, model: str) -> None:
        """Load a model and run its encoder once. Blocks. Raises `ModelError`, `ModelNotFound`."""
        self._installed.load(model)

    def open(self, model: str, language: str | None, bias: Bias) -> Qwen3Session:
        """Begin an utterance in one of the languages, or in one that the model is to find out.

        Blocks while the model is loaded. Raises `ModelError`, `ModelNotFound`.
        """
        return Qwen3Session(self._installed.load(model), language, bias)

    def close(self) -> None:
        """Free all models."""
        for model in self._installed.clear():
            model.close()

    def _open(self, manifest: Manifest) -> Qwen3Model:
        model = open_model(manifest, self._settings, self._runtimes)
        _LOGGER.info("model %s is loaded", manifest.description)
        return model

    def _obstacle(self, manifest: Manifest) -> Problem | None:
        """Return why a language model for an NPU cannot be run, if it cannot."""
        if manifest.format != qwen3.RKLLM or (self._library is not None and self._library.path.is_file()):
            return None
        try:
            self._library = find_library(self._settings.rkllm_library, self._settings.rkllm_version)
        except RuntimeUnavailable as error:
            path = manifest.files[qwen3.DECODER_ROLE]
            return Problem(path, f"{path} cannot be run: {error}", manifest.name, ModelInvalid, manifest.kind)
        return None

    def _ranked(self, manifests: Iterable[Manifest]) -> list[Manifest]:
        """Return models, the best one first; of a folder with some for this SoC only those."""
        known = list(manifests)
        served = {folder_of(manifest) for manifest in known if self._is_for_this_soc(manifest)}
        kept = [
            manifest
            for manifest in known
            if manifest.format != qwen3.RKLLM or self._is_for_this_soc(manifest) or folder_of(manifest) not in served
        ]
        return sorted(kept, key=_rank)

    def _is_for_this_soc(self, manifest: Manifest) -> bool:
        soc = self._runtimes.npu_soc
        return manifest.format == qwen3.RKLLM and soc is not None and runs_on(manifest.targets, soc)


def _rank(manifest: Manifest) -> tuple[bool, int, str, str]:
    quality = _QUALITIES.index(manifest.quality) if manifest.quality in _QUALITIES else 0
    return manifest.format != qwen3.RKLLM, quality, manifest.name.casefold(), manifest.name
