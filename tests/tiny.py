"""A model small enough to compile in a second, and batches for it."""

import jax
import numpy as np

from gpt_jax.data.batches import Batch, Comparisons, pad_prompts
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.transformer import init

MODEL = ModelConfig(vocab_size=32, context_length=64, width=16, layers=2, heads=2)


def params(model=MODEL, seed=0, scale=5.0):
    """Random parameters, scaled up so that the predictions are far from uniform."""
    return jax.tree.map(lambda x: x * scale, init(model, jax.random.key(seed)))


def random_rows(rng, n, low=4, high=20):
    return [rng.integers(5, 32, rng.integers(low, high)).tolist() for _ in range(n)]


def padded(rows, length, weights=True) -> Batch:
    """One example per row, right-padded."""
    shape = (len(rows), length)
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    weight = np.zeros(shape, np.float32)
    for b, row in enumerate(rows):
        n = len(row)
        tokens[b, :n], positions[b, :n], segments[b, :n] = row, np.arange(n), 1
        weight[b, 1:n] = float(weights)
    return Batch(tokens, positions, segments, weight)


def comparisons(rng, n, k, length) -> Comparisons:
    parts = [padded(random_rows(rng, k), length) for _ in range(n)]
    ranks = np.stack([rng.permutation(k) for _ in range(n)]).astype(np.int32)
    return Comparisons(*(np.stack([p[i] for p in parts]) for i in range(3)), ranks)


def prompts(rng, n, length=12):
    return pad_prompts(random_rows(rng, n, 3, 10), length, 0)
