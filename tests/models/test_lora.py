"""Adapters beside frozen kernels: what they compute, what they learn, and how they are laid out."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models import axes_of, forward, init, init_cache
from gpt_jax.models.adapted import Adapted, product
from gpt_jax.models.lora import (
    LoraConfig,
    attach,
    attached,
    drawn,
    has_adapters,
    init_adapters,
    merge,
    on_backbone,
    rescaled,
    split,
    zero_adapters,
)
from gpt_jax.models.quantized import dequantize, keep_as, quantized_axes
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from tests import tiny
from tests.models.lstm import LSTM

GPT = dataclasses.replace(tiny.MODEL, width=32)
LLAMA = dataclasses.replace(
    GPT, kv_heads=1, positions="rope", norm="rms", mlp="swiglu", biases=False, tied=False
)
LORA = LoraConfig(rank=4, alpha=6.0)
ROWS = tiny.padded(tiny.random_rows(np.random.default_rng(0), 4), 20)


def params_of(model):
    return jax.tree.map(lambda x: 5 * x, init(model, jax.random.key(0)))


def adapters_of(model, lora=LORA, seed=1):
    """With a B that is not 0 any more."""
    adapters = init_adapters(lora, model, jax.random.key(seed))
    noise = jax.random.key(seed + 100)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(noise, x.shape), adapters)


def hidden(model, params):
    return jax.jit(lambda params: forward(model, params, ROWS.tokens_BT)[0])(params)


@pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt", "llama"])
def test_new_adapters_change_no_bit(model):
    """B is 0. Break it: draw B, too."""
    params = params_of(model)
    adapted = attach(params, init_adapters(LORA, model, jax.random.key(1)), LORA.scale)
    np.testing.assert_array_equal(hidden(model, adapted), hidden(model, params))


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int4"])
def test_merged_weights_compute_the_same(dtype):
    """On a backbone of any type. Break it: leave the scale out of `attach`, or `b` out of merge."""
    params = keep_as(params_of(LLAMA), axes_of(LLAMA), dtype)
    adapters = adapters_of(LLAMA)
    adapted = attach(params, adapters, LORA.scale)
    found = hidden(LLAMA, adapted)
    np.testing.assert_allclose(found, hidden(LLAMA, merge(adapted)), rtol=1e-5, atol=1e-4)
    assert np.abs(found - hidden(LLAMA, params)).max() > 1
    backbone, back = split(adapted, LORA.scale)
    chex.assert_trees_all_close(back, adapters, rtol=1e-6)
    chex.assert_trees_all_equal(dequantize(backbone), dequantize(params))


def test_cached_decoding_is_the_full_forward_pass():
    """Invariant 2, with adapters."""
    params = attach(params_of(LLAMA), adapters_of(LLAMA), LORA.scale)
    tokens_BT = jax.tree.map(lambda x: x[:, :4], ROWS.tokens_BT)
    run = jax.jit(forward, static_argnums=0)
    cache, found = init_cache(LLAMA, 4, 8), []
    for t in range(4):
        one = jax.tree.map(lambda x, t=t: x[:, t : t + 1], tokens_BT)
        out, cache = run(LLAMA, params, one, cache)
        found.append(out)
    whole, _ = run(LLAMA, params, tokens_BT)
    np.testing.assert_allclose(jnp.concatenate(found, 1), whole, atol=2e-4)


def test_gradients_of_one_layer_are_those_of_float64():
    """dA = s x^T g B^T, dB = s A^T x^T g, dx = g W^T + s g B^T A^T."""
    rng = np.random.default_rng(0)
    x, w, a, b, g = (rng.standard_normal(s) for s in ((7, 6), (6, 5), (6, 2), (2, 5), (7, 5)))
    s = LoraConfig(rank=2, alpha=3.0, rs=True).scale
    assert s == pytest.approx(3 / 2**0.5)

    def total(x, a, b):
        return jnp.sum(product(x, attach(w, {"a": a, "b": b}, s), "float32") * g)

    value = total(x, a, b)
    np.testing.assert_allclose(value, np.sum((x @ w + s * x @ a @ b) * g), rtol=1e-5)
    found = jax.grad(total, (0, 1, 2))(*(jnp.float32(v) for v in (x, a, b)))
    expected = g @ w.T + s * g @ b.T @ a.T, s * x.T @ g @ b.T, s * a.T @ x.T @ g
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, "int4"])
def test_a_loss_of_whole_parameters_learns_adapters(dtype):
    """Its gradient is that of the merged weights, projected: dA = s dW B^T, dB = s A^T dW."""
    backbone = keep_as(params_of(LLAMA), axes_of(LLAMA), dtype)
    adapters = adapters_of(LLAMA)
    frozen = {"backbone": backbone, "lora_scale": jnp.float32(LORA.scale)}
    learned = {"lora": adapters}
    loss = jax.jit(
        jax.grad(lambda learned: on_backbone(lm_loss)(LLAMA, learned, ROWS, None, frozen)[0])
    )
    whole = jax.jit(jax.grad(lambda params: lm_loss(LLAMA, params, ROWS)[0]))
    dw = whole(merge(attached(learned, frozen)))["blocks"]["mlp"]["up"]
    pair, found = (tree["lora"]["blocks"]["mlp"]["up"] for tree in (learned, loss(learned)))
    expected_a = LORA.scale * dw @ pair["b"].swapaxes(1, 2)
    np.testing.assert_allclose(found["a"], expected_a, rtol=2e-3, atol=2e-4)
    expected_b = LORA.scale * pair["a"].swapaxes(1, 2) @ dw
    np.testing.assert_allclose(found["b"], expected_b, rtol=2e-3, atol=2e-4)


def test_adapters_are_found_wherever_they_stand():
    """Break it: look for adapters at the top of a tree alone."""
    own, other = params_of(GPT), params_of(GPT)
    policy, value = adapters_of(GPT, seed=2), adapters_of(GPT, seed=3)
    head = {"kernel_D": jnp.ones(32), "bias": jnp.zeros(())}
    frozen = {
        "backbone": own,
        "lora_scale": jnp.float32(2.0),
        "reference": {"lora": policy},
        "reward": {"backbone": other, "head": head},
    }
    learned = {"policy": {"lora": policy}, "value": {"backbone": {"lora_on_reward": value}}}
    found = attached(learned, frozen)
    kernel = found["policy"]["blocks"]["attn"]["q"]
    assert isinstance(kernel, Adapted) and kernel.kernel is own["blocks"]["attn"]["q"]
    np.testing.assert_array_equal(kernel.b, 2 * policy["blocks"]["attn"]["q"]["b"])
    on_reward = found["value"]["backbone"]["blocks"]["attn"]["q"].kernel
    assert on_reward is other["blocks"]["attn"]["q"]
    assert attached(frozen, frozen)["reward"]["head"] is not None
    assert has_adapters(learned) and not has_adapters(own) and not has_adapters(())
    assert attached(own, {"reference": own}) is own, "where nothing is adapted nothing is looked at"


def test_zeros_are_drawn_and_what_was_learned_stays():
    """Invariant 10: every A has a key of its own. Break it: fold no path into the key."""
    zeros, learned = zero_adapters(LORA, GPT), adapters_of(GPT)
    tree = ({"lora": zeros}, {"backbone": {"lora": learned}, "head": {"bias": jnp.zeros(())}})
    new, old = drawn(tree, jax.random.key(0))
    chex.assert_trees_all_equal(old, tree[1])
    found = [pair["a"] for pair in _pairs(new)]
    assert all(np.std(a) == pytest.approx(a.shape[1] ** -0.5, rel=0.2) for a in found)
    assert len({float(a.ravel()[0]) for a in found}) == len(found)
    assert not any(np.any(pair["b"]) for pair in _pairs(new))
    again, other = (drawn(tree, jax.random.key(seed))[0] for seed in (0, 1))
    chex.assert_trees_all_equal(again, new)
    assert all(np.any(a["a"] != b["a"]) for a, b in zip(_pairs(new), _pairs(other), strict=True))


def _pairs(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, dict) and "a" in x)


def test_another_scale_is_the_same_map():
    adapters = {"lora": adapters_of(GPT)}
    backbone = params_of(GPT)
    one, two = (
        attached(tree, {"backbone": backbone, "lora_scale": jnp.float32(scale)})
        for tree, scale in ((adapters, 8.0), (rescaled(adapters, 8.0, 0.5), 0.5))
    )
    chex.assert_trees_all_close(merge(one), merge(two), rtol=1e-6)


def test_kernels_by_target_and_their_axes():
    """A is split along its kernel's input axis, B along its output axis, the rank never."""
    for targets, subs in (("attention", {"attn"}), ("mlp", {"mlp"}), ("all", {"attn", "mlp"})):
        adapters = zero_adapters(dataclasses.replace(LORA, targets=targets), LLAMA)
        assert set(adapters["blocks"]) == subs and set(adapters) == {"blocks"}
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    tree = {"lora": zero_adapters(LORA, GPT)}
    axes = quantized_axes(axes_of(GPT))
    placed = jax.device_put(tree, rules.shardings(tree, mesh, axes))["lora"]["blocks"]

    def held(sub, name):
        return [placed[sub][name][p].addressable_shards[0].data.shape[1:] for p in "ab"]

    assert held("mlp", "up") == [(16, 4), (4, 64)]  # fsdp splits the width, tensor the rest
    assert held("mlp", "down") == [(64, 4), (4, 16)]
    assert held("attn", "out") == [(16, 4), (4, 16)]


def test_what_cannot_be_adapted_is_said():
    with pytest.raises(UserError, match="--lora.rank 33 is more than the rank of .* 32"):
        zero_adapters(LoraConfig(rank=33), GPT)
    with pytest.raises(UserError, match="lora.alpha does nothing without adapters"):
        LoraConfig(alpha=3.0)
    with pytest.raises(UserError, match="a LSTM has no kernels of attention"):
        zero_adapters(dataclasses.replace(LORA, targets="attention"), LSTM(32, 16, 8))


def test_a_model_of_ones_own_is_adapted_too():
    """One that says `x @ kernel`. Break it: take `__rmatmul__` from `Adapted`."""
    model = LSTM(32, 16, 8)
    params, adapters = init(model, jax.random.key(0)), adapters_of(model)
    adapted = attach(params, adapters, LORA.scale)
    found = hidden(model, adapted)
    np.testing.assert_allclose(found, hidden(model, merge(adapted)), atol=1e-5)
    assert np.abs(found - hidden(model, params)).max() > 0.01
