"""Decode attention as a specification: float32, the whole cache in view, nothing clever."""

import jax
import jax.numpy as jnp

from gpt_jax.kernels.decode_attention.layout import Cache, Options, gather
from gpt_jax.kernels.decode_attention.visible import visible


def decode_attention(
    q_BTNH: jax.Array,
    cache: Cache,
    lengths_B: jax.Array,
    q_segment_ids_BT: jax.Array | None,
    kv_segment_ids_BS: jax.Array | None,
    options: Options,
) -> jax.Array:
    """See `api.decode_attention`."""
    k_BSKH, v_BSKH, k_scale_BKS, v_scale_BKS = gather(cache)
    T, group, S = q_BTNH.shape[1], q_BTNH.shape[2] // k_BSKH.shape[2], k_BSKH.shape[1]

    def expand(x_BSKH, scale_BKS):
        """One float32 key or value per query head."""
        x_BSKH = x_BSKH.astype(jnp.float32)
        if scale_BKS is not None:
            x_BSKH = x_BSKH * scale_BKS.transpose(0, 2, 1)[..., None]
        return jnp.repeat(x_BSKH, group, axis=2)

    mask_BTS = visible(T, S, lengths_B, q_segment_ids_BT, kv_segment_ids_BS, options.window)
    q, k_BSNH = q_BTNH.astype(jnp.float32), expand(k_BSKH, k_scale_BKS)
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q, k_BSNH, precision="highest") * options.scale
    if options.softcap is not None:
        scores_BNTS = options.softcap * jnp.tanh(scores_BNTS / options.softcap)
    # A row of equal finite scores keeps the softmax of a query that sees nothing finite.
    scores_BNTS = jnp.where(mask_BTS[:, None], scores_BNTS, jnp.finfo(jnp.float32).min)
    weights_BNTS = jnp.where(mask_BTS[:, None], jax.nn.softmax(scores_BNTS, axis=-1), 0.0)
    v_BSNH = expand(v_BSKH, v_scale_BKS)
    out_BTNH = jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS, v_BSNH, precision="highest")
    return out_BTNH.astype(q_BTNH.dtype)
