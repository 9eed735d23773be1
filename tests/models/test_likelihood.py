"""A reward model that reads the log-likelihood of a completion beside its last token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data.batches import Tokens
from gpt_jax.losses.ranking import ranking_loss, score_comparisons
from gpt_jax.models import forward, unembedding
from gpt_jax.models.heads import (
    HeadOptions,
    head_options,
    init_scorer,
    score_completions,
    score_last_token,
    scorer_shapes,
)
from tests import tiny

PROMPT, COMPLETION = [5, 9, 7], [11, 6, 8, 20]


def scorer(likelihood=0.3):
    return init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1), likelihood=likelihood)


def row(left: int, right: int) -> tuple[Tokens, np.ndarray]:
    """The prompt and the completion with padding before and behind, and the weights."""
    ids = PROMPT + COMPLETION
    padded = np.pad(ids, (left, right)).astype(np.int32)[None]
    positions = np.pad(np.arange(len(ids)), (left, right)).astype(np.int32)[None]
    segments = np.pad(np.ones(len(ids), np.int32), (left, right))[None]
    weights = np.pad(np.ones(len(COMPLETION), np.float32), (left + len(PROMPT), right))[None]
    return Tokens(padded, positions, segments), weights


@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 2)])
def test_the_score_is_the_last_tokens_and_the_weighted_log_likelihood(left, right):
    """Against float64 NumPy. Break: sum over the prompt, too, or leave the stop token out."""
    judge, (alone, _) = scorer(), row(0, 0)
    hidden_TD = np.float64(forward(tiny.MODEL, judge["backbone"], alone)[0][0])
    logits_TV = hidden_TD @ np.float64(unembedding(tiny.MODEL, judge["backbone"])).T
    logprobs_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
    start = len(PROMPT) - 1
    likelihood = sum(logprobs_TV[start + i, token] for i, token in enumerate(COMPLETION))
    last = hidden_TD[-1] @ np.float64(judge["head"]["kernel_D"]) + judge["head"]["bias"]
    (score,) = score_completions(tiny.MODEL, judge, *row(left, right))
    assert likelihood < -5  # far from nothing
    assert float(score) == pytest.approx(float(last) + 0.3 * likelihood, abs=1e-4)
    assert score.dtype == jnp.float32


def test_without_a_weight_for_it_the_last_token_alone_is_read():
    judge = scorer(None)
    tokens, weights = row(1, 2)
    alone = score_last_token(tiny.MODEL, judge, tokens)
    np.testing.assert_array_equal(score_completions(tiny.MODEL, judge, tokens, weights), alone)


def test_rankings_teach_the_weight():
    """Its gradient is that of a finite difference. Break: `stop_gradient` of the likelihood."""
    batch = tiny.comparisons(np.random.default_rng(0), n=3, k=4, length=24)

    def loss(weight):
        judge = scorer() | {"head": scorer()["head"] | {"likelihood": weight}}
        total, count, _ = ranking_loss(tiny.MODEL, judge, batch)
        return total / count

    weight, step = jnp.float32(0.02), 1e-3
    numeric = (loss(weight + step) - loss(weight - step)) / (2 * step)
    assert abs(numeric) > 0.1
    assert float(jax.grad(loss)(weight)) == pytest.approx(float(numeric), rel=0.02)


def test_a_likely_completion_scores_higher_at_once():
    """Before any training, where the head knows nothing. Break: subtract the likelihood."""
    judge = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1), zero=True, likelihood=1.0)
    batch = tiny.comparisons(np.random.default_rng(1), n=4, k=3, length=24)
    plain = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1), zero=True)
    scores = score_comparisons(tiny.MODEL, judge, batch)
    assert (scores < 0).all() and len(np.unique(scores)) == scores.size
    assert (score_comparisons(tiny.MODEL, plain, batch) == 0).all()


def test_shapes_and_names_tell_the_two_kinds_apart():
    for weight in (None, 0.3):
        made = jax.eval_shape(lambda weight=weight: scorer(weight))
        shapes = scorer_shapes(tiny.MODEL, HeadOptions(likelihood=weight is not None))
        assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, shapes)
    assert head_options({"head/bias": (), "head/likelihood": ()}) == HeadOptions(likelihood=True)
    assert head_options({"head/bias": ()}) == HeadOptions()
