"""Several sources by weight: "books.txt=0.3,wiki/*.jsonl=0.7".

Weights are shares, and need not sum to 1: LLaMA's table is in percent (Touvron et al. 2023, table
1). Of text they are shares of the tokens that are learned from; of other kinds, of the rows. A
source may hold commas of its own: in "a.txt,b.txt=1,c.txt=2" the first two are one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError

_WEIGHTED = re.compile(r"(.+?)=(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+|nan|inf|-\d+\.?\d*)(?:,|$)")


class Part(NamedTuple):
    """One source and its share; the shares of a mixture sum to 1."""

    spec: str
    share: float


def parse(spec: str) -> list[Part]:
    """The sources of a spec, one with share 1 where nothing is weighted.

    Raises:
      UserError: only some sources have a weight, one is not above 0, or a source stands twice.
    """
    if os.path.exists(spec) or all(os.path.exists(piece) for piece in spec.split(",")):
        return [Part(spec, 1.0)]  # "=0.5" is a part of a name
    found = _WEIGHTED.findall(spec)
    if not found:
        return [Part(spec, 1.0)]
    if sum(len(name) + len(weight) + 2 for name, weight in found) != len(spec) + 1:
        last = spec.rpartition(",")[2]
        raise UserError(f"{spec}: {last} has no weight; write {last}=WEIGHT, as for the others.")
    weights = [float(weight) for _, weight in found]
    for (name, _), weight in zip(found, weights, strict=True):
        if not 0 < weight < math.inf:
            raise UserError(f"{spec}: the weight of {name} must be above 0 and finite.")
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{spec}: {twice} stands twice; give it one weight.")
    total = sum(weights)
    return [Part(name, weight / total) for name, weight in zip(names, weights, strict=True)]


def rows_by_share(rows: Sequence[list[dict]], shares: Sequence[float], seed: int) -> list[dict]:
    """As many rows as all sources have, those of each in its share.

    Of a source that has more only some are drawn, by what they say; the rows of one that has fewer
    come several times, none more than once oftener than another.

    Args:
      rows: of each source.
      shares: of each source, which sum to 1.
      seed: of the draw.
    """
    total = sum(map(len, rows))
    found = []
    for some, count in zip(rows, whole_shares(shares, total), strict=True):
        times, rest = divmod(count, len(some))
        again = [{**row} for _ in range(times) for row in some]
        found += again + sample_rows(some, rest, seed)
    return found


def whole_shares(shares: Sequence[float], total: int) -> list[int]:
    """Counts that sum to the total, each at least 1 and, else, less than 1 from its share."""
    counts = [max(1, math.floor(share * total)) for share in shares]
    by_rest = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i] * total)
    for i in range(total - sum(counts)):
        counts[by_rest[i % len(shares)]] += 1
    return counts


def texts_by_share(texts: Sequence[list[str]], shares: Sequence[float]) -> Iterator[str]:
    """Texts of which every source has its share of the bytes, as a tokenizer is to see them.

    The source that would have to be repeated the least gives all its texts once; of the others as
    many are taken, again from the first where there are too few, as their shares ask for.
    """
    sizes = [[len(text.encode()) for text in some] for some in texts]
    scale = max(sum(some) / share for some, share in zip(sizes, shares, strict=True))
    for some, lengths, share in zip(texts, sizes, shares, strict=True):
        wanted, given, i = scale * share, 0, 0
        while given + lengths[i % len(some)] / 2 <= wanted:  # to the nearest document
            yield some[i % len(some)]
            given += lengths[i % len(some)]
            i += 1
