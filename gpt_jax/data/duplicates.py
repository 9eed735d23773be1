"""Rows that stand twice, rows that nearly do, and rows that an evaluation set has, too.

Texts are compared as words without case and marks; where a script has no spaces, every character is
a word.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

SHINGLE = 5  # words that make one element of the set that a text is compared as
BANDS, BAND_ROWS = 16, 8  # texts meet in some band with probability 1/2 at a similarity of 0.68
SIMILAR = 0.8  # share of common elements from which two texts are near duplicates
OVERLAP = 13  # words (Brown et al. 2020, appendix C)

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_PRIMES = np.random.default_rng(13).integers(2**63, size=2 * OVERLAP, dtype=np.uint64) | np.uint64(
    1
)


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def grams(text: str, length: int) -> np.ndarray:
    """Hashes of all stretches of `length` words, uint64; of a shorter text none."""
    said = words(text)
    count = len(said) - length + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    numbers = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in said], np.uint64)
    total = np.zeros(count, np.uint64)
    for i in range(length):
        total += (numbers[i : i + count] + np.uint64(1)) * _PRIMES[i]
    return _mixed(total)


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(27))


def exact(texts: Sequence[str]) -> int:
    """How many texts say the same as one before them, up to case, marks and spaces."""
    return len(texts) - len({" ".join(words(text)) for text in texts})


def near(texts: Sequence[str]) -> int:
    """How many texts are near duplicates of one before them, equal ones among them.

    MinHash (Broder 1997): the smallest of many hashes of a set's elements agree in as many places
    as two sets have elements in common, of all that they have. Only texts that agree in a band of
    several places are compared. Texts of fewer than `SHINGLE` words are compared as wholes.
    """
    signatures = np.array([_signature(text) for text in texts])
    leader = np.arange(len(texts))
    for band in range(BANDS if len(texts) else 0):
        columns = signatures[:, band * BAND_ROWS : (band + 1) * BAND_ROWS]
        first_with: dict[bytes, int] = {}
        for i, column in enumerate(np.ascontiguousarray(columns)):
            j = first_with.setdefault(column.tobytes(), i)
            if j < leader[i] and np.mean(signatures[i] == signatures[j]) >= SIMILAR:
                leader[i] = j
    return int((leader < np.arange(len(texts))).sum())


def _signature(text: str) -> np.ndarray:
    elements = np.unique(grams(text, SHINGLE))
    if not len(elements):
        elements = np.array(
            [zlib.crc32(" ".join(words(text)).encode("utf-8", "replace"))], np.uint64
        )
    smallest = np.full(BANDS * BAND_ROWS, np.uint64(2**64 - 1))
    for start in range(0, len(elements), 4096):  # a book has too many for one array
        some = elements[start : start + 4096, None] * _FACTORS + _TERMS
        smallest = np.minimum(smallest, _mixed(some).min(axis=0))
    return smallest


_FACTORS, _TERMS = np.random.default_rng(7).integers(
    2**63, size=(2, BANDS * BAND_ROWS), dtype=np.uint64
) | np.uint64(1)


class Overlap(NamedTuple):
    """What a source has in common with an evaluation set.

    Attributes:
      found: the places of the evaluation rows of which a stretch of 13 words is in the source.
      rows: how many evaluation rows there are.
      short: how many of them are too short to be looked for.
      hits: how many rows of the source have such a stretch.
    """

    found: list[str]
    rows: int
    short: int
    hits: int


def overlap(texts: Iterable[str], against: Iterable[tuple[str, object]]) -> Overlap:
    """Which rows of an evaluation set have 13 words in a row that a source has, too.

    Args:
      texts: of the rows of the source.
      against: (place, row) of the evaluation set, of any layout: all texts in it are looked at.
    """
    places, own = [], []
    for place, row in against:
        parts = [grams(text, OVERLAP) for text in _texts(row)]
        places.append(place)
        own.append(np.unique(np.concatenate([*parts, np.zeros(0, np.uint64)])))
    known = np.unique(np.concatenate([*own, np.zeros(0, np.uint64)]))
    seen, hits = np.zeros(len(known), bool), 0
    for text in texts if len(known) else ():
        found = np.unique(grams(text, OVERLAP))
        at = np.searchsorted(known, found)
        at = at[(at < len(known))]
        there = at[np.isin(known[at], found)]
        seen[there] = True
        hits += bool(len(there))
    common = known[seen]
    found = [place for place, some in zip(places, own, strict=True) if np.isin(some, common).any()]
    return Overlap(found, len(places), sum(not len(some) for some in own), hits)


def _texts(value: object) -> Iterator[str]:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
