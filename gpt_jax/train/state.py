"""The one state that a stage carries from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gpt_jax.parallel import rules


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of arrays.

    Attributes:
      step: int32 scalar, updates done.
      params: nested dicts of float32 arrays.
      opt_state: the optimizer's.
      extras: whatever else a stage remembers (PPO: the KL coefficient).
    """

    step: jax.Array
    params: dict
    opt_state: Any
    extras: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def create(cls, params: dict, optimizer: optax.GradientTransformation) -> TrainState:
        return cls(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def abstract(init: Callable[..., Any], *args: Any, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of what `init(*args)` would make, without making it."""
    shapes = jax.eval_shape(init, *args)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        rules.shardings(shapes, mesh),
    )


def create(init: Callable[..., Any], *args: Any, mesh: Mesh) -> Any:
    """`init(*args)`, every leaf born with its sharding: no host ever holds the whole."""
    target = abstract(init, *args, mesh=mesh)
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(*args)
