"""The decoder's key/value cache, in which every row stands at a place of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MAX_DECODE_TOKENS = 8  # with a cache, so few new tokens are bound by reading it
MAX_CHUNK = 64  # tokens; the scores of so few to all of a row's entries are small


class Stacks(NamedTuple):
    """Keys and values of all layers, in the compute dtype, keys after rotary positions.

    I is K * H, the heads side by side: TPUs pad the last two axes to 8 x 128, which K x H seldom
    fills.
    """

    keys_LBSI: jax.Array
    values_LBSI: jax.Array


class OwnEntries(NamedTuple):
    """The same of one layer, each head's together.

    XLA's CPU backend would copy a layer out of a stack at every token, and again to have its heads
    first.
    """

    keys_BKSH: jax.Array
    values_BKSH: jax.Array


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far, row b's in `[0, index_B[b])` of the S axis.

    Rows may stand at different places, so that requests of any length can share a cache.

    Attributes:
      entries: `Stacks` or `paged.Pages`, which kernels read in place, or every layer's own on CPUs.
      segment_ids_BS: int32; 0 hides an entry (padding).
      index_B: int32, where the next tokens of every row are written.
    """

    entries: Any
    segment_ids_BS: jax.Array
    index_B: jax.Array


def write(
    entries_BS: jax.Array, new_BT: jax.Array, index_B: jax.Array, *layer: jax.Array
) -> jax.Array:
    """The entries with T new ones in every row, row b's from `index_B[b]` on.

    XLA updates carried stacks in place. A few tokens are scattered one by one, with hints without
    which a CPU takes 30 times as long; for many a layer's rows are written whole. What would lie
    beyond the end is dropped.

    Args:
      entries_BS: of any further axes; with a `layer` there is an axis of layers in front.
      new_BT: of the same further axes.
      index_B: int32.
    """
    B, T = new_BT.shape[:2]
    new_BT = new_BT.astype(entries_BS.dtype)
    if T <= MAX_DECODE_TOKENS:
        rows_B1, places_BT = jnp.arange(B)[:, None], index_B[:, None] + jnp.arange(T)
        return entries_BS.at[(*layer, rows_B1, places_BT)].set(
            new_BT, indices_are_sorted=True, unique_indices=True, mode="drop"
        )

    # Each place of a row takes its own old entry or a new one.
    places_BS = jnp.arange(entries_BS.shape[-new_BT.ndim + 1]) - index_B[:, None]
    wide = (..., *[None] * (new_BT.ndim - 2))
    old_BS = entries_BS[layer] if layer else entries_BS
    moved_BS = jnp.take_along_axis(new_BT, jnp.clip(places_BS, 0, T - 1)[wide], axis=1)
    inside_BS = (places_BS >= 0) & (places_BS < T)
    merged_BS = jnp.where(inside_BS[wide], moved_BS, old_BS)
    if not layer:
        return merged_BS
    return jax.lax.dynamic_update_index_in_dim(entries_BS, merged_BS, layer[0], 0)


def write_heads(entries_BKSH: jax.Array, new_BKTH: jax.Array, index_B: jax.Array) -> jax.Array:
    """As `write`, where the heads lie first.

    Of more than a few tokens each row's are copied as one piece: XLA's CPU backend gathers and
    scatters number by number.
    """
    B, K, S, _ = entries_BKSH.shape
    T = new_BKTH.shape[2]
    new_BKTH = new_BKTH.astype(entries_BKSH.dtype)
    if T <= MAX_DECODE_TOKENS:
        # All indices are written out: for a slice over K XLA would transpose the whole.
        rows_B11, heads_1K1 = jnp.arange(B)[:, None, None], jnp.arange(K)[None, :, None]
        places_B1T = index_B[:, None, None] + jnp.arange(T)
        return entries_BKSH.at[rows_B11, heads_1K1, places_B1T].set(
            new_BKTH, indices_are_sorted=True, unique_indices=True, mode="drop"
        )

    def write_row(row: jax.Array, entries_BKSH: jax.Array) -> jax.Array:
        # A piece that would stand over the end begins before it, with the old entries there.
        start = jnp.clip(index_B[row], 0, S - T)
        over = index_B[row] - start
        at = (row, 0, start, 0)
        old_1KTH = jax.lax.dynamic_slice(entries_BKSH, at, (1, *new_BKTH.shape[1:]))
        moved_1KTH = jnp.roll(new_BKTH[row][None], over, axis=2)
        piece_1KTH = jnp.where((jnp.arange(T) >= over)[:, None], moved_1KTH, old_1KTH)
        return jax.lax.dynamic_update_slice(entries_BKSH, piece_1KTH, at)

    return jax.lax.fori_loop(0, B, write_row, entries_BKSH)


def align(
    entries: tuple[jax.Array, jax.Array, jax.Array], index_B: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Moves every row's entries along S until all rows end where the longest does.

    The attention kernels take one offset for all rows. What a row is moved by comes round from
    its end to its start, where segment 0 hides it.

    Args:
      entries: k_BSKH, v_BSKH and their segment_ids_BS.
      index_B: int32, where every row's queries begin.

    Returns:
      The entries moved, and the int32 scalar at which the queries of all rows begin.
    """
    k_BSKH, v_BSKH, segment_ids_BS = entries
    index = index_B.max()
    places_BS = jnp.arange(k_BSKH.shape[1]) - (index - index_B)[:, None]
    k_BSKH, v_BSKH, moved_BS = (
        jax.vmap(lambda row, places: row[places])(x, places_BS % k_BSKH.shape[1])
        for x in (k_BSKH, v_BSKH, segment_ids_BS)
    )
    return (k_BSKH, v_BSKH, jnp.where(places_BS < 0, 0, moved_BS)), index
