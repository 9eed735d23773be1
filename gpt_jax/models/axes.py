"""Logical axes declared where a parameter is: a box around the value that flax carries along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax

from gpt_jax.parallel.rules import Axes, path_name


@flax.struct.dataclass
class Boxed(nn.meta.AxisMetadata):
    """A parameter and the names of its axes; the scan over layers puts "layers" before them."""

    value: Any
    names: tuple[str | None, ...] = flax.struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> Boxed:
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict) -> Boxed:
        return self.replace(names=(*self.names[:index], "layers", *self.names[index:]))

    def remove_axis(self, index: int, params: dict) -> Boxed:
        return self.replace(names=(*self.names[:index], *self.names[index + 1 :]))


def with_axes(initializer: Callable, *names: str | None) -> Callable:
    """The initializer, whose result has these logical axes."""
    return lambda *args: Boxed(initializer(*args), names)


def unboxed(params: Any) -> Any:
    """The parameters alone."""
    return nn.meta.unbox(params)


def declared(params: Any) -> Axes:
    """The axes of every parameter of a boxed tree, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, Boxed))
    return {path_name(path): leaf.names for path, leaf in leaves}
