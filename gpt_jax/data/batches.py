"""The array bundles that travel from the data pipeline to the losses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Batch(NamedTuple):
    """Token rows to learn from; several short examples may share a row.

    Attributes:
      tokens_BT: int32 token ids.
      positions_BT: int32 position of each token within its own example.
      segment_ids_BT: int32 number of the example within the row, from 1; 0 is padding.
      weights_BT: float32 weight of the loss of predicting this very token (from those before it);
        0 on padding, on prompts and on the first token of every example.
    """

    tokens_BT: ArrayLike
    positions_BT: ArrayLike
    segment_ids_BT: ArrayLike
    weights_BT: ArrayLike


class Comparisons(NamedTuple):
    """K ranked completions of each of B prompts; all K(K-1)/2 comparisons stay in one element.

    Attributes:
      tokens_BKT, positions_BKT, segment_ids_BKT: int32, prompt and completion, right-padded.
      ranks_BK: int32, 0 is best; equal ranks are ties; -1 marks an empty slot.
    """

    tokens_BKT: ArrayLike
    positions_BKT: ArrayLike
    segment_ids_BKT: ArrayLike
    ranks_BK: ArrayLike


class Prompts(NamedTuple):
    """Prompts to continue, LEFT-padded so that every completion starts at the same column.

    Attributes: tokens_BP, positions_BP, segment_ids_BP: int32; segment 0 is padding.
    """

    tokens_BP: ArrayLike
    positions_BP: ArrayLike
    segment_ids_BP: ArrayLike


def pad_prompts(rows: list[list[int]], length: int, pad_id: int) -> Prompts:
    """Left-pads token rows to `length`; a longer row keeps its last `length` tokens."""
    tokens_BP = np.full((len(rows), length), pad_id, np.int32)
    segment_ids_BP = np.zeros((len(rows), length), np.int32)
    positions_BP = np.zeros((len(rows), length), np.int32)
    for b, row in enumerate(rows):
        row = row[-length:]
        tokens_BP[b, length - len(row) :] = row
        segment_ids_BP[b, length - len(row) :] = 1
        positions_BP[b, length - len(row) :] = np.arange(len(row))
    return Prompts(tokens_BP, positions_BP, segment_ids_BP)


def pad_rows(rows: Batch | Comparisons | Prompts, multiple: int) -> Batch | Comparisons | Prompts:
    """Appends empty rows, which count for nothing, up to a multiple of `multiple`."""
    missing = -len(rows[0]) % multiple

    def pad(name: str, array: np.ndarray) -> np.ndarray:
        empty = -1 if name == "ranks_BK" else 0
        widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
        return np.pad(array, widths, constant_values=empty)

    return type(rows)(*(pad(name, array) for name, array in rows._asdict().items()))
