"""Copies from a file into memory, as fast as memory allows."""

import os
from typing import Any

import ml_dtypes
import numpy as np

WORKERS = max(1, min(8, len(os.sched_getaffinity(0))))  # NumPy copies without holding the lock
# A tile of a transposed copy, whose rows and columns stay in the first cache.
TILE_ROWS, TILE_BYTES = 64, 256
ALIGNMENT = 64  # an array that starts so is JAX's on a CPU without another copy


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of anything whose memory JAX can use as it lies."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """Copies with a change of dtype; a transposed source tile by tile.

    NumPy walks along the rows of the target, and would fetch a line of the cache for each number of
    a transposed source.
    """
    if source.ndim < 2 or source.flags.c_contiguous or source.strides[-1] == source.itemsize:
        _convert(target, source)
        return
    rows, columns = source.shape
    width = TILE_BYTES // source.itemsize
    for j in range(0, columns, width):
        for i in range(0, rows, TILE_ROWS):
            part = np.s_[i : i + TILE_ROWS, j : j + width]
            _convert(target[part], source[part])


def _convert(target: np.ndarray, source: np.ndarray) -> None:
    if source.dtype == ml_dtypes.bfloat16 and target.dtype == np.float32:
        # A bfloat16 is the upper half of a float32; its own conversion is several times slower.
        bits = target.view(np.uint32)
        np.left_shift(source.view(np.uint16), np.uint32(16), out=bits, casting="unsafe")
    else:
        target[...] = source
