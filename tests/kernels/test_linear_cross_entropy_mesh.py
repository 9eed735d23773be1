"""Linear cross-entropy on eight devices: the numbers of one, and what the devices exchange."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from gpt_jax.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_sum,
    xla,
)
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.parallel.rules import partition_spec

B, T, D, V = 8, 6, 8, 64
COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


def late(hidden_BTD, unembed_VD, targets_BT, weights_BT):
    logprobs_BT, lse_BT, entropy_BT = linear_cross_entropy(hidden_BTD, unembed_VD, targets_BT)
    return (weights_BT * logprobs_BT + 0.3 * lse_BT - weights_BT**2 * entropy_BT).sum()


def place(mesh, arrays):
    """Hidden states, unembedding, targets and weights, sharded by the rules."""
    tokens = ("batch", "length")
    axes = [(*tokens, None), ("vocab", "width"), tokens, tokens]
    return [jax.device_put(x, NamedSharding(mesh, partition_spec(a))) for x, a in zip(arrays, axes)]


def collectives(hlo):
    """(computation, kind, numbers in the result) of every collective in a compiled program."""
    computation = ""
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            computation = line.split()[0]
        found = re.search(rf"= \w+\[([\d,]*)\]\S* ({COLLECTIVES})(-start)?\(", line)
        if found:
            sizes = [int(size) for size in found[1].split(",") if size]
            yield computation, found[2], int(np.prod(sizes))


@pytest.mark.parametrize("loss", [late, linear_cross_entropy_sum])
@pytest.mark.parametrize(
    "config",
    [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=1, fsdp=2, context=2, tensor=2)],
)
def test_eight_devices_equal_one_and_exchange_nothing_large_per_chunk(config, loss, monkeypatch):
    """Break it: leave `combine_shards` out of `nll_and_gradients` in over_mesh.py."""
    for name, value in {"FEW_LOGITS": 0, "COLUMNS": 12, "ROWS": 3}.items():
        monkeypatch.setattr(xla, name, value)
    rng = np.random.default_rng(0)
    arrays = (
        rng.normal(size=(B, T, D)).astype(np.float32),
        rng.normal(size=(V, D)).astype(np.float32),
        rng.integers(0, V, (B, T)).astype(np.int32),
        rng.random((B, T)).astype(np.float32),
    )
    step = jax.value_and_grad(loss, argnums=(0, 1))
    one = jax.jit(step)(*arrays)

    mesh = make_mesh(config)
    placed = place(mesh, arrays)
    with jax.set_mesh(mesh):
        program = jax.jit(step).lower(*placed).compile()
        eight = program(*placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), eight, one)

    # In a loop over chunks: a number per token at most. Outside: the unembedding's shard of the
    # vocabulary gathered once (V/2 x D), and its gradient scattered once.
    found = list(collectives(program.as_text()))
    for computation, _, size in found:
        assert computation == "ENTRY" or size <= 2 * 3
    assert [size for *_, kind, size in found if kind == "all-gather"].count(V // 2 * D) == 1
    assert [kind for _, kind, _ in found].count("reduce-scatter") == 1
    assert max(size for *_, size in found) == V // 2 * D


def test_a_bfloat16_gradient_is_summed_over_devices_in_float32():
    """Rounded once, not on every device first. Break it: `dtype = unembed_VD.dtype` in api.py."""
    rng = np.random.default_rng(0)
    hidden_BTD, unembed_VD = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((B, T, D), (V, D))
    )
    targets_BT = rng.integers(0, V, (B, T)).astype(np.int32)
    weights_BT = rng.random((B, T)).astype(np.float32)
    gradient = jax.jit(jax.grad(linear_cross_entropy_sum, argnums=1))
    true_VD = gradient(hidden_BTD, unembed_VD.astype(jnp.float32), targets_BT, weights_BT)

    mesh = make_mesh(MeshConfig(data=8))
    placed = place(mesh, (hidden_BTD, unembed_VD, targets_BT, weights_BT))
    with jax.set_mesh(mesh):
        ours_VD = gradient(*placed)
    assert ours_VD.dtype == jnp.bfloat16
    off, rounding = (
        np.linalg.norm(np.float32(x) - np.float32(true_VD))
        for x in (ours_VD, true_VD.astype(jnp.bfloat16))
    )
    assert off < 1.1 * rounding
