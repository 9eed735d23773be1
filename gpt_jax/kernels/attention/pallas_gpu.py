"""Attention on NVIDIA GPUs: which kernel computes a call, and with which tiles."""

import jax
import jax.numpy as jnp

from gpt_jax.kernels.attention import triton
from gpt_jax.kernels.attention.scores import Options

# (head size at most, bytes of a number) -> (query tile, key tile, warps, pipeline stages), of the
# forward and of the backward kernels. Not measured: tiles that the compiler fits into registers
# and shared memory. `python -m tools.benchmark_kernels --refresh-blocks` measures others.
TRITON_BLOCKS = {
    (64, 2): ((128, 64, 4, 3), (64, 64, 4, 2)),
    (128, 2): ((128, 64, 8, 2), (64, 64, 8, 2)),
    (256, 2): ((64, 32, 8, 2), (32, 32, 8, 1)),
    (64, 4): ((32, 32, 4, 1), (32, 32, 8, 1)),
    (128, 4): ((32, 32, 8, 1), (32, 16, 8, 1)),
    (256, 4): ((32, 16, 8, 1), (16, 16, 8, 1)),
}


def takes(q_BTNH, k_BSKH, options: Options) -> bool:
    """Whether `forward` and `backward` can compute attention of these shapes on this GPU."""
    device = jax.devices()[0]
    old = device.platform == "gpu" and float(device.compute_capability) < 8.0
    return not old and q_BTNH.dtype in (jnp.float32, jnp.bfloat16) and q_BTNH.shape[-1] <= 256


def forward(*inputs):
    """(out_BTNH, lse_BNT). Arguments as in `xla.forward`."""
    return triton.forward(*inputs, triton_blocks(inputs[0])[0])


def backward(*inputs):
    """(dq_BTNH, dk_BSKH, dv_BSKH). Arguments as in `xla.backward`."""
    return triton.backward(*inputs, triton_blocks(inputs[0])[1])


def triton_blocks(q_BTNH):
    H, size = q_BTNH.shape[-1], q_BTNH.dtype.itemsize
    return next(TRITON_BLOCKS[key] for key in TRITON_BLOCKS if key[0] >= H and size == key[1])
