"""One recipe for each family of models that can be converted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.convert.piper import check_voice, convert_voice
from wyoming_rknn.convert.qwen3 import check_qwen3, convert_qwen3, export_qwen3
from wyoming_rknn.convert.qwen3_checkpoint import is_checkpoint
from wyoming_rknn.convert.report import ConversionReport, ConvertOptions
from wyoming_rknn.convert.sensevoice import check_sensevoice, convert_sensevoice
from wyoming_rknn.convert.toolkit import Toolkit
from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import piper, sensevoice


@dataclass(frozen=True, slots=True)
class Recipe:
    """How models of a family are converted."""

    check: Callable[[Path, str, Path, ConvertOptions], None]
    """Takes the model, the target SoC, the folder to write and options; tells at once what is wrong with them."""
    convert: Callable[[Path, str, Path, ConvertOptions, Toolkit, Path], ConversionReport]
    """Takes the same, the toolkit and the cache folder."""
    export: Callable[[Path, Path, ConvertOptions], ConversionReport] | None = None
    """Makes of a checkpoint what runs on a CPU, without the toolkit: takes the model, the folder to write, options."""


_VOICE = Recipe(check_voice, convert_voice)
_SENSEVOICE = Recipe(check_sensevoice, convert_sensevoice)
_QWEN3 = Recipe(check_qwen3, convert_qwen3, export_qwen3)


def recipe_for(model: Path) -> Recipe:
    """Return what converts a file or a folder, going by what lies there. Raises `ModelError`."""
    if not model.exists():
        raise ModelFileMissing(f"{model} does not exist; name a voice's .onnx file, a SenseVoice graph, or a folder")
    if model.is_dir() and is_checkpoint(model):
        return _QWEN3
    folder = model if model.is_dir() else model.parent
    found = ((sensevoice.detect(folder), _SENSEVOICE), (piper.detect(folder), _VOICE))
    for detected, recipe in found:
        files = {path.absolute() for manifest in detected.manifests for path in manifest.files.values()}
        if files and (model == folder or model.absolute() in files):
            return recipe
    for detected, _ in found:
        for problem in detected.problems:
            if model.absolute() in (problem.path.absolute(), problem.path.absolute().parent):
                raise problem.error()
    # A voice without its config is told so by its recipe.
    if model.suffix == ".onnx" and model.is_file():
        return _VOICE
    raise ModelInvalid(f"{model} holds no Piper voice and no SenseVoice model or Qwen3-ASR checkpoint to convert")
