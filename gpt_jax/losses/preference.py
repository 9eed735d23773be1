"""Losses on ranked completions that need no reward model: DPO, cDPO, IPO, ORPO, SimPO.

Each compares every pair of a prompt's completions of which one ranks above the other, through the
sums of log p(completion | prompt). The pairs of a prompt weigh 1 together, as in `ranking.py`: with
two completions that is the loss of its paper.

Metrics have the names that the field gives them; a pair counts once in each:

    rewards/chosen, rewards/rejected    the implicit reward, in the units of each function below
    rewards/margins                     their difference
    rewards/accuracies                  how often it is above 0; a tie is half
    logps/chosen, logps/rejected        log-likelihood of a completion: its sum (DPO, IPO) or its
                                        mean over tokens (ORPO, SimPO), whichever is learned from
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Batch, Comparisons
from gpt_jax.losses.lm import Loss, next_tokens
from gpt_jax.losses.ranking import mean_over_pairs, pairs_of
from gpt_jax.models.contract import Model

# 1 - p is not told from 0 where log p is nearer to 0 than this, in float32.
CERTAIN = 2.0**-23


class Likelihoods(NamedTuple):
    """What a model thinks of completions.

    Attributes:
      logps_BK: log p(completion | prompt) in nats, the stop token included; 0 of an empty slot.
      lengths_BK: the tokens that it is the sum over.
    """

    logps_BK: jax.Array
    lengths_BK: jax.Array

    @property
    def means_BK(self) -> jax.Array:
        """log p per token; 0 of an empty slot."""
        return self.logps_BK / jnp.maximum(self.lengths_BK, 1)


class Compared(NamedTuple):
    """What a method makes of its completions.

    Attributes:
      losses_BKK: [b, i, j], the loss of preferring i to j.
      rewards_BK: the implicit reward, for the metrics.
      logps_BK: the log-likelihood that is learned from, for the metrics.
      more_BKK: other metrics of a pair, by name.
    """

    losses_BKK: jax.Array
    rewards_BK: jax.Array
    logps_BK: jax.Array
    more_BKK: dict[str, jax.Array] = {}


def likelihoods(model: Model, params: dict, batch: Comparisons) -> Likelihoods:
    """The likelihoods of all completions, in one forward pass over B*K rows; nothing is dropped."""
    b, k, t = batch.tokens_BKT.ids.shape
    rows = Batch(batch.tokens_BKT, batch.weights_BKT)
    rows_MT = jax.tree.map(lambda x: jnp.reshape(x, (b * k, t)), rows)
    logps_M, lengths_M = sequence_logps(model, params, rows_MT)
    return Likelihoods(logps_M.reshape(b, k), lengths_M.reshape(b, k))


def sequence_logps(model: Model, params: dict, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(logps_B, lengths_B) float32: the sum of log p over a row's weighted tokens, and their
    number."""
    logprobs_BT, _, weights_BT = next_tokens(model, params, batch)
    return jnp.sum(logprobs_BT * weights_BT, axis=1), jnp.sum(weights_BT, axis=1)


def over_pairs(compared: Compared, ranks_BK: jax.Array) -> Loss:
    """The mean over prompts of the mean loss of their pairs, and the metrics of all pairs.

    Args:
      compared: every completion with every other.
      ranks_BK: int32, 0 is best, -1 an empty slot; ties are no pair.

    Returns:
      numerator, denominator (the prompts that have a pair), metrics.
    """
    pairs_BKK = pairs_of(ranks_BK)
    numerator, denominator = mean_over_pairs(compared.losses_BKK, pairs_BKK)
    pairs = jnp.sum(pairs_BKK)

    def of_pairs(x_BKK: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(jnp.where(pairs_BKK, x_BKK, 0.0)), pairs

    margins_BKK = differences(compared.rewards_BK)
    metrics = {
        "loss": (numerator, denominator),
        "rewards/accuracies": of_pairs((margins_BKK > 0) + 0.5 * (margins_BKK == 0)),
        "rewards/margins": of_pairs(margins_BKK),
    }
    for name, x_BK in (("rewards", compared.rewards_BK), ("logps", compared.logps_BK)):
        metrics[f"{name}/chosen"] = of_pairs(x_BK[:, :, None])
        metrics[f"{name}/rejected"] = of_pairs(x_BK[:, None, :])
    return numerator, denominator, metrics | jax.tree.map(of_pairs, compared.more_BKK)


def differences(x_BK: jax.Array) -> jax.Array:
    """[b, i, j]: how much more i has than j."""
    return x_BK[:, :, None] - x_BK[:, None, :]


def dpo(logratios_BK: jax.Array, *, beta: float, label_smoothing: float = 0.0) -> Compared:
    """-(1 - e) log sigmoid(m) - e log sigmoid(-m), m = r_better - r_worse (Rafailov et al. 2023,
    eq. 7).

    The reward is r = beta log(p / p_ref). e above 0 is cDPO (Mitchell 2023, "A note on DPO with
    noisy preferences", eq. 3): the share of labels that are the wrong way round.

    Args:
      logratios_BK: log p - log p_ref of every completion.
      beta: the price of a nat of KL divergence that the reward stands for.
      label_smoothing: e, below 0.5.
    """
    rewards_BK = beta * logratios_BK
    margins_BKK = differences(rewards_BK)
    right_BKK, wrong_BKK = jax.nn.softplus(-margins_BKK), jax.nn.softplus(margins_BKK)
    losses_BKK = (1 - label_smoothing) * right_BKK + label_smoothing * wrong_BKK
    return Compared(losses_BKK, rewards_BK, logratios_BK)


def ipo(logratios_BK: jax.Array, lengths_BK: jax.Array, *, beta: float) -> Compared:
    """(h_better - h_worse - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17, whose tau beta is).

    h is log(p / p_ref) per token. The paper has its sum, whose distance to 1 / (2 beta) grows with
    the length of a completion; TRL averages, by its authors' word as in their experiments, and so
    is one beta good for short and long completions. The reward is beta log(p / p_ref), not per
    token, so that it can be read beside DPO's.
    """
    means_BK = logratios_BK / jnp.maximum(lengths_BK, 1)
    losses_BKK = (differences(means_BK) - 1 / (2 * beta)) ** 2
    return Compared(losses_BKK, beta * logratios_BK, logratios_BK)


def orpo(means_BK: jax.Array, *, odds_weight: float) -> Compared:
    """-log p_better - w log sigmoid(log odds_better - log odds_worse) (Hong et al. 2024, eq. 6).

    p is the geometric mean over a completion's tokens (eq. 2) and odds = p / (1 - p) (eq. 3). The
    first term is supervised finetuning on the better one, of which each weighs the same whatever
    its length, as there; TRL weighs tokens the same, and counts those of the prompt. The reward is
    w log p.

    Args:
      means_BK: log p, per token.
      odds_weight: w, lambda in the paper.
    """
    odds_BKK = differences(means_BK - _log1mexp(means_BK))
    nll_BKK = jnp.broadcast_to(-means_BK[:, :, None], odds_BKK.shape)
    losses_BKK = nll_BKK + odds_weight * jax.nn.softplus(-odds_BKK)
    more_BKK = {
        "nll_loss": nll_BKK,
        "log_odds_chosen": odds_BKK,
        "log_odds_ratio": -jax.nn.softplus(-odds_BKK),
    }
    return Compared(losses_BKK, odds_weight * means_BK, means_BK, more_BKK)


def simpo(means_BK: jax.Array, *, beta: float, gamma: float) -> Compared:
    """-log sigmoid(r_better - r_worse - gamma) (Meng et al. 2024, eq. 6).

    The reward is r = beta log p per token (eq. 4).

    Args:
      means_BK: log p, per token.
      beta: the scale of the reward.
      gamma: the margin that is asked for.
    """
    rewards_BK = beta * means_BK
    losses_BKK = jax.nn.softplus(gamma - differences(rewards_BK))
    return Compared(losses_BKK, rewards_BK, means_BK)


def _log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - exp(x)) for x <= 0, which stays finite: x is taken as at most -`CERTAIN`.

    Both forms are those of Mächler 2012, "Accurately computing log(1 - exp(-|a|))", each where it
    keeps its digits.
    """
    x = jnp.minimum(x, -CERTAIN)
    near = x > -jnp.log(2.0)
    close = jnp.log(-jnp.expm1(jnp.where(near, x, -1.0)))
    return jnp.where(near, close, jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


# The same on models: `loss(model, learned, batch, key, frozen)`, as every loss. No key is used:
# dropout would be noise in the ratio of two likelihoods.


def dpo_loss(
    model: Model,
    learned: dict,
    batch: Comparisons,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Loss:
    """`dpo` of a policy; `frozen["reference"]` holds the parameters of p_ref."""
    del key
    policy, reference = _both(model, learned, batch, frozen)
    compared = dpo(policy.logps_BK - reference, beta=beta, label_smoothing=label_smoothing)
    return over_pairs(compared._replace(logps_BK=policy.logps_BK), batch.ranks_BK)


def ipo_loss(
    model: Model,
    learned: dict,
    batch: Comparisons,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    beta: float,
) -> Loss:
    """`ipo` of a policy; `frozen["reference"]` holds the parameters of p_ref."""
    del key
    policy, reference = _both(model, learned, batch, frozen)
    compared = ipo(policy.logps_BK - reference, policy.lengths_BK, beta=beta)
    return over_pairs(compared._replace(logps_BK=policy.logps_BK), batch.ranks_BK)


def orpo_loss(
    model: Model,
    learned: dict,
    batch: Comparisons,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    odds_weight: float,
) -> Loss:
    """`orpo` of a policy; there is no reference."""
    del key, frozen
    policy = likelihoods(model, learned, batch)
    return over_pairs(orpo(policy.means_BK, odds_weight=odds_weight), batch.ranks_BK)


def simpo_loss(
    model: Model,
    learned: dict,
    batch: Comparisons,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    beta: float,
    gamma: float,
) -> Loss:
    """`simpo` of a policy; there is no reference."""
    del key, frozen
    policy = likelihoods(model, learned, batch)
    return over_pairs(simpo(policy.means_BK, beta=beta, gamma=gamma), batch.ranks_BK)


def _both(
    model: Model, learned: dict, batch: Comparisons, frozen: dict
) -> tuple[Likelihoods, jax.Array]:
    """The policy's likelihoods, and the reference's logps_BK."""
    reference = likelihoods(model, frozen["reference"], batch)
    return likelihoods(model, learned, batch), reference.logps_BK
