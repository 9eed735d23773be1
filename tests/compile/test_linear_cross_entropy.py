"""Linear cross-entropy for chips that are not attached: the kernel compiles, and what XLA holds."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_sum,
    pallas_tpu,
)
from gpt_jax.plan import targets

M = 16384
SHAPES = {"GPT-2": (50304, 768), "Llama-8B": (128256, 4096), "GPT-3": (50257, 12288)}


def compiled(function, chip, V, D, unembed_dtype=jnp.bfloat16):
    mesh = Mesh(targets.devices(chip)[:1], "x")
    whole = NamedSharding(mesh, PartitionSpec())
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
        for shape, dtype in (
            ((M, D), jnp.bfloat16),
            ((V, D), unembed_dtype),
            ((M,), jnp.int32),
            ((M,), jnp.float32),
        )
    ]
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*arrays).compile()


@pytest.mark.parametrize("chip", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_compiles_and_holds_no_logits(chip, shape):
    """Its VMEM fits, or the compiler would refuse."""

    def forward(hidden, unembed, targets, weights):
        del weights
        return pallas_tpu.statistics(hidden, unembed, targets, temperature=0.7, softcap=30.0)

    program = compiled(forward, chip, *SHAPES[shape])
    assert "tpu_custom_call" in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < 64 * 2**20


def known(hidden, unembed, targets, weights):
    return linear_cross_entropy_sum(hidden, unembed, targets, weights)


def late(hidden, unembed, targets, weights):
    logprobs, _, entropy = linear_cross_entropy(hidden, unembed, targets)
    return (weights * logprobs + 0.1 * entropy).sum()


def unfused(hidden, unembed, targets, weights):
    unembed = unembed.astype(hidden.dtype)
    logits = jnp.einsum("MD,VD->MV", hidden, unembed, preferred_element_type=jnp.float32)
    logprobs = jax.nn.log_softmax(logits)
    return -jnp.sum(weights * jnp.take_along_axis(logprobs, targets[:, None], axis=-1)[:, 0])


def scratch_bytes(loss, chip, V, dtype):
    program = compiled(jax.value_and_grad(loss, argnums=(0, 1)), chip, V, 4096, dtype)
    return program.memory_analysis().temp_size_in_bytes


def unfused_bytes(V):
    """The logits and their gradient, both in float32."""
    return 8 * M * V


def test_the_unfused_loss_holds_the_logits_and_their_gradient():
    measured = scratch_bytes(unfused, "h100:1", 50304, jnp.float32)
    assert measured == pytest.approx(unfused_bytes(50304), rel=0.01)


@pytest.mark.parametrize("chip", ["v5e:2x2", "h100:1"])
@pytest.mark.parametrize(
    ("loss", "dtype"), [(known, jnp.float32), (late, jnp.bfloat16)], ids=["known", "late"]
)
@pytest.mark.parametrize("V", [50304, 151936])
def test_scratch_memory_is_a_tenth_of_the_unfused_loss(chip, loss, dtype, V):
    assert scratch_bytes(loss, chip, V, dtype) < unfused_bytes(V) / 10


@pytest.mark.parametrize("V", [50304, 151936])
@pytest.mark.parametrize(("loss", "dtype"), [(known, jnp.bfloat16), (late, jnp.float32)])
def test_on_a_gpu_neither_does_it_with_the_other_dtype(loss, dtype, V):
    """On a TPU it takes some more: docs/kernels.md."""
    assert scratch_bytes(loss, "h100:1", V, dtype) < unfused_bytes(V) / 10
