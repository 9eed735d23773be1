"""Linear cross-entropy against float64 NumPy, whole and in chunks."""

import jax
import numpy as np
import pytest

from gpt_jax.kernels.linear_cross_entropy import linear_cross_entropy, xla

M, D, V, TEMPERATURE = 13, 8, 31, 0.7
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(M, D)).astype(np.float32)
UNEMBED = RNG.normal(size=(V, D)).astype(np.float32)
TARGETS = RNG.integers(0, V, M).astype(np.int32)
LOGPROB_WEIGHTS, ENTROPY_WEIGHTS = RNG.normal(size=(2, M)).astype(np.float32)


def float64():
    """Log-probabilities, entropies, and the gradients of their weighted sum, by hand."""
    hidden, unembed = HIDDEN.astype(np.float64), UNEMBED.astype(np.float64)
    logits = hidden @ unembed.T / TEMPERATURE
    logits -= logits.max(axis=1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    p = np.exp(logp)
    entropy = -(p * logp).sum(axis=1)
    d_logits = LOGPROB_WEIGHTS[:, None] * (np.eye(V)[TARGETS] - p)
    d_logits -= ENTROPY_WEIGHTS[:, None] * p * (logp + entropy[:, None])
    d_logits /= TEMPERATURE
    return logp[np.arange(M), TARGETS], entropy, d_logits @ unembed, d_logits.T @ hidden


@pytest.mark.parametrize(
    ("implementation", "max_logits"),
    [("reference", None), ("xla", M * V), ("xla", 5 * V), ("xla", V)],
    ids=["reference", "one chunk", "ragged chunks", "a token each"],
)
def test_values_and_gradients_equal_float64(implementation, max_logits, monkeypatch):
    if max_logits:
        monkeypatch.setattr(xla, "MAX_LOGITS", max_logits)

    def loss(hidden, unembed):
        logprobs, entropy = linear_cross_entropy(
            hidden, unembed, TARGETS, temperature=TEMPERATURE, implementation=implementation
        )
        total = (LOGPROB_WEIGHTS * logprobs + ENTROPY_WEIGHTS * entropy).sum()
        return total, (logprobs, entropy)

    gradients, values = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(HIDDEN, UNEMBED)
    for ours, expected in zip((*values, *gradients), float64(), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_memory_does_not_grow_with_the_logits(monkeypatch):
    """Break it: remove `@jax.checkpoint` in xla.py."""
    monkeypatch.setattr(xla, "MAX_LOGITS", 2**16)

    def scratch_bytes(tokens):
        def loss(hidden, unembed):
            return linear_cross_entropy(hidden, unembed, np.zeros(tokens, np.int32))[0].sum()

        shapes = (jax.ShapeDtypeStruct((n, 4), np.float32) for n in (tokens, 1024))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    all_logits = 4 * 4096 * 1024
    assert scratch_bytes(4096) < all_logits / 4
