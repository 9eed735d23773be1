"""Attention of new tokens to themselves and to what the cache holds of those before."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from gpt_jax.kernels.attention.over_mesh import attention
from gpt_jax.kernels.decode_attention.over_mesh import decode_attention, decode_layer
from gpt_jax.models.cache import (
    MAX_CHUNK,
    MAX_DECODE_TOKENS,
    OwnEntries,
    Stacks,
    align,
    write,
    write_heads,
)
from gpt_jax.models.paged import Pages, rows_of, write_pages

Entries = Stacks | Pages | tuple[OwnEntries, ...]


def attend_to_cache(
    q_BTNH: jax.Array,
    new_BTKH: tuple[jax.Array, jax.Array],
    entries: Entries,
    layer: jax.Array,
    index_B: jax.Array,
    options: dict,
) -> tuple[Callable[..., jax.Array], Entries]:
    """Writes a layer's new keys and values, and says how the queries are to attend to all.

    Args:
      q_BTNH, new_BTKH: of the new tokens; keys and values.
      entries: of all layers, or every layer's own, of which the first are this layer's: in a scan
        over layers the number of one is not known while the program is built.
      layer: its number.
      index_B: where every row's new tokens are written.
      options: of `attention`, the segment ids among them.

    Returns:
      `attend(window=None) -> out_BTNH`, and the entries with the new ones; every layer's own are
      turned, so that the next layer's come first.
    """
    T, K, H = new_BTKH[0].shape[1:]
    if isinstance(entries, Stacks):
        entries = Stacks(
            *(
                write(stack, new.reshape(*new.shape[:2], K * H), index_B, layer)
                for stack, new in zip(entries, new_BTKH, strict=True)
            )
        )
        stacks = [stack.reshape(*stack.shape[:3], K, H) for stack in entries]
        decode = functools.partial(decode_attention, q_BTNH, *stacks, layer=layer)
        k_BSKH, v_BSKH = (stack[layer] for stack in stacks)
    elif isinstance(entries, Pages):
        entries = write_pages(entries, new_BTKH, index_B, layer, options["q_segment_ids_BT"])
        stacks, table_BP = entries[:2], entries.table_BP
        k_BSKH, v_BSKH = (
            rows_of(stack, table_BP, layer).reshape(len(index_B), -1, K, H) for stack in stacks
        )
        stacks = [stack.reshape(*stack.shape[:3], K, H) for stack in stacks]
        decode = functools.partial(
            decode_attention, q_BTNH, *stacks, layer=layer, page_table_BP=table_BP
        )
    else:
        own, *others = entries
        own = OwnEntries(
            *(
                write_heads(old, new.swapaxes(1, 2), index_B)
                for old, new in zip(own, new_BTKH, strict=True)
            )
        )
        entries = (*others, own)
        decode = functools.partial(decode_layer, q_BTNH, *own)
        k_BSKH, v_BSKH = (x.swapaxes(1, 2) for x in own)
    most = MAX_DECODE_TOKENS if isinstance(entries, Stacks | Pages) else MAX_CHUNK
    if most >= T:
        return functools.partial(decode, lengths_B=index_B + T, **options), entries
    (k_BSKH, v_BSKH, kv_segment_ids_BS), index = align(
        (k_BSKH, v_BSKH, options["kv_segment_ids_BS"]), index_B
    )
    options = options | dict(kv_segment_ids_BS=kv_segment_ids_BS, q_offset=index)
    return functools.partial(attention, q_BTNH, k_BSKH, v_BSKH, **options), entries
