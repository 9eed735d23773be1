"""KTO against a loop in float64, and what must change none of its numbers.

Break it: let a step divide its batch before it estimates the KL, or count empty rows in it.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data.batches import Tokens, pad_rows
from gpt_jax.data.feedback import Feedback
from gpt_jax.losses.kto import estimate_kl, kto, kto_loss, with_kl
from gpt_jax.metrics import mean
from gpt_jax.models.contract import init
from tests import tiny
from tests.losses import by_hand
from tests.losses.bag import Bag

MODEL = Bag()
POLICY, REFERENCE = (init(MODEL, jax.random.key(seed)) for seed in (0, 1))
OPTIONS = {"beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.7}


def feedback(seed, n=4):
    rng = np.random.default_rng(seed)
    pairs = tiny.comparisons(rng, n=n, k=2, length=20)
    return Feedback(pairs.tokens_BKT, pairs.weights_BKT, rng.choice([-1, 1], n).astype(np.int32))


@pytest.mark.parametrize("kl", [0.0, 1.7])
def test_kto_is_its_formula_in_float64(kl):
    rng = np.random.default_rng(0)
    logps, refs = -rng.exponential(8, (2, 7))
    signs = np.array([1, -1, 1, 0, -1, -1, 1])
    with jax.enable_x64(True):
        losses, rewards = kto(jnp.asarray(logps - refs), jnp.asarray(signs), kl, **OPTIONS)
        found = float(losses.sum() / (signs != 0).sum())
        losses, rewards = np.asarray(losses), np.asarray(rewards)
    assert found == pytest.approx(by_hand.kto(logps, refs, signs, kl, **OPTIONS), rel=1e-6)
    np.testing.assert_allclose(rewards, OPTIONS["beta"] * (logps - refs), rtol=1e-6)
    assert losses[3] == 0


def test_the_estimate_is_the_mean_over_mismatched_answers_and_has_no_gradient():
    batch = pad_rows(feedback(3), 6)
    frozen = {"reference": REFERENCE}

    def logps(params):
        """By hand: token by token of the second completion."""
        embed, unembed = params["embed"], params["unembed"]
        for ids, weights in zip(batch.tokens_BKT.ids[:4, 1], batch.weights_BKT[:4, 1], strict=True):
            total = 0.0
            for t in np.flatnonzero(weights):
                logits = np.float64(unembed) @ np.float64(embed)[ids[:t]].mean(0)
                total += logits[ids[t]] - np.log(np.exp(logits).sum())
            yield total

    expected = np.mean([a - b for a, b in zip(logps(POLICY), logps(REFERENCE), strict=True)])
    found = estimate_kl(MODEL, POLICY, batch, frozen)
    assert float(found) == pytest.approx(max(expected, 0.0), rel=1e-4)
    back = estimate_kl(MODEL, REFERENCE, batch, {"reference": POLICY})
    assert float(back) == pytest.approx(max(-expected, 0.0), rel=1e-4)
    assert float(found) + float(back) > 0.1, "one of the two is above 0"
    # A gradient through the estimate would be felt in the mismatched completions' words alone.
    known = with_kl(MODEL, POLICY, batch, frozen)
    given, made = (numbers_of(one)[1] for one in (known, batch))
    chex.assert_trees_all_close(given, made, rtol=1e-5, atol=1e-6)


def numbers_of(batch, reference=REFERENCE):
    """((numerator, (denominator, metrics)), gradient)."""
    return _numbers(POLICY, batch, {"reference": reference})


@jax.jit
def _numbers(params, batch, frozen):
    def loss(params):
        total, count, metrics = kto_loss(MODEL, params, batch, None, frozen, **OPTIONS)
        return total, (count, metrics)

    return jax.value_and_grad(loss, has_aux=True)(params)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), left=st.booleans())
def test_padding_and_order_change_nothing(seed, left):
    """Invariant 1: width and side of the padding, empty rows, the order of a batch."""
    batch = feedback(seed)
    sides = (4, 0) if left else (0, 4)
    wider = batch._replace(
        tokens_BKT=Tokens(*(np.pad(x, [(0, 0), (0, 0), sides]) for x in batch.tokens_BKT)),
        weights_BKT=np.pad(batch.weights_BKT, [(0, 0), (0, 0), sides]),
    )
    order = np.random.default_rng(seed).permutation(4)
    moved = pad_rows(jax.tree.map(lambda x: x[order], wider), 6)
    chex.assert_trees_all_close(numbers_of(batch), numbers_of(moved), rtol=2e-4, atol=2e-4)


def test_parts_of_a_batch_add_up_once_they_know_the_estimate_of_the_whole():
    """Invariant 5. Without it each part has an estimate of its own, and another loss."""
    batch = with_kl(MODEL, POLICY, feedback(5), {"reference": REFERENCE})
    whole = numbers_of(batch)
    halves = [numbers_of(jax.tree.map(lambda x, i=i: x[i::2], batch)) for i in (0, 1)]
    added = jax.tree.map(jnp.add, *halves)
    chex.assert_trees_all_close(whole, added, rtol=2e-4, atol=2e-4)


def test_the_first_step_starts_from_the_reference():
    batch = feedback(0)
    (total, (count, metrics)), _ = numbers_of(batch, reference=POLICY)
    weights = np.where(batch.signs_B > 0, 1.3, 0.7)
    assert float(total / count) == pytest.approx(weights.mean() / 2, rel=1e-5)
    means = mean(metrics)
    assert means["kl"] == pytest.approx(0, abs=1e-5)
    assert means["rewards/chosen"] == pytest.approx(0, abs=1e-5)


def test_a_batch_of_one_label_has_no_mean_of_the_other():
    batch = feedback(0)._replace(signs_B=np.ones(4, np.int32))
    (total, (count, metrics)), gradient = numbers_of(batch)
    assert np.isfinite(total) and float(count) == 4
    assert np.isnan(mean(metrics)["rewards/rejected"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert functools.reduce(max, (float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))) > 0
