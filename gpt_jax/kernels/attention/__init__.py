"""Attention with masks, segments and grouped key/value heads."""

from gpt_jax.kernels.attention.api import (
    attention,
    attention_backward,
    attention_forward,
    attention_weights,
)
from gpt_jax.kernels.attention.reference import mix

__all__ = ["attention", "attention_backward", "attention_forward", "attention_weights", "mix"]
