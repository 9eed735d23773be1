"""The one public attention function; `reference.py` is its specification."""

from typing import Literal

import jax

from gpt_jax.kernels.attention import reference, xla

Implementation = Literal["reference", "xla"]


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    q_offset: jax.Array | int = 0,
    causal: bool = True,
    implementation: Implementation | None = None,
) -> jax.Array:
    """Scaled dot-product attention, softmax(q k^T / sqrt(H)) v, per head and segment.

    Query t sits at index `q_offset + t` of the key axis. It attends to key s exactly when
    `s <= q_offset + t` (if causal) and both carry the same nonzero segment id. Segment 0 is
    padding. A query that may attend to nothing gets 0, with finite (zero) gradients.

    Args:
      q_BTNH: queries, float32 or bfloat16. N must be a multiple of K; query head n reads
        key/value head n // (N // K).
      k_BSKH: keys, same dtype.
      v_BSKH: values, same dtype.
      q_segment_ids_BT: int32.
      kv_segment_ids_BS: int32.
      q_offset: int32 scalar, may be traced (the write index of a cache).
      causal: whether later keys are hidden.
      implementation: "reference" (plain float32), "xla" (fast, any device), None (the fastest
        for this device: "xla").

    Returns:
      out_BTNH in the dtype of q; the softmax is taken in float32.

    Source: Vaswani et al. 2017, equation 1; grouped heads: Ainslie et al. 2023.
    """
    function = reference.attention if implementation == "reference" else xla.attention
    return function(q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, q_offset, causal)
