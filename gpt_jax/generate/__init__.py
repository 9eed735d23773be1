"""Sampling from a model with a key/value cache: in tokens (`generate`) and in text (`complete`)."""

from gpt_jax.generate.sampler import Rollout, generate
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete, Completion, TextModel

__all__ = [
    "Complete",
    "Completion",
    "Rollout",
    "Sampling",
    "TextModel",
    "generate",
]
