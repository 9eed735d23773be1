"""The step-indexed pipeline: `batch_at(step)` is a pure function of (rows, seed, step, process).

Plain index arithmetic instead of an iterator library: an iterator has a state that must be saved
with every checkpoint and restored on as many hosts as wrote it; a function of the step number has
none. Resuming is calling it with a later number; on two hosts or two hundred, each computes which
rows of the same global batch are its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.errors import UserError
from gpt_jax.parallel import rules

Rows = TypeVar("Rows")  # a NamedTuple of arrays with one leading row axis


@functools.lru_cache(maxsize=4)
def _epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def row_numbers(step: int, batch_size: int, rows: int, seed: int) -> np.ndarray:
    """Which rows make up global batch `step`: int64 (batch_size,).

    Rows are visited in a fresh random order every epoch, each exactly once; a batch may straddle
    two epochs.
    """
    places = step * batch_size + np.arange(batch_size)
    return np.array([_epoch_order(rows, seed, p // rows)[p % rows] for p in places])


def make_batch_at(
    rows: Rows,
    batch_size: int,
    seed: int,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Callable[[int], Rows]:
    """Returns `batch_at(step)`, which gives this process's rows of global batch `step`.

    Args:
      rows: a NamedTuple of NumPy arrays that share their leading axis.
      batch_size: rows of the global batch, over all processes.
      seed: of the shuffle.
      process_index, process_count: of this host; by default those of the running program.
    """
    process_index = jax.process_index() if process_index is None else process_index
    process_count = jax.process_count() if process_count is None else process_count
    if batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} rows does not divide over {process_count} processes; "
            "change the batch size"
        )
    local = batch_size // process_count
    mine = slice(process_index * local, (process_index + 1) * local)
    n = len(rows[0])

    def batch_at(step: int) -> Rows:
        chosen = row_numbers(step, batch_size, n, seed)[mine]
        return jax.tree.map(lambda array: array[chosen], rows)

    return batch_at


def place(batch: Rows, mesh: Mesh) -> Rows:
    """Puts each process's rows on its devices, laid out by `rules.batch_shardings`.

    A process holds its rows whole: `context` and `tensor` must not reach beyond it.
    """
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_process_local_data(sharding, x),
        batch,
        rules.batch_shardings(batch, mesh),
    )
