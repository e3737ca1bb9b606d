"""script/sensevoice-layouts: what it refuses; what it makes is tested where that is used."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "script" / "sensevoice-layouts"
GOLDEN = ROOT / "tests" / "golden" / "sensevoice"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (GOLDEN / "model_quant.onnx", "is quantised to 8 bits; take the fp32 graph"),
        (GOLDEN / "gone.onnx", "cannot be read (No such file or directory); name the model.onnx"),
        (GOLDEN / "am.mvn", "is not an ONNX graph"),
    ],
)
def test_what_cannot_be_taken_is_told_in_a_line(model, told, tmp_path):
    command = [sys.executable, SCRIPT, "rkvoice", model, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert told in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
