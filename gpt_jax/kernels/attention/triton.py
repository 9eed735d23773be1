"""FlashAttention-2 (Dao 2023) for NVIDIA GPUs of compute capability 8.0 and up, through Triton.

For a tile of queries the forward kernel walks over the tiles of keys that are not hidden. With
scores s = scale q k^T (capped, biased, masked), it keeps each row's maximum m and sum l:

    m' = max(m, max_j s_ij)            p_ij = exp(s_ij - m')
    l' = exp(m - m') l + sum_j p_ij    acc' = exp(m - m') acc + p v
    out = acc / l                      lse = m + log l

The backward pass recomputes p = exp(s - lse), and with delta = sum_h out dout:

    dv = p^T dout    dp = dout v^T    ds = p (dp - delta)    dq = scale ds k    dk = scale ds^T q

                 keys ->                        one program of
    queries   +----+----+----+----+             forward, dq:  a row of tiles (b, n, i),
       |      | // |    |    |    |                           over j
       v      +----+----+----+----+             dk, dv:       a column of tiles (b, k, j),
              | ## | // |    |    |                           over the G query heads that
              +----+----+----+----+                           share head k, and over i
              | ## | ## | // |    |
              +----+----+----+----+             ## no mask   // masked   blank: never read

No program writes what another writes, so the gradients are the same bits in every run. (One
backward kernel with atomic additions to dq would save two of its seven matmuls and lose that.)

On a CPU the same kernels run in Pallas's interpreter, for tests.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from gpt_jax.kernels.attention.scores import Options, scores, scores_gradient, visible
from gpt_jax.kernels.attention.tiles import loop_over, visible_tiles

LEAST = -1e30  # Below every score and still finite: exp(hidden - LEAST) is 0, not NaN.


@dataclasses.dataclass(frozen=True)
class _Static:
    """What a kernel knows when it is compiled."""

    T: int
    S: int
    H: int
    q_tile: int
    k_tile: int
    options: Options


def forward(
    q_BTNH, k_BSKH, v_BSKH, q_segments_BT, kv_segments_BS, q_offset, slopes_N, options, blocks
):
    """(out_BTNH, lse_BNT float32; -inf where a row sees nothing). See `api.attention_forward`.

    blocks: (query tile, key tile, warps, pipeline stages).
    """
    B, T, N, H = q_BTNH.shape
    G = N // k_BSKH.shape[2]
    static = _Static(T, k_BSKH.shape[1], H, *blocks[:2], options)
    bounds_BI4, _ = visible_tiles(q_segments_BT, kv_segments_BS, q_offset, options, *blocks[:2])
    mask = (jnp.reshape(q_offset, 1), bounds_BI4, slopes_N, q_segments_BT, kv_segments_BS)
    q_spec, kv_spec, row_spec = _specs(static, group=G)
    return _call(
        functools.partial(_forward_kernel, static=static),
        (mask, q_BTNH, k_BSKH, v_BSKH),
        blocks,
        grid=(bounds_BI4.shape[1], N, B),
        in_specs=[_mask_specs(static, slopes_N), q_spec, kv_spec, kv_spec],
        out_specs=[q_spec, row_spec],
        out_shape=[
            jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype),
            jax.ShapeDtypeStruct((B, N, T), jnp.float32),
        ],
        name="attention_forward",
    )


def backward(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    q_segments_BT,
    kv_segments_BS,
    q_offset,
    slopes_N,
    options,
    out_BTNH,
    lse_BNT,
    dout_BTNH,
    blocks,
):
    """(dq_BTNH, dk_BSKH, dv_BSKH). See `api.attention_backward`. blocks: as in `forward`."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    G = N // K
    static = _Static(T, S, H, *blocks[:2], options)
    bounds_BI4, bounds_BJ4 = visible_tiles(
        q_segments_BT, kv_segments_BS, q_offset, options, *blocks[:2]
    )
    delta_BNT = jnp.einsum(
        "BTNH,BTNH->BNT", out_BTNH, dout_BTNH, preferred_element_type=jnp.float32
    )
    # For a row that sees nothing exp(-inf - inf) is 0, where exp(-inf + inf) would be NaN.
    lse_BNT = jnp.where(jnp.isneginf(lse_BNT), jnp.inf, lse_BNT)
    arrays = (q_BTNH, k_BSKH, v_BSKH, dout_BTNH, lse_BNT, delta_BNT)
    segments = (slopes_N, q_segments_BT, kv_segments_BS)

    q_spec, kv_spec, row_spec = _specs(static, group=G)
    dq_BTNH = _call(
        functools.partial(_dq_kernel, static=static),
        ((jnp.reshape(q_offset, 1), bounds_BI4, *segments), *arrays),
        blocks,
        grid=(bounds_BI4.shape[1], N, B),
        in_specs=[
            _mask_specs(static, slopes_N),
            q_spec,
            kv_spec,
            kv_spec,
            q_spec,
            row_spec,
            row_spec,
        ],
        out_specs=q_spec,
        out_shape=jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype),
        name="attention_dq",
    )

    q_spec, kv_spec, row_spec = _specs(static, heads=G)
    dk_BSKH, dv_BSKH = _call(
        functools.partial(_dkv_kernel, static=static, heads=G),
        ((jnp.reshape(q_offset, 1), bounds_BJ4, *segments), *arrays),
        blocks,
        grid=(bounds_BJ4.shape[1], K, B),
        in_specs=[
            _mask_specs(static, slopes_N, heads=G),
            *(q_spec, kv_spec, kv_spec, q_spec, row_spec, row_spec),
        ],
        out_specs=[kv_spec, kv_spec],
        out_shape=[jax.ShapeDtypeStruct(k_BSKH.shape, k_BSKH.dtype)] * 2,
        name="attention_dkv",
    )
    return dq_BTNH, dk_BSKH, dv_BSKH


def _forward_kernel(mask_refs, q_ref, k_ref, v_ref, out_ref, lse_ref, *, static):
    i0 = pl.program_id(0) * static.q_tile
    q_IH = _read(q_ref, i0, static.q_tile, static.T, static.H)
    products_and_scores = _scorer(mask_refs, static)

    def step(j, carry, masked):
        acc_IH, max_I, sum_I = carry
        j0 = j * static.k_tile
        k_JH = _read(k_ref, j0, static.k_tile, static.S, static.H)
        v_JH = _read(v_ref, j0, static.k_tile, static.S, static.H)
        _, s_IJ = products_and_scores(q_IH, k_JH, i0, j0, masked)
        new_max_I = jnp.maximum(max_I, s_IJ.max(axis=1))
        p_IJ = jnp.exp(s_IJ - new_max_I[:, None])
        shrink_I = jnp.exp(max_I - new_max_I)
        acc_IH = shrink_I[:, None] * acc_IH + _dot(p_IJ.astype(v_JH.dtype), v_JH)
        return acc_IH, new_max_I, shrink_I * sum_I + p_IJ.sum(axis=1)

    carry = (
        jnp.zeros(q_IH.shape, jnp.float32),
        jnp.full(static.q_tile, LEAST, jnp.float32),
        jnp.zeros(static.q_tile, jnp.float32),
    )
    acc_IH, max_I, sum_I = loop_over(_bounds(mask_refs), step, carry)
    empty_I = sum_I == 0.0
    sum_I = jnp.where(empty_I, 1.0, sum_I)
    _write(out_ref, acc_IH / sum_I[:, None], i0, static.T, static.H)
    _write(lse_ref, jnp.where(empty_I, -jnp.inf, max_I + jnp.log(sum_I)), i0, static.T)


def _dq_kernel(mask_refs, q_ref, k_ref, v_ref, dout_ref, lse_ref, delta_ref, dq_ref, *, static):
    i0 = pl.program_id(0) * static.q_tile
    q_IH = _read(q_ref, i0, static.q_tile, static.T, static.H)
    dout_IH = _read(dout_ref, i0, static.q_tile, static.T, static.H)
    lse_I = _read(lse_ref, i0, static.q_tile, static.T)
    delta_I = _read(delta_ref, i0, static.q_tile, static.T)
    products_and_scores = _scorer(mask_refs, static)

    def step(j, dq_IH, masked):
        j0 = j * static.k_tile
        k_JH = _read(k_ref, j0, static.k_tile, static.S, static.H)
        v_JH = _read(v_ref, j0, static.k_tile, static.S, static.H)
        qk_IJ, s_IJ = products_and_scores(q_IH, k_JH, i0, j0, masked)
        p_IJ = jnp.exp(s_IJ - lse_I[:, None])
        dp_IJ = _dot(dout_IH, v_JH, trans_b=True)
        ds_IJ = p_IJ * (dp_IJ - delta_I[:, None])
        dqk_IJ = scores_gradient(ds_IJ, qk_IJ, static.options)
        return dq_IH + _dot(dqk_IJ.astype(k_JH.dtype), k_JH)

    dq_IH = loop_over(_bounds(mask_refs), step, jnp.zeros(q_IH.shape, jnp.float32))
    _write(dq_ref, static.options.scale * dq_IH, i0, static.T, static.H)


def _dkv_kernel(
    mask_refs, q_ref, k_ref, v_ref, dout_ref, lse_ref, delta_ref, dk_ref, dv_ref, *, static, heads
):
    j0 = pl.program_id(0) * static.k_tile
    k_JH = _read(k_ref, j0, static.k_tile, static.S, static.H)
    v_JH = _read(v_ref, j0, static.k_tile, static.S, static.H)
    products_and_scores = _scorer(mask_refs, static)

    def one_head(g, carry):
        def step(i, carry, masked):
            dk_JH, dv_JH = carry
            i0 = i * static.q_tile
            q_IH = _read(q_ref, i0, static.q_tile, static.T, static.H, head=(g,))
            dout_IH = _read(dout_ref, i0, static.q_tile, static.T, static.H, head=(g,))
            lse_I = _read(lse_ref, i0, static.q_tile, static.T, head=(g,))
            delta_I = _read(delta_ref, i0, static.q_tile, static.T, head=(g,))
            qk_IJ, s_IJ = products_and_scores(q_IH, k_JH, i0, j0, masked, g)
            p_IJ = jnp.exp(s_IJ - lse_I[:, None])
            dv_JH += _dot(p_IJ.astype(dout_IH.dtype), dout_IH, trans_a=True)
            dp_IJ = _dot(dout_IH, v_JH, trans_b=True)
            ds_IJ = p_IJ * (dp_IJ - delta_I[:, None])
            dqk_IJ = scores_gradient(ds_IJ, qk_IJ, static.options)
            dk_JH += _dot(dqk_IJ.astype(q_IH.dtype), q_IH, trans_a=True)
            return dk_JH, dv_JH

        return loop_over(_bounds(mask_refs), step, carry)

    zero_JH = jnp.zeros(k_JH.shape, jnp.float32)
    dk_JH, dv_JH = jax.lax.fori_loop(0, heads, one_head, (zero_JH, zero_JH))
    _write(dk_ref, static.options.scale * dk_JH, j0, static.S, static.H)
    _write(dv_ref, dv_JH, j0, static.S, static.H)


def _scorer(mask_refs, static):
    """products_and_scores(q_IH, k_JH, i0, j0, masked, g) -> (q k^T, scores; -inf where hidden)."""
    offset_ref, _, slopes_ref, q_segments_ref, kv_segments_ref = mask_refs

    def products_and_scores(q_IH, k_JH, i0, j0, masked, g=0):
        qk_IJ = _dot(q_IH, k_JH, trans_b=True)
        index_I1 = offset_ref[0] + i0 + jnp.arange(static.q_tile)[:, None]
        distance_IJ = index_I1 - (j0 + jnp.arange(static.k_tile))[None, :]
        slope = None if slopes_ref is None else slopes_ref[g]
        s_IJ = scores(qk_IJ, distance_IJ, slope, static.options)
        if masked:
            q_segments_I1 = _read(q_segments_ref, i0, static.q_tile, static.T)[:, None]
            kv_segments_1J = _read(kv_segments_ref, j0, static.k_tile, static.S)[None, :]
            seen_IJ = visible(q_segments_I1, kv_segments_1J, distance_IJ, static.options)
            s_IJ = jnp.where(seen_IJ, s_IJ, -jnp.inf)
        return qk_IJ, s_IJ

    return products_and_scores


def _bounds(mask_refs):
    return [mask_refs[1][x] for x in range(4)]


def _dot(a, b, **transposed):
    # Without this, float32 operands would be rounded to TensorFloat-32.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return plgpu.dot(a, b, precision=precision, **transposed)


def _read(ref, start, size, rows, columns=None, head=()):
    """ref[start : start + size] (of one head), zeros where the tile overhangs the array."""
    index, mask = _tile(ref, start, size, rows, columns, head)
    return plgpu.load(ref.at[index], mask=mask, other=None if mask is None else 0)


def _write(ref, tile, start, rows, columns=None):
    index, mask = _tile(ref, start, tile.shape[0], rows, columns)
    plgpu.store(ref.at[index], tile.astype(ref.dtype), mask=mask)


def _tile(ref, start, size, rows, columns, head=()):
    """(index, mask of what lies inside rows x columns or None) of a tile."""
    row_mask = (start + jnp.arange(size)) < rows if rows % size else None
    if columns is None:
        return (*head, pl.ds(start, size)), row_mask
    lanes = ref.shape[-1]
    mask = None if row_mask is None else jnp.broadcast_to(row_mask[:, None], (size, lanes))
    if columns != lanes:
        column_mask = jnp.broadcast_to((jnp.arange(lanes) < columns)[None, :], (size, lanes))
        mask = column_mask if mask is None else mask & column_mask
    return (pl.ds(start, size), *head, slice(None)), mask


def _specs(static, *, group=None, heads=None):
    """Blocks of (queries, keys/values, lse): all rows of one head, or of `heads` query heads.

    With `group` the grid's second axis is the query head n, which reads key/value head
    n // group; with `heads` it is the key/value head k, with query heads k * heads onwards.
    """
    T, S = (-(-static.T // static.q_tile)) * static.q_tile, static.S
    S = -(-static.S // static.k_tile) * static.k_tile
    lanes = max(16, pl.next_power_of_2(static.H))  # what a Triton tile can be
    return (
        pl.BlockSpec((None, T, heads, lanes), lambda x, n, b: (b, 0, n, 0)),
        pl.BlockSpec((None, S, None, lanes), lambda x, n, b: (b, 0, n // (group or 1), 0)),
        pl.BlockSpec((None, heads, T), lambda x, n, b: (b, n, 0)),
    )


def _mask_specs(static, slopes_N, heads=1):
    """Blocks of (q_offset, bounds, slopes, query segments, key segments)."""
    T = -(-static.T // static.q_tile) * static.q_tile
    S = -(-static.S // static.k_tile) * static.k_tile
    return (
        pl.BlockSpec((1,), lambda x, n, b: (0,)),
        pl.BlockSpec((None, None, 4), lambda x, n, b: (b, x, 0)),
        None if slopes_N is None else pl.BlockSpec((heads,), lambda x, n, b: (n,)),
        pl.BlockSpec((None, T), lambda x, n, b: (b, 0)),
        pl.BlockSpec((None, S), lambda x, n, b: (b, 0)),
    )


def _call(kernel, arguments, blocks, **how):
    warps, stages = blocks[2:]
    params = plgpu.CompilerParams(num_warps=warps, num_stages=stages)
    return jax.lax.platform_dependent(
        *arguments,
        cpu=pl.pallas_call(kernel, interpret=True, **how),
        default=pl.pallas_call(kernel, compiler_params=params, **how),
    )
