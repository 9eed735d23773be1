"""A model with more tokens is the same model on the old ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.models.contract import forward, init, param_shapes
from gpt_jax.models.grow import grow
from gpt_jax.models.heads import last_logits
from tests import tiny


@pytest.mark.parametrize("tied", [True, False])
def test_old_logits_stay_and_new_ones_are_their_mean(tied):
    """Hewitt 2021. Break it: rows of zeros, or of small random numbers."""
    config = dataclasses.replace(tiny.MODEL, tied=tied)
    params = init(config, jax.random.key(0))
    larger, grown = grow(params, config, 37)
    assert larger.vocab_size == 37
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, param_shapes(larger))
    tokens = tiny.prompts(np.random.default_rng(0), 3).tokens_BP
    hidden_BD, other_BD = (
        forward(c, p, tokens)[0][:, -1] for c, p in ((config, params), (larger, grown))
    )
    np.testing.assert_array_equal(hidden_BD, other_BD)
    old_BV = np.asarray(last_logits(config, params, hidden_BD))
    new_BV = np.asarray(last_logits(larger, grown, other_BD))
    np.testing.assert_allclose(new_BV[:, :32], old_BV, rtol=1e-6, atol=1e-6)
    means = np.repeat(old_BV.mean(axis=1, keepdims=True), 5, axis=1)
    np.testing.assert_allclose(new_BV[:, 32:], means, rtol=1e-4, atol=1e-5)


def test_what_is_large_enough_stays():
    params = tiny.params()
    assert grow(params, tiny.MODEL, tiny.MODEL.vocab_size) == (tiny.MODEL, params)
    with pytest.raises(UserError, match="a model of 32 tokens cannot grow to 31"):
        grow(params, tiny.MODEL, 31)
