"""SenseVoice models on disk: graphs, tokens and, where the graph lacks them, CMVN and prompt rows in one folder.

Which graph is which is told by `sensevoice_layout`. Static graphs that differ in their length only are one model: its
buckets. Several models, say in fp32 and int8, may lie together and are called `FOLDER/GRAPH`; one alone has the
folder's name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import onnx_header
from wyoming_rknn.models.formats.onnx_header import OnnxHeader
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.models.manifest import Detected, Manifest, Problem

KIND = "asr"
FUNASR, SHERPA, NPU = "sensevoice-funasr", "sensevoice-sherpa", "sensevoice-npu"
FORMATS = (FUNASR, SHERPA, NPU)
INT8 = "int8"
LANGUAGES = ("en", "ja", "ko", "yue", "zh")
"""What the published models speak; see https://github.com/FunAudioLLM/SenseVoice."""

GRAPH_ROLE, WEIGHTS_ROLE, TOKENS_ROLE, CMVN_ROLE, EMBEDDING_ROLE = "graph", "weights", "tokens", "cmvn", "embedding"
"""Roles of files. Several graphs are `graph-1`, `graph-2` … from short to long; weights are counted likewise."""

_TOKENS, _CMVN, _EMBEDDING = ("tokens.txt", "tokens.json"), "am.mvn", "embedding.npy"
_SENTENCEPIECE = "chn_jpn_yue_eng_ko_spectok.bpe.model"
_RATE_HZ = 16_000
_ENCODER_SIZE = 512
"""Width of what an encoder gives that has no vocabulary, such as Paraformer's."""
_ROW_S = 0.06
_SIZE = re.compile(r"[-_. ]?(?<![a-zA-Z0-9])\d+(\.\d+)?[-_]?(s|sec|secs|seconds|frames)?(?![a-zA-Z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Graph:
    path: Path
    header: OnnxHeader
    layout: Layout

    @property
    def frames(self) -> int:
        return self.layout.frames or 0

    @property
    def family(self) -> tuple[object, ...]:
        """Return what graphs have in common that are buckets of one model."""
        layout = self.layout
        if layout.frames is None:
            return (self.path.stem,)
        return (self.bare_stem, len(self.header.inputs), layout.transposed, self.header.is_int8)

    @property
    def bare_stem(self) -> str:
        """Return the file's name without the length that it may tell."""
        if self.layout.frames is None:
            return self.path.stem
        return _SIZE.sub("", self.path.stem).strip("-_. ") or self.path.stem


def detect(folder: Path) -> Detected:
    """Find the SenseVoice models in `folder`, not below it.

    Reads the graphs' headers only. What surely is SenseVoice but is not usable becomes a `Problem`. Raises `OSError`
    if the folder cannot be listed.
    """
    present = frozenset(entry.name for entry in folder.iterdir())
    graphs: list[_Graph] = []
    problems: list[Problem] = []
    for name in sorted(present):
        # What has a Piper voice's config is one.
        if not name.endswith(".onnx") or f"{name}.json" in present:
            continue
        header = _read(folder / name)
        if header is None:
            if _seems_ours(folder / name, present):
                problems.append(_broken(folder / name))
            continue
        layout = Layout.of(header.inputs, header.outputs)
        if _is_nano(header, layout):
            problems.append(_nano(folder / name))
        elif layout is not None and _is_ours(header, layout, present):
            graphs.append(_Graph(folder / name, header, layout))
    models = _models(graphs)
    manifests: list[Manifest] = []
    for name, buckets in zip(_names(folder, models), models, strict=True):
        try:
            manifests.append(_manifest(name, buckets, folder, present))
        except ModelError as error:
            problems.append(_problem(buckets[0].path, name, error))
    return Detected(tuple(manifests), tuple(problems))


def _read(path: Path) -> OnnxHeader | None:
    try:
        return onnx_header.read(path)
    except OSError:
        return None


def _is_nano(header: OnnxHeader, layout: Layout | None) -> bool:
    is_alike = layout is not None or "sense_voice" in header.metadata.get("model_type", "")
    return is_alike and "nano" in header.metadata.get("comment", "").lower()


def _seems_ours(path: Path, present: frozenset[str]) -> bool:
    """Tell whether a graph that cannot be read is SenseVoice, going by the names around it."""
    names = f"{path.absolute().parent.name}/{path.name}".lower().replace("-", "").replace("_", "")
    return {_CMVN, _SENTENCEPIECE}.intersection(present) != set() or "sensevoice" in names


def _broken(path: Path) -> Problem:
    message = f"{path} is not an ONNX graph, or not a whole one; check its permissions and download it again"
    return _problem(path, _name_alone(path), ModelInvalid(message))


def _nano(path: Path) -> Problem:
    message = f"{path} is FunASR-Nano, which is fed and read in another way; take a SenseVoiceSmall model instead"
    return _problem(path, _name_alone(path), ModelInvalid(message))


def _name_alone(path: Path) -> str:
    return f"{path.absolute().parent.name}/{path.stem}"


def _is_ours(header: OnnxHeader, layout: Layout, present: frozenset[str]) -> bool:
    """Tell whether a graph surely is SenseVoice: others, too, take features and nothing else."""
    if layout.has_prompt_inside or _EMBEDDING in present or "sense_voice" in header.metadata.get("model_type", ""):
        return True
    return _CMVN in present and layout.vocabulary != _ENCODER_SIZE


def _models(graphs: Sequence[_Graph]) -> list[list[_Graph]]:
    """Return the graphs by model, from short to long."""
    families: dict[tuple[object, ...], list[_Graph]] = {}
    for graph in graphs:
        families.setdefault(graph.family, []).append(graph)
    models: list[list[_Graph]] = []
    for buckets in families.values():
        if len({graph.frames for graph in buckets}) == len(buckets):
            models.append(sorted(buckets, key=lambda graph: graph.frames))
        else:
            # A number that does not go with the length tells something else.
            models.extend([graph] for graph in buckets)
    return models


def _names(folder: Path, models: Sequence[Sequence[_Graph]]) -> list[str]:
    base = folder.absolute().name
    if len(models) == 1:
        return [base]
    short = [buckets[0].bare_stem for buckets in models]
    stems = [
        stem if short.count(stem) == 1 else buckets[0].path.stem for stem, buckets in zip(short, models, strict=True)
    ]
    return [f"{base}/{stem}" for stem in stems]


def _manifest(name: str, buckets: Sequence[_Graph], folder: Path, present: frozenset[str]) -> Manifest:
    """Raise `ModelFileMissing` if a file is not there that the graphs need."""
    layout, metadata = buckets[0].layout, buckets[0].header.metadata
    files: dict[str, Path] = _numbered(GRAPH_ROLE, (graph.path for graph in buckets))
    files |= _numbered(WEIGHTS_ROLE, _weights(buckets))
    files[TOKENS_ROLE] = _tokens(folder, present)
    has_cmvn = layout.has_cmvn_inside or {"neg_mean", "inv_stddev"} <= metadata.keys()
    if not has_cmvn:
        if _CMVN not in present:
            raise ModelFileMissing(f"{buckets[0].path} has no CMVN: put the model's {_CMVN} beside it")
        files[CMVN_ROLE] = folder / _CMVN
    if not layout.has_prompt_inside:
        if _EMBEDDING not in present:
            raise ModelFileMissing(f"{buckets[0].path} has no prompt rows: put the model's {_EMBEDDING} beside it")
        files[EMBEDDING_ROLE] = folder / _EMBEDDING
    quality = INT8 if buckets[0].header.is_int8 else ""
    lengths = ", ".join(f"{graph.layout.capacity * _ROW_S:.0f}" for graph in buckets if graph.layout.capacity)
    remarks = ", ".join(remark for remark in ("SenseVoice", quality, lengths and f"{lengths} s") if remark)
    return Manifest(
        kind=KIND,
        format=NPU if layout.frames is not None else SHERPA if has_cmvn else FUNASR,
        name=name,
        files=MappingProxyType(files),
        languages=LANGUAGES,
        rate_hz=_RATE_HZ,
        description=f"{name} ({remarks})",
        quality=quality,
    )


def _tokens(folder: Path, present: frozenset[str]) -> Path:
    for name in _TOKENS:
        if name in present:
            return folder / name
    if _SENTENCEPIECE in present:
        raise ModelFileMissing(
            f"{folder / _SENTENCEPIECE} is not read: put {_TOKENS[0]} or {_TOKENS[1]} of the same model beside it"
        )
    raise ModelFileMissing(f"{folder} has no tokens: put the model's {_TOKENS[0]} into it")


def _weights(buckets: Iterable[_Graph]) -> list[Path]:
    paths = sorted({graph.path.parent / name for graph in buckets for name in graph.header.external})
    for path in paths:
        if not path.is_file():
            raise ModelFileMissing(f"{path} does not exist: it holds the weights of the graph that lies there")
    return paths


def _numbered(role: str, paths: Iterable[Path]) -> dict[str, Path]:
    known = list(paths)
    if len(known) == 1:
        return {role: known[0]}
    return {f"{role}-{number}": path for number, path in enumerate(known, 1)}


def graphs(files: Mapping[str, Path]) -> list[Path]:
    """Return the graphs among a model's files, from short to long."""
    return [path for role, path in files.items() if role.split("-")[0] == GRAPH_ROLE]


def _problem(path: Path, name: str, error: ModelError) -> Problem:
    return Problem(path, str(error), name, type(error), KIND)
