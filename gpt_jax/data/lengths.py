"""Batches of rows of alike length, each only as wide as its longest row needs.

A row of 80 tokens in a batch that is 512 wide costs as much as one of 512. Here the rows are still
visited in a random order, each once an epoch, but every `GROUP` batches in a row share out their
rows by length, and each is cut to one of `WIDTHS` widths: so many programs at most.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from gpt_jax.data.batches import Comparisons, cut
from gpt_jax.data.pipeline import count, row_numbers, take

GROUP = 16  # batches that share out their rows, where an epoch has so many
WIDTHS = 8  # equal steps up to the full width, which is a multiple of 8


def lengths_of(rows: Comparisons) -> np.ndarray:
    """Tokens of the longest completion of every row with its prompt, int64 (rows,)."""
    return (rows.tokens_BKT.segment_ids != 0).sum(axis=-1).max(axis=-1)


def width_for(longest: int, full: int) -> int:
    """The least of the widths that holds a row of so many tokens.

    Args:
      longest: tokens of the row.
      full: the width of rows that are not cut.
    """
    unit = -(-full // (8 * WIDTHS)) * 8
    return min(full, max(unit, -(-int(longest) // unit) * unit))


def narrowed(rows: Comparisons) -> Comparisons:
    """Rows cut to the width for the longest of them."""
    return cut(rows, width_for(lengths_of(rows).max(), rows.tokens_BKT.ids.shape[-1]))


@dataclasses.dataclass(frozen=True)
class ByLength:
    """`batch_at(step)` as `pipeline.BatchAt` has it, of rows of alike length.

    Attributes:
      rows: comparisons or marked answers, right-padded.
      batch_size: rows of the global batch, over all processes.
      seed: of the order.
      share: this process's part of the batch, as `pipeline.share` gives it.
    """

    rows: Comparisons
    batch_size: int
    seed: int
    share: tuple[int, int]

    def numbers(self, step: int) -> np.ndarray:
        """Which rows make up the whole global batch."""
        # Never more than an epoch: the copies of a row, of one length, would be in one batch.
        size = max(1, min(GROUP, count(self.rows) // self.batch_size))
        group, place = divmod(step, size)
        together = row_numbers(group, size * self.batch_size, count(self.rows), self.seed)
        by_length = together[np.argsort(self._lengths[together], kind="stable")]
        # The batches of a group come in a random order: no epoch goes from short to long.
        order = np.random.default_rng([self.seed, group, GROUP]).permutation(size)
        return by_length.reshape(size, self.batch_size)[order[place]]

    def width(self, step: int) -> int:
        """The width of a step's batch, the same for every process."""
        longest = self._lengths[self.numbers(step)].max()
        return width_for(longest, self.rows.tokens_BKT.ids.shape[-1])

    def tokens(self, step: int) -> int:
        """Tokens of the whole global batch, padding included."""
        return self.batch_size * self.rows.tokens_BKT.ids.shape[1] * self.width(step)

    def __call__(self, step: int) -> Comparisons:
        index, parts = self.share
        local = self.batch_size // parts
        mine = self.numbers(step)[index * local : (index + 1) * local]
        return cut(take(self.rows, mine), self.width(step))

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        return lengths_of(self.rows)


def sorted_by_length(rows: Comparisons) -> Comparisons:
    """The same rows, the shortest first: for measuring on all of them, whatever their order."""
    order = np.argsort(lengths_of(rows), kind="stable")
    return jax.tree.map(lambda x: x[order], rows)
