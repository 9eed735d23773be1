"""Every GPU attention kernel, forward and backward, through NVIDIA's compiler for an H100."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.kernels.attention import attention
from gpt_jax.plan import targets

# What a program calls a kernel by.
TARGETS = {"pallas_gpu": "__gpu$xla.gpu.triton", "mosaic_gpu": "mosaic_gpu_v2"}
SHAPES = {  # B, T, N, K, H
    "gpt2": (8, 1024, 12, 12, 64),
    "llama 8b": (1, 8192, 32, 8, 128),
    "gpt3": (1, 2048, 96, 96, 128),
}


def compile_gradient(implementation, B, T, N, K, H, dtype=jnp.bfloat16, **options):
    """The compiled forward and backward pass on one described H100."""
    mesh = Mesh(targets.devices("h100:1"), "x")

    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    def gradient(q, k, v, segments, q_offset, dout):
        def out(q, k, v):
            return attention(
                q,
                k,
                v,
                q_segment_ids_BT=segments,
                kv_segment_ids_BS=segments,
                q_offset=q_offset,
                implementation=implementation,
                **options,
            )

        out_BTNH, pullback = jax.vjp(out, q, k, v)
        return out_BTNH, pullback(dout)

    q, kv = array(B, T, N, H), array(B, T, K, H)
    segments, q_offset = array(B, T, dtype=jnp.int32), array(dtype=jnp.int32)
    return jax.jit(gradient).lower(q, kv, kv, segments, q_offset, q).compile()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("implementation", TARGETS)
def test_kernels_compile_for_hopper(implementation, shape):
    """The kernels are in the program: forward, dq, dk and dv. Nothing of size T x T is."""
    B, T, N, _, _ = SHAPES[shape]
    compiled = compile_gradient(implementation, *SHAPES[shape])
    assert compiled.as_text().count(f'custom_call_target="{TARGETS[implementation]}"') == 3
    # Log-sum-exp, delta, tile bounds and converted copies: all of size B x N x T x H or less.
    assert compiled.memory_analysis().temp_size_in_bytes < B * N * T * T


@pytest.mark.parametrize("H, dtype", [(80, "bfloat16"), (96, "float32"), (256, "bfloat16")])
def test_triton_compiles_with_every_option(H, dtype):
    compile_gradient(
        "pallas_gpu",
        *(2, 1000, 4, 2, H),
        dtype=dtype,
        window=300,
        softcap=30.0,
        alibi_slopes_N=jnp.full(4, 0.1),
    )
