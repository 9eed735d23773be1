"""The step-indexed pipeline: `batch_at(step)` is a pure function of (rows, seed, step, process).

Plain index arithmetic instead of an iterator library: an iterator has a state that must be saved
with every checkpoint and restored on as many hosts as wrote it; a function of the step number has
none. Resuming is calling it with a later number; on two hosts or two hundred, each computes which
rows of the same global batch are its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gpt_jax.data import order
from gpt_jax.data.mixed import Mixed
from gpt_jax.errors import UserError
from gpt_jax.parallel import rules

Rows = TypeVar("Rows")  # a NamedTuple of arrays with one leading row axis, or what makes some


def count(rows: Rows) -> int:
    """How many rows there are."""
    return len(jax.tree.leaves(rows)[0]) if isinstance(rows, tuple) else len(rows)


def take(rows: Rows, numbers: np.ndarray) -> Rows:
    """The rows of these numbers; of rows that are arrays, or that are made when they are asked for
    (`store.TokenRows`, `mixed.Mixed`), which have a `take` of their own."""
    if isinstance(rows, tuple):
        return jax.tree.map(lambda array: array[numbers], rows)
    return rows.take(numbers)


def row_numbers(step: int, batch_size: int, rows: int, seed: int) -> np.ndarray:
    """Which rows make up global batch `step`: int64 (batch_size,).

    Rows are visited in a fresh random order every epoch, each exactly once; a batch may straddle
    two epochs.
    """
    return order.visited(step * batch_size + np.arange(batch_size), rows, seed)


def share(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process holds the i-th of n equal parts of every global batch.

    Processes whose devices differ only in `tensor` or `context` hold the same rows.
    """
    parts = rules.shards(mesh, "batch")
    sharding = NamedSharding(mesh, rules.partition_spec(("batch",)))
    slices = sharding.addressable_devices_indices_map((parts,)).values()
    held = sorted({index.start or 0 for (index,) in slices})
    if not held:
        raise UserError(
            f"the mesh has no device of process {jax.process_index()}; make it span all processes"
        )
    return held[0] // len(held), parts // len(held)


@dataclasses.dataclass(frozen=True)
class BatchAt(Generic[Rows]):
    """`batch_at(step)` gives this process's rows of a global batch."""

    rows: Rows
    batch_size: int
    seed: int
    share: tuple[int, int]

    def numbers(self, step: int) -> np.ndarray:
        """Which rows make up the whole global batch."""
        if isinstance(self.rows, Mixed):
            places = step * self.batch_size + np.arange(self.batch_size)
            return self.rows.numbers(places, self.seed)
        return row_numbers(step, self.batch_size, count(self.rows), self.seed)

    def __call__(self, step: int) -> Rows:
        index, parts = self.share
        local = self.batch_size // parts
        mine = self.numbers(step)[index * local : (index + 1) * local]
        return take(self.rows, mine)


def make_batch_at(
    rows: Rows, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)
) -> BatchAt[Rows]:
    """Returns `batch_at(step)`, which gives this process's rows of global batch `step`.

    Args:
      rows: a NamedTuple of NumPy arrays that share their leading axis, or what `take` knows.
      batch_size: rows of the global batch, over all processes.
      seed: of the shuffle.
      share: this process's part of the batch, as the function `share` gives it.
    """
    if batch_size % share[1]:
        raise UserError(
            f"a batch of {batch_size} rows does not divide over {share[1]} processes; "
            "change the batch size"
        )
    return BatchAt(rows, batch_size, seed, share)


def place(batch: Rows, mesh: Mesh) -> Rows:
    """Puts each process's rows on its devices, laid out by `rules.batch_shardings`."""

    def one(x: np.ndarray, whole: jax.ShapeDtypeStruct) -> jax.Array:
        # A process has its rows whole, even if `context` gives it only a part of their length.
        return jax.make_array_from_process_local_data(whole.sharding, x, whole.shape)

    return jax.tree.map(one, batch, shapes(batch, mesh))


def shapes(batch: Rows, mesh: Mesh) -> Rows:
    """What `place` makes of a process's rows, as ShapeDtypeStructs of the global arrays.

    Raises:
      UserError: if the mesh does not divide the rows.
    """
    _, parts = share(mesh)
    shards = rules.shards(mesh, "batch")

    def one(x: np.ndarray, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        if len(x) * parts % shards:
            raise UserError(
                f"{len(x) * parts} rows do not divide over data x fsdp = {shards} devices; change "
                "the batch size or the mesh"
            )
        shape = (len(x) * parts, *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return jax.tree.map(one, batch, rules.batch_shardings(batch, mesh))


def in_order(
    rows: Rows,
    batch_size: int,
    mesh: Mesh,
    form: Callable[[Rows], Rows] = lambda batch: batch,
) -> Iterator[Rows]:
    """All rows, `batch_size` at a time, placed on the mesh; the size must divide them.

    Args:
      rows: NumPy arrays with one leading axis.
      batch_size: rows of the global batch.
      mesh: over which it is split.
      form: what is done to every global batch before.
    """
    index, parts = share(mesh)
    local = batch_size // parts
    for start in range(0, len(jax.tree.leaves(rows)[0]), batch_size):
        batch = form(jax.tree.map(lambda x, s=start: x[s : s + batch_size], rows))
        yield place(jax.tree.map(lambda x: x[index * local : (index + 1) * local], batch), mesh)
