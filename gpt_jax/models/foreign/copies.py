"""Copies from a file into memory, as fast as memory allows."""

import os
from typing import Any

import ml_dtypes
import numpy as np

WORKERS = max(1, min(8, len(os.sched_getaffinity(0))))  # NumPy copies without holding the lock
# A tile of a transposed copy, which stays in the second cache. Its rows are padded: where their
# distance is a power of two, a column would lie in a few places of the first cache alone.
TILE_ROWS, TILE_COLUMNS, PADDING = 512, 256, 16
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
    a transposed source. So each tile is copied twice, first as it lies: 3 GB/s of float32 instead
    of 0.5, on one core.
    """
    if source.ndim < 2 or source.flags.c_contiguous or source.strides[-1] == source.itemsize:
        _convert(target, source)
        return
    lying = source.T
    tile = np.empty((TILE_ROWS, TILE_COLUMNS + PADDING), source.dtype)
    for i in range(0, lying.shape[0], TILE_ROWS):
        for j in range(0, lying.shape[1], TILE_COLUMNS):
            part = lying[i : i + TILE_ROWS, j : j + TILE_COLUMNS]
            copied = tile[: part.shape[0], : part.shape[1]]
            copied[...] = part
            _convert(target[j : j + TILE_COLUMNS, i : i + TILE_ROWS], copied.T)


def _convert(target: np.ndarray, source: np.ndarray) -> None:
    if source.dtype == ml_dtypes.bfloat16 and target.dtype == np.float32:
        # A bfloat16 is the upper half of a float32; its own conversion is several times slower.
        bits = target.view(np.uint32)
        np.left_shift(source.view(np.uint16), np.uint32(16), out=bits, casting="unsafe")
    else:
        target[...] = source
