"""Attention of a few new tokens against a key/value cache: contiguous or paged, bf16 or int8."""

from gpt_jax.kernels.decode_attention.api import decode_attention
from gpt_jax.kernels.decode_attention.layout import quantize

__all__ = ["decode_attention", "quantize"]
