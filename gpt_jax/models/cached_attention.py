"""Attention of new tokens to themselves and to what the cache holds of those before."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from gpt_jax.kernels.attention.over_mesh import attention
from gpt_jax.kernels.decode_attention.over_mesh import decode_attention, decode_layer
from gpt_jax.models.cache import MAX_DECODE_TOKENS, LayerCache, align, write

Stacks = tuple[jax.Array, jax.Array]  # keys_LBSI, values_LBSI of all layers


def attend_to_cache(
    q_BTNH: jax.Array,
    new_BTKH: tuple[jax.Array, jax.Array],
    kv_cache: Stacks | LayerCache,
    layer: jax.Array | int,
    index_B: jax.Array,
    options: dict,
) -> tuple[Callable[..., jax.Array], Stacks | LayerCache]:
    """Writes the new keys and values, and says how the queries are to attend to all.

    Args:
      q_BTNH, new_BTKH: of the new tokens; keys and values.
      kv_cache: the stacks of all layers, or this layer's alone.
      layer: its number.
      index_B: where every row's new tokens are written.
      options: of `attention`, the segment ids among them.

    Returns:
      `attend(window=None) -> out_BTNH`, and the cache with the new entries.
    """
    T, K, H = new_BTKH[0].shape[1:]
    if isinstance(kv_cache, LayerCache):
        kv_cache = kv_cache.append(*new_BTKH, index_B)
        decode = functools.partial(decode_layer, q_BTNH, *kv_cache)
        k_BSKH, v_BSKH = (entries_BKSH.swapaxes(1, 2) for entries_BKSH in kv_cache)
    else:
        kv_cache = tuple(
            write(stack, new.reshape(*new.shape[:2], K * H), index_B, layer)
            for stack, new in zip(kv_cache, new_BTKH, strict=True)
        )
        stacks = [stack.reshape(*stack.shape[:3], K, H) for stack in kv_cache]
        decode = functools.partial(decode_attention, q_BTNH, *stacks, layer=layer)
        k_BSKH, v_BSKH = (stack[layer] for stack in stacks)
    if T <= MAX_DECODE_TOKENS:
        return functools.partial(decode, lengths_B=index_B + T, **options), kv_cache
    (k_BSKH, v_BSKH, kv_segment_ids_BS), index = align(
        (k_BSKH, v_BSKH, options["kv_segment_ids_BS"]), index_B
    )
    options = options | dict(kv_segment_ids_BS=kv_segment_ids_BS, q_offset=index)
    return functools.partial(attention, q_BTNH, k_BSKH, v_BSKH, **options), kv_cache
