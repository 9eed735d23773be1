"""Rows of several sources, each visited in its share: as a function of the place, like one source.

Of any stretch of a run every source has its share to within a row or two, not only on average: the
visits to a source are spread evenly over a cycle of many thousand rows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax import keys
from gpt_jax.data import order
from gpt_jax.data.mixture import whole_shares

CYCLE = 2**16  # rows; a share is rounded to a multiple of its inverse


class Source(NamedTuple):
    """Rows of one source.

    Attributes:
      name: for people.
      rows: arrays with one leading axis, or what has `take` and a length.
      count: how many rows.
      learned: how many tokens are learned from in one pass over them.
      share: of all the tokens that are learned from; the shares of a mixture sum to 1.
    """

    name: str
    rows: Any
    count: int
    learned: int
    share: float


@dataclasses.dataclass(frozen=True, eq=False)
class Mixed:
    """Rows of several sources, numbered one source after another."""

    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return sum(source.count for source in self.sources)

    @functools.cached_property
    def visits(self) -> tuple[int, ...]:
        """Rows of each source in one cycle: shares are of tokens, and not all rows are as full."""
        rows = [source.share * source.count / source.learned for source in self.sources]
        return tuple(whole_shares([some / sum(rows) for some in rows], CYCLE))

    def numbers(self, places: np.ndarray, seed: int) -> np.ndarray:
        """Which row is visited at each place of the run."""
        cycles, within = np.divmod(places, sum(self.visits))
        owners, sooner = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for cycle in np.unique(cycles):
            now = cycles == cycle
            owner_of, sooner_of = _schedule(self.visits, seed, int(cycle))
            owners[now], sooner[now] = owner_of[within[now]], sooner_of[within[now]]
        found, before = np.empty(len(places), np.int64), 0
        for i, source in enumerate(self.sources):
            mine = owners == i
            own_places = cycles[mine] * self.visits[i] + sooner[mine]
            own_seed = keys.derive_seed(seed, i, "mixture")
            found[mine] = before + order.visited(own_places, source.count, own_seed)
            before += source.count
        return found

    def take(self, numbers: np.ndarray) -> Any:
        """The rows of these numbers, as arrays."""
        ends = np.cumsum([source.count for source in self.sources])
        owners = np.searchsorted(ends, numbers, side="right")
        by_owner = np.argsort(owners, kind="stable")
        parts = [
            _take(source.rows, numbers[owners == i] - ends[i] + source.count)
            for i, source in enumerate(self.sources)
            if (owners == i).any()
        ]
        back = np.argsort(by_owner, kind="stable")
        return jax.tree.map(lambda *arrays: np.concatenate(arrays)[back], *parts)

    def sentences(self, rows: int) -> list[str]:
        """What so many visited rows are, source by source."""
        total = sum(self.visits)
        return [
            f"{source.name}: {source.share:.1%} of the tokens, "
            f"{rows * visits / total / source.count:.2f} epochs over its {source.learned:,}"
            for source, visits in zip(self.sources, self.visits, strict=True)
        ]


def _take(rows: Any, numbers: np.ndarray) -> Any:
    if isinstance(rows, tuple):
        return jax.tree.map(lambda array: array[numbers], rows)
    return rows.take(numbers)


@functools.lru_cache(maxsize=8)
def _schedule(visits: tuple[int, ...], seed: int, cycle: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each place in a cycle the source, and how often it was visited sooner in the cycle."""
    shifts = np.random.default_rng([seed, cycle]).random(len(visits))
    times = [(np.arange(n) + shift) / n for n, shift in zip(visits, shifts, strict=True)]
    by_time = np.argsort(np.concatenate(times), kind="stable")
    owners = np.repeat(np.arange(len(visits)), visits)[by_time]
    sooner = np.concatenate([np.arange(n) for n in visits])[by_time]
    return owners, sooner
