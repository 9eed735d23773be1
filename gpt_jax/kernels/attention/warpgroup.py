"""The operations that the Hopper kernels are written in: what a warpgroup does with its tiles.

Matrices lie in registers as wgmma leaves them; a vector lies as a matrix that lacks one axis.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS = 64  # of a warpgroup's matrices: what one wgmma multiplies


def drain(steps, *free_barriers):
    """Waits until what was copied last has been read: no block ends with a barrier pending."""
    for barriers in free_barriers:
        slots = barriers.shape[0]
        pl.loop(0, jnp.minimum(steps, slots))(lambda x, b=barriers: plgpu.barrier_wait(b.at[x]))


def product(a, b, shape, meanwhile=lambda: None):
    """a b, from shared memory into registers; `meanwhile` is called while it is computed."""

    def multiply(acc_ref):
        plgpu.wgmma(acc_ref, a, b)
        meanwhile()
        return acc_ref[...]

    return pl.run_scoped(multiply, plgpu.ACC(shape, jnp.float32))


def accumulate(acc, a, b):
    """acc + a b, in acc's registers."""
    return pl.run_state(lambda acc_ref: plgpu.wgmma(acc_ref, a, b))(plgpu.ACC.init(acc))


def filled(shape, value):
    """A matrix, or a vector with an entry per row of one."""
    layout = plgpu.Layout.WGMMA if len(shape) == 2 else plgpu.Layout.WGMMA.reduce(1)
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def load(ref, missing_axis):
    """A vector along the other axis of a matrix in registers."""
    return plgpu.load(ref, (), layout=plgpu.Layout.WGMMA.reduce(missing_axis), optimized=False)


def iota(shape, axis):
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)


def spread(vector, shape, axis):
    return jax.lax.broadcast_in_dim(vector, shape, [axis])


def transposed(ref):
    return plgpu.transpose_ref(ref, (1, 0))


def tiles(count, rows, H):
    """Shared memory for `count` bfloat16 tiles, laid out as wgmma and TMA want them."""
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM((count, rows, H), jnp.bfloat16, transforms=transforms)


def kernel(body, *, smem, barriers, **how):
    """A kernel of three warpgroups to a block: body(*inputs, *outputs, smem, barriers)."""
    return plgpu.kernel(
        functools.update_wrapper(body, body.func),  # A profile shows its name.
        grid_names=("head", "block", "batch"),
        num_threads=3,
        thread_name="wg",
        scratch_types=[smem, barriers],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **how,
    )
