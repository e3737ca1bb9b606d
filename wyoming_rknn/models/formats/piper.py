"""Piper voices on disk: `NAME.onnx` with `NAME.onnx.json`, or a folder with encoder, decoder and config.

Layouts: rhasspy/piper-voices, Paroli and marty1885/streaming-piper (`config.json`, the decoder as `.onnx`, `.rknn` or
both), rkllama (`decoder.rknn`, `piper.json`), suharvest (`flow_decoder.rknn`, `model.onnx.json`), mush42's `+RT` voices
(`<name>.json`), and what `wyoming-rknn models convert` writes (`manifest.json`).
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import converted, onnx_header
from wyoming_rknn.models.formats.converted import Converted
from wyoming_rknn.models.formats.piper_config import VoiceConfig, looks_like_config
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.manifest import NPU_SUFFIX, Detected, Manifest, Problem
from wyoming_rknn.models.record import MANIFEST

NPU_DECODER_ROLE, GOLDEN_ROLE = "npu-decoder", "golden"

_ENCODER, _DECODER, _FLOW, _CONFIG = "encoder.onnx", "decoder.onnx", "flow.onnx", "config.json"
_PAIR = (_ENCODER, _DECODER)
_NPU_DECODERS = ("decoder.rknn", "flow_decoder.rknn")
_PAIR_CONFIGS = (_CONFIG, "piper.json", "model.onnx.json")
_PARTS = {"encoder": _ENCODER, "flow": _FLOW, "decoder": _DECODER, "config": _CONFIG}
"""Files of a converted voice, by role, that a CPU needs; not all have a flow."""
_PUBLISHED_NAME = re.compile(r"[a-z]{2,3}_[A-Z0-9]{2,3}-.+-(x_low|low|medium|high)")
# A graph lists its inputs after nodes and weights, so the end of the file tells what it takes.
_TAIL_BYTES = 65_536
_INPUT_NAMES = (b"input_lengths", b"scales")


def detect(folder: Path) -> Detected:
    """Find the Piper voices in `folder`, not below it.

    Reads configs only, of graphs for the NPU the trailer. What looks like a Piper voice but is not usable becomes a
    `Problem`; so does a decoder for the NPU that is not, even where the CPU's makes the voice usable. Raises `OSError`
    if the folder cannot be listed.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    parts = _parts(folder, names)
    if parts is not None:
        manifests.extend(parts.manifests)
        problems.extend(parts.problems)
        names = [name for name in names if not _belongs_to_parts(name)]
    for path, files in _candidates(folder, names):
        voice = _voice_name(path, files)
        try:
            usable, targets = files, tuple[str, ...]()
            if NPU_DECODER_ROLE in files:
                try:
                    targets = RknnFile.read(files[NPU_DECODER_ROLE]).targets
                except ModelError as error:
                    if "decoder" not in files:
                        raise
                    usable = {role: file for role, file in files.items() if role != NPU_DECODER_ROLE}
                    problems.append(_on_the_cpu(files[NPU_DECODER_ROLE], error, voice))
            model_format = "piper-pair" if "encoder" in files else "piper"
            manifests.append(_manifest(model_format, voice, usable, targets))
        except ModelError as error:
            problems.append(Problem(path, str(error), voice, type(error)))
    problems.extend(_incomplete(folder, names))
    return Detected(tuple(manifests), tuple(problems))


def _candidates(folder: Path, names: list[str]) -> Iterator[tuple[Path, Mapping[str, Path]]]:
    present = frozenset(names)
    for name in names:
        if name.endswith(".onnx") and name not in _PAIR and f"{name}.json" in present:
            yield folder / name, {"graph": folder / name, "config": folder / f"{name}.json"}
    if _is_pair(present) and (config := _pair_config(folder, names)) is not None:
        files = {"encoder": folder / _ENCODER}
        if _DECODER in present:
            files["decoder"] = folder / _DECODER
        if (decoder := _npu_decoder(present)) is not None:
            files[NPU_DECODER_ROLE] = folder / decoder
        yield folder, {**files, "config": config}


def _is_pair(present: frozenset[str]) -> bool:
    return _ENCODER in present and (_DECODER in present or _npu_decoder(present) is not None)


def _npu_decoder(present: frozenset[str]) -> str | None:
    return next((name for name in _NPU_DECODERS if name in present), None)


def _pair_config(folder: Path, names: Iterable[str]) -> Path | None:
    present = frozenset(names)
    # A config under a usual name is taken even when it is broken, so that its fault is told.
    if _looks_like_piper(folder / _ENCODER):
        for name in _PAIR_CONFIGS:
            if name in present:
                return folder / name
    ordinary = present.difference(_PAIR)
    others = (folder / name for name in names if name.endswith(".json") and name.removesuffix(".json") not in ordinary)
    return next((path for path in others if looks_like_config(path)), None)


def _manifest(model_format: str, name: str, files: Mapping[str, Path], targets: tuple[str, ...]) -> Manifest:
    config = VoiceConfig.read(files["config"])
    _refuse_cut_off(files.values())
    speakers = f", {config.num_speakers} speakers" if config.num_speakers > 1 else ""
    quality = f", {config.quality}" if config.quality else ""
    target = f", {'/'.join(targets)}" if targets else ""
    return Manifest(
        kind="tts",
        format=model_format,
        name=name,
        files=MappingProxyType(dict(files)),
        languages=config.languages,
        rate_hz=config.rate_hz,
        speakers=config.speakers,
        description=f"{name} ({config.language}{quality}{speakers}{target})",
        quality=config.quality,
        targets=targets,
    )


def _refuse_cut_off(paths: Iterable[Path]) -> None:
    for path in paths:
        # What cannot be opened is told when it is loaded.
        with contextlib.suppress(OSError):
            if path.suffix == ".onnx" and onnx_header.is_cut_off(path):
                raise ModelInvalid(f"{path} is not whole; wait until it is copied, or copy it again")


def _parts(folder: Path, names: Iterable[str]) -> Detected | None:
    """Return the voice that was converted here, or what is wrong with it; `None` if there is none."""
    path, present = folder / MANIFEST, frozenset(names)
    name = folder.absolute().name
    try:
        voice = converted.read(path, converted.PIPER)
        if voice is None:
            # In parts, too, a decoder is of no use to an encoder that has no flow inside.
            if present.issuperset((*_PAIR, _FLOW, _CONFIG)) and _looks_like_piper(folder / _ENCODER):
                raise ModelInvalid(f"{path} is missing or damaged; copy it there, or convert the voice again")
            return None
        name = voice.name
        return _whole_parts(folder, voice)
    except ModelError as error:
        return Detected(problems=(Problem(folder, str(error), name, type(error)),))


def _whole_parts(folder: Path, voice: Converted) -> Detected:
    """Raise `ModelError` if a file has a flaw without which a CPU could not speak either."""
    files: dict[str, Path] = {}
    for role, name in _PARTS.items():
        if role == "flow" and name not in voice.sizes and "flow" not in voice.stages:
            continue
        if (flaw := voice.flaw(name)) is not None:
            raise flaw
        files[role] = folder / name
    problems: list[Problem] = []
    targets = tuple[str, ...]()
    # A voice has one graph for the NPU, its decoder.
    for graph in voice.graphs[:1]:
        path = folder / graph.file
        try:
            if (flaw := voice.flaw(graph.file)) is not None:
                raise flaw
            targets = RknnFile.read(path).targets
            files[NPU_DECODER_ROLE] = path
        except ModelError as error:
            problems.append(_on_the_cpu(path, error, voice.name))
            continue
        if graph.golden is not None:
            if (flaw := voice.flaw(graph.golden)) is None:
                files[GOLDEN_ROLE] = folder / graph.golden
            else:
                problems.append(Problem(folder / graph.golden, str(flaw), voice.name, type(flaw)))
    files["manifest"] = voice.path
    return Detected((_manifest(converted.PIPER, voice.name, files, targets),), tuple(problems))


def _belongs_to_parts(name: str) -> bool:
    return name in (*_PARTS.values(), MANIFEST) or name.endswith((NPU_SUFFIX, ".npz"))


def _voice_name(path: Path, files: Mapping[str, Path]) -> str:
    return path.absolute().name if "encoder" in files else path.name.removesuffix(".onnx")


def _on_the_cpu(path: Path, error: ModelError, name: str) -> Problem:
    return Problem(path, f"{error}; until then the voice is decoded on the CPU", name, type(error))


def _lacking(path: Path, message: str, name: str) -> Problem:
    return Problem(path, message, name, ModelFileMissing)


def _incomplete(folder: Path, names: list[str]) -> Iterator[Problem]:
    present = frozenset(names)
    for name in names:
        path = folder / name
        if name.endswith(".onnx.json") and name.removesuffix(".json") not in present:
            # `model.onnx.json` is also the config of a pair.
            if not _is_pair(present) and _npu_decoder(present) is None and looks_like_config(path):
                graph = name.removesuffix(".json")
                yield _lacking(path, f"{path} has no voice: put {graph} beside it", graph.removesuffix(".onnx"))
        elif name == _npu_decoder(present) and _ENCODER not in present:
            if _pair_config(folder, names) is not None:
                message = f"{path} has no encoder: put the voice's {_ENCODER} beside it"
                yield _lacking(folder, message, folder.absolute().name)
        elif not name.endswith(".onnx"):
            continue
        elif name in _PAIR:
            yield from _incomplete_pair(folder, name, names)
        elif f"{name}.json" not in present and (
            _PUBLISHED_NAME.fullmatch(name.removesuffix(".onnx")) or _looks_like_piper(path)
        ):
            yield _lacking(path, f"{path} has no config: put {name}.json beside it", name.removesuffix(".onnx"))


def _incomplete_pair(folder: Path, name: str, names: list[str]) -> Iterator[Problem]:
    # One problem for a pair, hung on its encoder.
    if name != _ENCODER or not _looks_like_piper(folder / name):
        return
    voice = folder.absolute().name
    if not _is_pair(frozenset(names)):
        if not any(other.startswith("decoder.") for other in names):
            yield _lacking(folder, f"{folder / name} has no decoder: put {_DECODER} beside it", voice)
    elif _pair_config(folder, names) is None:
        yield _lacking(folder, f"{folder} has no config: put the voice's .json into it as {_CONFIG}", voice)


def _looks_like_piper(graph: Path) -> bool:
    try:
        with graph.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except OSError:
        return False
    return all(name in tail for name in _INPUT_NAMES)
