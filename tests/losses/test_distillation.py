"""Divergences against float64 NumPy, in chunks and whole, and what must change none of them.

Break it: fill the last chunk up with a weight of 1, or let the student's extra rows join.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data.batches import Batch, Tokens
from gpt_jax.losses.distillation import (
    Predictor,
    distillation_loss,
    divergence_sums,
    divergences,
)
from gpt_jax.metrics import mean
from gpt_jax.models.contract import init
from tests import tiny
from tests.losses.bag import Bag

STUDENT, TEACHER = Bag(), Bag(width=24)
LEARNED, FROZEN = init(STUDENT, jax.random.key(0)), {"teacher": init(TEACHER, jax.random.key(1))}


def by_hand(p, q, beta):
    """Of two distributions, each a vector of probabilities."""

    def kl(a, b):
        return sum(x * np.log(x / y) for x, y in zip(a, b, strict=True))

    m = beta * p + (1 - beta) * q
    both = beta * kl(p, m) + (1 - beta) * kl(q, m)
    return {"forward": kl(p, q), "reverse": kl(q, p), "jsd": both}


def test_every_divergence_is_its_formula_in_float64():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(7, 0.5), (2, 3, 4))
    with jax.enable_x64(True):
        found = divergences(jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q)), 0.3)
        for b in range(3):
            for t in range(4):
                expected = by_hand(p[b, t], q[b, t], 0.3)
                assert {k: float(v[b, t]) for k, v in found.items()} == pytest.approx(
                    expected, rel=1e-6
                )


def test_a_jsd_near_its_ends_is_a_kl():
    rng = np.random.default_rng(1)
    p, q = np.log(rng.dirichlet(np.ones(5), (2, 1, 1)))
    with jax.enable_x64(True):
        for beta, name in ((1e-6, "forward"), (1 - 1e-6, "reverse")):
            found = divergences(jnp.asarray(p), jnp.asarray(q), beta)
            assert float(found["jsd"][0, 0]) / 1e-6 == pytest.approx(
                float(found[name][0, 0]), rel=1e-4
            )


def predictors(rng, b=3, t=13, v=(20, 20), softcap=None):
    shapes = ((8, v[0]), (6, v[1]))
    return tuple(
        Predictor(
            jnp.float32(rng.normal(size=(b, t, d))), jnp.float32(rng.normal(size=(v, d))), softcap
        )
        for d, v in shapes
    )


@pytest.mark.parametrize("columns", [1, 4, 5, 12])
def test_chunks_give_the_sums_and_the_gradients_of_the_whole(columns):
    """The last one is not full, but for columns of 1."""
    teacher, student = predictors(np.random.default_rng(2), softcap=3.0)
    weights_BT = jnp.float32(np.random.default_rng(3).integers(0, 2, (3, 13)))

    def total(hidden_BTD, unembed_VD, most_logits):
        mine = student._replace(hidden_BTD=hidden_BTD, unembed_VD=unembed_VD)
        sums = divergence_sums(teacher, mine, weights_BT, 0.5, most_logits)
        return sum(i * sums[name] for i, name in enumerate(sorted(sums), 1)), sums

    grad = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True), static_argnums=2)
    whole, parts = (grad(*student[:2], 3 * 20 * size) for size in (13, columns))
    chex.assert_trees_all_close(whole, parts, rtol=1e-4, atol=1e-4)


def test_vocabularies_of_other_sizes_meet_in_what_they_share():
    teacher, student = predictors(np.random.default_rng(4), v=(20, 26))
    weights_BT = jnp.ones((3, 13))
    cut = student._replace(unembed_VD=student.unembed_VD[:20])
    chex.assert_trees_all_close(
        divergence_sums(teacher, student, weights_BT), divergence_sums(teacher, cut, weights_BT)
    )


@functools.partial(jax.jit, static_argnums=1)
def numbers_of(batch, divergence="forward", frozen=FROZEN):
    """((numerator, (denominator, metrics)), gradient)."""

    def loss(params):
        total, count, metrics = distillation_loss(
            STUDENT, params, batch, None, frozen, teacher=TEACHER, divergence=divergence
        )
        return total, (count, metrics)

    return jax.value_and_grad(loss, has_aux=True)(LEARNED)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_padding_order_and_parts_change_nothing(divergence):
    """Invariants 1 and 5: width and side of the padding, empty rows, order, division."""
    rows = tiny.random_rows(np.random.default_rng(5), 4)
    plain = tiny.padded(rows, 20)
    whole = numbers_of(plain, divergence)
    left = tiny.padded(rows[::-1], 20)
    left = Batch(
        Tokens(*(np.pad(x, [(0, 1), (5, 0)]) for x in left.tokens_BT)),
        np.pad(left.weights_BT, [(0, 1), (5, 0)]),
    )
    chex.assert_trees_all_close(whole, numbers_of(left, divergence), rtol=2e-4, atol=2e-4)
    halves = [numbers_of(jax.tree.map(lambda x, i=i: x[i::2], plain), divergence) for i in (0, 1)]
    chex.assert_trees_all_close(whole, jax.tree.map(jnp.add, *halves), rtol=2e-4, atol=2e-4)


def test_of_itself_a_student_has_nothing_to_learn():
    batch = tiny.padded(tiny.random_rows(np.random.default_rng(6), 3), 20)

    def loss(params):
        frozen = {"teacher": LEARNED}
        return distillation_loss(STUDENT, params, batch, None, frozen, teacher=STUDENT)

    (total, count, metrics), gradient = jax.jit(
        lambda p: (loss(p), jax.grad(lambda q: loss(q)[0])(p))
    )(LEARNED)
    assert mean(metrics) == pytest.approx({"loss": 0, "forward_kl": 0, "reverse_kl": 0}, abs=1e-5)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)) < 1e-4 * float(count)
