"""Rollouts by a policy that is some iterations behind, as where sampling and learning overlap.

The state carries the older policies, oldest first, so that a run is resumed with the same bits.
Whatever is read off a rollout is read with the policy that sampled it: the ratio of the first
update is then exactly that of the two policies, and 1 only where none is behind.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.train.state import TrainState

OLDER = "older"  # in the state's extras: {"0": the oldest policy, which samples, "1": ...}


def behaviour(state: TrainState) -> Any:
    """The policy that samples: the state's own, or the oldest that it remembers."""
    return state.extras[OLDER]["0"] if OLDER in state.extras else state.params["policy"]


def remembering(state: TrainState, count: int | None) -> TrainState:
    """A state before its first iteration that will sample from `count` iterations behind; in the
    first of them it samples from where it starts."""
    if not count:
        return state
    policy = state.params["policy"]
    # A copy of each: the state is donated.
    older = {str(i): jax.tree.map(jnp.copy, policy) for i in range(count)}
    return dataclasses.replace(state, extras=state.extras | {OLDER: older})


def shifted(extras: dict, policy: Any, count: int | None) -> dict:
    """What is remembered after an iteration.

    Args:
      extras: of the state before it.
      policy: of the state before it; it is now the newest of the older ones.
      count: how many there are; None: none.
    """
    if not count:
        return extras
    newer = [extras[OLDER][str(i)] for i in range(1, count)] + [policy]
    return extras | {OLDER: {str(i): params for i, params in enumerate(newer)}}
