"""The kernels at published shapes, through the compilers of the chips they are for."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.kernels.decode_attention import decode_attention
from gpt_jax.plan import hlo, targets

SHAPES = {
    "gpt2": dict(B=64, N=12, K=12, H=64, S=1024),
    "gpt2_xl": dict(B=8, N=25, K=25, H=64, S=1024),
    "llama3_8b": dict(B=64, N=32, K=8, H=128, S=8192),
    "gpt3_2.7b": dict(B=8, N=32, K=32, H=80, S=2048),
    "gpt3_175b": dict(B=16, N=96, K=96, H=128, S=2048),
    "gpt2, float32": dict(B=8, N=12, K=12, H=64, S=1024, dtype=jnp.float32),
    "llama3_8b, window": dict(B=64, N=32, K=8, H=128, S=8192, window=1024, softcap=50.0),
    "llama3_8b, 4 tokens": dict(B=64, T=4, N=32, K=8, H=128, S=8192),
    "llama3_8b, int8": dict(B=64, N=32, K=8, H=128, S=8192, entries=jnp.int8),
    "llama3_8b, pages": dict(B=64, N=32, K=8, H=128, S=8192, page=16),
    "llama3_8b, int8 pages": dict(B=64, N=32, K=8, H=128, S=8192, page=128, entries=jnp.int8),
    "any length": dict(B=3, T=3, N=6, K=3, H=96, S=777),
}


def compile_for(
    device, implementation, B, N, K, H, S, T=1, page=None, dtype=jnp.bfloat16, **options
):
    """Compiles the op over the cache of two layers; returns the program."""
    entries = options.pop("entries", dtype)
    R, P = (B, None) if page is None else (B * S // page, S // page)
    length = page or S
    sharding = NamedSharding(Mesh([device], "x"), PartitionSpec())

    def array(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    arrays = dict(
        q_BTNH=array(B, T, N, H, dtype=dtype),
        lengths_B=array(B),
        q_segment_ids_BT=array(B, T),
        kv_segment_ids_BS=array(B, S),
        layer=array(),
        page_table_BP=None if page is None else array(B, P),
    )
    if entries == jnp.int8:
        arrays["k_scale_RKS"] = arrays["v_scale_RKS"] = array(2, R, K, length, dtype=jnp.float32)
    stack = array(2, R, length, K * H, dtype=entries)

    def call(arrays, k, v):
        k, v = (x.reshape(2, R, length, K, H) for x in (k, v))
        return decode_attention(
            k_RSKH=k, v_RSKH=v, implementation=implementation, **arrays, **options
        )

    lowered = jax.jit(call).lower(arrays, stack, stack)
    assert "custom_call" in lowered.as_text()
    return lowered.compile()


def check(compiled):
    """No copy of the cache is made."""
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < memory.argument_size_in_bytes / 20


@pytest.mark.parametrize("shape", SHAPES)
def test_the_tpu_kernel_compiles_and_copies_no_cache(shape):
    """The smallest chip takes every shape; the others are the same program with more memory."""
    check(compile_for(targets.devices("v5e:2x2")[0], "pallas_tpu", **SHAPES[shape]))


@pytest.mark.parametrize("chip", ["v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("shape", ["gpt2", "llama3_8b", "gpt3_175b", "llama3_8b, int8 pages"])
def test_the_tpu_kernel_compiles_for_other_chips(chip, shape):
    check(compile_for(targets.devices(chip)[0], "pallas_tpu", **SHAPES[shape]))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpu_kernel_compiles_and_copies_no_cache(shape):
    check(compile_for(targets.devices("h100:1")[0], "pallas_gpu", **SHAPES[shape]))


def test_a_planner_counts_one_layer_of_the_cache():
    """The kernel's operands are the caches of all layers."""
    compiled = compile_for(targets.devices("v5e:2x2")[0], "pallas_tpu", **SHAPES["llama3_8b"])
    cost = hlo.cost(compiled.as_text())
    assert cost.flops == 4 * 64 * 8192 * 32 * 128
    assert cost.hbm_bytes == pytest.approx(2 * 64 * 8192 * 8 * 128 * 2, rel=0.02)
