"""What one step of a stage executes, as jitted functions and shapes: what the planner compiles.

Nothing here is a copy of a stage: every experiment gives its own functions, and their arguments are
laid out by the same rules, only that no array is made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt_jax.data.batches import Tokens
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.lora import LoraConfig
from gpt_jax.parallel import rules
from gpt_jax.train import state as states
from gpt_jax.train.adapters import FrozenDtype
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import Functions, TrainConfig
from gpt_jax.train.tuning import Start, Tuned

STEPS = 1000  # of the schedule; it changes no shape


class Workload(NamedTuple):
    """One step of a stage.

    Attributes:
      stage: the experiment's name.
      model: the shape of every model in it.
      optimizer: of what is learned.
      rows: sequences (reward: prompts; PPO: episodes) over all devices.
      length: tokens of a sequence (PPO: prompt and completion).
      accumulate: micro-batches (PPO: minibatches).
      completions: per prompt, for the reward model.
      new_tokens: sampled per episode, for PPO.
      epochs: passes over the episodes, for PPO.
      lora: the adapters that are learned, if any are.
      frozen_dtype: how what is frozen is kept.
    """

    stage: str
    model: ModelConfig
    optimizer: OptimizerConfig
    rows: int
    length: int
    accumulate: int
    completions: int
    new_tokens: int
    epochs: int
    lora: LoraConfig = LoraConfig()
    frozen_dtype: FrozenDtype = None

    @property
    def train(self) -> TrainConfig:
        """The same as a stage's configuration."""
        return TrainConfig(steps=STEPS, batch_size=self.rows, accumulate=self.accumulate)

    @property
    def start(self) -> Start:
        """What is learned of the model, as a stage has it; of its parameters there are shapes."""
        config = Tuned(run_dir="", init_from="", lora=self.lora, frozen_dtype=self.frozen_dtype)
        return Start(config, self.model)

    @property
    def training_passes(self) -> int:
        """Forward passes that a gradient costs as much as: a backward pass is two, of which the
        gradient of the weights, one, is not taken of those under adapters."""
        return 2 if self.lora.rank else 3


class Planned(NamedTuple):
    """A jitted function, its arguments as shapes with shardings, and its runs per step."""

    name: str
    function: Any
    args: tuple
    runs: int = 1


class StepPlan(NamedTuple):
    """All that one step executes.

    Attributes:
      programs: in order.
      tokens: trained on in one step (PPO: sampled).
      flops: what the mathematics needs, by the closed formula; nothing recomputed.
    """

    programs: list[Planned]
    tokens: int
    flops: float


def gradient_step(
    functions: Functions,
    origin: tuple,
    batch: Any,
    mesh: Mesh,
    frozen: dict[str, Any] | None = None,
) -> list[Planned]:
    """The one program of a stage that takes a gradient per step.

    Args:
      functions: of the stage.
      origin: what its `init` takes after the seed, as shapes.
      batch: of the global batch, as shapes.
      mesh: of the machine.
      frozen: parameters that get no gradient, as shapes.

    Raises:
      UserError: if the mesh does not divide a parameter, naming it.
    """
    state = states.abstract(functions.init, np.uint32(0), *origin, mesh=mesh, axes=functions.axes)
    return [Planned("train step", functions.step, (state, laid_out(batch, mesh), frozen or {}))]


def placed(shapes: Any, mesh: Mesh, axes: rules.Axes) -> Any:
    """Shapes of parameters, split as the arrays are."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        rules.shardings(shapes, mesh, axes),
    )


def tokens(*shape: int) -> Tokens:
    """Tokens of a shape, without arrays."""
    return Tokens(*[jax.ShapeDtypeStruct(shape, jnp.int32)] * 3)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """float32 of a shape, without an array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def ints(*shape: int) -> jax.ShapeDtypeStruct:
    """int32 of a shape, without an array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def laid_out(batch: Any, mesh: Mesh) -> Any:
    """Shapes of a batch, split as `data.pipeline.place` splits the arrays."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        batch,
        rules.batch_shardings(batch, mesh),
    )
