"""Attention with causal and segment masks and grouped key/value heads."""

from gpt_jax.kernels.attention.api import attention

__all__ = ["attention"]
