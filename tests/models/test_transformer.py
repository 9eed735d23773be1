"""The decoder: masking, packing, scanning, recomputation, precision."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.models import (
    ModelConfig,
    forward,
    init,
    init_scorer,
    score_last_token,
    token_logprobs,
    transformer,
)
from gpt_jax.models.heads import scalar_head
from gpt_jax.models.transformer import attention_weights

GPT = ModelConfig(vocab_size=37, context_length=24, width=16, layers=3, heads=4)
LLAMA = dataclasses.replace(
    GPT, kv_heads=2, positions="rope", norm="rms", mlp="swiglu", tied=False, biases=False
)
POST = dataclasses.replace(GPT, positions="sinusoidal", norm_position="post")
GEMMA = dataclasses.replace(
    LLAMA,
    norm_position="both",
    qk_norm=True,
    mlp="geglu",
    scale_embedding=True,
    query_scale=0.4,
    window=3,
    global_every=2,
    rope_theta=100.0,
    rope_divisor=2.0,
)
CONFIGS = {"gpt": GPT, "llama": LLAMA, "post": POST, "gemma": GEMMA}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@functools.cache
def big_params(config):
    """Parameters with weights large enough that every mistake shows in the outputs."""
    params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        x + 0.2 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(treedef, leaves)


def rows(sequences, width, side="right"):
    """Token lists padded to `width`."""
    tokens, positions, segments = np.zeros((3, len(sequences), width), np.int32)
    for b, sequence in enumerate(sequences):
        n = len(sequence)
        at = slice(0, n) if side == "right" else slice(width - n, width)
        tokens[b, at], positions[b, at], segments[b, at] = sequence, np.arange(n), 1
    return Tokens(tokens, positions, segments)


@functools.partial(jax.jit, static_argnums=0)
def next_token_logprobs(config, params, tokens):
    hidden, _ = forward(config, params, tokens)
    return token_logprobs(config, params, hidden[:, :-1], tokens.ids[:, 1:])[0]


score = jax.jit(score_last_token, static_argnums=0)


def logprobs(config, params, tokens):
    """Of every next token, with the pairs that lie within one segment."""
    values, segments = next_token_logprobs(config, params, tokens), tokens.segment_ids
    real = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    return np.asarray(values), real


SEQUENCES = [[5, 9, 11, 4, 7, 30, 2], [8, 3, 3], [20, 21, 22, 23, 24]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [7, 12])
def test_padding_and_batch_composition_change_nothing(config, side, width):
    """Invariant 1. Break it: compare segments with 0 only in `visible` (scores.py)."""
    params = big_params(config)
    together, real = logprobs(config, params, rows(SEQUENCES, width, side))
    for b, sequence in enumerate(SEQUENCES):
        alone, _ = logprobs(config, params, rows([sequence], len(sequence)))
        np.testing.assert_allclose(together[b][real[b]], alone[0], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_read_at_the_last_real_token(config, side):
    """Invariant 8. Break it: `last_B = ....max` -> `-1` in `score_last_token`."""
    scorer = init_scorer(config, big_params(config), jax.random.key(2))
    together = score(config, scorer, rows(SEQUENCES, 11, side))
    assert together.dtype == jnp.float32
    for value, sequence in zip(together, SEQUENCES, strict=True):
        alone = score(config, scorer, rows([sequence], len(sequence)))
        np.testing.assert_allclose(value, alone[0], atol=1e-5)


def test_packed_segments_do_not_see_each_other(config):
    """Invariant 7. Break it: the same line of `visible`."""
    params = big_params(config)
    parts = [rows([sequence], len(sequence)) for sequence in SEQUENCES]
    tokens, positions, _ = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    lengths = [len(sequence) for sequence in SEQUENCES]
    segments = np.repeat(np.arange(1, 4, dtype=np.int32), lengths)[None]
    packed, real = logprobs(config, params, Tokens(tokens, positions, segments))
    apart = [logprobs(config, params, part)[0][0] for part in parts]
    np.testing.assert_allclose(packed[real], np.concatenate(apart), atol=1e-5)


def test_attention_weights_are_those_of_the_layers(config):
    """The layers that hand them out compute values under them, and come to the same states."""
    params, tokens = big_params(config), rows(SEQUENCES, 9, "left")
    weights = jax.jit(attention_weights, static_argnums=0)(config, params, tokens)
    assert weights.shape == (3, 3, config.heads, 9, 9) and weights.dtype == jnp.float32
    real = tokens.segment_ids > 0
    distance = np.arange(9)[:, None] - np.arange(9)
    for layer, window in enumerate(config.windows()):
        sees = real[:, :, None] & real[:, None, :] & (distance >= 0) & (distance < (window or 9))
        sees = np.broadcast_to(sees[:, None], weights[layer].shape)
        assert (weights[layer][sees] > 0).all() and (weights[layer][~sees] == 0).all()
    sums = np.broadcast_to(real[:, None, :], weights.shape[:-1])
    np.testing.assert_allclose(weights.sum(axis=-1), sums, atol=1e-5)
    whole, _ = forward(config, params, tokens)
    (hidden, _), _ = transformer.Transformer(config).apply(
        {"params": params}, tokens, mutable="attention"
    )
    np.testing.assert_allclose(hidden[real], whole[real], atol=1e-4)


def mean_loss(config, params):
    tokens = rows(SEQUENCES, 8)
    hidden, _ = forward(config, params, tokens)
    values, entropy = token_logprobs(config, params, hidden[:, :-1], tokens.ids[:, 1:])
    return (values + 0.1 * entropy).mean()


def loss_and_gradients(config, params):
    """Compiled afresh on every call, so that a patched `layer_unroll` takes effect."""
    return jax.jit(jax.value_and_grad(functools.partial(mean_loss, config)))(params)


def assert_trees_close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


def test_the_loop_over_layers_equals_the_unrolled_one(config, monkeypatch):
    params = big_params(config)
    unrolled = loss_and_gradients(config, params)
    monkeypatch.setattr(transformer, "layer_unroll", lambda layers: 1)
    assert_trees_close(loss_and_gradients(config, params), unrolled)


@pytest.mark.parametrize("remat", ["dots", "block", "offload"])
@pytest.mark.parametrize("unroll", [1, 3])
def test_recomputation_changes_no_gradient(remat, unroll, monkeypatch):
    monkeypatch.setattr(transformer, "layer_unroll", lambda layers: unroll)
    params = big_params(GPT)
    recomputed = loss_and_gradients(dataclasses.replace(GPT, remat=remat), params)
    assert_trees_close(recomputed, loss_and_gradients(GPT, params))


def test_gradients_equal_finite_differences(config):
    """The matmul has a gradient of its own."""
    params = big_params(config)
    _, gradients = loss_and_gradients(config, params)
    direction = jax.tree.map(lambda g: g / (jnp.linalg.norm(g) + 1e-9), gradients)
    loss = jax.jit(mean_loss, static_argnums=0)

    def loss_at(step):
        return loss(config, jax.tree.map(lambda p, d: p + step * d, params, direction))

    slope = (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
    expected = sum(jnp.vdot(gradient, unit) for gradient, unit in pairs)
    np.testing.assert_allclose(slope, expected, rtol=1e-2)


def test_bfloat16_computes_close_to_float32_and_scores_in_float32():
    """Invariant 4. Break it: cast the score, or the head's product, to the compute dtype."""
    low = dataclasses.replace(LLAMA, dtype="bfloat16")
    params = jax.jit(init, static_argnums=0)(LLAMA, jax.random.key(0))
    inputs = rows(SEQUENCES, 8)
    hidden, _ = forward(low, params, inputs)
    assert hidden.dtype == jnp.bfloat16
    full, real = logprobs(LLAMA, params, inputs)
    np.testing.assert_allclose(logprobs(low, params, inputs)[0][real], full[real], atol=2e-2)

    scorer = init_scorer(low, params, jax.random.key(1), zero=True)
    scorer["head"]["bias"] = jnp.float32(0.7)
    scores = score(low, scorer, inputs)
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(scores, np.float32(0.7))

    head = init_scorer(low, params, jax.random.key(1))["head"]
    exact = np.asarray(hidden, np.float64) @ np.asarray(head["kernel_D"], np.float64)
    np.testing.assert_allclose(scalar_head(head, hidden), exact, atol=1e-6)


def test_initial_scales():
    config = dataclasses.replace(GPT, width=64, layers=8)
    params = init(config, jax.random.key(0))
    assert np.std(params["blocks"]["mlp"]["up"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(params["blocks"]["mlp"]["down"]) == pytest.approx(0.02 / 4, rel=0.05)
    assert np.std(params["blocks"]["attn"]["out"][0]) == pytest.approx(0.02 / 4, rel=0.05)
    scorer = init_scorer(config, params, jax.random.key(1))
    assert np.std(scorer["head"]["kernel_D"]) == pytest.approx(65**-0.5, rel=0.3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(width=18), "width 18 does not divide into 4 heads"),
        (dict(kv_heads=3), "4 heads do not divide into 3 kv_heads"),
        (dict(positions="rope", head_size=5), "even head_size"),
    ],
)
def test_impossible_shapes_end_in_a_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(GPT, **{"head_size": None, **change})
