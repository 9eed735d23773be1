"""Attention over a mesh: every device computes with the kernel what its own queries see.

A kernel is one opaque call to XLA, which cannot split it; `jax.shard_map` does. Rows go over the
batch axes, heads over `tensor`, and sequences over `context`, as ring attention (Liu et al. 2023):

    device      0    1    2    3
    queries     Q0   Q1   Q2   Q3     stay
    step 0      K0   K1   K2   K3     keys, values and segment ids pass by; each step's partial
    step 1      K3   K0   K1   K2     result is merged with the others by its log-sum-exp
    step 2      K2   K3   K0   K1
    step 3      K1   K2   K3   K0

The backward pass sends the keys round again, and their gradients with them, so that no device
ever holds more than T / context tokens.

Under a causal mask device 0 would see something in one step and the last device in all of them.
So the sequence is first dealt out in twice as many pieces, of which device i of C gets pieces i
and 2C-1-i: every device then has the same work at every step. A sliding window keeps the plain
order, where the ring can stop as soon as what it sees has passed.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt_jax.kernels.attention import api
from gpt_jax.parallel import rules

(RING,) = rules.MESH_AXES["length"]


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    q_offset: jax.Array | int = 0,
    alibi_slopes_N: jax.Array | None = None,
    **options,
) -> jax.Array:
    """`api.attention` over the mesh in use; without one, just that.

    What the mesh does not divide every device holds whole: rows, query heads, a sequence; and so
    a cache. Key/value heads are repeated until `tensor` divides them.

    Args: those of the kernel; `options` are the static ones.
    """

    def local(q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, offset, slopes_N):
        if in_ring:
            return ring_attention(q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, slopes_N, **options)
        return api.attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            q_segment_ids_BT=q_segment_ids_BT,
            kv_segment_ids_BS=kv_segment_ids_BS,
            # A constant stays one: kernels skip blocks by it.
            q_offset=q_offset if isinstance(q_offset, int) else offset,
            alibi_slopes_N=slopes_N,
            **options,
        )

    mesh = jax.sharding.get_abstract_mesh()
    in_ring = False
    if not mesh.empty and mesh.size > 1:
        logical = ("batch", "length", "heads", None)
        batch, length, heads, _ = rules.fitting(mesh, q_BTNH.shape, logical)
        in_ring = (
            length is not None
            and mesh.shape[RING] > 1
            and isinstance(q_offset, int)
            and (q_offset, q_BTNH.shape[1]) == (0, k_BSKH.shape[1])
        )
        if heads:
            K = k_BSKH.shape[2]
            repeats = math.lcm(K, rules.shards(mesh, heads)) // K
            k_BSKH, v_BSKH = (jnp.repeat(x, repeats, axis=2) for x in (k_BSKH, v_BSKH))
        length = length if in_ring else None
        x = rules.partition_spec((batch, length, heads, None))
        ids = rules.partition_spec((batch, length))
        slopes = rules.partition_spec((heads,))
        local = jax.shard_map(
            local,
            in_specs=(x, x, x, ids, ids, PartitionSpec(), slopes),
            out_specs=x,
            check_vma=False,
        )
    return local(
        q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, q_offset, alibi_slopes_N
    )


def ring_attention(
    q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, alibi_slopes_N=None, *, causal=True, **options
):
    """Self-attention inside a `shard_map`, T being the tokens of one device of the ring."""
    options = {"causal": causal, **options}
    devices, tokens = jax.lax.axis_size(RING), segment_ids_BT.shape[1]
    window = options.get("window")
    if causal and window is None and tokens % 2 == 0:
        pieces, steps = 2, devices
    elif window is None:
        pieces, steps = 1, devices
    else:
        pieces, steps = 1, min(devices, 1 + -(-(window - 1) // tokens))
    arrays = (q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)
    if pieces == 2:
        arrays = tuple(deal_out(x) for x in arrays)
    static = (pieces, steps, tuple(options.items()))
    out_BTNH = _ring(static, *arrays, alibi_slopes_N)
    return collect(out_BTNH) if pieces == 2 else out_BTNH


def deal_out(x_BT: jax.Array) -> jax.Array:
    """From pieces 2i and 2i+1 of the T axis on device i to pieces i and 2C-1-i."""
    evens, odds = _deals()
    even, odd = jnp.split(x_BT, 2, axis=1)
    even, odd = jax.lax.ppermute(even, RING, evens), jax.lax.ppermute(odd, RING, odds)
    low, high = _swap_on_odd_devices(even, odd)
    return jnp.concatenate([low, high], axis=1)


def collect(x_BT: jax.Array) -> jax.Array:
    """The inverse of `deal_out`."""
    evens, odds = ([(to, source) for source, to in deal] for deal in _deals())
    even, odd = _swap_on_odd_devices(*jnp.split(x_BT, 2, axis=1))
    even, odd = jax.lax.ppermute(even, RING, evens), jax.lax.ppermute(odd, RING, odds)
    return jnp.concatenate([even, odd], axis=1)


def _deals() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(from, to) devices of the even and the odd pieces: each device gets one of either."""
    devices = jax.lax.axis_size(RING)
    deal = [(piece // 2, min(piece, 2 * devices - 1 - piece)) for piece in range(2 * devices)]
    return deal[0::2], deal[1::2]


def _swap_on_odd_devices(even: jax.Array, odd: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Piece i has the parity of its device, piece 2C-1-i has not.
    swap = jax.lax.axis_index(RING) % 2 == 1
    return jnp.where(swap, odd, even), jnp.where(swap, even, odd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(static, *arrays):
    return _ring_forward(static, *arrays)[0]


def _ring_forward(static, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, slopes_N):
    pieces, steps, options = static
    B, T, N, _ = q_BTNH.shape

    def attend(step, passing, out, lse):
        k, v, ids = passing
        for i, j, offset in _pairs(pieces, step, T):
            more, more_lse = api.attention_forward(
                q_BTNH[:, i],
                k[:, j],
                v[:, j],
                q_segment_ids_BT=segment_ids_BT[:, i],
                kv_segment_ids_BS=ids[:, j],
                q_offset=offset,
                alibi_slopes_N=slopes_N,
                **dict(options),
            )
            merged, lse_i = _merge(out[:, i], lse[:, :, i], more, more_lse)
            out, lse = out.at[:, i].set(merged), lse.at[:, :, i].set(lse_i)
        return out, lse

    def one_step(carry, step):
        passing, *results = carry
        # Asked for before the kernel runs, so that the keys travel meanwhile.
        following = _pass_on(passing)
        return (following, *attend(step, passing, *results)), None

    out = jnp.zeros(q_BTNH.shape, jnp.float32)
    lse = jnp.full((B, N, T), -jnp.inf)
    start = ((k_BTKH, v_BTKH, segment_ids_BT), out, lse)
    (passing, out, lse), _ = jax.lax.scan(one_step, start, jnp.arange(steps - 1))
    out, lse = attend(steps - 1, passing, out, lse)
    out = out.astype(q_BTNH.dtype)
    return out, (q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, slopes_N, out, lse)


def _ring_backward(static, residuals, dout_BTNH):
    pieces, steps, options = static
    q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, slopes_N, out_BTNH, lse_BNT = residuals
    T = q_BTNH.shape[1]

    def attend(step, passing, gradients, dq):
        k, v, ids = passing
        dk, dv = gradients
        for i, j, offset in _pairs(pieces, step, T):
            more_q, more_k, more_v = api.attention_backward(
                q_BTNH[:, i],
                k[:, j],
                v[:, j],
                out_BTNH[:, i],
                lse_BNT[:, :, i],
                dout_BTNH[:, i],
                q_segment_ids_BT=segment_ids_BT[:, i],
                kv_segment_ids_BS=ids[:, j],
                q_offset=offset,
                alibi_slopes_N=slopes_N,
                **dict(options),
            )
            dq, dk, dv = dq.at[:, i].add(more_q), dk.at[:, j].add(more_k), dv.at[:, j].add(more_v)
        return (dk, dv), dq

    def one_step(carry, step):
        passing, *results = carry
        following = _pass_on(passing)
        gradients, dq = attend(step, passing, *results)
        return (following, _pass_on(gradients), dq), None

    zeros_q, zeros_k, zeros_v = (jnp.zeros(x.shape, jnp.float32) for x in (q_BTNH, k_BTKH, v_BTKH))
    start = ((k_BTKH, v_BTKH, segment_ids_BT), (zeros_k, zeros_v), zeros_q)
    (passing, gradients, dq), _ = jax.lax.scan(one_step, start, jnp.arange(steps - 1))
    gradients, dq = attend(steps - 1, passing, gradients, dq)
    dk, dv = _pass_on(gradients, 1 - steps)  # home
    return dq.astype(q_BTNH.dtype), dk.astype(k_BTKH.dtype), dv.astype(v_BTKH.dtype), None, None


_ring.defvjp(_ring_forward, _ring_backward)


def _pairs(pieces: int, step: jax.Array | int, T: int):
    """(queries, keys, q_offset) of every pair of pieces that meet on this device at a step.

    Queries and keys are slices of the T axis. Where the offset is negative, all keys come later
    than all queries, and the kernel has nothing to do.
    """
    devices, here = jax.lax.axis_size(RING), jax.lax.axis_index(RING)
    source = (here - step) % devices  # where the keys come from
    if pieces == 1:
        yield slice(None), slice(None), (here - source) * T
        return
    size = T // 2
    low, high = slice(size), slice(size, None)
    yield low, low, (here - source) * size
    yield high, high, (source - here) * size
    yield high, low, (2 * devices - 1 - here - source) * size  # no low query sees a high key


def _merge(out, lse_BNT, more, more_lse_BNT):
    """Two attention results over different keys -> the result over all of them, float32."""
    total_BNT = jnp.logaddexp(lse_BNT, more_lse_BNT)
    finite_BNT = jnp.where(total_BNT == -jnp.inf, 0.0, total_BNT)  # a query that sees nothing yet
    share, more_share = (
        jnp.exp(part - finite_BNT).swapaxes(1, 2)[..., None] for part in (lse_BNT, more_lse_BNT)
    )
    return share * out + more_share * more, total_BNT


def _pass_on(arrays, hops: int = 1):
    """Sends every array `hops` devices round the ring."""
    devices = jax.lax.axis_size(RING)
    ring = [(device, (device + hops) % devices) for device in range(devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, RING, ring), arrays)
