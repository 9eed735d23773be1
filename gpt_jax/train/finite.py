"""One optimizer update, unless the loss or a gradient is not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.losses.lm import Metrics
from gpt_jax.parallel.rules import path_name

TENSOR = "grad_norm/"  # metrics of this name tell which tensor of a skipped step is not finite


class Learner(NamedTuple):
    """What an update changes: the learned parameters and the optimizer's state of them."""

    params: Any
    opt_state: Any


def update_if_finite(
    optimizer: optax.GradientTransformation,
    learner: Learner,
    loss: jax.Array,
    grads: Any,
    key: jax.Array | None = None,
) -> tuple[Learner, Metrics]:
    """Returns new parameters and optimizer state, or the old ones if any number is not finite.

    The choice is a `where` in the loop that writes the new arrays, which reads the old ones
    anyway: a `cond` would keep two copies of the state.

    Args:
      optimizer: any optax transformation.
      learner: the parameters and the optimizer's state before the update.
      loss: what the gradients are of, scalar.
      grads: a tree like `learner.params`.
      key: for optimizers that round at random.

    Returns:
      learner: as it was where the update is skipped, Adam's count included.
      metrics: `skipped` (1 or 0), `grad_norm`, and `grad_norm/PATH` of every tensor.
    """
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    optimizer = optax.with_extra_args_support(optimizer)
    updates, opt_state = optimizer.update(grads, learner.opt_state, learner.params, key=key)
    new = Learner(optax.apply_updates(learner.params, updates), opt_state)
    learner = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, learner)
    metrics = {"skipped": (1.0 - finite, 1.0), "grad_norm": (grad_norm, 1.0)} | {
        TENSOR + path_name(path): (optax.tree.norm(grad), 1.0)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
    }
    return learner, metrics
