"""Sampling from a model with a key/value cache."""

from gpt_jax.generate.sampler import Rollout, generate

__all__ = ["Rollout", "generate"]
