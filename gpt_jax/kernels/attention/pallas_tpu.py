"""FlashAttention-2 (Dao 2023) for TPUs, in Mosaic: three kernels, nothing of size T x S in HBM.

    s = k q^T scaled, soft-capped, biased, masked          p = exp(s - lse)

    forward   out = p^T v,  lse = log(sum exp(s))          (algorithm 1)
    backward  dp = v dout^T,  ds = p * (dp - delta)        (algorithm 2)
              dv = p dout,  dk = ds q,  dq = ds^T k        delta = sum(out * dout)

The tokens lie along the lanes and the head size along the sublanes, in HBM too, so that a head of
64 wastes nothing and needs no padding. A block of scores is upright: keys down, queries across.

                  q_Ht, dout_Ht, lse_1t, delta_1t
                  +--------------------+
                  |    queries t ->    |            Softmax statistics are rows: their maximum and
      k_Hs, v_Hs  +--------------------+            sum run down the sublanes, which costs a few
      +---+       |                    |            additions, and they broadcast for nothing.
      | k |       |  s_st, p_st, ds_st |
      | e |       |                    |            forward, dq: out_Ht and dq_Ht stay in VMEM
      | y |       |                    |              while the key blocks pass by (grid axis j).
      | s |       |                    |            dk, dv: dk_Hs and dv_Hs stay while the query
      +---+       +--------------------+              blocks of the G heads pass by (axis g * i).

Which blocks are seen whole, in part or not at all (causality, window, segments) is computed before
(tiles.py) and prefetched as scalars. Only those seen in part are masked; a hidden block is skipped,
and not fetched either: the index maps then repeat the nearest seen one, which is there already.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gpt_jax.kernels.attention.scores import (
    HIDDEN,
    LEAST_MAX,
    Options,
    scores,
    scores_gradient,
    visible,
)
from gpt_jax.kernels.attention.tiles import visible_tiles

LANES, SUBLANES = 128, 16
MAX_HEAD_SIZE = 256
BLOCK = 512  # Queries and keys per block. Not measured: no TPU was at hand.
MAX_ROWS_OF_TILES = 2**13  # Four numbers each, in the scalar memory.


class _Plan(NamedTuple):
    """Sizes: I blocks of t queries, J blocks of s keys, G query heads to a key/value head."""

    B: int
    N: int
    K: int
    G: int
    H: int
    I: int  # noqa: E741
    J: int
    t: int
    s: int
    alibi: bool
    options: Options


def takes(q_BTNH: jax.Array, k_BSKH: jax.Array, options: Options) -> bool:
    """Whether rows of lanes can be filled, heads are whole sublanes, and the tiles' bounds fit."""
    B, T, _, H = q_BTNH.shape
    return (
        T >= LANES
        and H % SUBLANES == 0
        and H <= MAX_HEAD_SIZE
        and q_BTNH.dtype == k_BSKH.dtype
        and q_BTNH.dtype in (jnp.float32, jnp.bfloat16)
        and B * (max(T, k_BSKH.shape[1]) // BLOCK + 1) <= MAX_ROWS_OF_TILES
    )


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
    q_block=BLOCK,
    kv_block=BLOCK,
):
    """(out_BTNH, lse_BNT); see `api.attention_forward`."""
    T = q_BTNH.shape[1]
    plan = _plan(q_BTNH, k_BSKH, alibi_slopes_N, options, q_block, kv_block)
    masks = (q_segment_ids_BT, kv_segment_ids_BS, q_offset)
    key_tiles, _ = visible_tiles(*masks, options, plan.t, plan.s)
    queries, keys, row, segments = _specs(plan, _by_query)
    out_BNHT, lse_BN1T = pl.pallas_call(
        functools.partial(_forward_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(plan.B, plan.N, plan.I, plan.J),
            in_specs=[*segments, queries, keys, keys],
            out_specs=[queries, row],
            scratch_shapes=[
                pltpu.VMEM((plan.H, plan.t), jnp.float32),
                pltpu.VMEM((1, plan.t), jnp.float32),
                pltpu.VMEM((1, plan.t), jnp.float32),
            ],
        ),
        out_shape=[
            _array(plan.B, plan.N, plan.H, plan.I * plan.t, dtype=q_BTNH.dtype),
            _array(plan.B, plan.N, 1, plan.I * plan.t, dtype=jnp.float32),
        ],
        compiler_params=_COMPILER,
        name="attention_forward",
    )(
        *_scalars(q_offset, alibi_slopes_N, plan),
        key_tiles.reshape(-1),
        *_segments(q_segment_ids_BT, kv_segment_ids_BS, plan),
        _tokens_last(q_BTNH, plan.I * plan.t),
        _tokens_last(k_BSKH, plan.J * plan.s),
        _tokens_last(v_BSKH, plan.J * plan.s),
    )
    return _heads_last(out_BNHT, T), lse_BN1T[:, :, 0, :T]


def _forward_kernel(
    plan,
    offset_ref,
    slopes_ref,
    tiles_ref,
    q_segments_ref,
    kv_segments_ref,
    q_ref,
    k_ref,
    v_ref,
    out_ref,
    lse_ref,
    sum_out_ref,
    sum_ref,
    max_ref,
):
    """Grid (b, n, i, j): the keys of all j pass by the queries of one i."""
    (_, n, i, j), full, part = _by_query(plan, tiles_ref)

    @pl.when(pl.program_id(3) == 0)
    def start():
        sum_out_ref[...] = jnp.zeros_like(sum_out_ref)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        max_ref[...] = jnp.full_like(max_ref, LEAST_MAX)

    @_when(full, part)
    def one_key_block(masked):
        at = (plan, n, i, j, offset_ref, slopes_ref)
        s_st, _ = _scores(*at, masked, q_segments_ref, kv_segments_ref, q_ref, k_ref)
        old_max_1t = max_ref[...]
        max_1t = jnp.maximum(old_max_1t, s_st.max(axis=0, keepdims=True))
        rescale_1t = jnp.exp(old_max_1t - max_1t)
        e_st = jnp.exp(s_st - max_1t)
        v_Hs = v_ref[...]
        max_ref[...] = max_1t
        sum_ref[...] = rescale_1t * sum_ref[...] + e_st.sum(axis=0, keepdims=True)
        sum_out_ref[...] = rescale_1t * sum_out_ref[...] + _dot(v_Hs, e_st.astype(v_Hs.dtype))

    @pl.when(pl.program_id(3) == plan.J - 1)
    def finish():
        sum_1t = sum_ref[...]
        nothing_1t = sum_1t == 0.0
        out_ref[...] = (sum_out_ref[...] / jnp.where(nothing_1t, 1.0, sum_1t)).astype(out_ref.dtype)
        lse_ref[...] = jnp.where(nothing_1t, -jnp.inf, max_ref[...] + jnp.log(sum_1t))


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
    q_block=BLOCK,
    kv_block=BLOCK,
):
    """(dq_BTNH, dk_BSKH, dv_BSKH); see `api.attention_backward`."""
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    plan = _plan(q_BTNH, k_BSKH, alibi_slopes_N, options, q_block, kv_block)
    delta_BTN = (out_BTNH.astype(jnp.float32) * dout_BTNH.astype(jnp.float32)).sum(axis=-1)
    # A row that sees nothing has only hidden scores, and exp(HIDDEN - 0) is 0.
    lse_BNT = jnp.where(lse_BNT == -jnp.inf, 0.0, lse_BNT)
    masks = (q_segment_ids_BT, kv_segment_ids_BS, q_offset)
    key_tiles, query_tiles = visible_tiles(*masks, options, plan.t, plan.s)
    scalars = _scalars(q_offset, alibi_slopes_N, plan)
    arguments = (
        *_segments(q_segment_ids_BT, kv_segment_ids_BS, plan),
        _pad_last(lse_BNT, plan.I * plan.t)[:, :, None],
        _pad_last(delta_BTN.transpose(0, 2, 1), plan.I * plan.t)[:, :, None],
        _tokens_last(q_BTNH, plan.I * plan.t),
        _tokens_last(dout_BTNH, plan.I * plan.t),
        _tokens_last(k_BSKH, plan.J * plan.s),
        _tokens_last(v_BSKH, plan.J * plan.s),
    )

    queries, keys, row, segments = _specs(plan, _by_query)
    dq_BNHT = pl.pallas_call(
        functools.partial(_dq_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(plan.B, plan.N, plan.I, plan.J),
            in_specs=[*segments, row, row, queries, queries, keys, keys],
            out_specs=queries,
            scratch_shapes=[pltpu.VMEM((plan.H, plan.t), jnp.float32)],
        ),
        out_shape=_array(plan.B, plan.N, plan.H, plan.I * plan.t, dtype=q_BTNH.dtype),
        compiler_params=_COMPILER,
        name="attention_dq",
    )(*scalars, key_tiles.reshape(-1), *arguments)

    queries, keys, row, segments = _specs(plan, _by_key)
    dk_BKHS, dv_BKHS = pl.pallas_call(
        functools.partial(_dkv_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(plan.B, plan.K, plan.J, plan.G * plan.I),
            in_specs=[*segments, row, row, queries, queries, keys, keys],
            out_specs=[keys, keys],
            scratch_shapes=[pltpu.VMEM((plan.H, plan.s), jnp.float32)] * 2,
        ),
        out_shape=[_array(plan.B, plan.K, plan.H, plan.J * plan.s, dtype=k_BSKH.dtype)] * 2,
        compiler_params=_COMPILER,
        name="attention_dkv",
    )(*scalars, query_tiles.reshape(-1), *arguments)
    return _heads_last(dq_BNHT, T), _heads_last(dk_BKHS, S), _heads_last(dv_BKHS, S)


def _dq_kernel(plan, offset_ref, slopes_ref, tiles_ref, *refs):
    """Grid (b, n, i, j), as in the forward pass."""
    *inputs, dq_ref, sum_dq_ref = refs
    (_, n, i, j), full, part = _by_query(plan, tiles_ref)

    @pl.when(pl.program_id(3) == 0)
    def start():
        sum_dq_ref[...] = jnp.zeros_like(sum_dq_ref)

    @_when(full, part)
    def one_key_block(masked):
        _, ds_st = _softmax_gradient(plan, n, i, j, offset_ref, slopes_ref, masked, *inputs)
        *_, k_ref, _ = inputs
        sum_dq_ref[...] += _dot(k_ref[...], ds_st)

    @pl.when(pl.program_id(3) == plan.J - 1)
    def finish():
        dq_ref[...] = (plan.options.scale * sum_dq_ref[...]).astype(dq_ref.dtype)


def _dkv_kernel(plan, offset_ref, slopes_ref, tiles_ref, *refs):
    """Grid (b, k, j, g * I + i): the queries of G heads and all i pass by the keys of one j."""
    *inputs, dk_ref, dv_ref, sum_dk_ref, sum_dv_ref = refs
    (_, n, i, j), full, part = _by_key(plan, tiles_ref)

    @pl.when(pl.program_id(3) == 0)
    def start():
        sum_dk_ref[...] = jnp.zeros_like(sum_dk_ref)
        sum_dv_ref[...] = jnp.zeros_like(sum_dv_ref)

    @_when(full, part)
    def one_query_block(masked):
        p_st, ds_st = _softmax_gradient(plan, n, i, j, offset_ref, slopes_ref, masked, *inputs)
        *_, q_ref, dout_ref, _, _ = inputs
        sum_dk_ref[...] += _dot(q_ref[...], ds_st, contract=(1, 1))
        sum_dv_ref[...] += _dot(dout_ref[...], p_st, contract=(1, 1))

    @pl.when(pl.program_id(3) == plan.G * plan.I - 1)
    def finish():
        dk_ref[...] = (plan.options.scale * sum_dk_ref[...]).astype(dk_ref.dtype)
        dv_ref[...] = sum_dv_ref[...].astype(dv_ref.dtype)


def _softmax_gradient(
    plan,
    n,
    i,
    j,
    offset_ref,
    slopes_ref,
    masked,
    q_segments_ref,
    kv_segments_ref,
    lse_ref,
    delta_ref,
    q_ref,
    dout_ref,
    k_ref,
    v_ref,
):
    """p_st and ds_st of one block, in the dtype of q."""
    at = (plan, n, i, j, offset_ref, slopes_ref)
    s_st, products_st = _scores(*at, masked, q_segments_ref, kv_segments_ref, q_ref, k_ref)
    p_st = jnp.exp(s_st - lse_ref[...])
    dp_st = _dot(v_ref[...], dout_ref[...], contract=(0, 0))
    ds_st = scores_gradient(p_st * (dp_st - delta_ref[...]), products_st, plan.options)
    return p_st.astype(q_ref.dtype), ds_st.astype(q_ref.dtype)


def _scores(
    plan,
    n,
    i,
    j,
    offset_ref,
    slopes_ref,
    masked,
    q_segments_ref,
    kv_segments_ref,
    q_ref,
    k_ref,
):
    """s_st of query block i of head n and key block j, and the products k q^T it is made of."""
    products_st = _dot(k_ref[...], q_ref[...], contract=(0, 0))
    query_st = jax.lax.broadcasted_iota(jnp.int32, products_st.shape, 1)
    key_st = jax.lax.broadcasted_iota(jnp.int32, products_st.shape, 0)
    distance_st = (offset_ref[0] + i * plan.t - j * plan.s) + query_st - key_st
    s_st = scores(products_st, distance_st, slopes_ref[n] if plan.alibi else None, plan.options)
    if masked:
        kv_segments_s1 = kv_segments_ref[...].T
        seen_st = visible(q_segments_ref[...], kv_segments_s1, distance_st, plan.options)
        s_st = jnp.where(seen_st, s_st, HIDDEN)
    return s_st, products_st


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int] = (1, 0)) -> jax.Array:
    """A matmul with a float32 result; float32 operands are not rounded to bfloat16."""
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


# Where in the grid: (b, n, i, j) of the block of scores to load, and whether the step's own block
# is seen in full or in part.


def _by_query(plan: _Plan, tiles_ref, *grid):
    b, n, i, j = grid or map(pl.program_id, range(4))
    j, full, part = _nearest(j, tiles_ref, b * plan.I + i, plan.J)
    return (b, n, i, j), full, part


def _by_key(plan: _Plan, tiles_ref, *grid):
    b, k, j, step = grid or map(pl.program_id, range(4))
    g, i = jax.lax.div(step, plan.I), jax.lax.rem(step, plan.I)
    i, full, part = _nearest(i, tiles_ref, b * plan.J + j, plan.I)
    return (b, k * plan.G + g, i, j), full, part


def _nearest(block, tiles_ref, row, count: int):
    """The seen block nearest to this one, and whether this one is seen in full or in part."""
    first, full, full_end, end = (tiles_ref[4 * row + x] for x in range(4))
    nearest = jnp.clip(jnp.clip(block, first, end - 1), 0, count - 1)
    in_full = (full <= block) & (block < full_end)
    return nearest, in_full, (first <= block) & (block < end) & ~in_full


def _when(full, part):
    """Runs what it decorates with masked=False or masked=True, or not at all."""

    def decorate(body):
        pl.when(full)(functools.partial(body, masked=False))
        pl.when(part)(functools.partial(body, masked=True))

    return decorate


def _specs(plan: _Plan, order):
    """The blocks of q-like and k-like arrays, of lse-like rows, and of both segment ids."""

    def spec(rows, width, index):
        def index_map(b, x, y, z, offset_ref, slopes_ref, tiles_ref):
            return index(*order(plan, tiles_ref, b, x, y, z)[0])

        leading = (None,) if rows is None else (None, None)
        return pl.BlockSpec((*leading, rows or 1, width), index_map)

    return (
        spec(plan.H, plan.t, lambda b, n, i, j: (b, n, 0, i)),
        spec(plan.H, plan.s, lambda b, n, i, j: (b, jax.lax.div(n, plan.G), 0, j)),
        spec(1, plan.t, lambda b, n, i, j: (b, n, 0, i)),
        (
            spec(None, plan.t, lambda b, n, i, j: (b, 0, i)),
            spec(None, plan.s, lambda b, n, i, j: (b, 0, j)),
        ),
    )


def _plan(q_BTNH, k_BSKH, alibi_slopes_N, options, q_block: int, kv_block: int) -> _Plan:
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    (i, t), (j, s) = _cut(T, q_block), _cut(S, kv_block)
    return _Plan(B, N, K, N // K, H, i, j, t, s, alibi_slopes_N is not None, options)


def _cut(length: int, block: int) -> tuple[int, int]:
    """(blocks, size): as few equal blocks of whole lanes as are needed, none above `block`."""
    blocks = -(-length // block)
    return blocks, -(-length // (blocks * LANES)) * LANES


def _scalars(q_offset, alibi_slopes_N, plan: _Plan):
    slopes_N = jnp.zeros(plan.N) if alibi_slopes_N is None else alibi_slopes_N
    return jnp.asarray(q_offset, jnp.int32)[None], slopes_N.astype(jnp.float32)


def _segments(q_segment_ids_BT, kv_segment_ids_BS, plan: _Plan):
    """Both as rows; what is filled up is padding, so nobody sees it."""
    return (
        _pad_last(q_segment_ids_BT, plan.I * plan.t)[:, None],
        _pad_last(kv_segment_ids_BS, plan.J * plan.s)[:, None],
    )


def _tokens_last(x_BTNH: jax.Array, length: int) -> jax.Array:
    return _pad_last(x_BTNH.transpose(0, 2, 3, 1), length)


def _heads_last(x_BNHT: jax.Array, length: int) -> jax.Array:
    return x_BNHT[..., :length].transpose(0, 3, 1, 2)


def _pad_last(x: jax.Array, length: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])])


def _array(*shape: int, dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


_COMPILER = pltpu.CompilerParams(
    dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
)
