"""A cache in pages: rows take as many as they need, and share those that begin alike.

Kwon et al. 2023 ("PagedAttention"). Row b's place s is place s % S of page `table_BP[b, s // S]`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.models.cache import KVCache
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Model


class Pages(NamedTuple):
    """Keys and values of all layers, R pages of S places each; I is K * H, as in `Stacks`.

    Attributes:
      keys_LRSI, values_LRSI: in the compute dtype.
      table_BP: int32, the pages of every row in order; R where a row has no more.
    """

    keys_LRSI: jax.Array
    values_LRSI: jax.Array
    table_BP: jax.Array


def init_pages(model: Model, rows: int, places: int, pages: int, size: int) -> KVCache:
    """An empty cache whose `rows` of up to `places` tokens share `pages` of `size` places.

    Raises:
      UserError: if the model is no decoder of ours.
    """
    if not isinstance(model, ModelConfig):
        raise UserError(
            f"pages are for decoders with a key/value cache, not {type(model).__name__}; leave "
            "them out"
        )
    c, most = model.resolved(), -(-places // size)
    empty_LRSI = jnp.zeros((c.layers, pages, size, c.kv_heads * c.head_size), c.dtype)
    return KVCache(
        Pages(empty_LRSI, empty_LRSI, jnp.full((rows, most), pages, jnp.int32)),
        segment_ids_BS=jnp.zeros((rows, most * size), jnp.int32),
        index_B=jnp.zeros(rows, jnp.int32),
    )


def write_pages(
    pages: Pages,
    new_BTKH: tuple[jax.Array, jax.Array],
    index_B: jax.Array,
    layer: jax.Array | int,
    segment_ids_BT: jax.Array,
) -> Pages:
    """The pages with a layer's new keys and values, row b's from place `index_B[b]` on.

    Padding is not written: the place may be another row's by now.
    """
    R, S = pages.keys_LRSI.shape[1:3]
    B, T = segment_ids_BT.shape
    places_BT = index_B[:, None] + jnp.arange(T)
    page_BT = jnp.take_along_axis(pages.table_BP, places_BT // S, axis=1, mode="fill", fill_value=R)
    nowhere_BT = R + jnp.arange(B * T).reshape(B, T)  # each its own, as the hint below says
    page_BT = jnp.where((segment_ids_BT != 0) & (page_BT < R), page_BT, nowhere_BT)
    keys_LRSI, values_LRSI = (
        stack.at[layer, page_BT, places_BT % S].set(
            new.reshape(B, T, -1).astype(stack.dtype), unique_indices=True, mode="drop"
        )
        for stack, new in zip(pages[:2], new_BTKH, strict=True)
    )
    return Pages(keys_LRSI, values_LRSI, pages.table_BP)


def rows_of(stack_LRSI: jax.Array, table_BP: jax.Array, layer: jax.Array | int) -> jax.Array:
    """A layer's entries as rows again, (B, P * S, I)."""
    entries_BPSI = stack_LRSI.at[layer, table_BP].get(mode="clip")  # beyond a row: anything
    return entries_BPSI.reshape(len(table_BP), -1, entries_BPSI.shape[-1])
