"""Several models trained in turn from one start, and the mean of their weights.

Models that were finetuned from the same parameters, head included, on other orders of the same rows
lie so close together that the mean of their weights is a model too, as good as their ensemble and
as cheap as one (Ramé et al. 2024, "WARM", section 3). Where labels are few and noisy it is better
than any of them, and unlike more epochs it does not learn the noise by heart.

The state of the run carries all of it, so a run resumes inside any member:

    step    0 ... S-1   S ... 2S-1   2S ...
    params  member 0    member 1     member 2: each begins as `first` did
    mean    -           0            (0 + 1) / 2
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.losses.lm import Metrics
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Step


def with_mean(state: TrainState) -> TrainState:
    """A first state that can hold the mean of the members which are done (`extras["mean"]`)."""
    mean = jax.tree.map(lambda p: p.astype(jnp.float32), state.params)
    return dataclasses.replace(state, extras=state.extras | {"mean": mean})


def in_turn(step: Step, first: TrainState, steps: int) -> Step:
    """`step`, but every `steps` steps it begins again as `first`, which is a `with_mean`.

    The number of the step goes on, and with it the keys and the rows.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def member_step(state: TrainState, batch: Any, first: TrainState) -> tuple[TrainState, Metrics]:
        def begin(state: TrainState) -> TrainState:
            mean = {"mean": _mean(state, state.step // steps)}
            return dataclasses.replace(first, step=state.step, extras=first.extras | mean)

        state = jax.lax.cond(state.step % steps == 0, begin, lambda state: state, state)
        return step(state, batch)

    return lambda state, batch: member_step(state, batch, first)


def average(state: TrainState, members: int) -> TrainState:
    """The state after the last step of `members` members, with the mean of them as its model."""
    mean = jax.tree.map(lambda m, p: m.astype(p.dtype), _mean(state, members), state.params)
    return dataclasses.replace(state, params=mean)


def _mean(state: TrainState, members: int | jax.Array) -> dict:
    """Of `members` models: of those done before, in the extras, and the one in `params`."""
    weight = 1.0 / jnp.maximum(members, 1)  # Before the first is done the mean is never read.
    return jax.tree.map(lambda m, p: m + weight * (p - m), state.extras["mean"], state.params)
