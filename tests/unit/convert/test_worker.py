import subprocess
import sys
import textwrap
from pathlib import Path

import wyoming_rknn.convert.worker as worker


def run(code):
    """Run code in a Python of its own, with the worker's module as `worker`."""
    prelude = f"import sys; sys.path.insert(0, {str(Path(worker.__file__).parent)!r}); import worker\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_needs_nothing_of_the_package():
    done = run("print([name for name in sys.modules if name.startswith(('wyoming', 'numpy', 'onnx'))])")
    assert done.stdout == "[]\n", done.stderr


def test_absent_libraries_can_be_imported_in_every_way():
    done = run("""
        worker.do_without(("torch", "torch.nn", "torch.nn.functional", "cv2"))
        import importlib.util
        import torch, cv2
        import torch.nn as nn
        from torch.nn import functional as F
        from torch.nn.functional import relu

        class Network(nn.Module):
            @torch.no_grad()
            def forward(self): return 1

            @nn.unused
            def backward(self): return 2

        assert Network().forward() == 1
        assert F.relu and F is torch.nn.functional
        assert not isinstance([], torch.Tensor)
        assert not hasattr(torch, "__file__") and not hasattr(torch.nn, "__array__")
        assert importlib.util.find_spec("torch") is not None
        assert torch.__version__.split(".")[0] == "2"
        print("fine")
    """)
    assert done.stdout == "fine\n", done.stderr


def test_it_does_not_outlive_a_parent_that_is_gone():
    done = run("worker._follow_parent(1 << 30); print('lives')")
    assert (done.returncode, done.stdout) == (1, "")
