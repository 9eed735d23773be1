"""Attention as a specification: float32, a dense mask, nothing clever."""

import jax
import jax.numpy as jnp

from gpt_jax.kernels.attention.scores import scores, visible


def attention(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    q_segment_ids_BT,
    kv_segment_ids_BS,
    q_offset,
    alibi_slopes_N,
    options,
):
    """See `api.attention`."""
    weights_BNTS = weights(
        q_BTNH, k_BSKH, q_segment_ids_BT, kv_segment_ids_BS, q_offset, alibi_slopes_N, options
    )
    return mix(weights_BNTS, v_BSKH)


def weights(q_BTNH, k_BSKH, q_segment_ids_BT, kv_segment_ids_BS, q_offset, alibi_slopes_N, options):
    """weights_BNTS float32: what every query gives every key, 0 where it sees none."""
    group = q_BTNH.shape[2] // k_BSKH.shape[2]
    q = q_BTNH.astype(jnp.float32)
    k_BSNH = jnp.repeat(k_BSKH.astype(jnp.float32), group, axis=2)
    distance_TS = q_offset + jnp.arange(q.shape[1])[:, None] - jnp.arange(k_BSNH.shape[1])
    mask_BTS = visible(
        q_segment_ids_BT[:, :, None], kv_segment_ids_BS[:, None, :], distance_TS, options
    )
    mask_B1TS = mask_BTS[:, None]
    products_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q, k_BSNH, precision="highest")
    slopes_N11 = None if alibi_slopes_N is None else alibi_slopes_N[:, None, None]
    scores_BNTS = scores(products_BNTS, distance_TS, slopes_N11, options)
    # A row of equal finite scores keeps the softmax of a fully masked query finite.
    scores_BNTS = jnp.where(mask_B1TS, scores_BNTS, jnp.finfo(jnp.float32).min)
    return jnp.where(mask_B1TS, jax.nn.softmax(scores_BNTS, axis=-1), 0.0)


def mix(weights_BNTS: jax.Array, v_BSKH: jax.Array) -> jax.Array:
    """out_BTNH in the dtype of the values: their sums under each query's weights."""
    group = weights_BNTS.shape[1] // v_BSKH.shape[2]
    v_BSNH = jnp.repeat(v_BSKH.astype(jnp.float32), group, axis=2)
    out_BTNH = jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS, v_BSNH, precision="highest")
    return out_BTNH.astype(v_BSKH.dtype)
