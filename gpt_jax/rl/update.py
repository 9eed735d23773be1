"""Epochs of minibatch updates on what was sampled: the same for every policy-gradient method."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from gpt_jax.losses.lm import Metrics
from gpt_jax.models.lora import on_backbone
from gpt_jax.parallel import rules
from gpt_jax.train.finite import Learner, update_if_finite
from gpt_jax.train.step import LossFn


class Passes(NamedTuple):
    """How often a rollout is learned from.

    Attributes:
      epochs: passes over its rows.
      minibatches: updates per pass; must divide the rows.
    """

    epochs: int
    minibatches: int

    @property
    def updates(self) -> int:
        """How many there are in all."""
        return self.epochs * self.minibatches


def update(
    optimizer: optax.GradientTransformation,
    passes: Passes,
    learner: Learner,
    rows: Any,
    frozen: dict,
    key: jax.Array,
    *,
    model: Any,
    loss: LossFn,
) -> tuple[Learner, Metrics]:
    """All epochs of minibatch updates.

    Args:
      optimizer: of the learned parameters.
      passes: epochs and minibatches.
      learner: parameters and optimizer state.
      rows: a tree of arrays with one leading axis of rows, shuffled anew for every epoch.
      frozen: what the loss reads and nobody changes.
      key: of the shuffles.
      model, loss: `loss(model, learned, minibatch, key, frozen)`; its key is None, since nothing
        is dropped in reinforcement learning.

    Returns:
      The learner after all updates, and the metrics summed over them.
    """

    loss = on_backbone(loss)

    def objective(learned, minibatch):
        total, count, metrics = loss(model, learned, minibatch, None, frozen)
        return total / count, metrics

    def one_update(learner, inputs):
        minibatch, key = whole_if_uneven(inputs[0]), inputs[1]
        gradient = jax.value_and_grad(objective, has_aux=True)
        (value, metrics), grads = gradient(learner.params, minibatch)
        learner, more = update_if_finite(optimizer, learner, value, grads, key)
        return learner, metrics | more

    def one_epoch(learner, key):
        def shuffle(x):
            # Rows are dealt out so that every minibatch draws from every device's share.
            x = jax.random.permutation(key, x, axis=0)
            return x.reshape(-1, passes.minibatches, *x.shape[1:]).swapaxes(0, 1)

        rounding = jax.random.split(jax.random.fold_in(key, 1), passes.minibatches)
        return jax.lax.scan(one_update, learner, (jax.tree.map(shuffle, rows), rounding))

    learner, metrics = jax.lax.scan(one_epoch, learner, jax.random.split(key, passes.epochs))
    return learner, jax.tree.map(jnp.sum, metrics)


def whole_if_uneven(rows: Any) -> Any:
    """Rows that the devices do not divide, on all of them: each does the same.

    XLA may split them unevenly and fill up with rows of token 0 at place 0; the partitioned scatter
    that is the gradient of an embedding has been seen to add theirs to that of the real ones.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or len(jax.tree.leaves(rows)[0]) % rules.shards(mesh, "batch") == 0:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec())
