"""Small moments and float32 masters against Adam in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.train.adam import Factors, Masters, keep_masters, round_at_random, scale_by_adam
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step

B1, B2, EPS = 0.9, 0.95, 1e-8
AXES = {
    "blocks/mlp/up": ("layers", "width", "mlp"),
    "blocks/mlp/up_bias": ("layers", "mlp"),
    "head/kernel_D": (None,),
}
PARAMS = {
    "blocks": {"mlp": {"up": jnp.ones((2, 3, 4)), "up_bias": jnp.ones((2, 4))}},
    "head": {"kernel_D": jnp.ones(3)},
}


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)


def adam(steps, factored):
    """Kingma & Ba 2015, algorithm 1, and Shazeer & Stern 2018, algorithm 2, in float64."""
    mu = jax.tree.map(lambda p: np.zeros(p.shape), PARAMS)
    nu = jax.tree.map(lambda p: np.zeros(p.shape), PARAMS)
    for step in range(steps):
        grads = jax.tree.map(lambda g: np.asarray(g, np.float64), gradients(step))
        mu = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, mu, grads)
        nu = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g * g, nu, grads)
    if factored:  # means are linear: those of the average are the averages of those
        up = nu["blocks"]["mlp"]["up"]
        rows, cols = up.mean(axis=2, keepdims=True), up.mean(axis=1, keepdims=True)
        nu["blocks"]["mlp"]["up"] = rows * cols / rows.mean(axis=1, keepdims=True)
    return jax.tree.map(
        lambda m, v: m / (1 - B1**steps) / (np.sqrt(v / (1 - B2**steps)) + EPS), mu, nu
    )


@pytest.mark.parametrize(("moments", "error"), [("bfloat16", 2e-2), ("factored", 1e-2)])
def test_updates_are_adams(moments, error):
    """To bfloat16's 8 bits. Break it: swap the row's and the col's axis."""
    optimizer = scale_by_adam(B1, B2, EPS, moments, AXES)
    state = optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for step in range(4):
        updates, state = update(gradients(step), state, key=jax.random.key(step))
    expected = adam(4, moments == "factored")
    for ours, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=error, atol=error)


def test_what_is_kept_is_small():
    state = scale_by_adam(B1, B2, EPS, "factored", AXES).init(PARAMS)
    assert {m.dtype for m in jax.tree.leaves(state.mu)} == {jnp.dtype("bfloat16")}
    nu = state.nu["blocks"]["mlp"]
    assert isinstance(nu["up"], Factors) and nu["up"].row.shape == (2, 3)
    assert nu["up"].col.shape == (2, 4) and nu["up_bias"].shape == (2, 4)
    state = scale_by_adam(B1, B2, EPS, "bfloat16", AXES).init(PARAMS)
    assert {v.dtype for v in jax.tree.leaves(state.nu)} == {jnp.dtype("bfloat16")}


def test_rounding_at_random_is_exact_on_average():
    x = jnp.full(20_000, 1.0 + 2**-7 * 0.3, jnp.float32)  # bfloat16 has 1 and 1 + 2^-7
    rounded = np.asarray(round_at_random(jax.random.key(0), x), np.float64)
    assert set(rounded) == {1.0, 1.0 + 2**-7}
    assert rounded.mean() == pytest.approx(float(x[0]), abs=4 * 2**-7 * 0.46 / 20_000**0.5)
    assert np.isinf(np.float32(round_at_random(jax.random.key(0), jnp.array(jnp.inf))))


def test_a_long_memory_still_moves_in_bfloat16():
    """b2 = 0.999 changes v by at most 0.1%, less than bfloat16 resolves. Break it: round nu to
    the nearest in `update`, and it stays at 1."""
    optimizer = scale_by_adam(0.9, 0.999, EPS, "bfloat16", AXES)
    params = {"head": {"kernel_D": jnp.zeros(2000)}}
    state = optimizer.init(params)
    state = state._replace(nu=jax.tree.map(jnp.ones_like, state.nu))
    gradient = jax.tree.map(lambda p: p + 0.5, params)
    state = jax.jit(
        lambda state: jax.lax.fori_loop(
            0,
            500,
            lambda i, state: optimizer.update(gradient, state, key=jax.random.key(i))[1],
            state,
        )
    )(state)
    expected = 0.25 + 0.75 * 0.999**500
    mean = np.asarray(state.nu["head"]["kernel_D"], np.float64).mean()
    assert mean == pytest.approx(expected, rel=0.01)


def test_masters_remember_what_bfloat16_cannot_hold():
    """Break it: let `keep_masters` optimize `params` instead of its masters."""
    config = OptimizerConfig(
        learning_rate=1e-4,
        schedule="constant",
        warmup_fraction=0.0,
        weight_decay=0.0,
        params="bfloat16",
    )
    optimizer = make_optimizer(config, 100, AXES)
    state = TrainState.create(PARAMS, optimizer)
    assert isinstance(state.opt_state, Masters)
    up = state.params["blocks"]["mlp"]["up"]
    assert up.dtype == jnp.bfloat16 and state.params["head"]["kernel_D"].dtype == jnp.float32
    gradient = jax.tree.map(jnp.ones_like, PARAMS)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates), opt_state

    params, opt_state = state.params, state.opt_state
    for _ in range(60):
        params, opt_state = step(params, opt_state)
    moved = params["blocks"]["mlp"]["up"]
    assert moved.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        moved, opt_state.masters["blocks"]["mlp"]["up"].astype(jnp.bfloat16)
    )
    np.testing.assert_allclose(opt_state.masters["blocks"]["mlp"]["up"], 1 - 60e-4, rtol=1e-4)
    assert (moved < 1).all()


def test_masters_change_nothing_in_float32():
    plain = make_optimizer(OptimizerConfig(), 10, AXES)
    kept = keep_masters(plain)
    updates, _ = plain.update(gradients(0), plain.init(PARAMS), PARAMS)
    same, _ = kept.update(gradients(0), kept.init(PARAMS), PARAMS)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_every_seed_and_step_rounds_anew():
    """Invariant 10. Break the key in `scale_by_adam`, or the train step's."""

    def loss(model, learned, batch, key, frozen):
        total = sum(jnp.sum(jnp.sin(p)) for p in jax.tree.leaves(learned))
        return total, jnp.float32(1), {}

    axes = {"embed/tokens": ("vocab", "width")}
    optimizer = make_optimizer(OptimizerConfig(moments="bfloat16"), 10, axes)
    step = make_train_step(None, loss, optimizer)

    def rounded(seed, number):
        state = TrainState.create({"embed": {"tokens": jnp.ones((40, 50))}}, optimizer, seed)
        state, _ = step(dataclasses.replace(state, step=jnp.int32(number)), None, {})
        return np.asarray(state.opt_state[1].nu["embed"]["tokens"], np.float32)

    first, again, *others = (rounded(*at) for at in ((0, 0), (0, 0), (1, 0), (0, 1)))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) == 2
    for other in others:
        assert 0.2 < np.mean(first != other) < 0.8
