"""FlashAttention for Hopper GPUs (Shah et al. 2024), through Mosaic GPU: TMA, wgmma, warpgroups.

The formulas are those of `triton.py`; what differs is who does what. A block of three warpgroups
computes 128 rows: one warpgroup only copies tiles into a ring of shared-memory slots, two only
compute, 64 rows each, with every accumulator in registers:

    copy     | K0 V0 | K1 V1 | wait for a free slot, K2 V2 | ...            (TMA)
    rows 0+  | q K0^T | softmax | p V0   | q K1^T | softmax | p V1  | ...   (wgmma)
    rows 64+ |        | q K0^T  | softmax | p V0  | q K1^T  | softmax | ... (wgmma)

In the forward pass the two take turns on the tensor cores: while one takes a softmax, the other
multiplies. A slot is filled when its `ready` barrier completes, and may be overwritten when both
have arrived at its `free` barrier.

             tiles of a block     resident               walks over
    forward  128 x k_tile         q                      k, v
    dq       128 x k_tile         q, dout, lse, delta    k, v
    dk, dv   q_tile x 128         k, v                   q, dout, lse, delta of its G heads

Exponentials are powers of two: log2(e) is folded into the scale.

Not yet run on a GPU, and therefore never picked unasked: what is known of them is in
docs/kernels.md. `python -m tools.benchmark_kernels` checks and times them.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gpt_jax.kernels.attention import pallas_gpu
from gpt_jax.kernels.attention import warpgroup as wg
from gpt_jax.kernels.attention.scores import HIDDEN, Options, visible
from gpt_jax.kernels.attention.tiles import loop_over, visible_tiles
from gpt_jax.kernels.attention.warpgroup import ROWS

BLOCK = 2 * ROWS
LOG2E = math.log2(math.e)
# (Rows of the tiles walked over, slots). Not measured: what fits.
FORWARD_BLOCKS, BACKWARD_BLOCKS = (128, 2), (64, 2)


def takes(q_BTNH, k_BSKH, options: Options) -> bool:
    """Whether `forward` and `backward` can compute attention of these shapes on this device."""
    device, (T, _, H), S = jax.devices()[0], q_BTNH.shape[1:], k_BSKH.shape[1]
    return (
        (device.platform != "gpu" or device.compute_capability == "9.0")
        and q_BTNH.dtype == jnp.bfloat16
        and H in (64, 128)
        and T % BLOCK == S % BLOCK == 0
        and options.softcap is None
        and options.scale > 0
    )


def forward(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    q_segments_BT,
    kv_segments_BS,
    q_offset,
    slopes_N,
    options,
    blocks=FORWARD_BLOCKS,
):
    """(out_BTNH, lse_BNT float32; -inf where a row sees nothing). See `api.attention_forward`."""
    if slopes_N is not None:  # ALiBi is Triton's.
        return pallas_gpu.forward(
            *(q_BTNH, k_BSKH, v_BSKH, q_segments_BT, kv_segments_BS, q_offset, slopes_N, options)
        )
    B, T, N, H = q_BTNH.shape
    k_tile, slots = blocks
    bounds_BI4, _ = visible_tiles(
        q_segments_BT, kv_segments_BS, q_offset, options, q_tile=BLOCK, k_tile=k_tile
    )
    return wg.kernel(
        functools.partial(_forward_kernel, group=N // k_BSKH.shape[2], options=options),
        grid=(N, T // BLOCK, B),
        out_type=[
            jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype),
            jax.ShapeDtypeStruct((B, N, T), jnp.float32),
        ],
        smem=[
            wg.tiles(2, ROWS, H),
            plgpu.SMEM((2, ROWS), jnp.float32),
            *[wg.tiles(slots, k_tile, H)] * 2,
        ],
        barriers=[
            plgpu.Barrier(num_barriers=2),
            *[plgpu.Barrier(num_barriers=slots)] * 2,
            *[plgpu.Barrier(num_arrivals=2, num_barriers=slots)] * 2,
            plgpu.Barrier(num_arrivals=2),
        ],
    )(
        (jnp.reshape(q_offset, 1), bounds_BI4, q_segments_BT, kv_segments_BS),
        *(q_BTNH, k_BSKH, v_BSKH),
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
    blocks=BACKWARD_BLOCKS,
):
    """(dq_BTNH, dk_BSKH, dv_BSKH). See `api.attention_backward`."""
    if slopes_N is not None:
        return pallas_gpu.backward(
            *(q_BTNH, k_BSKH, v_BSKH, q_segments_BT, kv_segments_BS, q_offset, slopes_N, options),
            *(out_BTNH, lse_BNT, dout_BTNH),
        )
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    tile, slots = blocks
    segments = (q_segments_BT, kv_segments_BS)
    of_q_BI4, _ = visible_tiles(*segments, q_offset, options, q_tile=BLOCK, k_tile=tile)
    _, of_k_BJ4 = visible_tiles(*segments, q_offset, options, q_tile=tile, k_tile=BLOCK)
    delta_BNT = jnp.einsum(
        "BTNH,BTNH->BNT", out_BTNH, dout_BTNH, preferred_element_type=jnp.float32
    )
    # For a row that sees nothing exp(-inf - inf) is 0, where exp(-inf + inf) would be NaN.
    lse_BNT = jnp.where(jnp.isneginf(lse_BNT), jnp.inf, LOG2E * lse_BNT)
    arrays = (q_BTNH, k_BSKH, v_BSKH, dout_BTNH, lse_BNT, delta_BNT)

    def barriers(copies):
        """(What stays has come, a slot's copies have come, a slot may be overwritten.)"""
        return [
            plgpu.Barrier(num_arrivals=2, num_barriers=2),
            plgpu.Barrier(num_arrivals=copies, num_barriers=slots),
            plgpu.Barrier(num_arrivals=2, num_barriers=slots),
        ]

    tiles = [*[wg.tiles(2, ROWS, H)] * 2, *[wg.tiles(slots, tile, H)] * 2]
    dq_BTNH = wg.kernel(
        functools.partial(_dq_kernel, group=N // K, options=options),
        grid=(N, T // BLOCK, B),
        out_type=jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype),
        smem=tiles,
        barriers=barriers(copies=2),
    )((jnp.reshape(q_offset, 1), of_q_BI4, *segments), *arrays)
    dk_BSKH, dv_BSKH = wg.kernel(
        functools.partial(_dkv_kernel, group=N // K, options=options),
        grid=(K, S // BLOCK, B),
        out_type=[jax.ShapeDtypeStruct(k_BSKH.shape, k_BSKH.dtype)] * 2,
        smem=[*tiles, *[plgpu.SMEM((slots, tile), jnp.float32)] * 2],
        barriers=barriers(copies=4),
    )((jnp.reshape(q_offset, 1), of_k_BJ4, *segments), *arrays)
    return dq_BTNH, dk_BSKH, dv_BSKH


def _forward_kernel(
    mask_refs, q_ref, k_ref, v_ref, out_ref, lse_ref, smem, barriers, *, group, options
):
    (_, bounds_ref, *_), (q_smem, lse_smem, k_smem, v_smem) = mask_refs, smem
    q_ready, k_ready, v_ready, k_free, v_free, turn = barriers
    n, b, me = jax.lax.axis_index("head"), jax.lax.axis_index("batch"), jax.lax.axis_index("wg")
    # Under a causal mask the last rows are the longest: they start first.
    block = bounds_ref.shape[1] - 1 - jax.lax.axis_index("block")
    bounds = [bounds_ref[b, block, x] for x in range(4)]
    slots, k_tile, H = k_smem.shape
    first, end = bounds[0], bounds[3]

    @pl.when(me == 2)
    def _copy():
        plgpu.set_max_registers(40, action="decrease")

        @pl.loop(0, end - first)
        def _(step):
            slot, wait = jax.lax.rem(step, slots), step >= slots
            rows = (b, pl.ds((first + step) * k_tile, k_tile), jax.lax.div(n, group))
            pl.when(wait)(lambda: plgpu.barrier_wait(k_free.at[slot]))
            plgpu.copy_gmem_to_smem(k_ref.at[rows], k_smem.at[slot], k_ready.at[slot])
            pl.when(wait)(lambda: plgpu.barrier_wait(v_free.at[slot]))
            plgpu.copy_gmem_to_smem(v_ref.at[rows], v_smem.at[slot], v_ready.at[slot])

        wg.drain(end - first, k_free, v_free)

    @pl.when(me < 2)
    def _compute():
        plgpu.set_max_registers(232, action="increase")
        q0 = block * BLOCK + me * ROWS
        rows = (b, pl.ds(q0, ROWS), n)
        plgpu.copy_gmem_to_smem(q_ref.at[rows], q_smem.at[me], q_ready.at[me])
        plgpu.barrier_wait(q_ready.at[me])

        def meet():
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def step(j, carry, masked):
            acc_IH, max_I, sum_I = carry
            slot = jax.lax.rem(j - first, slots)
            plgpu.barrier_wait(k_ready.at[slot])
            k_HJ = wg.transposed(k_smem.at[slot])
            # Once this product is on its way, the tensor cores are the other's.
            qk_IJ = wg.product(q_smem.at[me], k_HJ, (ROWS, k_tile), meanwhile=meet)
            plgpu.barrier_arrive(k_free.at[slot])
            if masked:
                qk_IJ = _hide(qk_IJ, b, q0, j * k_tile, mask_refs, options, q_axis=0)
            scale = options.scale * LOG2E
            new_max_I = jnp.maximum(max_I, qk_IJ.max(axis=1) * scale)
            p_IJ = jnp.exp2(qk_IJ * scale - wg.spread(new_max_I, qk_IJ.shape, 0))
            shrink_I = jnp.exp2(max_I - new_max_I)
            sum_I = shrink_I * sum_I + p_IJ.sum(axis=1)
            acc_IH = acc_IH * wg.spread(shrink_I, acc_IH.shape, 0)
            p_IJ = p_IJ.astype(v_ref.dtype)
            plgpu.barrier_wait(v_ready.at[slot])
            meet()  # And now they are mine again.
            acc_IH = wg.accumulate(acc_IH, p_IJ, v_smem.at[slot])
            plgpu.barrier_arrive(v_free.at[slot])
            return acc_IH, new_max_I, sum_I

        pl.when(me == 1)(meet)  # The second is half a step behind,
        carry = wg.filled((ROWS, H), 0.0), wg.filled((ROWS,), HIDDEN), wg.filled((ROWS,), 0.0)
        acc_IH, max_I, sum_I = loop_over(bounds, step, carry)
        pl.when(me == 0)(meet)  # and the first waits for it at the end.

        empty_I = sum_I == 0.0
        sum_I = jnp.where(empty_I, 1.0, sum_I)
        out_IH = acc_IH * wg.spread(1.0 / sum_I, acc_IH.shape, 0)
        q_smem.at[me][...] = out_IH.astype(out_ref.dtype)
        lse_smem.at[me][...] = jnp.where(empty_I, -jnp.inf, max_I / LOG2E + jnp.log(sum_I))
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_smem.at[me], out_ref.at[rows])
        plgpu.copy_smem_to_gmem(lse_smem.at[me], lse_ref.at[b, n, pl.ds(q0, ROWS)])
        plgpu.wait_smem_to_gmem(0)


def _dq_kernel(
    mask_refs,
    q_ref,
    k_ref,
    v_ref,
    dout_ref,
    lse_ref,
    delta_ref,
    dq_ref,
    smem,
    barriers,
    *,
    group,
    options,
):
    (_, bounds_ref, *_), (q_smem, dout_smem, k_smem, v_smem) = mask_refs, smem
    mine_ready, ready, free = barriers
    n, b, me = jax.lax.axis_index("head"), jax.lax.axis_index("batch"), jax.lax.axis_index("wg")
    block = bounds_ref.shape[1] - 1 - jax.lax.axis_index("block")
    bounds = [bounds_ref[b, block, x] for x in range(4)]
    slots, k_tile, H = k_smem.shape
    first, end = bounds[0], bounds[3]

    @pl.when(me == 2)
    def _copy():
        plgpu.set_max_registers(40, action="decrease")

        @pl.loop(0, end - first)
        def _(step):
            slot = jax.lax.rem(step, slots)
            rows = (b, pl.ds((first + step) * k_tile, k_tile), jax.lax.div(n, group))
            pl.when(step >= slots)(lambda: plgpu.barrier_wait(free.at[slot]))
            plgpu.copy_gmem_to_smem(k_ref.at[rows], k_smem.at[slot], ready.at[slot])
            plgpu.copy_gmem_to_smem(v_ref.at[rows], v_smem.at[slot], ready.at[slot])

        wg.drain(end - first, free)

    @pl.when(me < 2)
    def _compute():
        plgpu.set_max_registers(232, action="increase")
        q0 = block * BLOCK + me * ROWS
        rows = (b, pl.ds(q0, ROWS), n)
        plgpu.copy_gmem_to_smem(q_ref.at[rows], q_smem.at[me], mine_ready.at[me])
        plgpu.copy_gmem_to_smem(dout_ref.at[rows], dout_smem.at[me], mine_ready.at[me])
        lse_I = wg.load(lse_ref.at[b, n, pl.ds(q0, ROWS)], missing_axis=1)
        delta_I = wg.load(delta_ref.at[b, n, pl.ds(q0, ROWS)], missing_axis=1)
        plgpu.barrier_wait(mine_ready.at[me])

        def step(j, dq_IH, masked):
            slot = jax.lax.rem(j - first, slots)
            plgpu.barrier_wait(ready.at[slot])
            s_IJ = wg.product(q_smem.at[me], wg.transposed(k_smem.at[slot]), (ROWS, k_tile))
            if masked:
                s_IJ = _hide(s_IJ, b, q0, j * k_tile, mask_refs, options, q_axis=0)
            p_IJ = jnp.exp2(s_IJ * (options.scale * LOG2E) - wg.spread(lse_I, s_IJ.shape, 0))
            dp_IJ = wg.product(dout_smem.at[me], wg.transposed(v_smem.at[slot]), (ROWS, k_tile))
            ds_IJ = p_IJ * (dp_IJ - wg.spread(delta_I, s_IJ.shape, 0))
            dq_IH = wg.accumulate(dq_IH, ds_IJ.astype(k_ref.dtype), k_smem.at[slot])
            plgpu.barrier_arrive(free.at[slot])
            return dq_IH

        dq_IH = loop_over(bounds, step, wg.filled((ROWS, H), 0.0))
        q_smem.at[me][...] = (options.scale * dq_IH).astype(dq_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_smem.at[me], dq_ref.at[rows])
        plgpu.wait_smem_to_gmem(0)


def _dkv_kernel(
    mask_refs,
    q_ref,
    k_ref,
    v_ref,
    dout_ref,
    lse_ref,
    delta_ref,
    dk_ref,
    dv_ref,
    smem,
    barriers,
    *,
    group,
    options,
):
    _, bounds_ref, *_ = mask_refs
    k_smem, v_smem, q_smem, dout_smem, lse_smem, delta_smem = smem
    mine_ready, ready, free = barriers
    k, b, me = jax.lax.axis_index("head"), jax.lax.axis_index("batch"), jax.lax.axis_index("wg")
    block = jax.lax.axis_index("block")
    bounds = [bounds_ref[b, block, x] for x in range(4)]
    slots, q_tile, H = q_smem.shape
    first, steps = bounds[0], bounds[3] - bounds[0]

    @pl.when(me == 2)
    def _copy():
        plgpu.set_max_registers(40, action="decrease")

        @pl.loop(0, group)
        def _(g):
            @pl.loop(0, steps)
            def _(step):
                count, n = g * steps + step, k * group + g
                slot, rows = jax.lax.rem(count, slots), pl.ds((first + step) * q_tile, q_tile)
                pl.when(count >= slots)(lambda: plgpu.barrier_wait(free.at[slot]))
                for source, target in (
                    (q_ref.at[b, rows, n], q_smem),
                    (dout_ref.at[b, rows, n], dout_smem),
                    (lse_ref.at[b, n, rows], lse_smem),
                    (delta_ref.at[b, n, rows], delta_smem),
                ):
                    plgpu.copy_gmem_to_smem(source, target.at[slot], ready.at[slot])

        wg.drain(group * steps, free)

    @pl.when(me < 2)
    def _compute():
        plgpu.set_max_registers(232, action="increase")
        k0 = block * BLOCK + me * ROWS
        rows = (b, pl.ds(k0, ROWS), k)
        plgpu.copy_gmem_to_smem(k_ref.at[rows], k_smem.at[me], mine_ready.at[me])
        plgpu.copy_gmem_to_smem(v_ref.at[rows], v_smem.at[me], mine_ready.at[me])
        plgpu.barrier_wait(mine_ready.at[me])

        def one_head(g, carry):
            def step(i, carry, masked):
                dk_JH, dv_JH = carry
                slot = jax.lax.rem(g * steps + i - first, slots)
                plgpu.barrier_wait(ready.at[slot])
                s_JI = wg.product(k_smem.at[me], wg.transposed(q_smem.at[slot]), (ROWS, q_tile))
                if masked:
                    s_JI = _hide(s_JI, b, i * q_tile, k0, mask_refs, options, q_axis=1)
                lse_I = wg.load(lse_smem.at[slot], missing_axis=0)
                p_JI = jnp.exp2(s_JI * (options.scale * LOG2E) - wg.spread(lse_I, s_JI.shape, 1))
                dv_JH = wg.accumulate(dv_JH, p_JI.astype(q_ref.dtype), dout_smem.at[slot])
                dp_JI = wg.product(v_smem.at[me], wg.transposed(dout_smem.at[slot]), (ROWS, q_tile))
                delta_I = wg.load(delta_smem.at[slot], missing_axis=0)
                ds_JI = p_JI * (dp_JI - wg.spread(delta_I, s_JI.shape, 1))
                dk_JH = wg.accumulate(dk_JH, ds_JI.astype(q_ref.dtype), q_smem.at[slot])
                plgpu.barrier_arrive(free.at[slot])
                return dk_JH, dv_JH

            return loop_over(bounds, step, carry)

        zero_JH = wg.filled((ROWS, H), 0.0)
        dk_JH, dv_JH = jax.lax.fori_loop(0, group, one_head, (zero_JH, zero_JH))
        k_smem.at[me][...] = (options.scale * dk_JH).astype(dk_ref.dtype)
        v_smem.at[me][...] = dv_JH.astype(dv_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(k_smem.at[me], dk_ref.at[rows])
        plgpu.copy_smem_to_gmem(v_smem.at[me], dv_ref.at[rows])
        plgpu.wait_smem_to_gmem(0)


def _hide(products, b, q0, k0, mask_refs, options, q_axis):
    """-inf where the query on axis `q_axis`, from q0 on, may not read the key, from k0 on."""
    offset_ref, _, q_segments_ref, kv_segments_ref = mask_refs
    shape, k_axis = products.shape, 1 - q_axis
    q_rows, k_rows = pl.ds(q0, shape[q_axis]), pl.ds(k0, shape[k_axis])
    seen = visible(
        wg.spread(wg.load(q_segments_ref.at[b, q_rows], k_axis), shape, q_axis),
        wg.spread(wg.load(kv_segments_ref.at[b, k_rows], q_axis), shape, k_axis),
        offset_ref[0] + q0 - k0 + wg.iota(shape, q_axis) - wg.iota(shape, k_axis),
        options,
    )
    return jnp.where(seen, products, -jnp.inf)
