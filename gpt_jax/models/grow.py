"""More tokens for a model: a chat's vocabulary for a base model.

A row of small random numbers would have a logit near 0 where all others of a trained model lie far
below, and take most of the probability. The mean of the old rows has about the mean of the logits,
so that a new token is about as likely as another (Hewitt 2021, "Initializing New Word Embeddings
for Pretrained Language Models").
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig


def grow(params: dict, config: ModelConfig, new_vocab_size: int) -> tuple[ModelConfig, dict]:
    """The same model with rows for more tokens.

    Args:
      params: of the model; they are not changed.
      config: its shape.
      new_vocab_size: V, at least the old one; what is equal to it stays as it is.

    Returns:
      The larger shape and its parameters: new rows of the embedding, and of an unembedding that is
      not tied to it, are the mean of the old ones.

    Raises:
      UserError: if the model has more tokens than that.
    """
    old, new = config.vocab_size, new_vocab_size
    if new < old:
        raise UserError(f"a model of {old} tokens cannot grow to {new}; give at least {old}")
    if new == old:
        return config, params
    embed = params["embed"]
    params = params | {"embed": embed | {"tokens": _grown(embed["tokens"], 0, new)}}
    if not config.tied:
        kernel_DV = params["unembed"]["kernel"]
        params["unembed"] = params["unembed"] | {"kernel": _grown(kernel_DV, 1, new)}
    return dataclasses.replace(config, vocab_size=new), params


def _grown(x: jax.Array, axis: int, size: int) -> jax.Array:
    """`x` with its mean along an axis, in float32, as often as it takes."""
    mean = jnp.mean(x, axis, dtype=jnp.float32, keepdims=True).astype(x.dtype)
    return jnp.concatenate([x, jnp.repeat(mean, size - x.shape[axis], axis)], axis)
