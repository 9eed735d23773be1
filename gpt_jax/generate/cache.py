"""The key/value cache that `models.forward` reads and appends to."""

import jax.numpy as jnp

from gpt_jax.models import KVCache, ModelConfig


def init_cache(config: ModelConfig, batch: int, length: int) -> KVCache:
    """An empty cache for `batch` rows of up to `length` tokens."""
    shape_LBSKH = (config.layers, batch, length, config.kv_heads, config.head_size)
    return KVCache(
        keys_LBSKH=jnp.zeros(shape_LBSKH, config.dtype),
        values_LBSKH=jnp.zeros(shape_LBSKH, config.dtype),
        segment_ids_BS=jnp.zeros((batch, length), jnp.int32),
        index=jnp.zeros((), jnp.int32),
    )
