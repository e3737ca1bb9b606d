"""Find where a Piper voice can be cut and cut it: text encoder, flow, decoder.

A voice is a VITS graph (Kim et al. 2021, https://arxiv.org/abs/2106.06103): text encoder and durations give latents
`z_p`, the flow turns them into `z`, a HiFi-GAN decoder turns `z` into samples. All that is random happens before `z_p`.
Places are found by structure, so the exporter's names do not matter. Imports `onnx`: only for the child process.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from wyoming_rknn.errors import GraphNotSplittable, ModelInvalid
from wyoming_rknn.tts.piper.receptive_field import ReceptiveField, analyse
from wyoming_rknn.tts.piper.surgery import Wiring, attributes, extract, is_random, set_shape, subgraphs

_REQUIRED_INPUTS = frozenset(("input", "input_lengths", "scales"))
_KNOWN_INPUTS = _REQUIRED_INPUTS | {"sid"}
_ACTIVATIONS = frozenset(("LeakyRelu", "Relu", "Elu", "PRelu", "Identity", "Cast"))


@dataclass(frozen=True, slots=True)
class Part:
    """A flow or a decoder that can run in windows."""

    model: onnx.ModelProto
    input: str
    output: str
    conditions: tuple[str, ...]
    """Further inputs, which are outputs of the encoder."""
    context_frames: int | None
    """Frames of true context per side; `None` where only the whole sentence will do."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A voice in parts."""

    encoder: onnx.ModelProto | None
    """`None` where the encoder is used as it is."""
    latents: str
    """The encoder's output that feeds the first part."""
    flow: Part | None
    decoder: Part
    hop: int
    channels: int


@dataclass(frozen=True, slots=True)
class DecoderPlace:
    """The place before the decoder."""

    z: str
    cond: str | None
    """What is added to the first layer's output to choose the speaker."""
    output: str
    channels: int


@dataclass(frozen=True, slots=True)
class FlowPlace:
    """The place before the flow and what it takes besides `z_p`."""

    z_p: str
    mask: str | None
    g: str | None
    """The speaker's embedding, float32 [1, gin_channels, 1]."""


def cut_voice(model: onnx.ModelProto) -> Cut:
    """Cut an ordinary voice into encoder, flow (where it is separable) and decoder.

    The encoder gives `z_p` (or `z` without a flow), and `g`, `cond` for voices with several speakers. Raises
    `ModelInvalid` if this is no Piper voice, `GraphNotSplittable` if it has no place to cut.
    """
    wiring = Wiring(model)
    speech = _speech_output(wiring)
    place = _find_decoder(wiring, speech)
    field = analyse(wiring, place.z, speech)
    decoder = _decoder_part(wiring, place, field)
    encoder_outputs = {place.cond: "cond"} if place.cond else {}
    flow_place = find_flow(wiring, place.z)
    if flow_place is None:
        flow, latents = None, "z"
        encoder_outputs[place.z] = "z"
    else:
        flow, latents = _flow_part(wiring, flow_place, place), "z_p"
        encoder_outputs[flow_place.z_p] = "z_p"
        if flow_place.g:
            encoder_outputs[flow_place.g] = "g"
    encoder = extract(wiring, {name: name for name in wiring.inputs}, encoder_outputs)
    set_shape(encoder, latents, (1, place.channels, "frames"))
    return Cut(encoder, latents, flow, decoder, field.hop, place.channels)


def cut_for_pair(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Cut a voice into the layout of a published pair: encoder with the flow in it, decoder.

    Encoder: `z`, `y_mask` and, for several speakers, `g`; decoder: the same to `output`. Raises as `cut_voice` does.
    """
    wiring = Wiring(model)
    place = _find_decoder(wiring, _speech_output(wiring))
    mask = _mask(wiring, place.z, frozenset())
    if mask is None:
        raise GraphNotSplittable("the latents have no mask")
    g = None
    if place.cond is not None and (g := _condition_source(wiring, place.cond)) is None:
        raise GraphNotSplittable("the speaker's embedding was not found")
    chosen = {place.z: "z", mask: "y_mask"} | ({g: "g"} if g else {})
    encoder = extract(wiring, {name: name for name in wiring.inputs}, chosen)
    decoder = extract(wiring, {place.z: "z"} | ({g: "g"} if g else {}), {place.output: "output"})
    # Loaders of pairs feed the mask too; at one sentence per run it is all ones.
    decoder.graph.input.insert(1, onnx.helper.make_tensor_value_info("y_mask", onnx.TensorProto.FLOAT, None))
    for node in decoder.graph.node:
        node.input[:] = ["z~masked" if name == "z" else name for name in node.input]
    decoder.graph.node.insert(0, onnx.helper.make_node("Mul", ["z", "y_mask"], ["z~masked"], name="mask"))
    for part in (encoder, decoder):
        set_shape(part, "z", (1, place.channels, "frames"))
        set_shape(part, "y_mask", (1, 1, "frames"))
        set_shape(part, "g", (1, "gin_channels", 1))
    return encoder, decoder


def cut_pair(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> Cut:
    """Take a published pair: its encoder as it is, its decoder cut after the flow if the flow is inside.

    Raises `ModelInvalid` if the two do not belong together, `GraphNotSplittable` if the decoder cannot run in windows.
    """
    whole = uncut_pair(encoder, decoder)
    return _windowed_pair(Wiring(decoder), whole.latents, whole.decoder.output)


def uncut_pair(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> Cut:
    """Take a published pair as it is, as one whose decoder wants whole sentences.

    Raises `ModelInvalid` if the two do not belong together.
    """
    _check_inputs(Wiring(encoder), "encoder.onnx")
    offered = [value.name for value in encoder.graph.output]
    wanted = Wiring(decoder).inputs
    if not wanted or not set(wanted) <= set(offered):
        raise ModelInvalid(
            f"decoder.onnx takes {', '.join(wanted) or 'nothing'} but encoder.onnx gives {', '.join(offered)}; "
            "both must come from the same voice"
        )
    latents = "z" if "z" in wanted else wanted[0]
    names = [value.name for value in decoder.graph.output]
    speech = "output" if "output" in names else names[0]
    conditions = tuple(name for name in wanted if name != latents)
    return Cut(None, latents, None, Part(decoder, latents, speech, conditions, None), 0, 0)


def _windowed_pair(wiring: Wiring, latents: str, speech: str) -> Cut:
    place = _find_decoder(wiring, speech)
    masks = tuple(name for name in wiring.inputs if name == "y_mask" and _only_scales(wiring, name))
    conditions = tuple(name for name in wiring.inputs if name not in (latents, *masks))
    if "y_mask" in conditions:
        raise GraphNotSplittable("the mask does more than scale")
    between = [wiring.nodes[position] for position in wiring.upstream([place.z], stop=wiring.inputs)]
    has_flow = any(node.op_type in ("Conv", "MatMul", "Gemm") for node in between)
    if not has_flow:
        field = analyse(wiring, latents, speech)
        model = _windowed(wiring, {latents: "z"}, conditions, {speech: "output"}, masks, place.channels)
        decoder = Part(model, "z", "output", _taken(model, "z"), field.context_frames)
        return Cut(None, latents, None, decoder, field.hop, place.channels)
    field = analyse(wiring, place.z, speech)
    flow_field = analyse(wiring, latents, place.z)
    flow = _windowed(wiring, {latents: "z_p"}, conditions, {place.z: "z"}, masks, place.channels)
    model = _windowed(wiring, {place.z: "z"}, conditions, {speech: "output"}, masks, place.channels)
    return Cut(
        None,
        latents,
        Part(flow, "z_p", "z", _taken(flow, "z_p"), flow_field.context_frames),
        Part(model, "z", "output", _taken(model, "z"), field.context_frames),
        field.hop,
        place.channels,
    )


def _windowed(
    wiring: Wiring,
    source: Mapping[str, str],
    conditions: tuple[str, ...],
    result: Mapping[str, str],
    masks: tuple[str, ...],
    channels: int,
) -> onnx.ModelProto:
    needed = wiring.leaves(wiring.upstream(result, stop={*source, *conditions, *masks}))
    inputs = dict(source) | {name: name for name in conditions if name in needed}
    model = extract(wiring, inputs, result, ones=masks)
    for name in (*source.values(), *(name for name in result.values() if name == "z")):
        set_shape(model, name, (1, channels, "frames"))
    return model


def _taken(model: onnx.ModelProto, latents: str) -> tuple[str, ...]:
    return tuple(value.name for value in model.graph.input if value.name != latents)


def _decoder_part(wiring: Wiring, place: DecoderPlace, field: ReceptiveField) -> Part:
    inputs = {place.z: "z"} | ({place.cond: "cond"} if place.cond else {})
    model = extract(wiring, inputs, {place.output: "output"})
    _refuse_chance(model)
    set_shape(model, "z", (1, place.channels, "frames"))
    return Part(model, "z", "output", ("cond",) if place.cond else (), field.context_frames)


def _flow_part(wiring: Wiring, flow: FlowPlace, place: DecoderPlace) -> Part | None:
    field = analyse(wiring, flow.z_p, place.z)
    if field.hop != 1:
        raise GraphNotSplittable("the flow changes the number of frames")
    inputs = {flow.z_p: "z_p"} | ({flow.g: "g"} if flow.g else {})
    model = extract(wiring, inputs, {place.z: "z"}, ones=[flow.mask] if flow.mask else [])
    _refuse_chance(model)
    for name in ("z_p", "z"):
        set_shape(model, name, (1, place.channels, "frames"))
    return Part(model, "z_p", "z", ("g",) if flow.g else (), field.context_frames)


def _speech_output(wiring: Wiring) -> str:
    _check_inputs(wiring, "the voice")
    outputs = [value.name for value in wiring.model.graph.output]
    if not outputs:
        raise ModelInvalid("the graph gives nothing; download the voice again")
    return "output" if "output" in outputs else outputs[0]


def _check_inputs(wiring: Wiring, what: str) -> None:
    inputs = frozenset(wiring.inputs)
    if not inputs >= _REQUIRED_INPUTS:
        raise ModelInvalid(
            f"{what} is no Piper voice: it takes {', '.join(wiring.inputs) or 'nothing'} instead of "
            f"{', '.join(sorted(_REQUIRED_INPUTS))}; use a voice made for Piper"
        )
    if surplus := inputs - _KNOWN_INPUTS:
        raise ModelInvalid(
            f"{what} also takes {', '.join(sorted(surplus))}, as piper-plus voices do; use a voice made for Piper"
        )


def _find_decoder(wiring: Wiring, speech: str) -> DecoderPlace:
    """Find `z`: the input of the convolution before the first upsampling layer (HiFi-GAN's conv_pre)."""
    upsampling = [position for position in wiring.upstream([speech]) if _is(wiring, position, "ConvTranspose")]
    if not upsampling:
        raise GraphNotSplittable("no upsampling layers lead to the speech")
    first = min(upsampling)
    if any(position != first and _is(wiring, position, "ConvTranspose") for position in _above(wiring, first)):
        raise GraphNotSplittable("the upsampling layers are in no order")
    tensor, cond = wiring.nodes[first].input[0], None
    while (node := wiring.maker(tensor)) is not None and node.op_type != "Conv":
        if node.op_type in _ACTIVATIONS:
            tensor = node.input[0]
        elif node.op_type == "Add" and cond is None:
            branches = {_kernel(wiring, name): name for name in node.input}
            if 1 not in branches or len(branches) != 2:
                raise GraphNotSplittable("something other than a speaker is added before the first upsampling layer")
            cond = branches.pop(1)
            (tensor,) = branches.values()
        else:
            break
    shape = wiring.shape(node.input[1]) if node is not None and node.op_type == "Conv" else None
    if node is None or shape is None or len(shape) != 3 or shape[2] < 3:
        raise GraphNotSplittable("no convolution precedes the first upsampling layer")
    channels = shape[1] * int(attributes(node).get("group", 1))
    return DecoderPlace(node.input[0], cond, speech, channels)


def find_flow(wiring: Wiring, z: str) -> FlowPlace | None:
    """Find `z_p`: the sum of a mean and scaled noise from which `z` is computed; the last such sum that can be cut."""
    above = wiring.upstream([z])
    for position in sorted(above, reverse=True):
        if not is_random(wiring.nodes[position]):
            continue
        for z_p in _sums(wiring, wiring.nodes[position].output[0]):
            try:
                flow = _flow_from(wiring, z_p, z)
                analyse(wiring, z_p, z)
            except GraphNotSplittable:
                continue
            return flow
    return None


def _sums(wiring: Wiring, noise: str) -> Iterator[str]:
    """Return the sums that `noise` reaches through nothing but multiplications."""
    pending = [noise]
    while pending:
        for position in wiring.takers.get(pending.pop(), ()):
            node = wiring.nodes[position]
            if node.op_type in ("Mul", "Cast", "Identity"):
                pending.append(node.output[0])
            elif node.op_type == "Add":
                yield node.output[0]


def _flow_from(wiring: Wiring, z_p: str, z: str) -> FlowPlace:
    dependent = wiring.downstream(z_p)
    if z_p == z or z not in dependent:
        raise GraphNotSplittable("the latents do not lead to the decoder")
    mask = _mask(wiring, z, dependent)
    inside = wiring.upstream([z], stop=[z_p, *([mask] if mask else [])])
    touched = frozenset(position for position in inside if dependent.intersection(wiring.nodes[position].output))
    from_outside = {
        name
        for position in touched
        for name in wiring.nodes[position].input
        if name and name not in dependent and name != mask and name not in wiring.constants
    }
    # Tensors that only carry shapes are computed inside the flow.
    shapeless = {name for name in from_outside if not _is_shape_of(wiring, name, dependent)}
    sources = {_condition_source(wiring, name) for name in shapeless}
    if None in sources or len(sources) > 1:
        raise GraphNotSplittable("the flow takes more than latents, mask and speaker")
    g = next(iter(sources), None)
    if mask is not None and not _only_scales(wiring, mask, inside):
        raise GraphNotSplittable("the mask does more than scale")
    extract(wiring, {z_p: "z_p"} | ({g: "g"} if g else {}), {z: "z"}, ones=[mask] if mask else [])
    return FlowPlace(z_p, mask, g)


def _mask(wiring: Wiring, z: str, dependent: frozenset[str]) -> str | None:
    """Return what the flow's output is multiplied with to give `z`; all ones for one sentence per run."""
    node = wiring.maker(z)
    if node is None or node.op_type != "Mul":
        return None
    if dependent:
        others = [name for name in node.input if name not in dependent]
        return others[0] if len(others) == 1 else None
    # The mask counts frames and nothing else, so no convolution feeds it directly.
    fed = [name for name in node.input if not _through_layers(wiring, name)]
    return fed[0] if len(fed) == 1 else None


def _through_layers(wiring: Wiring, tensor: str) -> bool:
    node = wiring.maker(tensor)
    return node is not None and node.op_type in ("Conv", "Concat", "Add", "Mul", "Slice", "Split", "Transpose")


def _condition_source(wiring: Wiring, tensor: str) -> str | None:
    """Return the embedding from which a conditioning tensor is sliced and projected (Conv with kernel 1)."""
    while (node := wiring.maker(tensor)) is not None and node.op_type in ("Slice", "Identity", "Split"):
        tensor = node.input[0]
    if node is None or node.op_type != "Conv" or _kernel(wiring, tensor) != 1:
        return None
    return str(node.input[0])


def _is_shape_of(wiring: Wiring, tensor: str, dependent: frozenset[str]) -> bool:
    """Tell whether a tensor depends on the shapes of `dependent` only, hence not on values from outside."""
    pending = [tensor]
    while pending:
        name = pending.pop()
        if name in wiring.constants:
            continue
        node = wiring.maker(name)
        if node is None:
            return False
        if node.op_type in ("Shape", "Size"):
            if node.input[0] not in dependent:
                return False
            continue
        if _holds_graphs(node):
            return False
        pending.extend(taken for taken in node.input if taken)
    return True


def _holds_graphs(node: onnx.NodeProto) -> bool:
    """Tell whether a node holds graphs of its own."""
    return next(subgraphs(node), None) is not None


def _only_scales(wiring: Wiring, mask: str, inside: frozenset[int] | None = None) -> bool:
    takers = wiring.takers.get(mask, ())
    return all(_is(wiring, taker, "Mul") for taker in takers if inside is None or taker in inside)


def _refuse_chance(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if is_random(node) or _holds_graphs(node):
            raise GraphNotSplittable(f"{node.op_type} node {node.name!r} lies behind the cut")


def _kernel(wiring: Wiring, tensor: str) -> int | None:
    node = wiring.maker(tensor)
    shape = wiring.shape(node.input[1]) if node is not None and node.op_type == "Conv" else None
    return shape[2] if shape is not None and len(shape) == 3 else None


def _above(wiring: Wiring, position: int) -> frozenset[int]:
    return wiring.upstream(wiring.nodes[position].input)


def _is(wiring: Wiring, position: int, op_type: str) -> bool:
    return wiring.nodes[position].op_type == op_type
