"""Optimizers: AdamW or Muon with a schedule, clipping and a decay mask, composed from optax."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.errors import UserError
from gpt_jax.parallel.rules import Axes, find_axes, is_matrix, path_name
from gpt_jax.ranges import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    Range,
    check_ranges,
)
from gpt_jax.train.adam import Moments, keep_masters, scale_by_adam
from gpt_jax.train.muon import scale_by_muon


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019), or Muon (Jordan et al. 2024) for the matrices within the
    blocks beside it, under a warm-up and decay schedule."""

    kind: Literal["adamw", "muon"] = "adamw"
    """What the matrices within the blocks are updated by; all else is AdamW's. Both have one
    learning rate, since Muon's updates are given the size of Adam's."""
    learning_rate: NonNegativeFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""
    warmup_fraction: Fraction = 0.05
    """Share of the steps over which the rate rises linearly from 0."""
    final_fraction: Fraction = 0.1
    """Rate at the end, as a share of the peak (no effect on `constant`)."""
    decay_fraction: Annotated[float, Range(0.000001, 1.0)] = 1.0
    """Share of the steps by which the decay has ended (GPT-3: 260 of 300 billion tokens)."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices; norms, biases and position embeddings are exempt."""
    beta1: Annotated[float, Range(0.0, 0.999999)] = 0.9
    """Decay of the mean of the gradients."""
    beta2: Annotated[float, Range(0.0, 0.999999)] = 0.95
    """Decay of the mean of their squares."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the squares."""
    clip: PositiveFloat | None = 1.0
    """Largest global gradient norm; None: any."""
    momentum: Annotated[float, Range(0.0, 0.999999)] = 0.95
    """Decay of Muon's mean of the gradients."""
    moments: Moments = "float32"
    """How Adam's two moments are kept: 8, 4 or (factored) 2 bytes per parameter."""
    params: Literal["float32", "bfloat16"] = "float32"
    """How parameters are kept. bfloat16: 2 bytes each, plus 4 for a float32 master in the
    optimizer's state; sampling then reads half as much."""

    def __post_init__(self):
        check_ranges(self)
        if self.kind == "muon" and self.moments != "float32":
            raise UserError(
                f"optimizer.moments is {self.moments}, but muon keeps float32 ones; leave it out, "
                "or give --optimizer.kind adamw"
            )


def rate_at(
    config: OptimizerConfig, steps: int, peak: float | jax.Array, count: int | jax.Array
) -> jax.Array:
    """The learning rate of update `count`, 0 <= count < steps, under a peak that may be traced."""
    warmup = max(1, round(config.warmup_fraction * steps))
    rest = max(1, round(config.decay_fraction * steps) - warmup)
    # The first update already moves: its rate is peak / warmup, not 0.
    rise = (1.0 + count) / warmup
    done = jnp.clip((count - warmup) / rest, 0.0, 1.0)
    fall = {
        "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
        "linear": 1.0 - done,
        "constant": jnp.ones_like(done),
    }[config.schedule]
    final = 1.0 if config.schedule == "constant" else config.final_fraction
    return peak * jnp.where(count < warmup, rise, (1.0 - final) * fall + final)


class RateState(NamedTuple):
    """Attributes: count, int32, of updates; learning_rate, float32, the peak of the schedule, which
    is an array so that `vmap` over states is a sweep over it."""

    count: jax.Array
    learning_rate: jax.Array


def scale_by_rate(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Multiplies updates by minus the scheduled rate, whose peak is a part of the state."""

    def init(params):
        del params
        return RateState(jnp.zeros((), jnp.int32), jnp.float32(config.learning_rate))

    def update(updates, state, params=None):
        del params
        rate = rate_at(config, steps, state.learning_rate, state.count)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        return updates, RateState(optax.safe_increment(state.count), state.learning_rate)

    return optax.GradientTransformation(init, update)


def decay_mask(axes: Axes, params: dict) -> dict:
    """True for the matrices, token embeddings among them, that weight decay applies to.

    Args:
      axes: the logical axes of the parameters; tables of positions have a "position".
      params: a tree of arrays.
    """

    def decays(path: tuple, leaf: jax.Array) -> bool:
        found = find_axes(axes, path_name(path), leaf.ndim)
        return is_matrix(found) and "position" not in found

    return jax.tree_util.tree_map_with_path(decays, params)


def scale_by_moments(config: OptimizerConfig, axes: Axes) -> optax.GradientTransformation:
    """Gradients -> directions: Adam's, or Muon's for the matrices that stand once per layer."""
    adam = scale_by_adam(config.beta1, config.beta2, config.eps, config.moments, axes)
    if config.kind == "adamw":
        return adam

    def kinds(params: dict) -> dict:
        def kind(path: tuple, leaf: jax.Array) -> str:
            found = find_axes(axes, path_name(path), leaf.ndim)
            return "muon" if is_matrix(found) and "layers" in found else "adam"

        return jax.tree_util.tree_map_with_path(kind, params)

    return optax.partition({"adam": adam, "muon": scale_by_muon(config.momentum)}, kinds)


def make_optimizer(
    config: OptimizerConfig, steps: int, axes: Axes
) -> optax.GradientTransformationExtraArgs:
    """Clip by global norm, if at all, then AdamW or Muon.

    Args:
      config: of the optimizer.
      steps: the number of updates of the whole run.
      axes: the logical axes of what it optimizes, `models.axes_of`.

    Returns:
      A transformation. Its `update(grads, state, params, key=key)` takes the key of what is rounded
      at random; only `moments="bfloat16"` uses one.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        scale_by_moments(config, axes),
        optax.add_decayed_weights(config.weight_decay, functools.partial(decay_mask, axes)),
        scale_by_rate(config, steps),
    )
    return optimizer if config.params == "float32" else keep_masters(optimizer)
