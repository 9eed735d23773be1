"""Dropout: what a token drops depends on itself, the step, the layer and the purpose alone."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data.batches import Tokens, pad_prompts
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models import ModelConfig, forward, init_cache
from gpt_jax.models.dropout import Draws, Purpose, draws_of, drop, drop_weights
from tests import tiny

RATES = dict(dropout=0.2, attention_dropout=0.3, embedding_dropout=0.1)
GPT = dataclasses.replace(tiny.MODEL, **RATES)
GEMMA = ModelConfig(
    vocab_size=32,
    context_length=64,
    width=16,
    layers=3,
    heads=4,
    kv_heads=2,
    positions="rope",
    norm="rms",
    norm_position="both",
    mlp="geglu",
    window=3,
    global_every=2,
    **RATES,
)
POST = dataclasses.replace(GPT, positions="sinusoidal", norm_position="post")
CONFIGS = {"gpt": GPT, "gemma": GEMMA, "post": POST}
ROWS = [[5, 9, 11, 4, 7, 30, 2], [8, 3, 3], [20, 21, 22, 23, 24]]
KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnums=0)
def hidden(config, params, tokens, key):
    return forward(config, params, tokens, dropout_key=key)[0]


def rows(sequences, width, side="right"):
    left = pad_prompts(sequences, width, 0).tokens_BP
    return left if side == "left" else tiny.padded(sequences, width).tokens_BT


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("side", "width"), [("left", 9), ("right", 12)])
def test_padding_and_rows_behind_change_nothing(name, side, width):
    """Invariant 1. Break it: fold columns instead of positions in `draws_of`."""
    config = CONFIGS[name]
    params = tiny.params(config)
    tight = hidden(config, params, rows(ROWS, 7), KEY)
    wide = hidden(config, params, rows([*ROWS, [6, 7]], width, side), KEY)
    for b, row in enumerate(ROWS):
        real = slice(width - len(row), width) if side == "left" else slice(len(row))
        np.testing.assert_allclose(tight[b, : len(row)], wide[b, real], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_rate_drops_something_and_no_key_nothing(name):
    config, tokens = CONFIGS[name], rows(ROWS, 7)
    params = tiny.params(config)
    none = dataclasses.replace(config, **dict.fromkeys(RATES, 0.0))
    plain = hidden(none, params, tokens, None)
    np.testing.assert_array_equal(hidden(config, params, tokens, None), plain)
    np.testing.assert_array_equal(hidden(none, params, tokens, KEY), plain)
    for rate, value in RATES.items():
        one = dataclasses.replace(none, **{rate: value})
        first, again, other = (
            hidden(one, params, tokens, key) for key in (KEY, KEY, jax.random.key(8))
        )
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - plain).max() > 0.01 and np.abs(first - other).max() > 0.01


def test_without_dropout_the_program_is_the_same():
    none = dataclasses.replace(GPT, **dict.fromkeys(RATES, 0.0))
    tokens, params = rows(ROWS, 7), tiny.params(GPT)
    programs = [
        jax.jit(lambda p, c=config, k=key: forward(c, p, tokens, dropout_key=k)[0])
        .lower(params)
        .as_text()
        for config, key in ((none, None), (none, KEY), (GPT, None))
    ]
    assert programs[0] == programs[1] == programs[2]
    assert "threefry" not in programs[0]


def test_evaluation_drops_nothing_and_training_does():
    """The loss's key is None in evaluation, and so it is all through reinforcement learning."""
    batch, params = tiny.padded(ROWS, 7), tiny.params(GPT)
    plain = lm_loss(dataclasses.replace(GPT, **dict.fromkeys(RATES, 0.0)), params, batch, KEY)
    assert float(lm_loss(GPT, params, batch, None)[0]) == float(plain[0])
    assert float(lm_loss(GPT, params, batch, KEY)[0]) != float(plain[0])


def test_a_cache_and_dropout_exclude_each_other():
    with pytest.raises(ValueError, match="none with a cache"):
        forward(GPT, tiny.params(GPT), rows(ROWS, 7), init_cache(GPT, 3, 9), dropout_key=KEY)


def test_every_draw_has_its_own_key():
    """Invariant 10: of two steps, rows, segments, positions, layers and purposes no two share one.
    Break it: leave any of the numbers out of `draws_of`."""
    segments = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2]], np.int32)
    tokens = Tokens(segments * 0 + 5, np.array([[0, 1, 2] * 2] * 2, np.int32), segments)
    masks = []
    for step, layer in itertools.product(range(2), range(2)):
        draws = draws_of(jax.random.key(step), tokens).of_layer(layer)
        for purpose in (Purpose.ATTENTION, Purpose.MLP):
            masks += (
                np.asarray(drop(jnp.ones((2, 6, 64)), 0.5, draws, purpose)).reshape(12, 64).tolist()
            )
        weights = drop_weights(jnp.ones((2, 64, 6, 3)), 0.5, one_segment(draws))
        masks += np.moveaxis(np.asarray(weights), 1, -1).reshape(-1, 64).tolist()
    assert len({tuple(mask) for mask in masks}) == len(masks) == 4 * (24 + 36)


def one_segment(draws: Draws) -> Draws:
    """The same queries, and the three keys of one segment."""
    return draws._replace(positions_BT=draws.positions_BT[:, :3])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_what_is_kept_is_scaled_to_the_same_mean(rate):
    tokens = tiny.padded([[5] * 50] * 20, 50).tokens_BT
    draws = draws_of(KEY, tokens)
    count = 20 * 50 * 16
    for dropped in (
        drop(jnp.ones((20, 50, 16)), rate, draws, Purpose.MLP),
        drop_weights(jnp.ones((20, 16, 50, 50)), rate, draws),
    ):
        assert set(np.unique(dropped)) == {0.0, np.float32(1 / (1 - rate))}
        assert np.mean(dropped == 0) == pytest.approx(rate, abs=5 * (rate / count) ** 0.5)
    low = drop(jnp.ones((20, 50, 16), jnp.bfloat16), rate, draws, Purpose.MLP)
    assert low.dtype == jnp.bfloat16
