"""A Piper decoder for the NPU: which input takes what, how wide it is, and how much of a window may be used.

Decoders converted here say so in their manifest. Of others, known are those of Paroli, rkllama and rkvoice-stream: they
take latents [1, C, W], perhaps a mask [1, 1, W] and what the speaker conditions, [1, G, 1] or [1, G], and have the flow
inside or not.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.models.formats import converted
from wyoming_rknn.models.formats.rknn_file import RknnFile, RknnTensor
from wyoming_rknn.models.record import RecordedGraph

_FLOW_FRAMES, _MEDIUM_FRAMES, _HIGH_FRAMES = 32, 11, 14
"""Frames of context per side by structure: of the flow, of decoders of "medium" and of "high" quality."""
LEAST_USEFUL = 0.27
"""Part of a window that must be left when its context is taken off: 15 of 55 frames."""
_FLOW = re.compile(rb"(?<![a-z])flows?[./]")
_DECODER = re.compile(rb"resblocks|ConvTranspose")
_MEDIUM, _HIGH = re.compile(rb"resblocks[./]\d+[./]convs[./]"), re.compile(rb"resblocks[./]\d+[./]convs1[./]")
"""How layers are named in graphs that Piper exports; "medium" stands for all but "high"."""
_FLOW_BYTES_PER_CHANNEL2 = 386
"""Weights of a flow in 16 bits: four couplings of four layers with kernel 5 and as many hidden channels."""
_LEAST_DECODER_BYTES = 2_500_000


@dataclass(frozen=True, slots=True)
class NpuDecoder:
    """How to feed a decoder on the NPU."""

    file: Path
    frames: int
    """Width W of its window."""
    channels: int
    hop: int
    """Samples per frame."""
    context_frames: int
    """Frames per side whose samples are not used, except at a sentence's ends."""
    input: str
    """Takes latents: [1, channels, frames]."""
    mask: str | None
    """Takes ones where there are latents: [1, 1, frames]."""
    conditions: tuple[str, ...]
    """Further inputs: the encoder's outputs of the same names."""
    condition_shapes: Mapping[str, tuple[int, ...]]
    output: str
    """Gives frames * hop samples, whatever the axes."""
    golden: Path | None
    flow_inside: bool
    """Whether it takes latents before the flow."""
    margin_is_short: bool
    """Whether the context is less than structure demands, because the window is too narrow."""


def npu_decoder(path: Path, manifest: Path | None = None, golden: Path | None = None) -> NpuDecoder:
    """Return how to feed a decoder, from its trailer, its manifest if it was converted here, and its layers' names.

    Raises `ModelFileMissing`, and `ModelInvalid` if it is no decoder or not the one that the manifest describes.
    """
    file = RknnFile.read(path)
    latents, mask, conditions = _roles(file)
    channels, frames = latents.shape[1:]
    output, hop = _samples(file, frames)
    graph = _converted(path, manifest, frames)
    if graph is not None and graph.context_frames is not None:
        flow_inside, context = False, graph.context_frames
    else:
        names = file.head()
        flow_inside = _has_flow(file, names, latents.name, channels)
        context = _context(names, flow_inside)
    # Where nothing would be left, an inexact window is better than none.
    widest = (frames - math.ceil(LEAST_USEFUL * frames)) // 2
    is_exact = context <= widest or (graph is not None and 2 * context < frames)
    return NpuDecoder(
        file=path,
        frames=frames,
        channels=channels,
        hop=hop,
        context_frames=context if is_exact else widest,
        input=latents.name,
        mask=None if mask is None else mask.name,
        conditions=tuple(tensor.name for tensor in conditions),
        condition_shapes=MappingProxyType({tensor.name: tensor.shape for tensor in conditions}),
        output=output,
        golden=golden,
        flow_inside=flow_inside,
        margin_is_short=not is_exact,
    )


def _roles(file: RknnFile) -> tuple[RknnTensor, RknnTensor | None, tuple[RknnTensor, ...]]:
    """Return which input takes latents, which the mask, and which what conditions the speech."""
    wide = [tensor for tensor in file.inputs if len(tensor.shape) == 3 and min(tensor.shape[1:]) > 1]
    if len(wide) != 1 or wide[0].shape[0] != 1:
        raise _foreign(file)
    latents = wide[0]
    rest = [tensor for tensor in file.inputs if tensor is not latents]
    masks = [tensor for tensor in rest if tensor.shape == (1, 1, latents.shape[2])]
    conditions = tuple(tensor for tensor in rest if tensor not in masks)
    if len(masks) > 1 or any(math.prod(tensor.shape) != max(tensor.shape, default=0) for tensor in conditions):
        raise _foreign(file)
    return latents, masks[0] if masks else None, conditions


def _samples(file: RknnFile, frames: int) -> tuple[str, int]:
    """Return the output with the speech, and how many samples a frame makes."""
    for tensor in file.outputs:
        hop, rest = divmod(math.prod(tensor.shape), frames)
        if not rest and hop > 1 and max(tensor.shape) == hop * frames:
            return tensor.name, hop
    raise _foreign(file)


def _converted(path: Path, manifest: Path | None, frames: int) -> RecordedGraph | None:
    known = None if manifest is None else converted.read(manifest, converted.PIPER)
    graph = None if known is None else next((one for one in known.graphs if one.file == path.name), None)
    if graph is not None and graph.frames != frames:
        raise ModelInvalid(
            f"{path} takes {frames} frames, {manifest} says {graph.frames}; copy both again, or convert the voice again"
        )
    return graph


def _has_flow(file: RknnFile, names: bytes, latents: str, channels: int) -> bool:
    if latents == "z_p" or _FLOW.search(names):
        return True
    if _DECODER.search(names):
        return False
    # A large decoder alone is taken for one with a flow: that wastes frames, the contrary would be heard.
    return file.size >= _FLOW_BYTES_PER_CHANNEL2 * channels**2 + _LEAST_DECODER_BYTES


def _context(names: bytes, flow_inside: bool) -> int:
    is_medium, is_high = _MEDIUM.search(names) is not None, _HIGH.search(names) is not None
    if flow_inside:
        return _FLOW_FRAMES + (_HIGH_FRAMES if is_high else _MEDIUM_FRAMES)
    return _MEDIUM_FRAMES if is_medium and not is_high else _HIGH_FRAMES


def _foreign(file: RknnFile) -> ModelInvalid:
    inputs = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in file.inputs)
    outputs = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in file.outputs)
    return ModelInvalid(
        f"{file.path} is no decoder of a Piper voice: it makes {outputs} of {inputs}; convert the voice with "
        "`wyoming-rknn models convert`"
    )
