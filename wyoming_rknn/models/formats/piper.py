"""Piper voices on disk: `NAME.onnx` with `NAME.onnx.json`, or a folder with encoder, decoder and config.

Layouts: rhasspy/piper-voices, Paroli and marty1885/streaming-piper (`config.json`), rkllama (`piper.json`), suharvest
(`model.onnx.json`), mush42's `+RT` voices (`<name>.json`).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelError, ModelFileMissing
from wyoming_rknn.models.formats.piper_config import VoiceConfig, looks_like_config
from wyoming_rknn.models.manifest import Detected, Manifest, Problem

_PAIR = ("encoder.onnx", "decoder.onnx")
_PAIR_CONFIGS = ("config.json", "piper.json", "model.onnx.json")
_PUBLISHED_NAME = re.compile(r"[a-z]{2,3}_[A-Z0-9]{2,3}-.+-(x_low|low|medium|high)")
# A graph lists its inputs after nodes and weights, so the end of the file tells what it takes.
_TAIL_BYTES = 65_536
_INPUT_NAMES = (b"input_lengths", b"scales")


def detect(folder: Path) -> Detected:
    """Find the Piper voices in `folder`, not below it.

    Reads configs only, never a graph. What looks like a Piper voice but is not usable becomes a `Problem`. Raises
    `OSError` if the folder cannot be listed.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for path, files in _candidates(folder, names):
        try:
            manifests.append(_manifest(path, files))
        except ModelError as error:
            problems.append(Problem(path, str(error), _voice_name(path, files), type(error)))
    problems.extend(_incomplete(folder, names))
    return Detected(tuple(manifests), tuple(problems))


def _candidates(folder: Path, names: list[str]) -> Iterable[tuple[Path, Mapping[str, Path]]]:
    present = frozenset(names)
    for name in names:
        if name.endswith(".onnx") and name not in _PAIR and f"{name}.json" in present:
            yield folder / name, {"graph": folder / name, "config": folder / f"{name}.json"}
    if present.issuperset(_PAIR) and (config := _pair_config(folder, names)) is not None:
        encoder, decoder = (folder / part for part in _PAIR)
        yield folder, {"encoder": encoder, "decoder": decoder, "config": config}


def _pair_config(folder: Path, names: Iterable[str]) -> Path | None:
    present = frozenset(names)
    # A config under a usual name is taken even when it is broken, so that its fault is told.
    if _looks_like_piper(folder / _PAIR[0]):
        for name in _PAIR_CONFIGS:
            if name in present:
                return folder / name
    ordinary = present.difference(_PAIR)
    others = (folder / name for name in names if name.endswith(".json") and name.removesuffix(".json") not in ordinary)
    return next((path for path in others if looks_like_config(path)), None)


def _manifest(path: Path, files: Mapping[str, Path]) -> Manifest:
    config = VoiceConfig.read(files["config"])
    is_pair = "encoder" in files
    name = _voice_name(path, files)
    speakers = f", {config.num_speakers} speakers" if config.num_speakers > 1 else ""
    quality = f", {config.quality}" if config.quality else ""
    return Manifest(
        kind="tts",
        format="piper-pair" if is_pair else "piper",
        name=name,
        files=MappingProxyType(dict(files)),
        languages=config.languages,
        rate_hz=config.rate_hz,
        speakers=config.speakers,
        description=f"{name} ({config.language}{quality}{speakers})",
        quality=config.quality,
    )


def _voice_name(path: Path, files: Mapping[str, Path]) -> str:
    return path.absolute().name if "encoder" in files else path.name.removesuffix(".onnx")


def _lacking(path: Path, message: str, name: str) -> Problem:
    return Problem(path, message, name, ModelFileMissing)


def _incomplete(folder: Path, names: list[str]) -> Iterable[Problem]:
    present = frozenset(names)
    for name in names:
        path = folder / name
        if name.endswith(".onnx.json") and name.removesuffix(".json") not in present:
            # `model.onnx.json` is also the config of a pair.
            if not present.issuperset(_PAIR) and looks_like_config(path):
                graph = name.removesuffix(".json")
                yield _lacking(path, f"{path} has no voice: put {graph} beside it", graph.removesuffix(".onnx"))
        elif not name.endswith(".onnx"):
            continue
        elif name in _PAIR:
            yield from _incomplete_pair(folder, name, names)
        elif f"{name}.json" not in present and (
            _PUBLISHED_NAME.fullmatch(name.removesuffix(".onnx")) or _looks_like_piper(path)
        ):
            yield _lacking(path, f"{path} has no config: put {name}.json beside it", name.removesuffix(".onnx"))


def _incomplete_pair(folder: Path, name: str, names: list[str]) -> Iterable[Problem]:
    # One problem for a pair, hung on its encoder.
    if name != _PAIR[0] or not _looks_like_piper(folder / name):
        return
    voice = folder.absolute().name
    if _PAIR[1] not in names:
        if not any(other.startswith("decoder.") or "decoder.rknn" in other for other in names):
            yield _lacking(folder, f"{folder / name} has no decoder: put {_PAIR[1]} beside it", voice)
    elif _pair_config(folder, names) is None:
        yield _lacking(folder, f"{folder} has no config: put the voice's .json into it as {_PAIR_CONFIGS[0]}", voice)


def _looks_like_piper(graph: Path) -> bool:
    try:
        with graph.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except OSError:
        return False
    return all(name in tail for name in _INPUT_NAMES)
