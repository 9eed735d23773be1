"""The TPU attention kernels through the real TPU compiler, at published shapes.

Mosaic refuses a kernel whose blocks do not fit the VMEM, so compiling is the check that they do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.kernels.attention import attention
from gpt_jax.plan import targets

CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
SHAPES = {  # T, N, K, H
    "gpt2": (1024, 12, 12, 64),
    "llama3_8b": (8192, 32, 8, 128),
    "gpt3_175b": (2048, 96, 96, 128),
}
EVERYTHING = dict(window=300, softcap=50.0, alibi_slopes_N=2.0 ** -np.arange(1.0, 5))


def compiled(chip, T, N, K, H, dtype="bfloat16", S=None, **options):
    """Output and gradients of one row, by whatever `attention` picks for this chip."""
    S = S or T
    mesh = Mesh(targets.devices(chip)[:1], "x")
    sharding = NamedSharding(mesh, PartitionSpec())

    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(q, k, v, q_segments, kv_segments, q_offset, dout):
        def out(q, k, v):
            return attention(
                q,
                k,
                v,
                q_segment_ids_BT=q_segments,
                kv_segment_ids_BS=kv_segments,
                q_offset=q_offset,
                **options,
            )

        out, vjp = jax.vjp(out, q, k, v)
        return out, vjp(dout)

    q, k = array(1, T, N, H), array(1, S, K, H)
    ids = [array(1, length, dtype=jnp.int32) for length in (T, S)]
    with jax.set_mesh(mesh):
        return jax.jit(run).lower(q, k, k, *ids, array(dtype=jnp.int32), q).compile()


def assert_kernels_without_squares(program, T, N, S=None):
    text = program.as_text()
    for kernel in ("attention_forward", "attention_dq", "attention_dkv"):
        assert kernel in text
    # One bfloat16 T x S array of every head; the transposed inputs and outputs are far smaller.
    assert program.memory_analysis().temp_size_in_bytes < 2 * N * T * (S or T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chip", CHIPS)
def test_published_shapes_compile_forward_and_backward(chip, shape):
    T, N, K, H = SHAPES[shape]
    assert_kernels_without_squares(compiled(chip, T, N, K, H), T, N)


@pytest.mark.parametrize("H", [64, 80, 96, 128, 256])
def test_every_head_size_compiles_with_every_option(H):
    program = compiled("v5e:2x2", 1100, 4, 2, H, S=1500, **EVERYTHING)
    assert_kernels_without_squares(program, 1100, 4, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("H", [64, 256])
@pytest.mark.parametrize("chip", CHIPS)
def test_float32_compiles(chip, H):
    assert_kernels_without_squares(compiled(chip, 1024, 4, 2, H, "float32"), 1024, 4)


def test_a_split_array_outside_shard_map_is_left_to_xla():
    """XLA cannot partition a kernel."""
    mesh = jax.make_mesh(
        (2,),
        ("x",),
        devices=targets.devices("v5e:2x2")[:2],
        axis_types=(jax.sharding.AxisType.Auto,),
    )
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    x = jax.ShapeDtypeStruct((2, 1024, 4, 64), jnp.bfloat16, sharding=sharding)
    ids = jax.ShapeDtypeStruct((2, 1024), jnp.int32, sharding=sharding)

    def run(q, k, v, ids):
        return attention(q, k, v, q_segment_ids_BT=ids, kv_segment_ids_BS=ids)

    with jax.set_mesh(mesh):
        program = jax.jit(run).lower(x, x, x, ids).compile()
    assert "attention_forward" not in program.as_text()
