"""What the Hopper kernels take. Their numbers: test_attention_parity.py, on JAX 0.11.2 or later."""

import dataclasses

import jax
import jax.numpy as jnp

from gpt_jax.kernels.attention import mosaic_gpu
from gpt_jax.kernels.attention.scores import Options

OPTIONS = Options(causal=True, window=None, softcap=None, scale=0.125)


def test_other_shapes_are_left_to_triton():
    def takes(T=256, H=64, dtype=jnp.bfloat16, options=OPTIONS):
        q = jax.ShapeDtypeStruct((1, T, 2, H), dtype)
        return mosaic_gpu.takes(q, q, options)

    assert takes() and takes(H=128)
    assert not takes(T=200) and not takes(H=80) and not takes(dtype=jnp.float32)
    assert not takes(options=dataclasses.replace(OPTIONS, softcap=30.0))
