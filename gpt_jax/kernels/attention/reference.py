"""Attention as a specification: float32, a dense mask, nothing clever."""

import jax
import jax.numpy as jnp


def attention_mask(
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    q_offset: jax.Array | int,
    causal: bool,
) -> jax.Array:
    """mask_BTS: True where query t may read key s."""
    q_BT1, kv_B1S = q_segment_ids_BT[:, :, None], kv_segment_ids_BS[:, None, :]
    mask_BTS = (q_BT1 == kv_B1S) & (q_BT1 != 0)
    if causal:
        index_T = q_offset + jnp.arange(q_segment_ids_BT.shape[1])
        mask_BTS &= jnp.arange(kv_segment_ids_BS.shape[1]) <= index_T[:, None]
    return mask_BTS


def attention(q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, q_offset, causal):
    """See `api.attention`."""
    group = q_BTNH.shape[2] // k_BSKH.shape[2]
    q = q_BTNH.astype(jnp.float32)
    k_BSNH = jnp.repeat(k_BSKH.astype(jnp.float32), group, axis=2)
    v_BSNH = jnp.repeat(v_BSKH.astype(jnp.float32), group, axis=2)
    mask_B1TS = attention_mask(q_segment_ids_BT, kv_segment_ids_BS, q_offset, causal)[:, None]
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q, k_BSNH, precision="highest")
    scores_BNTS = scores_BNTS / jnp.sqrt(q.shape[-1])
    # A row of equal finite scores keeps the softmax of a fully masked query finite.
    scores_BNTS = jnp.where(mask_B1TS, scores_BNTS, jnp.finfo(jnp.float32).min)
    weights_BNTS = jnp.where(mask_B1TS, jax.nn.softmax(scores_BNTS, axis=-1), 0.0)
    out_BTNH = jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS, v_BSNH, precision="highest")
    return out_BTNH.astype(q_BTNH.dtype)
