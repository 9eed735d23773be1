"""The language-model loss: pretraining and supervised finetuning."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Batch
from gpt_jax.models.contract import Model, forward
from gpt_jax.models.heads import token_logprobs, token_nll

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)
Loss = tuple[jax.Array, jax.Array, Metrics]  # numerator, denominator, metrics


def weighted_nll(logprobs_BT: jax.Array, weights_BT: jax.Array) -> Loss:
    """Negative log-likelihood: -sum(w * log p) over sum(w), all float32.

    Args:
      logprobs_BT: log-probability of each token given those before it.
      weights_BT: weight of each token; 0 on padding and prompts.
    """
    total = -jnp.sum(weights_BT * logprobs_BT)
    count = jnp.sum(weights_BT)
    return total, count, {"loss": (total, count)}


def predictions(
    model: Model, params: dict, batch: Batch, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(hidden_BTD, targets_BT, weights_BT) of predicting every next token of packed rows.

    The hidden state at t predicts token t+1; the first token of a segment has weight 0, so a
    prediction never crosses from one example into the next.
    """
    hidden_BTD, _ = forward(model, params, batch.tokens_BT, dropout_key=key)
    # Rolling instead of slicing keeps T as it is; the target that wraps around has weight 0.
    targets_BT = jnp.roll(batch.tokens_BT.ids, -1, axis=1)
    return hidden_BTD, targets_BT, jnp.roll(batch.weights_BT, -1, axis=1)


def next_tokens(
    model: Model, params: dict, batch: Batch, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(logprobs_BT, entropy_BT, weights_BT) of `predictions`, for losses of one's own."""
    hidden_BTD, targets_BT, weights_BT = predictions(model, params, batch, key)
    logprobs_BT, entropy_BT = token_logprobs(model, params, hidden_BTD, targets_BT)
    return logprobs_BT, entropy_BT, weights_BT


def lm_loss(
    model: Model,
    learned: dict,
    batch: Batch,
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """Next-token prediction (Radford et al. 2018, eq. 1) on rows of packed examples.

    The same numbers as `weighted_nll` of `next_tokens`, with a matmul less.

    Args:
      key: of the dropout, if the model has any; None, as in evaluation: none is dropped.
      frozen: nothing is read from it.
    """
    del frozen
    hidden_BTD, targets_BT, weights_BT = predictions(model, learned, batch, key)
    total = token_nll(model, learned, hidden_BTD, targets_BT, weights_BT)
    count = jnp.sum(weights_BT)
    return total, count, {"loss": (total, count)}
