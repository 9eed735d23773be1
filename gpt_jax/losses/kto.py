"""KTO: completions that are each marked as desirable or not, without a partner to compare with.

Ethayarajh et al. 2024, "KTO: Model alignment as prospect theoretic optimization", eqs. 7 and 8.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Batch
from gpt_jax.data.feedback import Feedback
from gpt_jax.losses.lm import Loss
from gpt_jax.losses.preference import sequence_logps
from gpt_jax.models.contract import Model

OWN, MISMATCHED = 0, 1  # of the two completions of a row


def kto(
    logratios_B: jax.Array,
    signs_B: jax.Array,
    kl: jax.Array,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """The losses of completions, and their implicit rewards.

        desirable:    w_D (1 - sigmoid(r - beta kl))        r = beta log(p / p_ref)
        undesirable:  w_U (1 - sigmoid(beta kl - r))

    Args:
      logratios_B: log p - log p_ref of every completion.
      signs_B: 1 desirable, -1 undesirable, 0 an empty row, whose loss is 0.
      kl: the estimate of KL(policy || reference) that a completion is held against, at least 0;
        a number, or one for each row. It has no gradient.
      beta: how soon a gain or a loss is as good as any larger one.
      desirable_weight, undesirable_weight: w_D and w_U.

    Returns:
      (losses_B, rewards_B).
    """
    rewards_B = beta * logratios_B
    gains_B = signs_B * (rewards_B - beta * jax.lax.stop_gradient(kl))
    weights_B = jnp.where(signs_B > 0, desirable_weight, undesirable_weight) * (signs_B != 0)
    return weights_B * jax.nn.sigmoid(-gains_B), rewards_B


def estimate_kl(model: Model, params: dict, batch: Feedback, frozen: dict) -> jax.Array:
    """max(0, mean of log(p / p_ref) over prompts with completions of other prompts), a number.

    Such a completion is nothing that either model would say, and so this is no KL divergence: it
    tells how far the policy has moved as a whole (section 4.2). Which completion a prompt is given
    is settled when the data is laid out (`data.feedback`), so that the order of a batch is nothing
    to it. It has no gradient.
    """
    there_B = batch.signs_B != 0
    logratios_B = _logratios(model, params, batch, MISMATCHED, frozen)
    total = jnp.sum(jnp.where(there_B, logratios_B, 0.0))
    return jax.lax.stop_gradient(jnp.maximum(total / jnp.maximum(there_B.sum(), 1), 0.0))


def with_kl(model: Model, params: dict, batch: Feedback, frozen: dict) -> Feedback:
    """The batch with its estimate in every row.

    A step asks for this before it divides its batch: an estimate of each micro-batch would make the
    update depend on how many there are.
    """
    kl = estimate_kl(model, params, batch, frozen)
    return batch._replace(kl_B=jnp.broadcast_to(kl, batch.signs_B.shape))


def kto_loss(
    model: Model,
    learned: dict,
    batch: Feedback,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss:
    """`kto` of a policy; `frozen["reference"]` holds the parameters of p_ref.

    Metrics: `kl`, and of the desirable (chosen) and the undesirable (rejected) completions
    `rewards/chosen`, `rewards/rejected`, `logps/chosen` and `logps/rejected`.
    """
    del key  # nothing is dropped
    if batch.kl_B is None:
        batch = with_kl(model, learned, batch, frozen)
    logps_B = _logps(model, learned, batch, OWN)
    losses_B, rewards_B = kto(
        logps_B - _logps(model, frozen["reference"], batch, OWN),
        batch.signs_B,
        batch.kl_B,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )
    there_B = batch.signs_B != 0
    total, count = jnp.sum(losses_B), there_B.sum().astype(jnp.float32)
    metrics = {"loss": (total, count), "kl": (jnp.sum(batch.kl_B * there_B), count)}
    for name, sign in (("chosen", 1), ("rejected", -1)):
        mine_B = batch.signs_B == sign
        for what, x_B in (("rewards", rewards_B), ("logps", logps_B)):
            metrics[f"{what}/{name}"] = (jnp.sum(jnp.where(mine_B, x_B, 0.0)), mine_B.sum())
    return total, count, metrics


def _logratios(model: Model, params: dict, batch: Feedback, which: int, frozen: dict) -> jax.Array:
    logps_B = _logps(model, params, batch, which)
    return logps_B - _logps(model, frozen["reference"], batch, which)


def _logps(model: Model, params: dict, batch: Feedback, which: int) -> jax.Array:
    """logps_B of one of the two completions of every row."""
    rows = Batch(batch.tokens_BKT, batch.weights_BKT)
    rows_BT = jax.tree.map(lambda x_BKT: x_BKT[:, which], rows)
    return sequence_logps(model, params, rows_BT)[0]
