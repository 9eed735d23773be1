"""A score that is read at a token behind the answer, or off all of its tokens."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import reward
from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.losses.ranking import ranking_loss
from gpt_jax.models.contract import forward
from gpt_jax.models.foreign.export import _head
from gpt_jax.models.heads import (
    HeadOptions,
    head_options,
    init_scorer,
    score_completions,
    score_last_token,
    scorer_shapes,
    with_token_behind,
)
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import TrainConfig
from tests import tiny

READOUT = 3


def scorer(likelihood=None):
    return init_scorer(
        tiny.MODEL, tiny.params(), jax.random.key(1), likelihood=likelihood, readout=READOUT
    )


def rows(side):
    """Two rows of 4 and 2 tokens; the second is padded on a side."""
    batch = tiny.padded([[5, 6, 7, 8], [9, 10]], 4)
    if side == "left":
        turned = (np.roll(x[1], 2) for x in batch.tokens_BT)
        tokens = Tokens(*map(np.stack, zip((x[0] for x in batch.tokens_BT), turned, strict=True)))
        batch = batch._replace(tokens_BT=tokens)
    return batch


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_score_is_that_of_the_row_with_the_token_at_its_end(side):
    """Break it: put it at the end of the row and not of the answer, or at the last token."""
    batch, params = rows(side), scorer()
    found = score_completions(tiny.MODEL, params, *batch)
    for b, row in enumerate([[5, 6, 7, 8], [9, 10]]):
        alone = tiny.padded([[*row, READOUT]], len(row) + 1)
        expected = score_last_token(tiny.MODEL, params, alone.tokens_BT)
        np.testing.assert_allclose(found[b], expected[0], atol=1e-5)
    bare = score_last_token(tiny.MODEL, params, batch.tokens_BT)
    assert np.abs(found - bare).max() > 1e-3


def test_an_empty_row_stays_empty():
    empty = Tokens(*(np.zeros((1, 3), np.int32) for _ in range(3)))
    assert not np.any(with_token_behind(empty, jnp.int32(READOUT)).segment_ids)


def test_the_likelihood_is_that_of_the_answer_alone():
    batch = rows("right")
    both = score_completions(tiny.MODEL, scorer(likelihood=1.0), *batch)
    head = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1), zero=True, likelihood=1.0)
    likelihood = score_completions(tiny.MODEL, head, *batch)
    np.testing.assert_allclose(
        both, score_completions(tiny.MODEL, scorer(), *batch) + likelihood, atol=1e-4
    )


def test_its_id_is_kept_and_has_no_gradient():
    params = scorer()
    batch = tiny.comparisons(np.random.default_rng(0), 2, 3, 24)
    gradient = jax.grad(lambda p: ranking_loss(tiny.MODEL, p, batch)[0])(params)
    assert gradient["head"]["readout"] == 0 and np.any(gradient["head"]["kernel_D"])
    shapes = scorer_shapes(tiny.MODEL, HeadOptions(readout=True))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, params)
    assert head_options(["head/bias", "head/readout"]) == HeadOptions(readout=True)
    with pytest.raises(UserError, match="reads its score at a token behind the answer"):
        _head(params["head"], 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_sum_is_over_the_answer_alone(side):
    """Against NumPy in float64. Break it: count the prompt's tokens, or the bias once for each."""
    batch = rows(side)
    params = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1), sum=True)
    assert not params["head"]["kernel_D"].any()
    kernel_D = jax.random.normal(jax.random.key(2), (tiny.MODEL.width,))
    params["head"] |= {"bias": jnp.float32(0.7), "kernel_D": kernel_D}
    weights_BT = np.array(batch.weights_BT)
    weights_BT[0, :2] = 0.0  # the prompt
    found = score_completions(tiny.MODEL, params, batch.tokens_BT, weights_BT)
    hidden_BTD, _ = forward(tiny.MODEL, params["backbone"], batch.tokens_BT)
    hidden_BTD, kernel_D = (
        np.asarray(x, np.float64) for x in (hidden_BTD, params["head"]["kernel_D"])
    )
    for b in range(2):
        of_answer_D = hidden_BTD[b][weights_BT[b] > 0].sum(axis=0)
        np.testing.assert_allclose(found[b], of_answer_D @ kernel_D + 0.7, atol=1e-5)
    shapes = scorer_shapes(tiny.MODEL, HeadOptions(sum=True))
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    assert head_options(["head/bias", "head/sum"]) == HeadOptions(sum=True)
    with pytest.raises(UserError, match="no --reward.sum"):
        _head(params["head"], 0)
    with pytest.raises(UserError, match="give one"):
        reward.Reward(
            optimizer=OptimizerConfig(), train=TrainConfig(steps=1), sum=True, readout=True
        )
