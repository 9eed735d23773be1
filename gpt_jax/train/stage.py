"""A stage of the recipe: what an experiment gives, so that `launch.run_stage` can do the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from gpt_jax.data.left_out import LeftOut
from gpt_jax.models.contract import Model
from gpt_jax.parallel.rules import Axes
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.adapters import AdapterFile
from gpt_jax.train.evaluate import HeldOut
from gpt_jax.train.samples import Samples
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Step


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long a stage trains and how often it writes."""

    steps: NonNegative
    """Updates (for PPO: iterations); 0 is one pass over the data."""
    log_every: Positive = 10
    """Steps between lines of metrics."""
    evaluate_every: Positive = 100
    """Steps between evaluations on held-out data."""
    checkpoint_every: Positive = 100
    """Steps between checkpoints; one is always written at the end."""
    most_skipped: Positive = 10
    """Steps in a row whose loss or gradient is not finite, after which the run ends."""

    def __post_init__(self):
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """The same of a stage that takes one gradient per step."""

    batch_size: Positive = 32
    """Rows per update over all devices."""
    accumulate: Positive = 1
    """Micro-batches per update: less memory, the same numbers."""


def resolve_steps(config: LoopConfig, rows: int, rows_per_step: int) -> LoopConfig:
    """`steps=0` resolved to one pass over the rows."""
    steps = config.steps or max(1, rows // rows_per_step)
    return dataclasses.replace(config, steps=steps)


class Functions(NamedTuple):
    """What a stage computes, as pure functions; the planner compiles the very same ones.

    Attributes:
      init: `(seed, *origin) -> TrainState`; the origin is what earlier stages left.
      step: `(state, batch, frozen) -> (state, metrics)`, jitted.
      axes: the logical axes of all parameters, learned and frozen: `models.axes_of` the models.
    """

    init: Callable[..., TrainState]
    step: Step
    axes: Axes


class Parameters(NamedTuple):
    """What a stage starts from.

    Attributes:
      origin: given to `Functions.init` after the seed, and then not needed any more.
      frozen: given to every step, which gives no gradient to it; it is sharded like the rest, and
        not written into checkpoints.
    """

    origin: tuple = ()
    frozen: dict = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """All that `run_stage` needs of an experiment; making one reads data, and loads no model.

    Attributes:
      model: the shape of the model that is served from the folder, written as `model.json`.
      tokenizer: written as `tokenizer.json`.
      train: how long it trains and how often it writes; its steps are resolved.
      functions: init and step.
      load: `mesh -> Parameters`, from the folders of earlier stages.
      shapes: of what `load` will give, as ShapeDtypeStructs without shardings.
      batch_at: this process's rows of the batch of a step.
      row_numbers: which rows of the data the batch of a step has, to name those of a bad step.
      learning_rate: of a step, from 0.
      tokens_at: of a step, for `tokens_per_second`, unless the metrics have their own `tokens`.
      evaluate: `(state, frozen)` -> held-out metrics, written under `eval/`; or None.
      samples: `params -> {opening: text}`, asked for at a few steps and written into
        `samples.jsonl`; or None.
      finish: applied to the state after the last step, before it is saved and evaluated.
      derive: further metrics, formed from the means (a perplexity, a rate).
      headline: the metrics that the progress bar shows.
      kinds: of the data that it reads ("text", "comparisons", ...).
      left_out: what was cut or left out of the data when it was laid out.
      longest: the most tokens of a row, where what reads the model later must know it.
      adapter_file: asked when the folder is opened: what the adapters in it stand on, or None.
    """

    model: Model
    tokenizer: Tokenizer
    train: TrainConfig
    functions: Functions
    load: Callable[[Mesh], Parameters] = lambda mesh: Parameters()
    shapes: Parameters = Parameters()
    batch_at: Callable[[int], Any]
    row_numbers: Callable[[int], np.ndarray]
    learning_rate: Callable[[int], Any]
    tokens_at: Callable[[int], float] = lambda step: 0.0
    evaluate: HeldOut | None = None
    samples: Samples | None = None
    finish: Callable[[TrainState, dict], TrainState] | None = None
    derive: Callable[[dict[str, float]], dict[str, float]] = lambda values: {}
    headline: tuple[str, ...] = ("loss",)
    kinds: tuple[str, ...] = ()
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    longest: int | None = None
    adapter_file: Callable[[], AdapterFile | None] = lambda: None
