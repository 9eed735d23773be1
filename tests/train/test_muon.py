"""Muon: its directions against float64, which matrices it takes, and that it trains over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel.rules import path_name
from gpt_jax.train.muon import COEFFICIENTS, RMS, STEPS, orthogonalize, scale_by_muon
from gpt_jax.train.optim import OptimizerConfig, make_optimizer

MODEL = ModelConfig(vocab_size=300, context_length=16, width=16, layers=2, heads=2)


def naive(matrix):
    """The polynomial applied to the singular values, in float64."""
    u, s, vt = np.linalg.svd(np.float64(matrix), full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    return u @ np.diag(s) @ vt


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8), (1, 5)])
def test_directions_are_the_polynomial_of_the_singular_values(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = np.array(orthogonalize(jnp.array(matrix)))
    np.testing.assert_allclose(found, naive(matrix), atol=2e-5)
    values = np.linalg.svd(found, compute_uv=False)
    assert values.min() > 0.5 and values.max() < 1.3


def test_two_updates_against_float64():
    """Momentum, Nesterov's step and the scale. Break it: leave `nesterov` out."""
    rng, beta = np.random.default_rng(1), 0.9
    grads = rng.normal(size=(2, 3, 8, 24)).astype(np.float32)
    muon = scale_by_muon(beta)
    state, momentum = muon.init(jnp.array(grads[0])), np.zeros((3, 8, 24))
    for grad in grads:
        found, state = muon.update(jnp.array(grad), state)
        momentum = beta * momentum + grad
        wanted = [naive(m) for m in grad + beta * momentum]
        np.testing.assert_allclose(found, RMS * 24**0.5 * np.array(wanted), atol=1e-4)


def test_it_is_optax_muon():
    grads = jax.random.normal(jax.random.key(0), (16, 48))
    theirs = optax.contrib.scale_by_muon(beta=0.9)
    ours = scale_by_muon(0.9)
    state, other = ours.init(grads), theirs.init(grads)
    for _ in range(2):
        found, state = ours.update(grads, state)
        wanted, other = theirs.update(grads, other, grads)
        np.testing.assert_allclose(found / found.std(), wanted / wanted.std(), atol=1e-3)


def test_the_matrices_of_blocks_are_its_own():
    """All others, embeddings among them, move as AdamW moves them."""
    params = init(MODEL, jax.random.key(0))
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    moved = {}
    for kind in ("adamw", "muon"):
        optimizer = make_optimizer(OptimizerConfig(kind=kind), 10, axes_of(MODEL))
        updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
        moved[kind] = updates
        assert float(state[-1].learning_rate) == np.float32(OptimizerConfig().learning_rate)
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), moved["adamw"], moved["muon"])
    for path, equal in jax.tree_util.tree_leaves_with_path(same):
        name = path_name(path)
        parts = name.split("/")
        within = "blocks" in parts and parts[-1] in ("q", "k", "v", "out", "up", "gate", "down")
        assert equal != within, name


def test_it_keeps_float32():
    with pytest.raises(UserError, match="muon keeps float32"):
        OptimizerConfig(kind="muon", moments="bfloat16")
