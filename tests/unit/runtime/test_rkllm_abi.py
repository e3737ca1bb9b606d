"""The structures of librkllmrt, as a C compiler lays them out on 64-bit Linux."""

import ctypes
import subprocess
import sys
from dataclasses import replace

import pytest

from wyoming_rknn.errors import RuntimeUnavailable
from wyoming_rknn.runtime import rkllm_abi as abi


@pytest.mark.parametrize(
    ("version", "param", "input_", "infer_param"),
    [("1.2.1", 208, 64, 32), ("1.2.2", 208, 64, 32), ("1.2.3", 208, 64, 32), ("1.3.0", 184, 160, 40)],
)
def test_sizes(version, param, input_, infer_param):
    layout = abi.LAYOUTS[version]
    layout.check()
    assert (ctypes.sizeof(layout.param), ctypes.sizeof(layout.input), ctypes.sizeof(layout.infer_param)) == (
        param,
        input_,
        infer_param,
    )
    assert (ctypes.sizeof(abi.Result), ctypes.sizeof(abi.ExtendParam), ctypes.sizeof(abi.Callback13)) == (72, 120, 48)


def test_no_other_version_is_known():
    assert set(abi.LAYOUTS) == {"1.2.1", "1.2.2", "1.2.3", "1.3.0"}
    assert abi.LAYOUTS["1.3.0"].has_callback_struct
    assert not abi.LAYOUTS["1.2.3"].has_callback_struct


@pytest.mark.parametrize("fact", [(207, {}), (208, {"extend_param": 60})])
def test_a_structure_that_is_laid_out_in_another_way_is_refused(fact):
    wrong = replace(abi.V1_2, facts={abi.Param12: fact})
    with pytest.raises(RuntimeUnavailable, match="which lays out Param12 in another way; use a 64-bit Python on Linux"):
        wrong.check()


def test_the_worker_loads_nothing_heavy():
    code = "import sys, wyoming_rknn.runtime.rkllm_worker; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
