"""Weights in 8 and 4 bits, as ONNX Runtime's operators for the CPU take them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.convert.qwen3_checkpoint import Weight

BLOCK = 32
"""Weights with a scale of their own in 4 bits."""
_ROWS = 4096
_LARGEST_INT8 = 127
_ZERO_INT4, _LARGEST_INT4 = 8, 15


def int8_columns(weight: Weight) -> tuple[NDArray[np.int8], Weight]:
    """Return a weight [out, in] as DynamicQuantizeMatMul takes it: int8 [in, out] and a scale for each output."""
    whole = np.empty(weight.shape[::-1], np.int8)
    scales = np.empty(len(weight), np.float32)
    for part in _slices(weight):
        largest = np.abs(weight[part]).max(1)
        scales[part] = np.where(largest == 0, 1, largest / np.float32(_LARGEST_INT8))
        whole[:, part] = np.rint(weight[part] / scales[part, None]).T
    return whole, scales


def int4_blocks(weight: Weight) -> tuple[NDArray[np.uint8], Weight]:
    """Return a weight [out, in] as MatMulNBits takes it: uint8 [out, blocks, 16] and a scale for each block.

    Two weights share a byte, the first in the lower half; 8 is zero. What is largest in a block becomes exactly -8.
    """
    rows, columns = weight.shape
    blocks = -(-columns // BLOCK)
    packed = np.empty((rows, blocks, BLOCK // 2), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    for part in _slices(weight):
        padded = np.pad(weight[part], ((0, 0), (0, -columns % BLOCK))).reshape(-1, blocks, BLOCK)
        largest = np.take_along_axis(padded, np.abs(padded).argmax(2, keepdims=True), 2)[..., 0]
        scales[part] = np.where(largest == 0, 1, largest / np.float32(-_ZERO_INT4))
        steps = np.rint(padded / scales[part, :, None]) + _ZERO_INT4
        whole = np.clip(steps, 0, _LARGEST_INT4).astype(np.uint8)
        packed[part] = whole[..., 0::2] | whole[..., 1::2] << 4
    return packed, scales.reshape(-1)


def _slices(weight: Weight) -> Iterator[slice]:
    """Return some rows after the other: what is computed on the way takes as much as they do, several times."""
    for begin in range(0, len(weight), _ROWS):
        yield slice(begin, begin + _ROWS)
