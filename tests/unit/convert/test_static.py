import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.convert import static
from wyoming_rknn.errors import ConversionError
from wyoming_rknn.runtime.onnx import load


def model(opset=15, op="Add", ir_version=8):
    declared = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2, "frames"])]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["who", "knows", "this"])
    within = helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 2, "frames"])
    weight = numpy_helper.from_array(np.arange(2, dtype=np.float32).reshape(1, 2, 1), "w")
    nodes = [helper.make_node(op, ["z", "w"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
    graph = helper.make_graph(nodes, "g", declared, [result], [weight], value_info=[within])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def shape(value):
    return [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]


def test_free_axes_are_fixed():
    fixed = static.fix(model(), {"z": (1, 2, 55)}, {"y": (1, 2, 55)})

    assert shape(fixed.graph.input[0]) == [1, 2, 55]
    assert shape(fixed.graph.output[0]) == [1, 2, 55]
    assert not fixed.graph.value_info
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(fixed, strict_mode=True))
    z = np.ones((1, 2, 55), np.float32)
    np.testing.assert_array_equal(load(fixed.SerializeToString(), threads=1).run({"z": z})["y"][0, :, 0], [1, 2])


def test_weights_that_are_declared_as_inputs_are_no_inputs():
    declared = model()
    declared.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2, 1]))
    static.fix(declared, {"z": (1, 2, 55)}, {"y": (1, 2, 55)})


def test_a_graph_with_other_inputs_is_refused():
    with pytest.raises(ConversionError, match="the inputs z instead of z, cond"):
        static.fix(model(), {"z": (1, 2, 5), "cond": (1, 2, 1)}, {"y": (1, 2, 5)})
    with pytest.raises(ConversionError, match="the outputs y instead of output"):
        static.fix(model(), {"z": (1, 2, 5)}, {"output": (1, 2, 5)})


def test_a_newer_opset_is_taken_back():
    fixed = static.fix(model(opset=21, ir_version=11), {"z": (1, 2, 5)}, {"y": (1, 2, 5)})
    assert (fixed.opset_import[0].version, fixed.ir_version <= 10) == (19, True)
    load(fixed.SerializeToString(), threads=1).run({"z": np.ones((1, 2, 5), np.float32)})


def test_an_opset_that_cannot_be_taken_back_names_the_fix():
    newer = model(opset=20)
    newer.graph.node.append(helper.make_node("Gelu", ["y"], ["gelu"]))
    newer.graph.output[0].name = "gelu"
    with pytest.raises(ConversionError, match=r"opset 20 .*opset_version=19"):
        static.fix(newer, {"z": (1, 2, 5)}, {"gelu": (1, 2, 5)})


def test_what_is_no_graph_is_told(tmp_path):
    (tmp_path / "voice.onnx").write_bytes(b"no graph")
    with pytest.raises(ConversionError, match=r"voice\.onnx cannot be read as ONNX"):
        static.read(tmp_path / "voice.onnx")


def test_weights_in_other_files_are_brought_in(tmp_path):
    (tmp_path / "in").mkdir()
    onnx.save(model(), tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    static.write_whole(tmp_path / "in" / "m.onnx", tmp_path / "whole.onnx")
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    result = load(tmp_path / "whole.onnx", threads=1).run({"z": np.ones((1, 2, 5), np.float32)})
    np.testing.assert_array_equal(result["y"][0, :, 0], [1, 2])


def test_a_whole_graph_is_copied_as_it_is(tmp_path):
    onnx.save(model(), tmp_path / "m.onnx")
    static.write_whole(tmp_path / "m.onnx", tmp_path / "copy.onnx")
    static.write_whole((tmp_path / "m.onnx").read_bytes(), tmp_path / "written.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()
    assert (tmp_path / "written.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()
