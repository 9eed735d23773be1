"""How a cache lies in memory, and how it is made eight bits wide."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """What is fixed when the program is built; see `api.decode_attention`."""

    scale: float
    window: int | None
    softcap: float | None


class Cache(NamedTuple):
    """Keys and values of all layers, as rows (or pages) of S entries.

    Attributes:
      k_LRSKH, v_LRSKH: R rows (contiguous: one per batch row) or pages.
      k_scale_LRKS, v_scale_LRKS: float32 factors of int8 entries, or None.
      layer: int32 scalar, the one layer to read.
      page_table_BP: int32 rows of the R axis that make up each batch row, or None: row b itself.
    """

    k_LRSKH: jax.Array
    v_LRSKH: jax.Array
    k_scale_LRKS: jax.Array | None
    v_scale_LRKS: jax.Array | None
    layer: jax.Array | int
    page_table_BP: jax.Array | None


def gather(cache: Cache) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """The layer's keys and values as B x S x K x H, its scales as B x K x S (or None)."""

    def rows(stack):
        if cache.page_table_BP is None:
            return stack[cache.layer]
        # Unused places of the table may hold anything.
        return stack[cache.layer].at[cache.page_table_BP].get(mode="clip")

    def entries(stack_LRSKH):
        x = rows(stack_LRSKH)
        return x if cache.page_table_BP is None else x.reshape(x.shape[0], -1, *x.shape[3:])

    def scales(stack_LRKS):
        if stack_LRKS is None:
            return None
        x = rows(stack_LRKS)
        if cache.page_table_BP is None:
            return x
        return jnp.moveaxis(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)

    return (
        entries(cache.k_LRSKH),
        entries(cache.v_LRSKH),
        scales(cache.k_scale_LRKS),
        scales(cache.v_scale_LRKS),
    )


def pages_of_all_layers(cache: Cache, batch: int) -> jax.Array:
    """table_BP of rows of the joint axis L * R; a contiguous cache has one page per batch row."""
    rows = jnp.arange(batch)[:, None] if cache.page_table_BP is None else cache.page_table_BP
    return cache.layer * cache.k_LRSKH.shape[1] + rows


def quantize(x_SKH: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int8 entries and their float32 scales, one per token and head: x ~ entry * scale.

    Args:
      x_SKH: keys or values with any leading axes, [..., S, K, H].

    Returns:
      entries [..., S, K, H] int8 in [-127, 127], and scales [..., K, S] float32: the largest
      magnitude of a head's vector is 127 steps, so an entry is off by at most scale / 2.
    """
    x = x_SKH.astype(jnp.float32)
    scale_SK = jnp.abs(x).max(axis=-1) / 127.0
    entries = jnp.round(x / jnp.where(scale_SK == 0.0, 1.0, scale_SK)[..., None])
    return entries.astype(jnp.int8), jnp.swapaxes(scale_SK, -1, -2)
