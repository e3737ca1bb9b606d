"""Which SenseVoice is to be converted, and what lies beside it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.asr.sensevoice import tokens
from wyoming_rknn.asr.sensevoice.graphs import read_cmvn, read_embedding
from wyoming_rknn.errors import ConversionError, ModelFileMissing, ModelInvalid, UsageError
from wyoming_rknn.features.fbank import Cmvn, Features
from wyoming_rknn.models.formats import onnx_header
from wyoming_rknn.models.formats import sensevoice as files_of
from wyoming_rknn.models.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Source:
    """A model before its conversion."""

    name: str
    graphs: tuple[Path, ...]
    """From short to long; one if it takes any length."""
    is_static: bool
    """Whether the graphs are of fixed length."""
    tokens: Path
    vocabulary: int
    """How many tokens there are."""
    cmvn: Cmvn | None
    """As `am.mvn` has it."""
    embedding: Features | None
    """As `embedding.npy` has it."""
    metadata: Mapping[str, str]
    """What the exporter noted."""
    sha256: str


def read(path: Path) -> Source:
    """Read the model that is meant by a graph or a folder.

    Raises what `find` raises, and `ModelInvalid` for one that is broken.
    """
    return _source(find(path), None if path.is_dir() else path)


def find(path: Path) -> Manifest:
    """Find the model that is meant by a graph or a folder.

    Raises `ModelFileMissing` if there is none, `UsageError` if a folder holds several, `ConversionError` for one in 8
    bits, `ModelInvalid` for one that is broken.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise ModelFileMissing(f"{path} does not exist; name a SenseVoice graph or the folder of one")
    found = files_of.detect(folder)
    models = [manifest for manifest in found.manifests if not manifest.has_npu]
    mine = [manifest for manifest in models if path.is_dir() or _has(manifest, path)]
    # An NPU needs the numbers that 8 bits were made of, which often lie beside them.
    whole = [manifest for manifest in mine if manifest.quality != files_of.INT8]
    if len(whole) > 1:
        graphs = ", ".join(graph.name for manifest in whole for graph in files_of.graphs(manifest.files))
        raise UsageError(f"{path} holds several models; name the graph of one: {graphs}")
    if mine and not whole:
        raise ConversionError(
            f"{path} is quantised to 8 bits, with which this model says nothing on an NPU; take the fp32 graph, "
            "model.onnx, of the same release"
        )
    if not whole:
        problem = next((problem for problem in found.problems if path in (problem.path, problem.path.parent)), None)
        if problem is not None:
            raise problem.error()
        raise ModelFileMissing(
            f"{path} is no SenseVoice model; name its model.onnx, with its tokens and am.mvn beside it"
        )
    return whole[0]


def _has(manifest: Manifest, path: Path) -> bool:
    return path.absolute() in [graph.absolute() for graph in files_of.graphs(manifest.files)]


def _source(manifest: Manifest, only: Path | None) -> Source:
    files = manifest.files
    graphs = (only,) if only is not None else tuple(files_of.graphs(files))
    try:
        headers = [onnx_header.read(graph) for graph in graphs]
        weights = {
            graph.parent / name for graph, head in zip(graphs, headers, strict=True) if head for name in head.external
        }
        sha256 = _sha256((*graphs, *sorted(weights)))
    except OSError as error:
        raise ModelInvalid(f"{graphs[0]} cannot be read: {error}; check its permissions") from error
    return Source(
        name=graphs[0].absolute().parent.name,
        graphs=graphs,
        is_static=manifest.format == files_of.NPU,
        tokens=files[files_of.TOKENS_ROLE],
        vocabulary=len(tokens.read(files[files_of.TOKENS_ROLE])),
        cmvn=read_cmvn(files[files_of.CMVN_ROLE]) if files_of.CMVN_ROLE in files else None,
        embedding=read_embedding(files[files_of.EMBEDDING_ROLE]) if files_of.EMBEDDING_ROLE in files else None,
        metadata={} if headers[0] is None else headers[0].metadata,
        sha256=sha256,
    )


def _sha256(paths: Sequence[Path]) -> str:
    """Return a file's digest, of several files that of their digests."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
