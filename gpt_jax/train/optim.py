"""Optimizers: AdamW with a schedule, clipping and a decay mask, composed from optax."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import optax

from gpt_jax.parallel.rules import path_name
from gpt_jax.train.adam import Moments, keep_masters, scale_by_adam


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) under a warm-up and decay schedule."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""
    warmup_fraction: float = 0.05
    """Share of the steps over which the rate rises linearly from 0."""
    final_fraction: float = 0.1
    """Rate at the end, as a share of the peak (no effect on `constant`)."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; norms, biases and position embeddings are exempt."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    """Largest global gradient norm."""
    moments: Moments = "float32"
    """How Adam's two moments are kept: 8, 4 or (factored) 2 bytes per parameter."""
    params: Literal["float32", "bfloat16"] = "float32"
    """How parameters are kept. bfloat16: 2 bytes each, plus 4 for a float32 master in the
    optimizer's state; sampling then reads half as much."""


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of the update number, 0 <= n < steps."""
    peak, warmup = config.learning_rate, max(1, round(config.warmup_fraction * steps))
    rest = max(1, steps - warmup)
    decay = {
        "cosine": optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, rest),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    # The first update already moves: its rate is peak / warmup, not 0.
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, decay], [warmup])


def decay_mask(params: dict) -> dict:
    """True for the matrices and token embeddings that weight decay applies to."""
    exempt = ("scale", "bias", "positions", "kernel_D")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not path_name(path).endswith(exempt), params
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW. `steps` is the number of updates of the whole run."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip),
        scale_by_adam(config.beta1, config.beta2, config.eps, config.moments),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
    )
    return optimizer if config.params == "float32" else keep_masters(optimizer)
