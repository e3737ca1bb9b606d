"""Which SenseVoice model is the best one."""

from collections.abc import Iterable

from wyoming_rknn.models.formats import sensevoice
from wyoming_rknn.models.manifest import Manifest


def ranked(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Return models, the quickest first: for an NPU, in 8 bits, of any length, of fixed lengths; then by name."""
    return sorted(manifests, key=lambda manifest: (_rank(manifest), manifest.name.casefold(), manifest.name))


def _rank(manifest: Manifest) -> int:
    if manifest.has_npu:
        return 0
    if manifest.format == sensevoice.NPU:
        return 3
    return 1 if manifest.quality == sensevoice.INT8 else 2
