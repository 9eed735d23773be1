"""Rows of a cache, of whatever model: which axis they lie on, and moving them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.models.contract import Model, init_cache


def row_axes(model: Model) -> list[int | None]:
    """The axis of the rows of every leaf of the model's cache: the one that grows with them.

    Found anew at every trace: what a cache looks like depends on the platform traced for.
    """
    one, two = (
        jax.tree.leaves(jax.eval_shape(functools.partial(init_cache, model, rows, 1)))
        for rows in (1, 2)
    )

    def axis(one: jax.ShapeDtypeStruct, two: jax.ShapeDtypeStruct) -> int | None:
        pairs = enumerate(zip(one.shape, two.shape, strict=True))
        return next((axis for axis, (a, b) in pairs if a != b), None)

    return [axis(a, b) for a, b in zip(one, two, strict=True)]


def repeat_rows(model: Model, cache: Any, times: int) -> Any:
    """A cache in which every row stands so many times, beside itself."""
    return _each(model, lambda x, axis: jnp.repeat(x, times, axis=axis), cache)


def take_rows(model: Model, cache: Any, rows_R: jax.Array) -> Any:
    """A cache of some rows of another one."""

    # Row by row, each as one piece: XLA's CPU backend gathers number by number.
    def take(x: jax.Array, axis: int) -> jax.Array:
        def row(number: jax.Array) -> jax.Array:
            return jax.lax.dynamic_index_in_dim(x, number, axis, keepdims=False)

        return jnp.moveaxis(jax.lax.map(row, rows_R), 0, axis)

    return _each(model, take, cache)


def put_rows(model: Model, cache: Any, new: Any, rows_R: jax.Array) -> Any:
    """A cache with some rows from another one; a row beyond its last is dropped."""

    def put(x: jax.Array, axis: int, new: jax.Array) -> jax.Array:
        def row(i: jax.Array, x: jax.Array) -> jax.Array:
            at = jnp.minimum(rows_R[i], x.shape[axis] - 1)
            old = jax.lax.dynamic_index_in_dim(x, at, axis)
            piece = jax.lax.dynamic_index_in_dim(new, i, axis)
            piece = jnp.where(rows_R[i] < x.shape[axis], piece, old)
            return jax.lax.dynamic_update_slice_in_dim(x, piece, at, axis)

        return jax.lax.fori_loop(0, len(rows_R), row, x)

    return _each(model, put, cache, new)


def _each(model: Model, change: Any, cache: Any, *others: Any) -> Any:
    """Every leaf that has rows, changed; the others as they are."""
    leaves, form = jax.tree.flatten(cache)
    rest = (jax.tree.leaves(other) for other in others)
    changed = [
        x if axis is None else change(x, axis, *more)
        for x, axis, *more in zip(leaves, row_axes(model), *rest, strict=True)
    ]
    return jax.tree.unflatten(form, changed)
