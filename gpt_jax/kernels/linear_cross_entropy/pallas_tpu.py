"""The forward pass of linear cross-entropy as one TPU kernel: no logit leaves the chip's VMEM.

The softmax's statistics are kept running while tiles of the vocabulary go by (Milakov and
Gimelshein 2018, algorithm 3). With m the largest logit so far, and over the columns so far

    s = sum exp(z - m)        e = sum exp(z - m) (z - m)        t = the target's z, once met

a tile with the largest logit m' = max(m, max z) first moves the sums to its shift,

    e <- exp(m - m') (e + (m - m') s)        s <- exp(m - m') s

and then adds its own. At the end lse = m + log s and entropy = log s - e / s.

                    D: a tile of logits is summed over its blocks
                   +-----+-----+-----+
    unembed_VD     |     |     |     |  COLUMNS rows: tiles of the vocabulary, in order
                   +-----+-----+-----+
                                            grid = (tiles of M, tiles of V, blocks of D)
    hidden_MD      +-----+-----+-----+      logits (ROWS x COLUMNS), m, s, e, t stay in VMEM
                   |     |     |     |  ROWS rows
                   +-----+-----+-----+

The backward pass is that of xla.py: knowing lse, XLA computes a chunk's logits and turns them into
gradients within one fused matmul, and on these chips keeps the bfloat16 result in VMEM as well.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# A tile's matmul takes 2 ROWS COLUMNS D flops and reads 2 (ROWS + COLUMNS) D bytes: 512 flops a
# byte, above what a v5e (240) or a v5p (166) needs to be busy, and near a v6e (560).
ROWS, COLUMNS, WIDTH = 1024, 1024, 1024
VMEM_BYTES = 48 * 2**20
HIDDEN = -1e30  # The logit of a column beyond V: finite, and its exp is 0.


def takes(hidden_MD):
    """Whether blocks of the width fit: a multiple of 128, or small enough to be one block."""
    D = hidden_MD.shape[-1]
    return D % 128 == 0 or D <= WIDTH


def statistics(hidden_MD, unembed_VD, targets_M, temperature, softcap):
    """See `xla.statistics`."""
    (M, D), V = hidden_MD.shape, unembed_VD.shape[0]
    rows, columns, width = min(ROWS, M), min(COLUMNS, V), _width_block(D)
    column = pltpu.VMEM((rows, 1), jnp.float32)
    statistics_M4 = pl.pallas_call(
        functools.partial(_kernel, V=V, temperature=temperature, softcap=softcap),
        out_shape=jax.ShapeDtypeStruct((M, 4), jnp.float32),
        grid=(pl.cdiv(M, rows), pl.cdiv(V, columns), D // width),
        in_specs=[
            pl.BlockSpec((rows, 1), lambda m, v, d: (m, 0)),
            pl.BlockSpec((rows, width), lambda m, v, d: (m, d)),
            pl.BlockSpec((columns, width), lambda m, v, d: (v, d)),
        ],
        out_specs=pl.BlockSpec((rows, 4), lambda m, v, d: (m, 0)),
        scratch_shapes=[pltpu.VMEM((rows, columns), jnp.float32), column, column, column, column],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=VMEM_BYTES,
        ),
        name="linear_cross_entropy",
    )(targets_M[:, None], hidden_MD, unembed_VD.astype(hidden_MD.dtype))
    return tuple(statistics_M4.T)


def _width_block(D):
    if D % 128:
        return D
    return max(width for width in range(128, WIDTH + 1, 128) if D % width == 0)


def _kernel(
    targets,
    hidden,
    unembed,
    out,
    logits,
    max_,
    sum_,
    sum_shifted,
    target,
    *,
    V,
    temperature,
    softcap,
):
    v, d = pl.program_id(1), pl.program_id(2)

    @pl.when((v == 0) & (d == 0))
    def _():
        max_[...] = jnp.full_like(max_, HIDDEN)
        sum_[...] = sum_shifted[...] = target[...] = jnp.zeros_like(sum_)

    @pl.when(d == 0)
    def _():
        logits[...] = jnp.zeros_like(logits)

    logits[...] += jax.lax.dot_general(
        hidden[...], unembed[...], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )

    @pl.when(d == pl.num_programs(2) - 1)
    def _():
        z = logits[...]
        if softcap is not None:
            z = softcap * jnp.tanh(z / softcap)
        column = v * logits.shape[1] + jax.lax.broadcasted_iota(jnp.int32, z.shape, 1)
        # What lies beyond the last row of the unembedding is not even a number.
        z = jnp.where(column < V, z / temperature, HIDDEN)
        target[...] += jnp.where(column == targets[...], z, 0.0).sum(axis=1, keepdims=True)

        largest = jnp.maximum(max_[...], z.max(axis=1, keepdims=True))
        move = max_[...] - largest
        shifted = z - largest
        exp = jnp.exp(shifted)
        sum_shifted[...] = jnp.exp(move) * (sum_shifted[...] + move * sum_[...])
        sum_shifted[...] += (exp * shifted).sum(axis=1, keepdims=True)
        sum_[...] = jnp.exp(move) * sum_[...] + exp.sum(axis=1, keepdims=True)
        max_[...] = largest

    @pl.when((v == pl.num_programs(1) - 1) & (d == pl.num_programs(2) - 1))
    def _():
        logsum = jnp.log(sum_[...])
        entropy = logsum - sum_shifted[...] / sum_[...]
        lane = jax.lax.broadcasted_iota(jnp.int32, out.shape, 1)
        out[...] = jnp.where(
            lane < 2,
            jnp.where(lane == 0, target[...], max_[...]),
            jnp.where(lane == 2, logsum, entropy),
        )
