"""The one state that a stage carries from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gpt_jax.models.heads import is_head
from gpt_jax.parallel import rules
from gpt_jax.train.adam import Masters


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of arrays: all in which two runs of one program may differ.

    Attributes:
      step: int32 scalar, updates done.
      params: nested dicts of float32 arrays that are learned, or bfloat16 ones with masters in
        `opt_state`.
      opt_state: the optimizer's, its learning rate included.
      seed: uint32 scalar, of every key that a step derives.
      extras: whatever else a stage remembers (PPO: the KL coefficient, the `average`d policy).
    """

    step: jax.Array
    params: dict
    opt_state: Any
    seed: jax.Array
    extras: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        params: dict,
        optimizer: optax.GradientTransformation,
        seed: int | jax.Array = 0,
        extras: dict | None = None,
    ) -> TrainState:
        """The state before the first step.

        Args:
          params: float32, or as an earlier stage stored them.
          optimizer: whose state it holds.
          seed: may be traced, so that `vmap` over it makes many states at once.
          extras: as the attribute.
        """
        params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        opt_state = optimizer.init(params)
        return cls(
            jnp.zeros((), jnp.int32),
            stored(params, opt_state),
            opt_state,
            jnp.asarray(seed, jnp.uint32),
            extras or {},
        )


def stored(params: dict, opt_state: Any) -> dict:
    """Float32 parameters as the state keeps them: bfloat16 if the optimizer has masters of them.

    Scalar heads stay float32, so that scores do (invariant 4).
    """
    if not isinstance(opt_state, Masters):
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p if is_head(rules.path_name(path)) else p.astype(jnp.bfloat16),
        params,
    )


def abstract(init: Callable[..., Any], *args: Any, mesh: Mesh, axes: rules.Axes) -> Any:
    """Shapes, dtypes and shardings of what `init(*args)` would make, without making it.

    Args:
      init, args: what makes parameters, or a state of them.
      mesh: over which it lies.
      axes: the logical axes of the parameters, `models.axes_of`.
    """
    shapes = jax.eval_shape(init, *args)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        rules.shardings(shapes, mesh, axes),
    )


def create(init: Callable[..., Any], *args: Any, mesh: Mesh, axes: rules.Axes) -> Any:
    """`init(*args)`, every leaf born with its sharding: no host ever holds the whole."""
    target = abstract(init, *args, mesh=mesh, axes=axes)
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(*args)
