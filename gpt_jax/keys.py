"""Every random draw has a key of its own, derived from (seed, step, purpose)."""

from __future__ import annotations

import zlib

import jax


def derive(seed: int, step: int | jax.Array, purpose: str) -> jax.Array:
    """The PRNG key for one purpose at one step; `step` may be traced.

    The purpose enters by its CRC-32, which is the same in every process and every Python.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
    return jax.random.fold_in(key, step)


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """The same for what takes a number, in [0, 2**32)."""
    return zlib.crc32(f"{seed} {step} {purpose}".encode())
