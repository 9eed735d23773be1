"""Decode attention for any device: two batched matrix products over the cache as it lies there.

For the scores s of one query, their maximum m and e = exp(s - m):

    out = (e v) / sum(e)

The division falls on T x H numbers instead of T x S. The factors of an int8 cache go on the
scores, (q k) * k_scale, and on e, (e * v_scale) v, so that its entries are only converted.
"""

import jax
import jax.numpy as jnp

from gpt_jax.kernels.decode_attention.layout import Cache, Options, gather
from gpt_jax.kernels.decode_attention.visible import visible

HIDDEN = -1e30  # A hidden score: finite, and exp(HIDDEN - m) is 0 for every m >= LEAST_MAX.
LEAST_MAX = -1e29


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
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    mask_BTS = visible(T, S, lengths_B, q_segment_ids_BT, kv_segment_ids_BS, options.window)
    k_BKSH, v_BKSH = (x.transpose(0, 2, 1, 3).astype(q_BTNH.dtype) for x in (k_BSKH, v_BSKH))
    return heads_first(q_BTNH, k_BKSH, v_BKSH, mask_BTS, options, (k_scale_BKS, v_scale_BKS))


def heads_first(
    q_BTNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    mask_BTS: jax.Array,
    options: Options,
    scales_BKS: tuple[jax.Array | None, jax.Array | None] = (None, None),
) -> jax.Array:
    """Attention to entries that need not be transposed first. G query heads share each of the K
    key/value heads."""
    k_scale_BKS, v_scale_BKS = scales_BKS
    B, T, N, H = q_BTNH.shape
    K = k_BKSH.shape[1]
    q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)

    scores_BKGTS = jnp.einsum(
        "BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32
    )
    scores_BKGTS *= options.scale
    if k_scale_BKS is not None:
        scores_BKGTS *= k_scale_BKS[:, :, None, None]
    if options.softcap is not None:
        scores_BKGTS = options.softcap * jnp.tanh(scores_BKGTS / options.softcap)
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, HIDDEN)
    max_BKGT1 = jnp.maximum(scores_BKGTS.max(axis=-1, keepdims=True), LEAST_MAX)
    exp_BKGTS = jnp.exp(scores_BKGTS - max_BKGT1)
    sum_BKGT1 = exp_BKGTS.sum(axis=-1, keepdims=True)
    if v_scale_BKS is not None:
        exp_BKGTS *= v_scale_BKS[:, :, None, None]
    out_BKGTH = jnp.einsum(
        "BKGTS,BKSH->BKGTH",
        exp_BKGTS.astype(q_BTNH.dtype),
        v_BKSH,
        preferred_element_type=jnp.float32,
    )
    # A query that sees nothing sums to 0; dividing it by 1 gives 0.
    out_BKGTH /= jnp.where(sum_BKGT1 == 0.0, 1.0, sum_BKGT1)
    return out_BKGTH.astype(q_BTNH.dtype).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
