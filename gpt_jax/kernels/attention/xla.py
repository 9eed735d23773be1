"""Attention for any device, written so that XLA makes few and cheap passes over the scores.

For rows of scores s with maximum m and e = exp(s - m):

    out = (e v) / sum(e)

The division falls on T x H numbers instead of T x S, and the maximum is a constant to the
gradient (it cancels), which spares the backward pass a select and a reduction: together this is
four times as fast on a CPU as differentiating through softmax. A causal square is computed in a
few static blocks of queries, each with only the keys it can see.
"""

import jax
import jax.numpy as jnp

from gpt_jax.kernels.attention.reference import attention_mask

HIDDEN = -1e30  # A hidden score: finite, and exp(HIDDEN - m) is 0 for every m >= LEAST_MAX.
LEAST_MAX = -1e29
MAX_BLOCKS, MIN_BLOCK = 4, 64


def attention(q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, q_offset, causal):
    """See `api.attention`. G query heads share each of the K key/value heads."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    # The scale goes on q: T x H numbers instead of T x S.
    q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)

    square = causal and isinstance(q_offset, int) and q_offset == 0 and T == S
    blocks = max(1, min(MAX_BLOCKS, T // MIN_BLOCK)) if square else 1
    outs = []
    for block in range(blocks):
        start, end = block * T // blocks, (block + 1) * T // blocks
        seen = end if square else S
        mask_BTS = attention_mask(
            q_segment_ids_BT[:, start:end], kv_segment_ids_BS[:, :seen], q_offset + start, causal
        )
        outs.append(
            _attend(q_BKGTH[:, :, :, start:end], k_BKSH[:, :, :seen], v_BKSH[:, :, :seen], mask_BTS)
        )
    out_BKGTH = jnp.concatenate(outs, axis=3)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _attend(q_BKGTH, k_BKSH, v_BKSH, mask_BTS):
    """Attention of one block of queries; q is scaled already."""
    scores_BKGTS = jnp.einsum(
        "BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32
    )
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, HIDDEN)
    max_BKGT1 = jax.lax.stop_gradient(scores_BKGTS.max(axis=-1, keepdims=True))
    exp_BKGTS = jnp.exp(scores_BKGTS - jnp.maximum(max_BKGT1, LEAST_MAX))
    sum_BKGT1 = exp_BKGTS.sum(axis=-1, keepdims=True)
    out_BKGTH = jnp.einsum(
        "BKGTS,BKSH->BKGTH",
        exp_BKGTS.astype(v_BKSH.dtype),
        v_BKSH,
        preferred_element_type=jnp.float32,
    )
    # Fully masked rows sum to 0; dividing them by 1 gives 0, and gradients of 0.
    out_BKGTH *= 1.0 / jnp.where(sum_BKGT1 == 0.0, 1.0, sum_BKGT1)
    return out_BKGTH.astype(q_BKGTH.dtype)
