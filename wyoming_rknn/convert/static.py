"""ONNX graphs with fixed axes, as the vendor's toolkit wants them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import version_converter
from onnx.external_data_helper import uses_external_data

from wyoming_rknn.errors import ConversionError

MAX_OPSET = 19
"""Of rknn-toolkit2 2.3.2 and 2.5.0."""
_MAX_IR = 10
"""Of the onnx release that the toolkit takes."""


def read(source: Path | bytes) -> onnx.ModelProto:
    """Read a graph with all its weights. Raises `ConversionError` if it is not one."""
    try:
        return onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    except Exception as error:
        name = source.name if isinstance(source, Path) else "the graph"
        raise ConversionError(f"{name} cannot be read as ONNX: {str(error).strip().splitlines()[0]}") from error


def write_whole(source: Path | bytes, path: Path) -> None:
    """Write a graph as one file, with weights that lie in other files brought in. Raises `OSError`."""
    if isinstance(source, bytes):
        path.write_bytes(source)
        return
    outline = onnx.load(source, load_external_data=False)
    if any(uses_external_data(tensor) for tensor in outline.graph.initializer):
        onnx.save(read(source), path)
    else:
        path.write_bytes(source.read_bytes())


def fix(
    model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]]
) -> onnx.ModelProto:
    """Give a graph's inputs and outputs fixed shapes, in place, and an opset that the toolkit knows; returns it.

    `inputs` and `outputs` name every one of them. Raises `ConversionError` if the graph has others, or is too new.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    for what, values, shapes in (
        ("inputs", [value for value in model.graph.input if value.name not in weights], inputs),
        ("outputs", list(model.graph.output), outputs),
    ):
        names = [value.name for value in values]
        if set(names) != set(shapes):
            raise ConversionError(f"the graph has the {what} {', '.join(names)} instead of {', '.join(shapes)}")
        for value in values:
            tensor = value.type.tensor_type
            tensor.ClearField("shape")
            for size in shapes[value.name]:
                tensor.shape.dim.add().dim_value = size
    # What is noted of tensors within may still speak of free axes.
    del model.graph.value_info[:]
    return _with_known_opset(model)


def _with_known_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset > MAX_OPSET:
        try:
            model = version_converter.convert_version(model, MAX_OPSET)
        except Exception as error:
            raise ConversionError(
                f"the graph is of opset {opset} and the toolkit knows {MAX_OPSET} at most; export it again with "
                f"opset_version={MAX_OPSET}"
            ) from error
    model.ir_version = min(model.ir_version, _MAX_IR)
    return model
