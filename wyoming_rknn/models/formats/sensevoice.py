"""SenseVoice models on disk: graphs, tokens and, where the graph lacks them, CMVN and prompt rows in one folder.

Which graph is which is told by `sensevoice_layout`. Static graphs that differ in their length only are one model: its
buckets. Several models, say in fp32 and int8, or for several SoCs, may lie together and are called `FOLDER/GRAPH`; one
alone has the folder's name, one that `wyoming-rknn models convert` wrote the name in its manifest.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats import converted, onnx_header
from wyoming_rknn.models.formats.converted import Converted
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.models.manifest import NPU_SUFFIX, Detected, Manifest, Problem
from wyoming_rknn.models.record import MANIFEST

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


_SOC = re.compile(r"[-_. ]?(?<![a-zA-Z0-9])r[kv]\d{4}[a-z]?(?![a-zA-Z0-9])", re.IGNORECASE)
_PRECISION = re.compile(r"[-_. ]?(?<![a-zA-Z0-9])(fp16|float16|scaled)(?![a-zA-Z0-9])", re.IGNORECASE)
_SCALED = "scaled"
"""Marks graphs whose numbers were made small enough for 16-bit floats; where both lie, rkvoice-stream takes those."""


@dataclass(frozen=True, slots=True)
class _Graph:
    path: Path
    layout: Layout
    takes: int
    """How many inputs it has."""
    metadata: Mapping[str, str]
    external: tuple[str, ...] = ()
    is_int8: bool = False
    targets: tuple[str, ...] = ()
    """SoCs that it is made for; empty for a CPU's."""

    @property
    def frames(self) -> int:
        return self.layout.frames or 0

    @property
    def family(self) -> tuple[object, ...]:
        """Return what graphs have in common that are buckets of one model."""
        layout = self.layout
        if layout.frames is None:
            return (self.path.stem,)
        return (self.bare_stem, self.takes, layout.transposed, self.is_int8, self.targets)

    @property
    def bare_stem(self) -> str:
        """Return the file's name without the length that it may tell, of one for an NPU also without SoC and type."""
        stem = self.path.stem
        if self.layout.frames is None:
            return stem
        if self.targets:
            stem = _PRECISION.sub("", _SOC.sub("", stem))
        return _SIZE.sub("", stem).strip("-_. ") or self.path.stem


@dataclass(frozen=True, slots=True)
class _Found:
    """What a folder's graphs turn out to be."""

    graphs: list[_Graph] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def detect(folder: Path) -> Detected:
    """Find the SenseVoice models in `folder`, not below it.

    Reads the graphs' headers and trailers only. What surely is SenseVoice but is not usable becomes a `Problem`. Raises
    `OSError` if the folder cannot be listed.
    """
    present = frozenset(entry.name for entry in folder.iterdir())
    own: Converted | None = None
    found = _Found()
    try:
        if MANIFEST in present:
            own = converted.read(folder / MANIFEST, converted.SENSEVOICE)
    except ModelError as error:
        # What it describes may be usable, as what somebody else converted.
        found.problems.append(_problem(folder / MANIFEST, folder.absolute().name, error))
    for name in sorted(present):
        path = folder / name
        if path.suffix == NPU_SUFFIX:
            _look_at_npu_graph(path, present, own, found)
        # What has a Piper voice's config is one.
        elif path.suffix == ".onnx" and f"{name}.json" not in present:
            _look_at_graph(path, present, found)
    of_own = {graph.file for graph in own.graphs} if own else set()
    models = _models([graph for graph in found.graphs if graph.path.name not in of_own])
    named = list(zip(_names(folder, models, own), models, strict=True))
    if own is not None:
        buckets = [graph for graph in found.graphs if graph.path.name in of_own]
        found.problems.extend(_flaws(folder, own))
        named[:0] = [(own.name, sorted(buckets, key=lambda graph: graph.frames))] if buckets else []
    manifests: list[Manifest] = []
    for name, buckets in named:
        try:
            manifest = _manifest(name, buckets, folder, present)
            if own is not None and buckets[0].path.name in of_own:
                _check(manifest, own)
            manifests.append(manifest)
        except ModelError as error:
            found.problems.append(_problem(buckets[0].path, name, error))
    return Detected(tuple(manifests), tuple(found.problems))


def _look_at_graph(path: Path, present: frozenset[str], found: _Found) -> None:
    try:
        header = onnx_header.read(path)
    except OSError:
        header = None
    if header is None:
        if _seems_ours(path, present):
            found.problems.append(_broken(path))
        return
    layout = Layout.of(header.inputs, header.outputs)
    if _is_nano(header.metadata, layout):
        found.problems.append(_nano(path))
    elif layout is not None and _is_ours(header.metadata, layout, present):
        found.graphs.append(_Graph(path, layout, len(header.inputs), header.metadata, header.external, header.is_int8))


def _look_at_npu_graph(path: Path, present: frozenset[str], own: Converted | None, found: _Found) -> None:
    listed = own is not None and any(graph.file == path.name for graph in own.graphs)
    if own is not None and listed and own.flaw(path.name) is not None:
        return
    try:
        file = RknnFile.read(path)
    except ModelError as error:
        if listed or _seems_ours(path, present):
            found.problems.append(_problem(path, own.name if own and listed else _name_alone(path), error))
        return
    layout = Layout.of(file.inputs, file.outputs)
    if _is_nano(file.metadata, layout):
        found.problems.append(_nano(path))
    elif layout is not None and (listed or _is_ours(file.metadata, layout, present)):
        found.graphs.append(_Graph(path, layout, len(file.inputs), file.metadata, targets=file.targets))


def _flaws(folder: Path, own: Converted) -> list[Problem]:
    """Return what is wrong with files of a converted model; of what is left the others are used."""
    names = [name for graph in own.graphs for name in (graph.file, graph.golden) if name]
    flaws = ((name, own.flaw(name)) for name in names)
    return [_problem(folder / name, own.name, flaw) for name, flaw in flaws if flaw is not None]


def _check(manifest: Manifest, own: Converted) -> None:
    """Raise `ModelError` if a file has a flaw that a converted model cannot do without."""
    listed = (path.name for path in manifest.files.values() if path.name in own.sizes)
    if flaw := next(filter(None, map(own.flaw, listed)), None):
        raise flaw


def _is_nano(metadata: Mapping[str, str], layout: Layout | None) -> bool:
    is_alike = layout is not None or "sense_voice" in metadata.get("model_type", "")
    return is_alike and "nano" in metadata.get("comment", "").lower()


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


def _is_ours(metadata: Mapping[str, str], layout: Layout, present: frozenset[str]) -> bool:
    """Tell whether a graph surely is SenseVoice: others, too, take features and nothing else."""
    if layout.has_prompt_inside or _EMBEDDING in present or "sense_voice" in metadata.get("model_type", ""):
        return True
    return _CMVN in present and layout.vocabulary != _ENCODER_SIZE


def _models(graphs: Sequence[_Graph]) -> list[list[_Graph]]:
    """Return the graphs by model, from short to long."""
    families: dict[tuple[object, ...], list[_Graph]] = {}
    for graph in graphs:
        families.setdefault(graph.family, []).append(graph)
    models: list[list[_Graph]] = []
    for family in families.values():
        buckets = _without_unscaled(family)
        if len({graph.frames for graph in buckets}) == len(buckets):
            models.append(sorted(buckets, key=lambda graph: graph.frames))
        else:
            # A number that does not go with the length tells something else.
            models.extend([graph] for graph in buckets)
    return models


def _without_unscaled(family: Sequence[_Graph]) -> list[_Graph]:
    scaled = {graph.frames for graph in family if graph.targets and _SCALED in graph.path.stem.lower()}
    return [graph for graph in family if graph.frames not in scaled or _SCALED in graph.path.stem.lower()]


def _names(folder: Path, models: Sequence[Sequence[_Graph]], own: Converted | None) -> list[str]:
    base = folder.absolute().name
    if len(models) == 1 and own is None:
        return [base]
    names = [buckets[0].bare_stem for buckets in models]
    for longer in (_stem_for_soc, lambda graph: graph.path.stem, lambda graph: graph.path.name):
        names = [
            name if names.count(name) == 1 else longer(buckets[0]) for name, buckets in zip(names, models, strict=True)
        ]
    return [f"{base}/{name}" for name in names]


def _stem_for_soc(graph: _Graph) -> str:
    return ".".join((graph.bare_stem, *graph.targets))


def _manifest(name: str, buckets: Sequence[_Graph], folder: Path, present: frozenset[str]) -> Manifest:
    """Raise `ModelFileMissing` if a file is not there that the graphs need."""
    layout, metadata, targets = buckets[0].layout, buckets[0].metadata, buckets[0].targets
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
    quality = INT8 if buckets[0].is_int8 else ""
    lengths = ", ".join(f"{graph.layout.capacity * _ROW_S:.0f}" for graph in buckets if graph.layout.capacity)
    parts = ("SenseVoice", quality, "/".join(targets), lengths and f"{lengths} s")
    return Manifest(
        kind=KIND,
        format=NPU if layout.frames is not None else SHERPA if has_cmvn else FUNASR,
        name=name,
        files=MappingProxyType(files),
        languages=LANGUAGES,
        rate_hz=_RATE_HZ,
        description=f"{name} ({', '.join(filter(None, parts))})",
        quality=quality,
        targets=targets,
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
    paths = sorted({graph.path.parent / name for graph in buckets for name in graph.external})
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
