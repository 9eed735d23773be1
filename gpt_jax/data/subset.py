"""Some of many rows, drawn by what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def sample_rows(rows: Sequence[dict], n: int, seed: int) -> list[dict]:
    """At most `n` rows: those whose hash with the seed is smallest, in the order of `rows`.

    The draw depends on what a row says, not on where it stands: of a sorted file the first rows
    would be of one kind, and a file in another order would give others.
    """

    def number(row: dict) -> bytes:
        text = json.dumps(row, sort_keys=True, default=str)
        return hashlib.sha256(f"{seed}:{text}".encode()).digest()

    if n >= len(rows):
        return list(rows)
    numbers = [number(row) for row in rows]
    drawn = sorted(range(len(rows)), key=numbers.__getitem__)[:n]
    return [rows[i] for i in sorted(drawn)]
