"""Decoding over a mesh: every device reads the rows and the heads of the cache that it holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt_jax.kernels.decode_attention import api
from gpt_jax.kernels.decode_attention.layout import Options
from gpt_jax.kernels.decode_attention.visible import visible
from gpt_jax.kernels.decode_attention.xla import heads_first
from gpt_jax.parallel import rules


def decode_attention(
    q_BTNH: jax.Array,
    k_LBSKH: jax.Array,
    v_LBSKH: jax.Array,
    *,
    layer: jax.Array | int,
    lengths_B: jax.Array | int,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    page_table_BP: jax.Array | None = None,
    **options,
) -> jax.Array:
    """`api.decode_attention` of one layer, over the mesh in use: rows over the batch axes, and
    heads over `tensor` if it divides both kinds. Any row may be in any page, so with pages only the
    heads are split."""

    def local(q_BTNH, k_LBSKH, v_LBSKH, layer, lengths_B, q_ids_BT, kv_ids_BS, page_table_BP):
        return api.decode_attention(
            q_BTNH,
            k_LBSKH,
            v_LBSKH,
            layer=layer,
            lengths_B=lengths_B,
            q_segment_ids_BT=q_ids_BT,
            kv_segment_ids_BS=kv_ids_BS,
            page_table_BP=page_table_BP,
            **options,
        )

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        logical = ("layers", "batch", None, "heads", None)
        _, batch, _, heads, _ = rules.fitting(mesh, k_LBSKH.shape, logical)
        batch = batch if page_table_BP is None else None
        rows, one_length = rules.partition_spec((batch,)), jnp.ndim(lengths_B) == 0
        q = rules.partition_spec((batch, None, heads, None))
        cache = rules.partition_spec((None, batch, None, heads, None))
        whole = PartitionSpec()
        local = jax.shard_map(
            local,
            in_specs=(q, cache, cache, whole, whole if one_length else rows, rows, rows, whole),
            out_specs=q,
            check_vma=False,
        )
    ids = (q_segment_ids_BT, kv_segment_ids_BS)
    return local(q_BTNH, k_LBSKH, v_LBSKH, layer, lengths_B, *ids, page_table_BP)


def decode_layer(
    q_BTNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    *,
    lengths_B: jax.Array,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """The same of one layer's entries that lie heads first, by XLA, which splits them itself."""
    T, H, S = q_BTNH.shape[1], q_BTNH.shape[3], k_BKSH.shape[2]
    mask_BTS = visible(T, S, lengths_B, q_segment_ids_BT, kv_segment_ids_BS, window)
    options = Options(H**-0.5 if scale is None else scale, window, softcap)
    return heads_first(q_BTNH, k_BKSH, v_BKSH, mask_BTS, options)
