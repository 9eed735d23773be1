"""The array bundles that travel from the data pipeline to the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike


class Tokens(NamedTuple):
    """Rows of tokens: the one form in which text meets a model.

    The letters of its shape are those of the name that a bundle gives it: `tokens_BT` is B x T.

    Attributes:
      ids: int32 token ids.
      positions: int32 position of each token within its own example; 0 on padding.
      segment_ids: int32 number of the example within the row, from 1; 0 is padding, and nothing
        else says what is padding.
    """

    ids: ArrayLike
    positions: ArrayLike
    segment_ids: ArrayLike


class Batch(NamedTuple):
    """Token rows to learn from; several short examples may share a row.

    Attributes:
      tokens_BT: the rows.
      weights_BT: float32 weight of the loss of predicting this very token (from those before it);
        0 on padding, on prompts and on the first token of every example.
    """

    tokens_BT: Tokens
    weights_BT: ArrayLike


class Comparisons(NamedTuple):
    """K ranked completions of each of B prompts; all K(K-1)/2 comparisons stay in one element.

    Attributes:
      tokens_BKT: prompt and completion, right-padded.
      weights_BKT: float32, 1 on the tokens of the completion (its stop token included), 0 on the
        prompt and on padding.
      ranks_BK: int32, 0 is best; equal ranks are ties; -1 marks an empty slot.
      degrees_BK: float32, how good each is, where the records say by how much one is better; None:
        where none of them does.
    """

    tokens_BKT: Tokens
    weights_BKT: ArrayLike
    ranks_BK: ArrayLike
    degrees_BK: ArrayLike | None = None


class Prompts(NamedTuple):
    """Prompts to continue, LEFT-padded so that every completion starts at the same column.

    Attributes:
      tokens_BP: the prompts, one segment each.
      rows_B: int32, the number of the record that each prompt was made from.
    """

    tokens_BP: Tokens
    rows_B: ArrayLike


def empty_tokens(shape: tuple[int, ...], pad_id: int) -> Tokens:
    """Padding of one shape, as NumPy arrays to be written into."""
    return Tokens(
        np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    )


def put(tokens: Tokens, at: tuple, ids: Sequence[int] | np.ndarray, segment: int = 1) -> None:
    """Writes an example into a part of NumPy rows, with positions from 0."""
    tokens.ids[at] = ids
    tokens.positions[at] = np.arange(len(ids))
    tokens.segment_ids[at] = segment


def pad_prompts(rows: list[list[int]], length: int, pad_id: int) -> Prompts:
    """Left-pads token rows to `length`. Raises ValueError for a longer one: nothing is cut here."""
    if any(len(ids) > length for ids in rows):
        raise ValueError(f"a prompt is longer than the row of {length} tokens")
    tokens_BP = empty_tokens((len(rows), length), pad_id)
    for b, ids in enumerate(rows):
        put(tokens_BP, np.s_[b, length - len(ids) :], ids)
    return Prompts(tokens_BP, np.arange(len(rows), dtype=np.int32))


def pad_rows(rows: Batch | Comparisons | Prompts, multiple: int) -> Batch | Comparisons | Prompts:
    """Appends empty rows, which count for nothing, up to a multiple of `multiple`."""
    missing = -len(jax.tree.leaves(rows)[0]) % multiple

    def pad(path: tuple, array: np.ndarray) -> np.ndarray:
        empty = -1 if path[0].name == "ranks_BK" else 0
        widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
        return np.pad(array, widths, constant_values=empty)

    return jax.tree_util.tree_map_with_path(pad, rows)


def cut(rows: Batch | Comparisons, width: int) -> Batch | Comparisons:
    """The first `width` tokens of every row: of all fields whose names end in T."""

    def one(path: tuple, array: np.ndarray) -> np.ndarray:
        return array[..., :width] if path[0].name.endswith("T") else array

    return jax.tree_util.tree_map_with_path(one, rows)
