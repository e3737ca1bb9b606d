"""Build ONNX graphs node by node, with weights in the precision that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.convert.qwen3_checkpoint import Weight
from wyoming_rknn.convert.qwen3_quantize import BLOCK, int4_blocks, int8_columns

FP32, INT8, INT4 = "fp32", "int8", "int4"
PRECISIONS = (FP32, INT8, INT4)
MICROSOFT = "com.microsoft"
"""Operators of ONNX Runtime: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md."""
WHOLE_BYTES = 200_000_000
"""A graph with fewer bytes of weights is one file; of a larger one ONNX Runtime maps the weights, and need not copy."""

_OPSET, _IR_VERSION = 17, 8
_PAGE = 4096
_SMALL = 1024
"""Bytes of a weight that stays in the graph: ONNX Runtime must see the shapes that lie there."""
_INT8_COMPUTE = 4
"""MatMulNBits' accuracy_level that multiplies in 8 bits."""


@dataclass(slots=True)
class GraphBuilder:
    """One graph on its way into a file. Used as a context: leaving it without `save` removes what was written."""

    path: Path
    precision: str = FP32
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    _data: BinaryIO | None = None
    _saved: bool = False

    @property
    def data_path(self) -> Path:
        """Return where weights lie that do not lie in the graph."""
        return self.path.with_name(f"{self.path.name}.data")

    def __enter__(self) -> Self:
        """Open the file of weights. Raises `OSError`."""
        self._data = self.data_path.open("w+b")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close it."""
        assert self._data is not None
        self._data.close()
        if not self._saved:
            self.data_path.unlink(missing_ok=True)

    def add(
        self,
        op_type: str,
        *inputs: str,
        outputs: Sequence[str] = (),
        domain: str = "",
        **attributes: Any,  # noqa: ANN401 - whatever ONNX holds
    ) -> str:
        """Append a node; returns its first output, which gets a name if none is given."""
        number = len(self.nodes)
        outputs = outputs or (f"n{number}",)
        self.nodes.append(
            helper.make_node(op_type, inputs, outputs, name=f"{op_type}_{number}", domain=domain, **attributes)
        )
        return outputs[0]

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Cut a tensor's last axis."""
        names = [f"n{len(self.nodes)}_{place}" for place in range(len(sizes))]
        self.add("Split", value, self.integers(*sizes), outputs=names, axis=-1)
        return names

    def reshape(self, value: str, *shape: int) -> str:
        """Append a Reshape: -1 is what remains, 0 the size that the axis has."""
        return self.add("Reshape", value, self.integers(*shape))

    def integers(self, *values: int) -> str:
        """Return a vector of integers."""
        return self.constant(np.array(values, np.int64))

    def constant(self, value: NDArray[np.generic] | np.generic) -> str:
        """Return the name of a small constant, of this call's own: the toolkit loses what two nodes share."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, value: NDArray[np.generic]) -> str:
        """Write a weight."""
        if value.nbytes < _SMALL:
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            return name
        assert self._data is not None
        begin = -(-self._data.tell() // _PAGE) * _PAGE
        self._data.seek(begin)
        self._data.write(np.ascontiguousarray(value).data)
        tensor = TensorProto(
            name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape,
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        for key, told in (("location", self.data_path.name), ("offset", begin), ("length", value.nbytes)):
            tensor.external_data.add(key=key, value=str(told))
        self.initializers.append(tensor)
        return name

    def linear(
        self, value: str, name: str, weight: Weight, bias: Weight | None = None, precision: str | None = None
    ) -> str:
        """Multiply by a weight [out, in], as torch keeps it, in the graph's precision or another."""
        precision = precision or self.precision
        if precision == INT8:
            whole, scales = int8_columns(weight)
            result = self.add(
                "DynamicQuantizeMatMul",
                *(value, self.weight(name, whole), self.weight(f"{name}.scale", scales)),
                domain=MICROSOFT,
            )
        elif precision == INT4:
            packed, scales = int4_blocks(weight)
            result = self.add(
                "MatMulNBits",
                *(value, self.weight(name, packed), self.weight(f"{name}.scale", scales)),
                domain=MICROSOFT,
                K=weight.shape[1],
                N=weight.shape[0],
                bits=4,
                block_size=BLOCK,
                accuracy_level=_INT8_COMPUTE,
            )
        else:
            result = self.add("MatMul", value, self.weight(name, np.ascontiguousarray(weight.T)))
        return result if bias is None else self.add("Add", result, self.weight(f"{name}.bias", bias))

    def save(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], facts: dict[str, str]
    ) -> None:
        """Write the graph, and its weights beside it if they are large. Raises `OSError`."""
        assert self._data is not None
        self._data.flush()
        graph = helper.make_graph(self.nodes, self.path.stem, inputs, outputs, self.initializers)
        domains = sorted({node.domain for node in self.nodes} | {""})
        opsets = [helper.make_opsetid(domain, 1 if domain else _OPSET) for domain in domains]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="wyoming-rknn")
        helper.set_model_props(model, facts)
        if self._data.tell() < WHOLE_BYTES:
            for tensor in model.graph.initializer:
                self._bring_in(tensor)
        else:
            self._saved = True
        self.path.write_bytes(model.SerializeToString())

    def _bring_in(self, tensor: onnx.TensorProto) -> None:
        if tensor.data_location != TensorProto.EXTERNAL:
            return
        assert self._data is not None
        told = {entry.key: entry.value for entry in tensor.external_data}
        self._data.seek(int(told["offset"]))
        tensor.raw_data = self._data.read(int(told["length"]))
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """Declare a float32 input or output; a name instead of a size is a free axis."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def integers(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """Declare an int64 input."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)
