"""Margin, centring and label smoothing of the ranking loss against a loop in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data.batches import pad_rows
from gpt_jax.losses.ranking import RankingOptions, pairwise_ranking, ranking_loss
from gpt_jax.models.heads import init_scorer
from tests import tiny

OPTIONS = {
    "none": RankingOptions(),
    "margin": RankingOptions(margin=0.7),
    "centring": RankingOptions(centring=0.01),
    "smoothing": RankingOptions(smoothing=0.1),
    "all": RankingOptions(0.3, 0.05, 0.2),
}


def in_numpy(scores, ranks, degrees, options):
    """A loop over prompts and pairs, as the docstring has it."""
    losses = []
    for s, r, d in zip(scores, ranks, degrees, strict=True):
        pairs = [(i, j) for i in range(len(r)) for j in range(len(r)) if 0 <= r[i] < r[j]]
        each = []
        for i, j in pairs:
            beyond = s[i] - s[j] - options.margin * (d[i] - d[j])
            right, wrong = (-np.log(1 / (1 + np.exp(-x))) for x in (beyond, -beyond))
            mixed = (1 - options.smoothing) * right + options.smoothing * wrong
            each.append(mixed + options.centring * (s[i] + s[j]) ** 2)
        losses += [np.mean(each)] if each else []
    return np.mean(losses)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("own", [True, False], ids=["degrees", "ranks"])
def test_the_options_equal_a_loop_in_float64(options, own):
    """Break it: let the margin have the other sign, or smooth with 1 - smoothing."""
    rng = np.random.default_rng(0)
    scores, degrees = rng.normal(size=(2, 6, 4)) * 2
    ranks = np.array(
        [[0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, -1, -1], [0, -1, -1, -1], [3, 2, 0, 0]]
    )
    if not own:
        degrees = -ranks
    with jax.enable_x64(True):
        given = jnp.asarray(degrees) if own else None
        total, count, metrics = pairwise_ranking(
            jnp.asarray(scores), jnp.asarray(ranks), given, options
        )
        found = float(total / count)
    assert found == pytest.approx(in_numpy(scores, ranks, degrees, options), abs=1e-9)
    # Accuracy and margin are of the scores alone.
    plain = pairwise_ranking(scores, ranks)[2]
    for name in ("accuracy", "margin", "mean_reward"):
        chex.assert_trees_all_close(metrics[name], plain[name], rtol=1e-5)


@st.composite
def comparisons(draw):
    """Scores, ranks (ties, empty slots and rows) and degrees of some prompts, and options."""
    b, k = 4, 3  # one shape: each compiles anew
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranks = rng.integers(-1, k, (b, k))
    options = RankingOptions(*(draw(st.sampled_from([0.0, 0.2, 0.4])) for _ in range(3)))
    scores, degrees = rng.normal(size=(2, b, k)).astype(np.float32)
    return scores, ranks, degrees, options


@settings(max_examples=30, deadline=None)
@given(comparisons(), st.randoms())
def test_padding_and_order_change_no_number(rows, random):
    """Invariant 1: empty slots, empty rows, and the order of prompts and completions."""
    scores, ranks, degrees, options = rows
    loss = functools.partial(pairwise_ranking, options=options)
    alone = loss(scores, ranks, degrees)
    wider = ((0, 3), (0, 2))
    padded = loss(
        np.pad(scores, wider, constant_values=9.0),
        np.pad(ranks, wider, constant_values=-1),
        np.pad(degrees, wider, constant_values=5.0),
    )
    order_B, order_K = (random.sample(range(n), n) for n in scores.shape)
    shuffled = loss(*(x[order_B][:, order_K] for x in (scores, ranks, degrees)))
    chex.assert_trees_all_close(alone, padded, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(alone, shuffled, rtol=1e-5, atol=1e-5)


def test_a_batch_with_degrees_is_padded_and_learned_from():
    rng = np.random.default_rng(0)
    batch = tiny.comparisons(rng, 3, 2, 24)
    scorer = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1))
    graded = batch._replace(degrees_BK=rng.random((3, 2)).astype(np.float32))
    loss = functools.partial(ranking_loss, tiny.MODEL, scorer, options=OPTIONS["all"])
    chex.assert_trees_all_close(loss(graded), loss(pad_rows(graded, 4)), rtol=1e-5)
    assert loss(graded)[0] != loss(batch)[0]
    assert pad_rows(batch, 4).degrees_BK is None
