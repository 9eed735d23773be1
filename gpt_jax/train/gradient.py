"""Stages that take one gradient of one loss per step: pretraining, finetuning, the reward model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.chips import chip_of
from gpt_jax.data import pipeline
from gpt_jax.data.batches import Batch
from gpt_jax.data.lengths import ByLength
from gpt_jax.data.mixed import Mixed
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Model
from gpt_jax.models.flops import training_flops
from gpt_jax.models.heads import axes_of
from gpt_jax.models.quantized import quantized_axes
from gpt_jax.parallel import distributed
from gpt_jax.train.evaluate import HeldOut
from gpt_jax.train.optim import OptimizerConfig, make_optimizer, rate_at
from gpt_jax.train.stage import Functions, Stage, TrainConfig, resolve_steps
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import LossFn, make_train_step


def gradient_functions(
    model: Model,
    loss: LossFn,
    optimizer: OptimizerConfig,
    train: TrainConfig,
    first: Callable[..., dict],
) -> Functions:
    """The functions of a stage that takes one gradient of one loss per step.

    Args:
      model, loss: `loss(model, learned, batch, key, frozen)`.
      optimizer: its configuration.
      train: with its steps resolved.
      first: `(seed, *origin) -> params`, the parameters before the first step.
    """
    axes = axes_of(model)
    made = make_optimizer(optimizer, train.steps, axes)

    def init(seed: jax.Array, *origin: Any) -> TrainState:
        return TrainState.create(first(seed, *origin), made, seed)

    step = make_train_step(model, loss, made, train.accumulate)
    return Functions(init, step, quantized_axes(axes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientRecipe:
    """The configuration of such a stage."""

    optimizer: OptimizerConfig
    train: TrainConfig


def gradient_stage(
    recipe: GradientRecipe,
    rows: Any,
    held_out: Any,
    *,
    seed: int,
    mesh: Mesh,
    model: Model,
    first: Callable[..., dict],
    loss: LossFn,
    by_length: bool = False,
    **more: Any,
) -> Stage:
    """A stage that takes one gradient of one loss per step.

    Args:
      recipe: optimizer and length.
      rows: what is trained on: NumPy arrays with one leading axis, or what `pipeline.take` knows.
      held_out: the same of what is evaluated on.
      seed: of the order of the rows.
      mesh: over which a batch is split.
      model, first, loss: as for `gradient_functions`.
      by_length: whether rows, which are comparisons, are cut to what they need (`data.lengths`).
      more: other fields of `Stage`.
    """
    train = resolve_steps(recipe.train, pipeline.count(rows), recipe.train.batch_size)
    if isinstance(rows, Mixed):
        for sentence in rows.sentences(train.steps * train.batch_size):
            distributed.say(sentence)
    batch_at = pipeline.make_batch_at(rows, train.batch_size, seed, pipeline.share(mesh))
    if by_length:
        batch_at = ByLength(rows, train.batch_size, seed, pipeline.share(mesh))
    width = int(np.prod(jax.tree.leaves(pipeline.take(rows, np.arange(1)))[0].shape[1:]))
    peak = recipe.optimizer.learning_rate
    fields = dict(
        model=model,
        train=train,
        functions=gradient_functions(model, loss, recipe.optimizer, train, first),
        batch_at=batch_at,
        row_numbers=batch_at.numbers,
        learning_rate=lambda step: rate_at(recipe.optimizer, train.steps, peak, step),
        tokens_at=batch_at.tokens if by_length else lambda step: train.batch_size * width,
        evaluate=HeldOut(model, loss, held_out, train.batch_size, mesh, by_length=by_length),
    )
    return Stage(**(fields | more))


def language_stage(
    recipe: GradientRecipe,
    splits: tuple[Any, Batch],
    *,
    model: ModelConfig,
    mesh: Mesh,
    **more: Any,
) -> Stage:
    """A gradient stage of a language model, whose metrics have a perplexity and an MFU.

    Args:
      recipe: optimizer and length.
      splits: rows to train on, and held-out ones; see `data.rows.language_rows`.
      model, mesh, more: as for `gradient_stage`.
    """
    flops = recipe.train.batch_size * training_flops(model, model.context_length)
    derive = language_metrics(flops, mesh)
    return gradient_stage(recipe, *splits, model=model, mesh=mesh, derive=derive, **more)


def language_metrics(
    flops_per_step: float, mesh: Mesh
) -> Callable[[dict[str, float]], dict[str, float]]:
    """For `derive` of the language-model stages: `perplexity`, and `mfu` on chips that are known.

    The MFU is the FLOP/s that the model's formula asks for over the peak of the devices (Chowdhery
    et al. 2022, appendix B); `flops_per_step` is over all devices.
    """
    chip = chip_of(mesh.devices.flat[0].device_kind)

    def derive(values: dict[str, float]) -> dict[str, float]:
        found = {"perplexity": math.exp(min(values["loss"], 700.0))}
        if chip is not None:
            peak = mesh.size * chip.flops
            found["mfu"] = flops_per_step / values["seconds_per_step"] / peak
        return found

    return derive
