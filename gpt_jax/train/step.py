"""The train step: pure, donated, jitted once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt_jax import keys
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import Loss, Metrics
from gpt_jax.models.lora import on_backbone
from gpt_jax.train.finite import Learner, update_if_finite
from gpt_jax.train.state import TrainState

# loss(model, learned, batch, key, frozen): see `gpt_jax.losses`.
LossFn = Callable[[Any, dict, Any, jax.Array | None, dict], Loss]
# step(state, batch, frozen) -> (state, metrics)
Step = Callable[[TrainState, Any, dict], tuple[TrainState, Metrics]]


def make_train_step(
    model: Any, loss: LossFn, optimizer: optax.GradientTransformation, accumulate: int = 1
) -> Step:
    """Returns `train_step(state, batch, frozen) -> (state, metrics)`; the old state is donated.

    A step whose loss or gradient is not finite changes nothing but the step's number, and says so
    in the metric `skipped`.

    Args:
      model: what the loss is given first.
      loss: `loss(model, learned, batch, key, frozen) -> (numerator, denominator, metrics)`.
        Numerators and denominators are summed over micro-batches and devices and divided once, so
        neither accumulation nor padding nor the number of devices changes the update. It sees
        whole parameters, also where adapters are learned.
      optimizer: an optax transformation.
      accumulate: micro-batches per update; must divide the rows of the batch.
    """

    loss = on_backbone(loss)

    def gradient_sums(params, batch, key, frozen):
        def numerator(params):
            total, count, metrics = loss(model, params, batch, key, frozen)
            return total, (count, metrics)

        (total, (count, metrics)), grads = jax.value_and_grad(numerator, has_aux=True)(params)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)  # sums keep what is small
        return grads, total, count, metrics

    def accumulated(params, batch, key, frozen):
        if accumulate == 1:
            return gradient_sums(params, batch, key, frozen)

        def deal(x):
            if x.shape[0] % accumulate:
                raise UserError(
                    f"a batch of {x.shape[0]} rows does not divide into {accumulate} "
                    "micro-batches; change the batch size or accumulate"
                )
            # Row i goes to micro-batch i mod A, so every device keeps its own rows.
            return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

        def add(sums, micro):
            index, batch = micro
            more = gradient_sums(params, batch, jax.random.fold_in(key, index), frozen)
            return jax.tree.map(jnp.add, sums, more), None

        micros = (jnp.arange(accumulate), jax.tree.map(deal, batch))
        first = jax.tree.map(lambda x: x[0], micros)
        shapes = jax.eval_shape(lambda m: gradient_sums(params, m[1], key, frozen), first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(add, zeros, micros)[0]

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: TrainState, batch: Any, frozen: dict) -> tuple[TrainState, Metrics]:
        key = keys.derive(state.seed, state.step, "loss")
        grads, total, count, metrics = accumulated(state.params, batch, key, frozen)
        grads = jax.tree.map(lambda g: g / count, grads)
        rounding = keys.derive(state.seed, state.step, "optimizer")
        learner, more = update_if_finite(
            optimizer, Learner(state.params, state.opt_state), total, grads, rounding
        )
        state = dataclasses.replace(state, step=state.step + 1, **learner._asdict())
        return state, metrics | more

    return train_step
