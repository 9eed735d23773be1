"""Preference losses against loops in float64, and what must change none of their numbers.

Break it: let `over_pairs` divide by the pairs of the whole batch, or leave the empty slots out of
account in `orpo`, whose odds are infinite there.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data.batches import Comparisons, Tokens, pad_rows
from gpt_jax.losses import preference
from gpt_jax.losses.preference import Likelihoods, dpo_loss, ipo_loss, orpo_loss, simpo_loss
from gpt_jax.metrics import mean
from gpt_jax.models.contract import init
from tests import tiny
from tests.losses import by_hand
from tests.losses.bag import Bag

METHODS = {
    "dpo": {"beta": 0.3},
    "cdpo": {"beta": 0.3, "label_smoothing": 0.2},
    "ipo": {"beta": 0.4},
    "orpo": {"odds_weight": 0.7},
    "simpo": {"beta": 2.0, "gamma": 0.8},
}
LOSSES = {
    "dpo": dpo_loss,
    "cdpo": dpo_loss,
    "ipo": ipo_loss,
    "orpo": orpo_loss,
    "simpo": simpo_loss,
}
RANKS = np.array(
    [[0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, -1, -1], [0, -1, -1, -1], [3, 2, 0, 0]]
)


def arrays(seed=0, shape=RANKS.shape):
    """(logps, refs, lengths), float64; what stands in an empty slot is what padding gives."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, shape).astype(np.float64)
    logps, refs = -lengths * rng.exponential(0.4, (2, *shape))
    there = RANKS >= 0 if shape == RANKS.shape else np.ones(shape, bool)
    return tuple(np.where(there, x, 0.0) for x in (logps, refs, lengths))


def compared(name, logps, refs, lengths, **options):
    """The method's own function on arrays."""
    policy = Likelihoods(jnp.asarray(logps), jnp.asarray(lengths))
    ratios = policy.logps_BK - jnp.asarray(refs)
    if name in ("dpo", "cdpo"):
        return preference.dpo(ratios, **options)._replace(logps_BK=policy.logps_BK)
    if name == "ipo":
        found = preference.ipo(ratios, policy.lengths_BK, **options)
        return found._replace(logps_BK=policy.logps_BK)
    return getattr(preference, name)(policy.means_BK, **options)


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_is_its_formula_in_float64(name):
    with jax.enable_x64(True):
        found = compared(name, *arrays(), **METHODS[name])
        total, count, metrics = preference.over_pairs(found, jnp.asarray(RANKS))
        means = mean(metrics)
        assert float(total / count) == pytest.approx(means["loss"], rel=1e-12)
    method = getattr(by_hand, "dpo" if name == "cdpo" else name)
    expected = by_hand.over_pairs(method, *arrays(), RANKS, **METHODS[name])
    assert {key: means[key] for key in expected} == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert float(count) == 4, "prompts with a pair"


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_finite_differences(name):
    """In float64, and with empty slots, whose gradient is 0."""
    logps, refs, lengths = arrays(1)

    @jax.jit
    def loss(logps):
        found = compared(name, logps, refs, lengths, **METHODS[name])
        total, count, _ = preference.over_pairs(found, jnp.asarray(RANKS))
        return total / count

    with jax.enable_x64(True):
        gradient = np.asarray(jax.grad(loss)(jnp.asarray(logps)))
        for b, k in ((0, 0), (0, 3), (1, 1), (3, 0)):
            step = np.zeros_like(logps)
            step[b, k] = 1e-5
            slope = (loss(logps + step) - loss(logps - step)) / 2e-5
            assert gradient[b, k] == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
    assert (gradient[RANKS < 0] == 0).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_certain_or_absurd_stays_finite(name):
    """log p of 0 (p is 1: its odds are infinite) and of -1e5."""
    logps = np.array([[0.0, -1e5], [-1e5, 0.0]], np.float32)
    refs, lengths = np.zeros_like(logps), np.full_like(logps, 3)
    ranks = jnp.array([[0, 1], [0, 1]])

    def loss(logps):
        found = compared(name, logps, refs, lengths, **METHODS[name])
        return preference.over_pairs(found, ranks)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logps))
    assert np.isfinite(value) and np.isfinite(gradient).all()


# Of a model: whatever surrounds a comparison changes nothing.


MODEL = Bag()
POLICY, REFERENCE = (init(MODEL, jax.random.key(seed)) for seed in (0, 1))


def numbers_of(name, batch, reference=REFERENCE):
    """((numerator, (denominator, metrics)), gradient) of a loss."""
    return _numbers(name, POLICY, batch, {"reference": reference})


@functools.partial(jax.jit, static_argnums=0)
def _numbers(name, params, batch, frozen):
    def loss(params):
        total, count, metrics = LOSSES[name](MODEL, params, batch, None, frozen, **METHODS[name])
        return total, (count, metrics)

    return jax.value_and_grad(loss, has_aux=True)(params)


def wider(batch, by, left):
    """The same comparisons in rows with more padding, on one side or the other."""
    sides = (by, 0) if left else (0, by)

    def pad(x):
        return np.pad(x, [(0, 0), (0, 0), sides])

    return batch._replace(
        tokens_BKT=Tokens(*map(pad, batch.tokens_BKT)), weights_BKT=pad(batch.weights_BKT)
    )


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), left=st.booleans(), slot=st.booleans())
def test_padding_and_order_change_nothing(name, seed, left, slot):
    """Invariant 1: width and side of the padding, empty rows, empty slots, the order of a batch."""
    rng = np.random.default_rng(seed)
    batch = tiny.comparisons(rng, n=3, k=3, length=20)
    batch.ranks_BK[0] = rng.integers(0, 2, 3)
    plain = numbers_of(name, pad_rows(batch, 5))
    moved = wider(batch, 4, left)
    if slot:
        moved = Comparisons(
            *jax.tree.map(lambda x: np.pad(x, [(0, 0), (0, 1), (0, 0)]), moved[:2]),
            np.pad(moved.ranks_BK, [(0, 0), (0, 1)], constant_values=-1),
        )
    order = rng.permutation(3)
    moved = jax.tree.map(lambda x: x[order], moved)
    chex.assert_trees_all_close(plain, numbers_of(name, pad_rows(moved, 5)), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", METHODS)
def test_parts_of_a_batch_add_up(name):
    """Invariant 5: numerators, denominators, metrics and gradients are sums over prompts."""
    batch = tiny.comparisons(np.random.default_rng(0), n=4, k=3, length=20)
    whole = numbers_of(name, batch)
    halves = [numbers_of(name, jax.tree.map(lambda x, i=i: x[i::2], batch)) for i in (0, 1)]
    added = jax.tree.map(jnp.add, *halves)
    chex.assert_trees_all_close(whole, added, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "ipo"])
def test_the_first_step_starts_from_the_reference(name):
    batch = tiny.comparisons(np.random.default_rng(0), n=4, k=3, length=20)
    (total, (count, metrics)), gradient = numbers_of(name, batch, reference=POLICY)
    first = 1 / (4 * METHODS["ipo"]["beta"] ** 2) if name == "ipo" else np.log(2)
    assert float(total / count) == pytest.approx(first, rel=1e-5)
    means = mean(metrics)
    for key in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
        assert means[key] == pytest.approx(0, abs=1e-4)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-3


def test_with_two_completions_it_is_the_loss_of_its_paper():
    """A prompt's pairs weigh 1 together: one prompt of three pairs weighs as one of one pair."""
    logps, refs, lengths = arrays(2, (2, 3))
    ranks = np.array([[0, 1, 2], [0, 1, -1]])
    found = compared("dpo", logps, refs, lengths, beta=0.1)
    total, count, _ = preference.over_pairs(found, jnp.asarray(ranks))
    losses = np.asarray(found.losses_BKK)
    expected = (losses[0, 0, 1] + losses[0, 0, 2] + losses[0, 1, 2]) / 3 + losses[1, 0, 1]
    assert float(total) == pytest.approx(expected, rel=1e-5) and float(count) == 2
