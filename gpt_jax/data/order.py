"""The random order in which rows are visited, as a function of the place: nothing is remembered."""

from __future__ import annotations

import functools

import numpy as np

LARGEST_SHUFFLE = 2**20  # rows whose order is held in memory


def visited(places: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Which row is visited at each place, int64; each once in every `rows` places in a row.

    Args:
      places: int64, from 0; those of the first epoch are 0 to rows - 1.
      rows: how many there are. Of more than `LARGEST_SHUFFLE` no order is held in memory, but each
        row computed by a cipher (`_enciphered`).
      seed: of the orders.
    """
    epochs, within = np.divmod(places, rows)
    if rows <= LARGEST_SHUFFLE:
        pairs = zip(epochs, within, strict=True)
        return np.array([_epoch_order(rows, seed, int(e))[w] for e, w in pairs], np.int64)
    found = np.empty(len(places), np.int64)
    for epoch in np.unique(epochs):
        now = epochs == epoch
        found[now] = _enciphered(within[now], rows, seed, int(epoch))
    return found


@functools.lru_cache(maxsize=4)
def _epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def _enciphered(numbers: np.ndarray, rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 to rows - 1, one number at a time.

    A Feistel network of six rounds permutes the numbers of an even count of bits; what it takes out
    of the range it is given again, until it comes back (Black and Rogaway 2002, "cycle walking").
    """
    half = max(1, -(-(rows - 1).bit_length() // 2))
    mask = np.uint64(2**half - 1)
    keys = np.random.default_rng([seed, epoch, rows]).integers(2**63, size=6, dtype=np.uint64)
    out = numbers.astype(np.uint64)
    outside = np.ones(len(out), bool)
    while outside.any():
        left, right = out[outside] >> np.uint64(half), out[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        out[outside] = left << np.uint64(half) | right
        outside = out >= rows
    return out.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A hash of 64 bits (the finalizer of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
