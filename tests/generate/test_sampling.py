"""The settings of a draw, and each filter against itself in float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling, filter_logprobs, keep_min_p, keep_top_k, keep_top_p


def test_filters_keep_the_most_likely_tokens():
    logp = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))

    def kept(**options):
        return np.isfinite(filter_logprobs(logp, **options))[0].tolist()

    assert kept(top_k=0, top_p=1.0) == [True] * 4
    assert kept(top_k=2, top_p=1.0) == [False, True, False, True]
    assert kept(top_k=0, top_p=0.6) == [False, True, False, True]
    assert kept(top_k=0, top_p=0.75) == [False, True, True, True]
    assert kept(top_k=9, top_p=1.0) == [True] * 4


def random_logprobs(rows=32, vocabulary=40):
    """Rows with some tokens that may not be drawn, and some that are equally likely."""
    rng = np.random.default_rng(0)
    logits = np.round(3.0 * rng.normal(size=(rows, vocabulary)), 1)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def by_likelihood(logp_V):
    """Ids, the most likely first, of equals the lower id first."""
    return sorted(range(len(logp_V)), key=lambda i: (-logp_V[i], i))


def naive_top_k(logp_V, k):
    return {i for i in by_likelihood(logp_V)[:k] if logp_V[i] > -np.inf}


def naive_top_p(logp_V, p):
    kept, mass = set(), 0.0
    for i in by_likelihood(logp_V):
        if not kept or mass < p:
            kept.add(i)
        mass += np.exp(logp_V[i])
    return kept


def naive_min_p(logp_V, p):
    return {i for i, logp in enumerate(logp_V) if np.exp(logp) >= p * np.exp(logp_V.max()) > 0}


@pytest.mark.parametrize(
    "keep, naive, values",
    [
        (keep_top_k, naive_top_k, (1, 3, 39, 40, 99)),
        (keep_top_p, naive_top_p, (0.0, 0.1234, 0.5432, 0.9876)),
        (keep_min_p, naive_min_p, (0.0123, 0.2345, 1.0)),
    ],
)
def test_a_filter_equals_its_loop_in_float64(keep, naive, values):
    logp = random_logprobs()
    for value in values:
        filtered = np.asarray(keep(jnp.float32(logp), value))
        for row, expected in zip(filtered, logp, strict=True):
            assert set(np.flatnonzero(np.isfinite(row))) == naive(expected, value)
        kept = np.isfinite(filtered)
        np.testing.assert_array_equal(filtered[kept], np.float32(logp)[kept])


def test_of_equal_tokens_the_lower_id_is_kept():
    """Break it: compare with the k-th largest number, as many libraries do."""
    equal = jnp.zeros((1, 4)) - jnp.log(4.0)
    assert np.isfinite(filter_logprobs(equal, 1, 1.0)).tolist() == [[True, False, False, False]]
    assert np.isfinite(filter_logprobs(equal, 0, 0.5)).tolist() == [[True, True, False, False]]
    assert np.isfinite(filter_logprobs(equal, 0, 0.0)).tolist() == [[True, False, False, False]]
    assert np.isfinite(filter_logprobs(equal, 0, 1.0, 1.0)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"top_p": -0.1},
        {"min_p": 2.0},
        {"n": 0},
        {"max_new_tokens": 0},
        {"logprobs": -1},
        {"seed": -1},
        {"stop": "###"},
        {"stop": ("",)},
    ],
    ids=str,
)
def test_a_setting_out_of_its_range_is_a_sentence(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name} is .* must be"):
        Sampling(**wrong)
