"""The key/value cache that `models.forward` reads and appends to."""

import jax.numpy as jnp

from gpt_jax.models import KVCache, ModelConfig


def init_cache(config: ModelConfig, batch: int, length: int) -> KVCache:
    """An empty cache for `batch` rows of up to `length` tokens."""
    c = config.resolved()
    shape_LBSI = (c.layers, batch, length, c.kv_heads * c.head_size)
    return KVCache(
        keys_LBSI=jnp.zeros(shape_LBSI, c.dtype),
        values_LBSI=jnp.zeros(shape_LBSI, c.dtype),
        segment_ids_BS=jnp.zeros((batch, length), jnp.int32),
        index=jnp.zeros((), jnp.int32),
    )
