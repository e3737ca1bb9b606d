"""Which models can be offered on this machine: some have nothing that a CPU could compute."""

from wyoming_rknn.errors import ModelError, ModelInvalid
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.manifest import NPU_SUFFIX, Detected, Manifest, Problem
from wyoming_rknn.runtime.runtimes import Runtimes


def offered(found: Detected, runtimes: Runtimes) -> Detected:
    """Return what was found, with a problem for each model that only an NPU could compute that is not there."""
    problems = {manifest.name: obstacle(manifest, runtimes) for manifest in found.manifests}
    return Detected(
        tuple(manifest for manifest in found.manifests if problems[manifest.name] is None),
        (*found.problems, *(problem for problem in problems.values() if problem is not None)),
    )


def obstacle(manifest: Manifest, runtimes: Runtimes) -> Problem | None:
    """Return why nothing here can compute a model; `None` if something can."""
    graphs = [path for path in manifest.files.values() if path.suffix == NPU_SUFFIX]
    if not graphs or _has_spare(manifest):
        return None
    try:
        if runtimes.accelerator is None:
            raise ModelInvalid(
                f"{graphs[0]} is for an NPU, and none is used here; `wyoming-rknn doctor` says why. Put a graph for "
                "the CPU beside it, or take another model"
            )
        RknnFile.read(graphs[0]).check_soc(runtimes.board.soc)
    except ModelError as error:
        return Problem(graphs[0], str(error), manifest.name, type(error), manifest.kind)
    return None


def _has_spare(manifest: Manifest) -> bool:
    """Tell whether a CPU can compute the model without its graphs for the NPU."""
    return any(
        role.partition("-")[0] in ("graph", "decoder") and path.suffix == ".onnx"
        for role, path in manifest.files.items()
    )
