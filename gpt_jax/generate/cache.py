"""The key/value cache that `models.forward` reads and appends to."""

import jax.numpy as jnp

from gpt_jax.models import KVCache, ModelConfig


def init_cache(config: ModelConfig, batch: int, length: int) -> KVCache:
    """An empty cache for `batch` rows of up to `length` tokens."""
    shape_LBSI = (config.layers, batch, length, config.kv_heads * config.head_size)
    return KVCache(
        keys_LBSI=jnp.zeros(shape_LBSI, config.dtype),
        values_LBSI=jnp.zeros(shape_LBSI, config.dtype),
        segment_ids_BS=jnp.zeros((batch, length), jnp.int32),
        index_B=jnp.zeros((batch,), jnp.int32),
    )
