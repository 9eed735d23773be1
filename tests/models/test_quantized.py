"""Frozen matrices in blocks of int8 and int4.

Break it: round towards zero, swap the halves of an int4 pair, or scale along the output axis.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.models import ModelConfig, axes_of, forward, init, init_cache, last_logits, token_nll
from gpt_jax.models.quantized import (
    Quantized,
    dequantize,
    quantize,
    quantize_array,
    quantized_axes,
)
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh

GPT = ModelConfig(vocab_size=40, context_length=16, width=64, layers=2, heads=2, mlp_width=128)
LLAMA = dataclasses.replace(
    GPT, positions="rope", norm="rms", mlp="swiglu", biases=False, tied=False
)
IDS = np.random.default_rng(0).integers(0, 40, (2, 9))
TOKENS = Tokens(IDS, np.tile(np.arange(9), (2, 1)), np.ones_like(IDS))
BOUND = {"int8": 254, "int4": 14}


def params_of(config):
    return jax.tree.map(lambda x: 5 * x, init(config, jax.random.key(0)))


@pytest.mark.parametrize("kind", BOUND)
@pytest.mark.parametrize("axis", [-1, -2])
def test_a_weight_is_off_by_half_a_scale_at_the_most(kind, axis):
    """The error that quantized.py states; zeros and blocks of zeros stay zeros."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, (3, 64, 96)).astype(np.float32) * 10.0 ** rng.integers(-6, 6, (3, 64, 96))
    x[0, :32, :32] = 0
    found = np.asarray(quantize_array(x, kind, axis).astype(jnp.float32))
    blocks = np.moveaxis(x, axis, -1).reshape(3, -1, x.shape[axis] // 32, 32)
    errors = np.abs(np.moveaxis(found - x, axis, -1)).reshape(blocks.shape)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    assert (errors <= largest / BOUND[kind] * (1 + 1e-5)).all()
    assert (errors.max(axis=-1, keepdims=True) > largest / BOUND[kind] / 2).mean() > 0.5
    assert (found[x == 0] == 0).all()


@pytest.mark.parametrize(("kind", "bits"), [("int8", 9), ("int4", 5)])
def test_the_bits_of_a_weight(kind, bits):
    matrix = quantize_array(np.ones((64, 96), np.float32), kind, -2)
    assert matrix.shape == (64, 96) and matrix.ndim == 2
    assert 8 * (matrix.values.nbytes + matrix.scales.nbytes) == bits * 64 * 96


@pytest.mark.parametrize("kind", BOUND)
@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_a_model_in_blocks_computes_what_the_dequantized_one_does(config, kind):
    """Forward, loss, and decoding with a cache; only matrices are in blocks."""
    frozen = quantize(params_of(config), axes_of(config), kind)
    plain = dequantize(frozen)
    in_blocks = jax.tree.leaves(frozen, is_leaf=lambda x: isinstance(x, Quantized))
    matrices = [x for x in in_blocks if isinstance(x, Quantized)]
    assert len(matrices) == (7 if config is GPT else 9)
    assert all(x.axis == -1 or x.axis == -2 for x in matrices)

    @jax.jit
    def outputs(params):
        hidden, _ = forward(config, params, TOKENS)
        loss = token_nll(config, params, hidden[:, :-1], IDS[:, 1:], jnp.ones((2, 8)))
        cached, _ = forward(config, params, TOKENS, init_cache(config, 2, 12))
        return hidden, loss, cached, last_logits(config, params, hidden[:, -1])

    for one, other in zip(outputs(frozen), outputs(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_flow_past_a_frozen_backbone():
    """To what is learned beside it, here what is added to the first hidden states' embedding."""
    frozen = quantize(params_of(LLAMA), axes_of(LLAMA), "int8")

    def loss(scale, params):
        params = params | {"final_norm": {"scale": params["final_norm"]["scale"] * scale}}
        hidden, _ = forward(LLAMA, params, TOKENS)
        return token_nll(LLAMA, params, hidden[:, :-1], IDS[:, 1:], jnp.ones((2, 8)))

    found = jax.jit(jax.grad(loss))(1.5, frozen)
    np.testing.assert_allclose(found, jax.grad(loss)(1.5, dequantize(frozen)), rtol=1e-4)


def test_frozen_matrices_are_sharded_as_others_are():
    axes = quantized_axes(axes_of(LLAMA))
    frozen = quantize(params_of(LLAMA), axes_of(LLAMA), "int4")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(frozen, rules.shardings(frozen, mesh, axes))
    assert placed["blocks"]["mlp"]["up"].values.addressable_shards[0].data.shape == (2, 16, 64)
    assert placed["blocks"]["mlp"]["up"].scales.addressable_shards[0].data.shape == (2, 1, 64)
    run = jax.jit(lambda params: forward(LLAMA, params, TOKENS)[0])
    with jax.set_mesh(mesh):
        found = run(placed)
    np.testing.assert_allclose(found, run(frozen), atol=1e-4)


def test_what_blocks_do_not_divide_or_is_not_finite_is_named():
    odd = dataclasses.replace(GPT, mlp_width=100)
    with pytest.raises(UserError, match=r"blocks/mlp/down: blocks of 32 do not divide .* of 100"):
        quantize(params_of(odd), axes_of(odd), "int8")
    broken = jax.tree.map(np.array, params_of(GPT))  # on the host, where they are looked at
    broken["embed"]["tokens"][3, 3] = np.nan
    with pytest.raises(UserError, match="embed/tokens has a weight that is not finite"):
        quantize(broken, axes_of(GPT), "int8")
