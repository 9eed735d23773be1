"""Decode attention for TPUs: the cache streams through the chip once, all heads side by side.

With one query per head a step does two multiplications per cache entry, so the time is that of
reading the cache. The softmax is taken online (Milakov & Gimelshein 2018) over steps of W entries;
with a step's scores s = scale q k^T, for each query the maximum m, the sum l and the result acc are

    m' = max(m, max s)        p = exp(s - m')
    l' = exp(m - m') l + sum p        acc' = exp(m - m') acc + p v        out = acc / l

which merges split softmaxes (Dao et al. 2023) one after another: one TPU core reads at the chip's
full bandwidth, or its share of it, so rows of the batch, not splits, go to different cores.

A cache entry lies in memory as J heads of H lanes; a slice of one head would not fill a lane tile.
So the queries are laid out block-diagonally, and one product gives the scores of all J heads:

             <--- J * H lanes --->
             +----+----+----+----+                        +--------------------+
    head 0   | q0 |    |    |    |      k, W entries      | k0 | k1 | k2 | k3  |
    head 1   |    | q1 |    |    |      of J * H lanes:   | k0 | k1 | k2 | k3  |
    head 2   |    |    | q2 |    |                        |        ...         |
    head 3   |    |    |    | q3 |                        +--------------------+
             +----+----+----+----+
    J * G * T rows (G query heads share a key head)

The zeros are free: the matrix unit's time is that of loading k, whatever the rows (up to 128).
p v holds every head's result under every head's values; the diagonal blocks are kept.

Grid (B, K / J, steps). A row visits only the steps that its entries need; for the rest of its grid
steps the block indices already name the next row's first block, so its copy starts early. A page
is a block, or (small pages) a step reads several, each through a view of the cache of its own.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gpt_jax.kernels.decode_attention.layout import Cache, Options, pages_of_all_layers
from gpt_jax.kernels.decode_attention.visible import read_range, visible

HIDDEN = -1e30  # A hidden score: finite, and exp(HIDDEN - m) is 0 for every m >= LEAST_MAX.
LEAST_MAX = -1e29
LANES = 128
MAX_LANES = 1024  # of the heads side by side, where fewer than all will do
MAX_ROWS = 128
BLOCK_BYTES = 2**20  # of a step's keys: about a microsecond to read
MAX_ENTRIES = 2048
MAX_PIECES = 16  # pages that one step reads


class Blocks(NamedTuple):
    """A step reads `pieces` x `entries` cache entries of `heads` key heads (J)."""

    heads: int
    entries: int
    pieces: int


def takes(q_BTNH: jax.Array, cache: Cache) -> bool:
    return choose_blocks(q_BTNH, cache) is not None


def choose_blocks(q_BTNH: jax.Array, cache: Cache) -> Blocks | None:
    """Block sizes whose last two axes Mosaic can tile, or None where there are none."""
    T, N, H = q_BTNH.shape[1:]
    S, K = cache.k_LRSKH.shape[2:4]
    dtypes = (jnp.float32, jnp.bfloat16)
    if q_BTNH.dtype not in dtypes or cache.k_LRSKH.dtype not in (*dtypes, jnp.int8):
        return None

    tiled = [
        J
        for J in range(1, K + 1)
        if K % J == 0
        and (J == K or J * H % LANES == 0)
        and (J == K or J % 8 == 0 or cache.k_scale_LRKS is None)
    ]
    J = max(
        (J for J in tiled if J * H <= MAX_LANES and J * (N // K) * T <= MAX_ROWS),
        default=tiled[0],
    )
    if J * (N // K) * T > 4 * MAX_ROWS or J * H > 4 * MAX_LANES:
        return None

    fitting = BLOCK_BYTES // (J * H * cache.k_LRSKH.dtype.itemsize)
    entries = max(LANES, min(MAX_ENTRIES, 2 ** (fitting.bit_length() - 1)))
    if cache.page_table_BP is None:
        return Blocks(J, min(entries, S), 1)
    if entries <= S:
        return Blocks(J, entries, 1) if S % entries == 0 else None
    P = cache.page_table_BP.shape[1]
    pieces = min(entries // S, MAX_PIECES, P)
    whole_tiles = S * cache.k_LRSKH.dtype.itemsize % 32 == 0
    return (
        Blocks(J, S, pieces) if whole_tiles and (pieces == P or pieces * S % LANES == 0) else None
    )


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
    J, W, pieces = choose_blocks(q_BTNH, cache)
    X, G = K // J, N // K
    rows = J * G * T
    padded_rows = -(-rows // 16) * 16

    table_BP = pages_of_all_layers(cache, B)
    P = table_BP.shape[1]
    parts = -(-S // W)  # of a page
    mask_BTS = visible(T, P * S, lengths_B, q_segment_ids_BT, kv_segment_ids_BS, options.window)
    first_B, end_B = read_range(mask_BTS)
    begin_B = first_B // (pieces * W)
    count_B = -(-end_B // (pieces * W)) - begin_B
    scalars = (table_BP.reshape(-1), begin_B, count_B, lengths_B)

    # Row (j, g, t) holds query head (j, g) in the lanes of key head j.
    eye_JJ = jnp.eye(J, dtype=q_BTNH.dtype)
    q_BXRI = jnp.einsum("BTXJGH,JY->BXJGTYH", q_BTNH.reshape(B, T, X, J, G, H), eye_JJ)
    q_BXRI = q_BXRI.reshape(B, X, rows, J * H)
    q_BXRI = jnp.pad(q_BXRI, ((0, 0), (0, 0), (0, padded_rows - rows), (0, 0)))

    def place(b, x, i, begin, count):
        """(row, head group, step) of a grid step; when the row is done, of the next one's first."""
        done = (i >= count[b]).astype(jnp.int32)
        wrap = done * (x == X - 1)
        next_b = jnp.minimum(b + wrap, B - 1)
        return next_b, (1 - wrap) * (x + done), begin[next_b] + (1 - done) * i

    def of_rows(b, x, i, *scalars):
        return b, x, 0, 0

    def of_entries(piece, b, x, i, table, begin, count, lengths):
        b, x, step = place(b, x, i, begin, count)
        # Beyond the row's last entry the table may hold anything.
        last = div(jnp.maximum(lengths[b] - 1, 0), W)
        number = jnp.minimum(step * pieces + piece, last)
        return table[b * P + div(number, parts)], rem(number, parts), x

    def of_scales(piece, *indices):
        page, part, x = of_entries(piece, *indices)
        return page, x, part

    def of_segments(b, x, i, table, begin, count, lengths):
        b, _, step = place(b, x, i, begin, count)
        return b, 0, step

    def specs(block, index):
        return [pl.BlockSpec(block, functools.partial(index, piece)) for piece in range(pieces)]

    operands, in_specs = [q_BXRI], [pl.BlockSpec((None, None, padded_rows, J * H), of_rows)]
    for stack in (cache.k_LRSKH, cache.v_LRSKH):
        operands += [stack.reshape(L * R, S, K * H)] * pieces
        in_specs += specs((None, W, J * H), of_entries)
    if cache.k_scale_LRKS is not None:
        for stack in (cache.k_scale_LRKS, cache.v_scale_LRKS):
            operands += [stack.reshape(L * R, K, S)] * pieces
            in_specs += specs((None, J, W), of_scales)
    if kv_segment_ids_BS is not None:
        # The queries' ids, one sublane per row of queries.
        q_segments_BR = jnp.tile(q_segment_ids_BT, (1, -(-padded_rows // T)))[:, :padded_rows]
        operands += [q_segments_BR[:, :, None], kv_segment_ids_BS[:, None]]
        in_specs += [
            pl.BlockSpec((None, padded_rows, 1), lambda b, *_: (b, 0, 0)),
            pl.BlockSpec((None, 1, pieces * W), of_segments),
        ]
    # At most, where all rows are full. Planners ask for it: of the operands one layer is read.
    entries = B * P * S
    cost = pl.CostEstimate(
        flops=4 * entries * N * T * H,
        transcendentals=entries * N * T,
        bytes_accessed=2 * entries * K * H * cache.k_LRSKH.dtype.itemsize,
    )
    call = functools.partial(
        pl.pallas_call,
        functools.partial(_kernel, T, G, J, pieces, cache.k_scale_LRKS is not None, options),
        cost_estimate=cost,
        out_shape=jax.ShapeDtypeStruct((B, X, padded_rows, J * H), q_BTNH.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(B, X, -(-P * parts // pieces)),
            in_specs=in_specs,
            out_specs=pl.BlockSpec((None, None, padded_rows, J * H), of_rows),
            scratch_shapes=[
                pltpu.VMEM((padded_rows, 1), jnp.float32),
                pltpu.VMEM((padded_rows, 1), jnp.float32),
                pltpu.VMEM((padded_rows, J * H), jnp.float32),
            ],
        ),
    )
    semantics = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
    out_BXRI = jax.lax.platform_dependent(
        *scalars,
        *operands,
        cpu=call(interpret=True),
        default=call(compiler_params=semantics),
    )
    # The diagonal blocks: the row's own head j among the J that lie side by side.
    out_BXJGTH = jnp.einsum("BXJGTJH->BXJGTH", out_BXRI[:, :, :rows].reshape(B, X, J, G, T, J, H))
    return out_BXJGTH.transpose(0, 4, 1, 2, 3, 5).reshape(B, T, N, H)


def div(x: jax.Array, y: int) -> jax.Array:
    """x // y of numbers that are not negative (`//` asks the chip for its sign instruction)."""
    return jax.lax.div(x, jnp.int32(y))


def rem(x: jax.Array, y: int) -> jax.Array:
    return jax.lax.rem(x, jnp.int32(y))


def _kernel(T, G, J, pieces, int8, options, table, begin, count, lengths, q_RI, *refs):
    """One step: see the formulas at the top. Rows of queries down, entries across."""
    *refs, out_RI, m_R1, l_R1, acc_RI = refs
    refs = list(refs)

    def step(axis):
        """The next `pieces` operands as one block."""
        parts = [refs.pop(0)[...] for _ in range(pieces)]
        return jnp.concatenate(parts, axis=axis) if pieces > 1 else parts[0]

    b, i = pl.program_id(0), pl.program_id(2)

    @pl.when(i == 0)
    def _():
        m_R1[...] = jnp.full(m_R1.shape, LEAST_MAX)
        l_R1[...] = jnp.zeros(l_R1.shape)
        acc_RI[...] = jnp.zeros(acc_RI.shape)

    @pl.when(i < count[b])
    def _():
        q, k, v = q_RI[...], step(0), step(0)
        # float32 products in full precision; bfloat16 ones are exact in one pass.
        dot = functools.partial(
            jax.lax.dot_general,
            precision="highest" if q.dtype == jnp.float32 else None,
            preferred_element_type=jnp.float32,
        )
        s = dot(q, k.astype(q.dtype), (((1,), (1,)), ((), ()))) * options.scale
        rows = jax.lax.broadcasted_iota(jnp.int32, s.shape, 0)
        index = (begin[b] + i) * s.shape[1] + jax.lax.broadcasted_iota(jnp.int32, s.shape, 1)
        if int8:
            # A product with ones and zeros hands every row its head's factors.
            heads = div(jax.lax.broadcasted_iota(jnp.int32, (s.shape[0], J), 0), G * T)
            own_RJ = heads == jax.lax.broadcasted_iota(jnp.int32, (s.shape[0], J), 1)
            own_RJ = own_RJ.astype(jnp.float32)
            k_scale, v_scale = (jnp.dot(own_RJ, step(1), precision="highest") for _ in "kv")
            s *= k_scale
        if options.softcap is not None:
            s = options.softcap * jnp.tanh(s / options.softcap)
        own_index = lengths[b] - T + rem(rows, T)
        seen = index <= own_index
        if options.window is not None:
            seen &= index > own_index - options.window
        if refs:
            q_segments_R1, kv_segments_1S = refs[0][...], refs[1][...]
            seen &= (q_segments_R1 == kv_segments_1S) & (q_segments_R1 != 0)
        s = jnp.where(seen, s, HIDDEN)

        m = jnp.maximum(m_R1[...], s.max(axis=1, keepdims=True))
        p, old = jnp.exp(s - m), jnp.exp(m_R1[...] - m)
        m_R1[...] = m
        l_R1[...] = l_R1[...] * old + p.sum(axis=1, keepdims=True)
        if int8:
            p = jnp.where(seen, p * v_scale, 0.0)
        # A block that juts out over the cache's end holds anything there, and 0 * NaN is NaN.
        entry = (begin[b] + i) * v.shape[0] + jax.lax.broadcasted_iota(jnp.int32, v.shape, 0)
        v = jnp.where(entry < lengths[b], v.astype(q.dtype), 0)
        acc_RI[...] = acc_RI[...] * old + dot(p.astype(q.dtype), v, (((1,), (0,)), ((), ())))

    @pl.when(i == pl.num_programs(2) - 1)
    def _():
        # A query that has read nothing sums to 0; dividing it by 1 gives 0.
        total_R1 = jnp.where(l_R1[...] == 0.0, 1.0, l_R1[...])
        out_RI[...] = (acc_RI[...] / total_R1).astype(out_RI.dtype)
