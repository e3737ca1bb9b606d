"""Convert a voice for the test double of librknnrt.so, with what stands in for the vendor's toolkit in tests/npu.

PYTHONPATH=tests python script/arm64/voice.py VOICE.onnx OUT CACHE
"""

import sys
from pathlib import Path

from npu.stand_in_toolkit import StandInToolkit

from wyoming_rknn.convert.piper import convert_voice
from wyoming_rknn.convert.report import ConvertOptions

source, out, cache = map(Path, sys.argv[1:])
print(convert_voice(source, "rk3588", out, ConvertOptions(), StandInToolkit(), cache))
