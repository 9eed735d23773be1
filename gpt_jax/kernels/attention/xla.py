"""Attention for any device, in plain XLA operations.

`forward` and `backward` are FlashAttention-2 (Dao 2023, algorithms 1 and 2) as loops over blocks:
their memory grows with T and S, not with T x S. `short` is faster where T x S is small.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from gpt_jax.kernels.attention.scores import (
    HIDDEN,
    LEAST_MAX,
    scores,
    scores_gradient,
    visible,
)
from gpt_jax.kernels.attention.tiles import visible_tiles

# Up to this T x S the weights of every head may be kept for the backward pass.
MAX_SHORT = 512 * 512
SHORT_BLOCKS, MIN_SHORT_BLOCK = 4, 64
Q_BLOCK, BLOCK_AREA = 512, 512 * 512


def is_short(q_BTNH: jax.Array, k_BSKH: jax.Array) -> bool:
    """Whether `short` is the faster one; in bfloat16 its gradients are the worse ones."""
    return q_BTNH.dtype == jnp.float32 and q_BTNH.shape[1] * k_BSKH.shape[1] <= MAX_SHORT


def short(
    q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, q_offset, alibi_slopes_N, options
):
    """Attention in few and cheap passes over the scores, which are kept for the backward pass.

    A causal square is computed in a few static blocks of queries, each with only the keys it can
    see.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    q_BKGTH, k_BKSH, v_BKSH = _heads_first(q_BTNH, k_BSKH, v_BSKH)
    slopes = _grouped_slopes(alibi_slopes_N, k_BSKH.shape[2])
    # The scale on q: T x H numbers instead of T x S.
    q_BKGTH = q_BKGTH * options.scale
    options = dataclasses.replace(options, scale=1.0)

    square = options.causal and isinstance(q_offset, int) and q_offset == 0 and T == S
    blocks = max(1, min(SHORT_BLOCKS, T // MIN_SHORT_BLOCK)) if square else 1
    outs = []
    for block in range(blocks):
        start, end = block * T // blocks, (block + 1) * T // blocks
        seen = end if square else S
        distance_TS = q_offset + start + jnp.arange(end - start)[:, None] - jnp.arange(seen)
        masks = q_segment_ids_BT[:, start:end], kv_segment_ids_BS[:, :seen], distance_TS, slopes
        q_block = q_BKGTH[:, :, :, start:end]
        outs.append(_short_block(options, q_block, k_BKSH[:, :, :seen], v_BKSH[:, :, :seen], masks))
    return _heads_last(jnp.concatenate(outs, axis=3)).astype(q_BTNH.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _short_block(options, q_BKGTH, k_BKSH, v_BKSH, masks):
    """For rows of scores s and e = exp(s - max(s)): out = (e v) / sum(e).

    The division falls on T x H numbers instead of T x S.
    """
    return _short_forward(options, q_BKGTH, k_BKSH, v_BKSH, masks)[0]


def _short_forward(options, q_BKGTH, k_BKSH, v_BKSH, masks):
    scores_BKGTS, products_BKGTS = _scores(q_BKGTH, k_BKSH, *masks, options)
    max_BKGT1 = scores_BKGTS.max(axis=-1, keepdims=True)
    e_BKGTS = jnp.exp(scores_BKGTS - jnp.maximum(max_BKGT1, LEAST_MAX))
    sum_BKGT1 = e_BKGTS.sum(axis=-1, keepdims=True)
    # Fully masked rows sum to 0; dividing them by 1 gives 0, and gradients of 0.
    share_BKGT1 = 1.0 / jnp.where(sum_BKGT1 == 0.0, 1.0, sum_BKGT1)
    out_BKGTH = share_BKGT1 * _dot("BKGTS,BKSH->BKGTH", e_BKGTS.astype(v_BKSH.dtype), v_BKSH)
    return out_BKGTH, (q_BKGTH, k_BKSH, v_BKSH, products_BKGTS, e_BKGTS, share_BKGT1, out_BKGTH)


def _short_backward(options, residuals, dout_BKGTH):
    """ds = e (dout v^T - sum(out dout)) / sum(e), written for XLA's CPU backend.

    It sums a short last axis faster as a product with ones, and multiplies by the transpose of
    T x S faster where the narrow operand is transposed instead, and the narrow result.
    """
    q_BKGTH, k_BKSH, v_BKSH, products_BKGTS, e_BKGTS, share_BKGT1, out_BKGTH = residuals
    dout_BKGTH *= share_BKGT1
    ones_H1 = jnp.ones((dout_BKGTH.shape[-1], 1))
    delta_BKGT1 = _dot("BKGTH,HO->BKGTO", out_BKGTH * dout_BKGTH, ones_H1)
    ds_BKGTS = e_BKGTS * (_dot("BKGTH,BKSH->BKGTS", dout_BKGTH, v_BKSH) - delta_BKGT1)
    ds_BKGTS = scores_gradient(ds_BKGTS, products_BKGTS, options)
    dq_BKGTH = _dot("BKGTS,BKSH->BKGTH", ds_BKGTS, k_BKSH)
    dk_BKHS, dv_BKHS = jax.lax.optimization_barrier(
        (
            _dot("BKGTH,BKGTS->BKHS", q_BKGTH, ds_BKGTS),
            _dot("BKGTH,BKGTS->BKHS", dout_BKGTH, e_BKGTS),
        )
    )
    gradients = dq_BKGTH, dk_BKHS.swapaxes(2, 3), dv_BKHS.swapaxes(2, 3)
    return *(x.astype(q_BKGTH.dtype) for x in gradients), None


_short_block.defvjp(_short_forward, _short_backward)


def forward(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    q_segment_ids_BT,
    kv_segment_ids_BS,
    q_offset,
    alibi_slopes_N,
    options,
    *,
    q_block=Q_BLOCK,
    kv_block=None,
):
    """(out_BTNH, lse_BNT); see `api.attention_forward`."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_block, kv_block = _block_sizes(T, S, q_block, kv_block)
    q_BKGTH, k_BKSH, v_BKSH = _heads_first(q_BTNH, k_BSKH, v_BSKH)
    q_IBKGtH, k_JBKsH, v_JBKsH = (
        _blocks(q_BKGTH, 3, q_block),
        _blocks(k_BKSH, 2, kv_block),
        _blocks(v_BKSH, 2, kv_block),
    )
    q_segments_IBt = _blocks(q_segment_ids_BT, 1, q_block)
    kv_segments_JBs = _blocks(kv_segment_ids_BS, 1, kv_block)
    slopes = _grouped_slopes(alibi_slopes_N, K)

    masks = (q_segment_ids_BT, kv_segment_ids_BS, q_offset, options)
    first_I, end_I = _seen_by_any_row(visible_tiles(*masks, q_block, kv_block)[0])

    def one_query_block(i):
        """Algorithm 1: the keys pass by, out and its normaliser follow the running maximum."""

        def one_key_block(j, carry):
            out, total, maximum = carry
            distance = q_offset + i * q_block - j * kv_block + _distance(q_block, kv_block)
            s, _ = _scores(
                q_IBKGtH[i],
                k_JBKsH[j],
                q_segments_IBt[i],
                kv_segments_JBs[j],
                distance,
                slopes,
                options,
            )
            new_maximum = jnp.maximum(maximum, s.max(axis=-1, keepdims=True))
            rescale = jnp.exp(maximum - new_maximum)
            e = jnp.exp(s - new_maximum)
            out = rescale * out + _dot("bkgts,bksh->bkgth", e.astype(v_BSKH.dtype), v_JBKsH[j])
            return out, rescale * total + e.sum(axis=-1, keepdims=True), new_maximum

        rows = (B, K, N // K, q_block)
        start = (
            jnp.zeros((*rows, H), jnp.float32),
            jnp.zeros((*rows, 1), jnp.float32),
            jnp.full((*rows, 1), LEAST_MAX, jnp.float32),
        )
        out, total, maximum = jax.lax.fori_loop(first_I[i], end_I[i], one_key_block, start)
        out = out / jnp.where(total == 0.0, 1.0, total)
        return out.astype(q_BTNH.dtype), jnp.where(total == 0.0, -jnp.inf, maximum + jnp.log(total))

    out_IBKGtH, lse_IBKGt1 = jax.lax.map(one_query_block, jnp.arange(len(q_IBKGtH)))
    out_BTNH = _heads_last(_unblocks(out_IBKGtH, 3, T))
    lse_BNT = _unblocks(lse_IBKGt1, 3, T).reshape(B, N, T)
    return out_BTNH, lse_BNT


def backward(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    q_segment_ids_BT,
    kv_segment_ids_BS,
    q_offset,
    alibi_slopes_N,
    options,
    out_BTNH,
    lse_BNT,
    dout_BTNH,
    *,
    q_block=Q_BLOCK,
    kv_block=None,
):
    """(dq_BTNH, dk_BSKH, dv_BSKH); see `api.attention_backward`."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_block, kv_block = _block_sizes(T, S, q_block, kv_block)
    q_BKGTH, k_BKSH, v_BKSH = _heads_first(q_BTNH, k_BSKH, v_BSKH)
    dout_BKGTH = _heads_first(dout_BTNH, k_BSKH, v_BSKH)[0]
    delta_BTN = (out_BTNH.astype(jnp.float32) * dout_BTNH.astype(jnp.float32)).sum(axis=-1)
    delta_BKGT1 = delta_BTN.transpose(0, 2, 1).reshape(B, K, N // K, T, 1)
    # A row that sees nothing has only hidden scores, and exp(HIDDEN - 0) is 0.
    lse_BKGT1 = jnp.where(lse_BNT == -jnp.inf, 0.0, lse_BNT).reshape(B, K, N // K, T, 1)

    q_IBKGtH, dout_IBKGtH, delta_IBKGt1, lse_IBKGt1 = (
        _blocks(x, 3, q_block) for x in (q_BKGTH, dout_BKGTH, delta_BKGT1, lse_BKGT1)
    )
    k_JBKsH, v_JBKsH = (_blocks(x, 2, kv_block) for x in (k_BKSH, v_BKSH))
    q_segments_IBt = _blocks(q_segment_ids_BT, 1, q_block)
    kv_segments_JBs = _blocks(kv_segment_ids_BS, 1, kv_block)
    slopes = _grouped_slopes(alibi_slopes_N, K)

    masks = (q_segment_ids_BT, kv_segment_ids_BS, q_offset, options)
    first_J, end_J = _seen_by_any_row(visible_tiles(*masks, q_block, kv_block)[1])

    def one_key_block(dq_IBKGtH, j):
        """Algorithm 2: the queries pass by, dk and dv grow; dq grows a little in every pass."""

        def one_query_block(i, carry):
            dq_IBKGtH, dk, dv = carry
            distance = q_offset + i * q_block - j * kv_block + _distance(q_block, kv_block)
            s, products = _scores(
                q_IBKGtH[i],
                k_JBKsH[j],
                q_segments_IBt[i],
                kv_segments_JBs[j],
                distance,
                slopes,
                options,
            )
            p = jnp.exp(s - lse_IBKGt1[i])
            dp = _dot("bkgth,bksh->bkgts", dout_IBKGtH[i], v_JBKsH[j])
            ds = scores_gradient(p * (dp - delta_IBKGt1[i]), products, options)
            p, ds = p.astype(q_BTNH.dtype), ds.astype(q_BTNH.dtype)
            dv += _dot("bkgts,bkgth->bksh", p, dout_IBKGtH[i])
            dk += _dot("bkgts,bkgth->bksh", ds, q_IBKGtH[i])
            dq_IBKGtH = dq_IBKGtH.at[i].add(_dot("bkgts,bksh->bkgth", ds, k_JBKsH[j]))
            return dq_IBKGtH, dk, dv

        zeros = jnp.zeros((B, K, kv_block, H), jnp.float32)
        dq_IBKGtH, dk, dv = jax.lax.fori_loop(
            first_J[j], end_J[j], one_query_block, (dq_IBKGtH, zeros, zeros)
        )
        return dq_IBKGtH, (dk, dv)

    zeros = jnp.zeros(q_IBKGtH.shape, jnp.float32)
    dq_IBKGtH, (dk_JBKsH, dv_JBKsH) = jax.lax.scan(one_key_block, zeros, jnp.arange(len(k_JBKsH)))
    dq_BTNH = options.scale * _heads_last(_unblocks(dq_IBKGtH, 3, T))
    dk_BSKH = options.scale * _unblocks(dk_JBKsH, 2, S).transpose(0, 2, 1, 3)
    dv_BSKH = _unblocks(dv_JBKsH, 2, S).transpose(0, 2, 1, 3)
    return tuple(x.astype(q_BTNH.dtype) for x in (dq_BTNH, dk_BSKH, dv_BSKH))


def _scores(q_BKGTH, k_BKSH, q_segment_ids_BT, kv_segment_ids_BS, distance_TS, slopes, options):
    """Masked scores_BKGTS, and the products q k they were made of."""
    products_BKGTS = _dot("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH)
    mask_BTS = visible(
        q_segment_ids_BT[:, :, None], kv_segment_ids_BS[:, None, :], distance_TS, options
    )
    scores_BKGTS = scores(products_BKGTS, distance_TS, slopes, options)
    return jnp.where(mask_BTS[:, None, None], scores_BKGTS, HIDDEN), products_BKGTS


def _dot(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A matmul with a float32 result; float32 operands are not rounded to less."""
    return jnp.einsum(subscripts, a, b, precision="highest", preferred_element_type=jnp.float32)


def _distance(q_block: int, kv_block: int) -> jax.Array:
    return jnp.arange(q_block)[:, None] - jnp.arange(kv_block)


def _heads_first(q_BTNH, k_BSKH, v_BSKH):
    """q_BKGTH, k_BKSH, v_BKSH: G query heads share each of the K key/value heads."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    return q_BKGTH, k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)


def _heads_last(x_BKGTH: jax.Array) -> jax.Array:
    B, K, G, T, H = x_BKGTH.shape
    return x_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)


def _grouped_slopes(alibi_slopes_N, K: int):
    return None if alibi_slopes_N is None else alibi_slopes_N.reshape(K, -1, 1, 1)


def _seen_by_any_row(tiles_BI4: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[first, end) of the blocks to visit: all rows of the batch go through them together."""
    first_BI, end_BI = tiles_BI4[..., 0], tiles_BI4[..., 3]
    first_BI = jnp.where(first_BI == end_BI, jnp.iinfo(first_BI.dtype).max, first_BI)
    return first_BI.min(axis=0), end_BI.max(axis=0)


def _block_sizes(T: int, S: int, q_block: int, kv_block: int | None) -> tuple[int, int]:
    """Few queries (a cache is read) take more keys at once."""
    q_block = min(q_block, T)
    return q_block, min(kv_block or BLOCK_AREA // q_block, S)


def _blocks(x: jax.Array, axis: int, block: int) -> jax.Array:
    """Cuts an axis into blocks on a new leading axis, the last one filled up with zeros."""
    count = -(-x.shape[axis] // block)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, count * block - x.shape[axis])
    x = jnp.pad(x, padding)
    x = x.reshape(*x.shape[:axis], count, block, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _unblocks(x: jax.Array, axis: int, length: int) -> jax.Array:
    """The inverse of `_blocks`: joins the leading axis into `axis` of the result."""
    x = jnp.moveaxis(x, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, length, axis=axis)
