"""A class for a whole text, with language modelling beside (Radford et al. 2018, eq. 3 to 5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.data.classification import Labelled
from gpt_jax.losses.lm import Loss
from gpt_jax.models.contract import Model, Params, forward
from gpt_jax.models.heads import class_logits, last_hidden, token_logprobs


def classification_loss(
    model: Model,
    learned: Params,
    batch: Labelled,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    auxiliary: float = 0.5,
) -> Loss:
    """-log p(class | text) - auxiliary * mean over its tokens of log p(token | those before).

    The class is read at the last real token by a linear head; the mean over the texts is taken.

    Args:
      model: of the backbone.
      learned: {"backbone", "head"}.
      batch: texts with their classes; a row without a token counts for nothing.
      key: of the dropout, if the model has any.
      frozen: nothing is read from it.
      auxiliary: the weight of the language model's loss; 0: it is not computed.
    """
    del frozen
    tokens_BT, labels_B = batch
    real_BT = (jnp.asarray(tokens_BT.segment_ids) != 0).astype(jnp.float32)
    counts_B = real_BT.max(axis=1)
    hidden_BTD, _ = forward(model, learned["backbone"], tokens_BT, dropout_key=key)
    logits_BC = class_logits(learned["head"], last_hidden(hidden_BTD, tokens_BT))
    logp_BC = jax.nn.log_softmax(logits_BC, axis=-1)
    nll_B = -jnp.take_along_axis(logp_BC, labels_B[:, None], axis=1)[:, 0]
    right_B = (logits_BC.argmax(axis=1) == labels_B).astype(jnp.float32)
    count = counts_B.sum()
    total = (counts_B * nll_B).sum()
    metrics = {"loss": (total, count), "accuracy": ((counts_B * right_B).sum(), count)}
    if auxiliary:
        logprobs_BT, _ = token_logprobs(
            model, learned["backbone"], hidden_BTD[:, :-1], tokens_BT.ids[:, 1:]
        )
        weights_BT = real_BT[:, 1:]
        means_B = (weights_BT * logprobs_BT).sum(axis=1) / jnp.maximum(weights_BT.sum(axis=1), 1.0)
        beside = -(counts_B * means_B).sum()
        metrics["language_loss"] = (beside, count)
        total = total + auxiliary * beside
    return total, count, metrics
