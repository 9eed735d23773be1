"""Flash-Decoding (Dao et al. 2023) for NVIDIA GPUs of compute capability 8.0 and up, in Triton.

One row's queries are too few to keep a GPU busy, so its cache is cut into splits, each read by a
program of its own. A program walks over its tiles of entries with an online softmax; with a tile's
scores s = scale q k^T and, for each query, the maximum m, the sum l and the result acc,

    m' = max(m, max s)        p = exp(s - m')
    l' = exp(m - m') l + sum p        acc' = exp(m - m') acc + p v

and leaves out = acc / l and lse = m + log l. The splits are then merged:

    lse = log sum_i exp(lse_i)        out = sum_i exp(lse_i - lse) out_i

              first             entries of row b             end
      cache     |---- split 0 ----|---- split 1 ----|- split 2 -|        one program:
                | tile | tile | tile | ...                               (split, k, b)

A tile is W entries of key head k. The G * T queries that share the head are scored together (as
16 at least, which the tensor cores want), so every entry is read once, and none before the first
visible one or behind the last. On a CPU the same kernel runs in Pallas's interpreter, for tests.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from gpt_jax.kernels.decode_attention.layout import Cache, Options, pages_of_all_layers
from gpt_jax.kernels.decode_attention.visible import read_range, visible

HIDDEN = -1e30  # A hidden score: finite, and exp(HIDDEN - m) is 0 for every m >= LEAST_MAX.
LEAST_MAX = -1e29
TILE_BYTES = 2**14  # of a tile of keys
MIN_SPLIT = 512  # entries
PROGRAMS = 16 * 132  # several for every multiprocessor, so that a few long rows do not hold up all
WARPS, STAGES = 4, 3
MAX_ROWS = 64


@dataclasses.dataclass(frozen=True)
class _Static:
    """What the kernel knows when it is compiled."""

    T: int
    queries: int  # G * T
    S: int  # entries of a page
    K: int
    H: int
    tile: int
    splits: int
    options: Options


def takes(q_BTNH: jax.Array, cache: Cache) -> bool:
    T, N, H = q_BTNH.shape[1:]
    device = jax.devices()[0]
    old = device.platform == "gpu" and float(device.compute_capability) < 8.0
    dtypes = (jnp.float32, jnp.bfloat16)
    small = N // cache.k_LRSKH.shape[3] * T <= MAX_ROWS and H <= 256
    known = q_BTNH.dtype in dtypes and cache.k_LRSKH.dtype in (*dtypes, jnp.int8)
    return small and known and not old


def decode_attention(
    q_BTNH: jax.Array,
    cache: Cache,
    lengths_B: jax.Array,
    q_segment_ids_BT: jax.Array | None,
    kv_segment_ids_BS: jax.Array | None,
    options: Options,
) -> jax.Array:
    """See `api.decode_attention`."""
    B, T, N, H = q_BTNH.shape
    L, R, S, K = cache.k_LRSKH.shape[:4]
    G = N // K
    # The sizes of a Triton tile are powers of two.
    rows, lanes = (max(16, pl.next_power_of_2(size)) for size in (G * T, H))
    tile = TILE_BYTES // (lanes * cache.k_LRSKH.dtype.itemsize)

    table_BP = pages_of_all_layers(cache, B)
    P = table_BP.shape[1]
    mask_BTS = visible(T, P * S, lengths_B, q_segment_ids_BT, kv_segment_ids_BS, options.window)
    range_B3 = jnp.stack([*read_range(mask_BTS), lengths_B], axis=1)
    splits = max(1, min(PROGRAMS // (B * K), P * S // max(MIN_SPLIT, tile)))

    q_BKRH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, H)
    q_segments_BR = None if q_segment_ids_BT is None else jnp.tile(q_segment_ids_BT, (1, G))
    k, v = (x.reshape(L * R * S, K, H) for x in (cache.k_LRSKH, cache.v_LRSKH))
    k_scale, v_scale = (
        x if x is None else x.reshape(-1) for x in (cache.k_scale_LRKS, cache.v_scale_LRKS)
    )

    def row(*shape):
        return pl.BlockSpec((None, *shape), lambda split, k, b: (b, *[0] * len(shape)))

    def scales(x):
        return None if x is None else pl.BlockSpec(x.shape, lambda split, k, b: (0,))

    entries = pl.BlockSpec((L * R * S, None, lanes), lambda split, k, b: (0, k, 0))
    call = functools.partial(
        pl.pallas_call,
        functools.partial(_kernel, static=_Static(T, G * T, S, K, H, tile, splits, options)),
        grid=(splits, K, B),
        in_specs=[
            row(3),
            row(P),
            pl.BlockSpec((None, None, rows, lanes), lambda split, k, b: (b, k, 0, 0)),
            entries,
            entries,
            scales(k_scale),
            scales(v_scale),
            None if q_segments_BR is None else row(rows),
            None if kv_segment_ids_BS is None else row(P * S),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, rows, lanes), lambda split, k, b: (b, split, k, 0, 0)),
            pl.BlockSpec((None, None, None, rows), lambda split, k, b: (b, split, k, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((B, splits, K, G * T, H), jnp.float32),
            jax.ShapeDtypeStruct((B, splits, K, G * T), jnp.float32),
        ],
        name="decode_attention",
    )
    out_BIKRH, lse_BIKR = jax.lax.platform_dependent(
        *(range_B3, table_BP, q_BKRH, k, v, k_scale, v_scale),
        *(q_segments_BR, kv_segment_ids_BS),
        cpu=call(interpret=True),
        default=call(
            compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        ),
    )
    # Split i counts by exp(lse_i - lse); where all have seen nothing, out_i is 0 anyway.
    weight_BIKR = jax.nn.softmax(jnp.maximum(lse_BIKR, LEAST_MAX), axis=1)
    out_BKRH = jnp.einsum("BIKR,BIKRH->BKRH", weight_BIKR, out_BIKRH, precision="highest")
    out_BKGTH = out_BKRH.reshape(B, K, G, T, H)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H).astype(q_BTNH.dtype)


def _kernel(
    range_ref,
    table_ref,
    q_ref,
    k_ref,
    v_ref,
    k_scale_ref,
    v_scale_ref,
    q_segments_ref,
    kv_segments_ref,
    out_ref,
    lse_ref,
    *,
    static: _Static,
):
    """One split of one row and key head: queries R down, entries W across."""
    split, k = pl.program_id(0), pl.program_id(1)
    first, end, length = (range_ref[x] for x in range(3))
    per_split = pl.cdiv(end - first, static.splits)
    start = first + split * per_split
    end = jnp.minimum(start + per_split, end)

    (rows, lanes), W = q_ref.shape, static.tile
    inside_R, inside_H = jnp.arange(rows) < static.queries, jnp.arange(lanes) < static.H
    inside_RH = inside_R[:, None] & inside_H[None]
    q_RH = plgpu.load(q_ref, mask=inside_RH, other=0)
    own_index_R1 = (length - static.T + jnp.arange(rows) % static.T)[:, None]

    def step(i, carry):
        m_R, l_R, acc_RH = carry
        index_W = start + i * W + jnp.arange(W)
        mask_W = index_W < end
        if table_ref.shape == (1,):
            page_W, place_W = table_ref[0], index_W
        else:
            page_W = plgpu.load(table_ref.at[index_W // static.S], mask=mask_W, other=0)
            place_W = index_W % static.S

        def entries(ref):
            row_W = page_W * static.S + place_W
            at = (jnp.broadcast_to(x, (W, lanes)) for x in (row_W[:, None], jnp.arange(lanes)))
            mask_WH = mask_W[:, None] & inside_H[None]
            return plgpu.load(ref.at[tuple(at)], mask=mask_WH, other=0).astype(q_RH.dtype)

        def scales(ref):
            at = (page_W * static.K + k) * static.S + place_W
            return plgpu.load(ref.at[at], mask=mask_W, other=0.0)[None]

        s_RW = _dot(q_RH, entries(k_ref), trans_b=True) * static.options.scale
        if k_scale_ref is not None:
            s_RW *= scales(k_scale_ref)
        if static.options.softcap is not None:
            s_RW = static.options.softcap * jnp.tanh(s_RW / static.options.softcap)
        seen_RW = (index_W[None] <= own_index_R1) & mask_W[None]
        if static.options.window is not None:
            seen_RW &= index_W[None] > own_index_R1 - static.options.window
        if kv_segments_ref is not None:
            q_segments_R1 = plgpu.load(q_segments_ref, mask=inside_R, other=0)[:, None]
            kv_segments_W = plgpu.load(kv_segments_ref.at[index_W], mask=mask_W, other=0)
            seen_RW &= (q_segments_R1 == kv_segments_W[None]) & (q_segments_R1 != 0)
        s_RW = jnp.where(seen_RW, s_RW, HIDDEN)

        m_new_R = jnp.maximum(m_R, s_RW.max(axis=1))
        p_RW, old_R = jnp.exp(s_RW - m_new_R[:, None]), jnp.exp(m_R - m_new_R)
        l_R = l_R * old_R + p_RW.sum(axis=1)
        if v_scale_ref is not None:
            p_RW *= scales(v_scale_ref)
        acc_RH = acc_RH * old_R[:, None] + _dot(p_RW.astype(q_RH.dtype), entries(v_ref))
        return m_new_R, l_R, acc_RH

    carry = (
        jnp.full(rows, LEAST_MAX, jnp.float32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros((rows, lanes), jnp.float32),
    )
    steps = pl.cdiv(jnp.maximum(end - start, 0), W)
    m_R, l_R, acc_RH = jax.lax.fori_loop(0, steps, step, carry)
    # Queries that have seen nothing sum to 0; dividing them by 1 gives 0.
    total_R = jnp.where(l_R == 0.0, 1.0, l_R)
    plgpu.store(out_ref, acc_RH / total_R[:, None], mask=inside_RH)
    plgpu.store(lse_ref, m_R + jnp.log(total_R), mask=inside_R)


def _dot(a, b, **transposed):
    # Without this, float32 operands would be rounded to TensorFloat-32.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return plgpu.dot(a, b, precision=precision, **transposed)
