"""One recipe for each family of models that can be converted."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from wyoming_rknn.convert.piper import convert_voice
from wyoming_rknn.convert.report import ConversionReport, ConvertOptions
from wyoming_rknn.convert.sensevoice import convert_sensevoice
from wyoming_rknn.convert.toolkit import Toolkit
from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import piper, sensevoice

Recipe: TypeAlias = Callable[[Path, str, Path, ConvertOptions, Toolkit, Path], ConversionReport]
"""Takes the model, the target SoC, the folder to write, options, the toolkit and the cache folder."""


def recipe_for(model: Path) -> Recipe:
    """Return what converts a file or a folder, going by what lies there. Raises `ModelError`."""
    if not model.exists():
        raise ModelFileMissing(f"{model} does not exist; name a voice's .onnx file, a SenseVoice graph, or a folder")
    folder = model if model.is_dir() else model.parent
    for detect, recipe in ((sensevoice.detect, convert_sensevoice), (piper.detect, convert_voice)):
        found = detect(folder)
        files = {path.absolute() for manifest in found.manifests for path in manifest.files.values()}
        if files and (model == folder or model.absolute() in files):
            return recipe
    # A voice without its config is told so by its recipe.
    if model.suffix == ".onnx" and model.is_file():
        return convert_voice
    raise ModelInvalid(f"{model} holds no Piper voice and no SenseVoice model that could be converted")
