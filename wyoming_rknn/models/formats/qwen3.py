"""Qwen3-ASR models on disk: an audio encoder, a language model, its token embeddings and its tokenizer in one folder.

| layout | encoder | language model |
|---|---|---|
| our export | audio_conv.onnx, audio_encoder.onnx; and `.rknn` | embeddings.npy, decoder[.PRECISION].onnx or *.rkllm |
| sherpa-onnx | conv_frontend.onnx, encoder[.int8].onnx | decoder[.int8].onnx |
| rkvoice-stream | encoder/SOC/*.rknn: "merged", or "frontend" and "backend" | decoder/*.rkllm, embed_tokens.npy |
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import onnx_header
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.manifest import NPU_SUFFIX, Detected, Manifest, Problem

KIND = "asr"
ONNX, SHERPA, RKLLM = "qwen3-asr", "qwen3-asr-sherpa", "qwen3-asr-rkllm"
FORMATS = (ONNX, SHERPA, RKLLM)
LANGUAGES = (
    "ar", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "hi", "hu", "id", "it", "ja", "ko", "mk", "ms",
    "nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "vi", "yue", "zh",
)  # fmt: skip
"""What the published models hear, with 22 dialects of Chinese as "zh"; see https://github.com/QwenLM/Qwen3-ASR."""

CONVOLUTION_ROLE, ATTENTION_ROLE, DECODER_ROLE, EMBEDDINGS_ROLE = "convolution", "attention", "decoder", "embeddings"
ENCODER_ROLE, WEIGHTS_ROLE, TOKENIZER_ROLE, NPU_ROLE = "encoder", "weights", "tokenizer", "npu"
"""Roles of files. Several of one kind are counted, as `encoder-1`; those of our export for an NPU have `npu-` first."""

RKLLM_SUFFIX = ".rkllm"
_RATE_HZ = 16_000
_CONVOLUTION, _ATTENTION = "audio_conv", "audio_encoder"
_SHERPA_CONVOLUTION = "conv_frontend.onnx"
_EMBEDDINGS = "embeddings.npy"
_DECODER = re.compile(r"decoder(?:\.(?P<precision>[a-z0-9]+))?\.onnx")
_ENCODER = re.compile(r"encoder(?:\.(?P<precision>[a-z0-9]+))?\.onnx")
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json")
_MERGED, _PARTS = "merged", ("frontend", "backend")
"""Within the names of rkvoice-stream's encoders: one in one graph is preferred."""
_EMBEDDING_NAME = "embed_tokens"
_RKVOICE_FOLDERS = frozenset(("embd", "decoder", "rkllm", "encoder", "shared"))
_SOC = re.compile(r"(?<![a-zA-Z0-9])r[kv]\d{4}[a-z]?(?![a-zA-Z0-9])", re.IGNORECASE)
_SOC_PART = re.compile(rf"[-_. ]?{_SOC.pattern}", re.IGNORECASE)
_DEPTH = 2
"""Folders between a model's own and one of its files, as the store looks for changes."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What seems to be a model."""

    name: str
    path: Path
    """What tells its problems from those of others in the folder."""
    make: Callable[[], Detected]
    """Looks closer. Raises `ModelError` for what is not usable."""


def detect(folder: Path) -> Detected:
    """Find the Qwen3-ASR models in `folder` and what they have below it; models below it are not looked for.

    Reads the graphs' headers and trailers only. What surely is Qwen3-ASR but is not usable becomes a `Problem`; so does
    a graph for an NPU that is not, even where the CPU's makes the model usable. Raises `OSError` if the folder cannot
    be listed.
    """
    present = frozenset(entry.name for entry in folder.iterdir())
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for candidate in _candidates(folder, present):
        try:
            found = candidate.make()
        except ModelError as error:
            problems.append(_problem(candidate.path, candidate.name, str(error), error))
        else:
            manifests += found.manifests
            problems += (problem for problem in found.problems if problem not in problems)
    return Detected(tuple(manifests), tuple(problems))


def _candidates(folder: Path, present: frozenset[str]) -> Iterator[_Candidate]:
    base = folder.absolute().name
    if f"{_ATTENTION}.onnx" in present or f"{_CONVOLUTION}.onnx" in present:
        decoders = sorted(name for name in present if _DECODER.fullmatch(name) or name.endswith(RKLLM_SUFFIX))
        for decoder in decoders or ["decoder.onnx"]:
            name = base if len(decoders) < 2 else f"{base}/{decoder.rpartition('.')[0]}"
            yield _Candidate(name, folder / decoder, partial(_of_ours, folder, present, name, decoder))
    elif _SHERPA_CONVOLUTION in present:
        yield _Candidate(base, folder, partial(_of_sherpa, folder, present, base))
    elif any(_EMBEDDING_NAME in name or name.endswith(RKLLM_SUFFIX) for name in present) or not present.isdisjoint(
        _RKVOICE_FOLDERS
    ):
        yield from _of_rkvoice(folder, base)


def _of_ours(folder: Path, present: frozenset[str], name: str, decoder: str) -> Detected:
    files = {
        CONVOLUTION_ROLE: folder / f"{_CONVOLUTION}.onnx",
        ATTENTION_ROLE: folder / f"{_ATTENTION}.onnx",
        DECODER_ROLE: folder / decoder,
        EMBEDDINGS_ROLE: folder / _EMBEDDINGS,
    }
    _check(files.values())
    files |= _weights(files.values())
    files |= _tokenizer(folder, present)
    targets: tuple[str, ...] = ()
    problems: list[Problem] = []
    npu = [folder / each for each in present if each.endswith(NPU_SUFFIX) and each.startswith(_ATTENTION)]
    first = f"{_CONVOLUTION}{NPU_SUFFIX}"
    npu_files = _numbered(f"{NPU_ROLE}-{ATTENTION_ROLE}", sorted(npu, key=_length))
    npu_files |= {f"{NPU_ROLE}-{CONVOLUTION_ROLE}": folder / first} if npu and first in present else {}
    try:
        targets = _targets(npu_files.values())
        files |= npu_files
    except ModelError as error:
        problems.append(_problem(folder, name, f"{error}; until then the CPU encodes audio", error))
    if decoder.endswith(RKLLM_SUFFIX):
        soc = _soc_of(folder / decoder, folder)
        manifest = _manifest(RKLLM, name, files, _rkllm_precision(decoder), (soc,) if soc else targets)
    else:
        manifest = _manifest(ONNX, name, files, _precision(_DECODER, decoder), targets)
    return Detected((manifest,), tuple(problems))


def _of_sherpa(folder: Path, present: frozenset[str], name: str) -> Detected:
    # The smaller files are also the quicker ones.
    encoder = min((each for each in present if _ENCODER.fullmatch(each)), key=_is_full, default="encoder.int8.onnx")
    decoder = min((each for each in present if _DECODER.fullmatch(each)), key=_is_full, default="decoder.int8.onnx")
    files = {
        CONVOLUTION_ROLE: folder / _SHERPA_CONVOLUTION,
        ATTENTION_ROLE: folder / encoder,
        DECODER_ROLE: folder / decoder,
    }
    _check(files.values())
    files |= _weights(files.values())
    below = folder / "tokenizer"
    if below.is_dir():
        folder, present = below, frozenset(entry.name for entry in below.iterdir())
    files |= _tokenizer(folder, present)
    return Detected((_manifest(SHERPA, name, files, _precision(_DECODER, decoder)),))


def _of_rkvoice(folder: Path, base: str) -> Iterator[_Candidate]:
    """Yield the models for the NPU: those of one precision have one name, whatever SoC they are for."""
    models = _below(folder, f"*{RKLLM_SUFFIX}")
    graphs = _below(folder, f"*{NPU_SUFFIX}")
    has_embeddings = bool(_below(folder, f"*{_EMBEDDING_NAME}*.npy"))
    names = [base, *(path.name for path in (*models, *graphs))]
    is_ours = any(map(_is_part, graphs)) or any("asr" in name.lower() for name in names)
    # What lies in a folder for one SoC may go with what lies beside that.
    if not is_ours or not (has_embeddings or (graphs and models and _SOC.fullmatch(base) is None)):
        return
    if graphs and not models:
        yield _Candidate(base, folder, partial(_without_language_model, folder))
    socs = [_soc_of(model, folder) for model in models]
    has_one_each = len(set(socs)) == len(models)
    for model, soc in zip(models, socs, strict=True):
        name = base if has_one_each else f"{base}/{_SOC_PART.sub('', model.stem)}"
        yield _Candidate(name, model, partial(_of_rkllm, folder, name, model, soc))


def _without_language_model(folder: Path) -> Detected:
    raise ModelFileMissing(f"{folder} has no language model: put the model's {RKLLM_SUFFIX} file into it")


def _of_rkllm(folder: Path, name: str, model: Path, soc: str | None) -> Detected:
    graphs = [path for path in _below(folder, f"*{NPU_SUFFIX}") if soc is None or _soc_of(path, folder) in (soc, None)]
    plain = [path for path in graphs if not any("int8" in at.name for at in path.relative_to(folder).parents)] or graphs
    merged = sorted((path for path in plain if _MERGED in path.name), key=_length)
    parts = sorted((path for path in plain if _is_part(path)), key=_order)
    encoders = merged or parts or sorted((path for path in plain if "encoder" in path.name), key=_length)
    if not encoders:
        made_for = f" for {soc}" if soc else ""
        raise ModelFileMissing(
            f"{model} has no audio encoder{made_for}: put its encoder folder with .rknn files into {folder}"
        )
    embeddings = _below(folder, f"*{_EMBEDDING_NAME}*.npy")
    if not embeddings:
        raise ModelFileMissing(f"{folder} has no embeddings: put the model's {_EMBEDDING_NAME}.npy into it")
    files = _numbered(ENCODER_ROLE, encoders) | {DECODER_ROLE: model, EMBEDDINGS_ROLE: embeddings[0]}
    at = next((path.parent for each in _TOKENIZER[:2] for path in _below(folder, each)), folder)
    files |= _tokenizer(at, frozenset(entry.name for entry in at.iterdir()))
    targets = _targets(encoders)
    manifest = _manifest(RKLLM, name, files, _rkllm_precision(model.name), (soc,) if soc else targets)
    return Detected((manifest,))


def _manifest(layout: str, name: str, files: Mapping[str, Path], quality: str, targets: Iterable[str] = ()) -> Manifest:
    parts = ("Qwen3-ASR", quality, "/".join(targets))
    return Manifest(
        kind=KIND,
        format=layout,
        name=name,
        files=MappingProxyType(dict(files)),
        languages=LANGUAGES,
        rate_hz=_RATE_HZ,
        description=f"{name} ({', '.join(filter(None, parts))})",
        quality=quality,
        targets=tuple(targets),
    )


def _check(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise ModelFileMissing(f"{path} does not exist; put the model's file there, or fetch the model again")


def _weights(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the files that hold the weights of graphs."""
    found: set[Path] = set()
    for path in [path for path in paths if path.suffix == ".onnx"]:
        if (header := onnx_header.read(path)) is None:
            raise ModelInvalid(f"{path} is not an ONNX graph, or not a whole one; download it again")
        found |= {path.parent / name for name in header.external}
    _check(found)
    return _numbered(WEIGHTS_ROLE, sorted(found))


def _tokenizer(folder: Path, present: frozenset[str]) -> dict[str, Path]:
    names = [name for name in _TOKENIZER if name in present]
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= set(names):
        raise ModelFileMissing(f"{folder} has no tokenizer: put vocab.json and merges.txt, or tokenizer.json, into it")
    return {f"{TOKENIZER_ROLE}-{name}": folder / name for name in names}


def _numbered(role: str, paths: Iterable[Path]) -> dict[str, Path]:
    return {f"{role}-{number}": path for number, path in enumerate(paths, 1)}


def numbered(files: Mapping[str, Path], role: str) -> list[Path]:
    """Return a model's files of one kind, in order."""
    return [path for name, path in files.items() if re.fullmatch(rf"{role}-\d+", name)]


def tokenizer_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of a model's tokenizer, by their own names."""
    return {path.name: path for role, path in files.items() if role.startswith(f"{TOKENIZER_ROLE}-")}


def _targets(graphs: Iterable[Path]) -> tuple[str, ...]:
    """Return the SoCs that all graphs for an NPU are made for. Raises `ModelError`."""
    made_for = [(path, RknnFile.read(path).targets) for path in graphs]
    for path, targets in made_for[1:]:
        if targets != made_for[0][1]:
            raise ModelInvalid(
                f"{path} is made for {'/'.join(targets)} and {made_for[0][0].name} for {'/'.join(made_for[0][1])}; "
                "take all from one model"
            )
    return made_for[0][1] if made_for else ()


def _below(folder: Path, pattern: str) -> list[Path]:
    """Return the files in a folder, and `_DEPTH` below it, of such a name."""
    found = [sorted(folder.glob(f"{'*/' * depth}{pattern}")) for depth in range(_DEPTH + 1)]
    return [path for paths in found for path in paths if not any(map(_is_hidden, path.relative_to(folder).parts))]


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _is_part(path: Path) -> bool:
    """Tell whether a graph is called as only those of this layout are."""
    return any(part in path.name for part in (_MERGED, *_PARTS))


def _soc_of(path: Path, folder: Path) -> str | None:
    """Return the SoC that a file's name, or that of a folder it is in, tells."""
    names = reversed(path.relative_to(folder).parts)
    return next((found.group().lower() for name in names if (found := _SOC.search(name))), None)


def _problem(path: Path, name: str, message: str, error: ModelError) -> Problem:
    return Problem(path, message, name, type(error), KIND)


def _length(path: Path) -> float:
    """Return the number in a file's name, such as that of the seconds of "x.15s.rk3588.rknn"."""
    found = re.search(r"\.(\d+(?:\.\d+)?)s?\.", path.name)
    return float(found.group(1)) if found else float("inf")


def _order(path: Path) -> tuple[float, bool]:
    return _length(path), "backend" in path.name


def _is_full(name: str) -> tuple[bool, str]:
    return name.count(".") == 1, name


def _rkllm_precision(name: str) -> str:
    return next((part for part in name.split(".") if re.match(r"w\d|fp\d|int\d", part)), "")


def _precision(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.fullmatch(name)
    return (found and found["precision"]) or "fp32"
