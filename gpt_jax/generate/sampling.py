"""How a completion is drawn: the settings, and the filters that narrow a distribution down.

Every filter is a pure function logp_BV -> logp_BV that sets what it leaves out to -inf, never all
of a row. Of equally likely tokens the one with the lower id goes first.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.ranges import (
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Range,
    check_ranges,
)

Penalty = Annotated[float, Range(-2.0, 2.0)]  # as in OpenAI's API


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How `complete` draws. The defaults are the model's own distribution."""

    max_new_tokens: Positive = 128
    """The longest completion, in tokens."""
    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: NonNegative = 0
    """Draws among so many of the most likely tokens (Fan et al. 2018); 0: among all."""
    top_p: Fraction = 1.0
    """Draws among the fewest most likely tokens whose probabilities reach this (Holtzman et al.
    2020); 1: among all."""
    min_p: Fraction = 0.0
    """Draws among the tokens at least this times as likely as the likeliest (Nguyen et al. 2024);
    0: among all."""
    repetition_penalty: PositiveFloat = 1.0
    """Makes tokens of the prompt and of what was drawn less likely (Keskar et al. 2019); 1: not."""
    presence_penalty: Penalty = 0.0
    """Subtracted from the logits of the tokens that were drawn before."""
    frequency_penalty: Penalty = 0.0
    """The same, for every time that they were."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit) pairs."""
    stop: tuple[str, ...] = ()
    """Ends a completion before the first of these strings, also where one spans tokens."""
    n: Annotated[int, Range(1, 2**16 - 1)] = 1
    """Completions of every prompt."""
    logprobs: NonNegative = 0
    """How many of the most likely tokens are reported at every place, beside the drawn one."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Of the draws: the same prompt, seed and settings give the same completion."""

    def __post_init__(self):
        check_ranges(self)
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise UserError(f"stop is {self.stop!r}, but must be a tuple of strings with a letter")

    @property
    def remembers(self) -> bool:
        """Whether a draw depends on more than the distribution: that is for `Engine`."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0) or bool(self.logit_bias)


def filter_logprobs(logp_BV: jax.Array, top_k: int, top_p: float, min_p: float = 0.0) -> jax.Array:
    """All three filters in this order, each on what the one before has left.

    Args:
      logp_BV: float32 log-probabilities; -inf where a token may not be drawn.
      top_k, top_p, min_p: static; see `Sampling`.
    """
    if top_k > 0:
        logp_BV = keep_top_k(logp_BV, top_k)
    if top_p < 1.0:
        logp_BV = keep_top_p(logp_BV, top_p)
    if min_p > 0.0:
        logp_BV = keep_min_p(logp_BV, min_p)
    return logp_BV


def keep_top_k(logp_BV: jax.Array, k: int) -> jax.Array:
    """Exactly the k most likely tokens."""
    _, ids_BK = jax.lax.top_k(logp_BV, min(k, logp_BV.shape[-1]))
    rows_B1 = jnp.arange(len(logp_BV))[:, None]
    kept_BV = jnp.zeros(logp_BV.shape, bool).at[rows_B1, ids_BK].set(True)
    return jnp.where(kept_BV, logp_BV, -jnp.inf)


def keep_top_p(logp_BV: jax.Array, p: float) -> jax.Array:
    """The fewest most likely tokens whose share of the probability reaches p; at least one."""
    ids_BV = jnp.argsort(-logp_BV, axis=-1, stable=True)
    probs_BV = jax.nn.softmax(jnp.take_along_axis(logp_BV, ids_BV, axis=-1), axis=-1)
    # A token belongs to them if the mass before it is below p.
    inside_BV = (jnp.cumsum(probs_BV, axis=-1) - probs_BV < p).at[:, 0].set(True)
    rows_B1 = jnp.arange(len(logp_BV))[:, None]
    kept_BV = jnp.zeros(logp_BV.shape, bool).at[rows_B1, ids_BV].set(inside_BV)
    return jnp.where(kept_BV, logp_BV, -jnp.inf)


def keep_min_p(logp_BV: jax.Array, p: float) -> jax.Array:
    """The tokens whose probability is at least p times that of the most likely one."""
    least_B1 = logp_BV.max(axis=-1, keepdims=True) + jnp.log(p)
    return jnp.where(logp_BV < least_B1, -jnp.inf, logp_BV)
