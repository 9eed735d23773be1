"""How logical axes lie over the mesh: the one table of what is split over which mesh axes.

A model declares the logical axes of its parameters beside them (`models/contract.py`). Changing how
it is sharded is changing a row of `MESH_AXES`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gpt_jax.errors import UserError

# Of every parameter, by its path: {"blocks/mlp/up": ("layers", "width", "mlp")}. "layers" is
# the axis of the layer scan; it is not split, like None and every name that `MESH_AXES` lacks.
Axes = Mapping[str, tuple[str | None, ...]]

MESH_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": ("context",),
    "replicas": ("data",),  # rows while decoding, where fsdp is kept for the weights
    "width": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}

# The letters that end the name of an array, or of the Tokens it belongs to (`tokens_BKT/ids`), in
# a batch; others are not split.
BATCH_LETTERS = {"B": "batch", "T": "length"}


def path_name(path: tuple) -> str:
    """A pytree path as `a/b/c`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def find_axes(axes: Axes, name: str, ndim: int) -> tuple[str | None, ...]:
    """The logical axes of the array at `name`, a parameter's or one that repeats its path.

    Moments, masters and averages lie at the path of their parameter behind a prefix, and a factor
    of a second moment at `PATH/row` or `PATH/col`: the longest path that `name` ends with counts.
    Scalars (counters, coefficients) have no axes.

    Raises:
      UserError: naming the array, if there is none.
    """
    if ndim == 0:
        return ()
    parts = name.split("/")
    factor = parts[-1] if parts[-1] in ("row", "col") else None
    for start in range(len(parts)):
        found = axes.get("/".join(parts[start:]))
        if found is not None and len(found) == ndim:
            return found
        found = axes.get("/".join(parts[start:-1])) if factor else None
        if found is not None and len(found) == ndim + 1:  # each factor lacks one axis
            return found[:-1] if factor == "row" else (*found[:-2], found[-1])
    raise UserError(
        f"no sharding rule matches {name}; declare its logical axes where its model declares it"
    )


def is_matrix(axes: tuple[str | None, ...]) -> bool:
    """Whether a parameter of these logical axes is a matrix, or one per layer."""
    return len([axis for axis in axes if axis != "layers"]) == 2


def partition_spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axes -> mesh axes."""
    return PartitionSpec(*(MESH_AXES.get(axis) if axis else None for axis in axes))


def shards(mesh: Mesh | AbstractMesh, axis: str | None) -> int:
    """Into how many parts the mesh splits a logical axis."""
    return math.prod(mesh.shape[name] for name in MESH_AXES.get(axis, ())) if axis else 1


def shardings(tree: Any, mesh: Mesh, axes: Axes) -> Any:
    """The NamedSharding of every leaf of a tree of arrays or ShapeDtypeStructs.

    Args:
      tree: parameters, or whatever holds arrays at the paths of parameters, as a state does.
      mesh: over which they are split.
      axes: the logical axes of the parameters.

    Raises:
      UserError: naming the first tensor whose axis the mesh does not divide.
    """

    def one(path, leaf) -> NamedSharding:
        name = path_name(path)
        found = find_axes(axes, name, leaf.ndim)
        for size, axis in zip(leaf.shape, found, strict=True):
            if size % (parts := shards(mesh, axis)):
                over = " x ".join(MESH_AXES[axis])
                raise UserError(
                    f"the mesh does not divide {name}: its {axis} axis of {size} is not a multiple "
                    f"of {over} = {parts}; {over} = {math.gcd(size, parts)} would do, or an axis "
                    f"of {max(1, round(size / parts)) * parts}"
                )
        return NamedSharding(mesh, partition_spec(found))

    return jax.tree_util.tree_map_with_path(one, tree)


def fitting(
    mesh: Mesh | AbstractMesh, shape: tuple[int, ...], axes: tuple[str | None, ...]
) -> tuple[str | None, ...]:
    """`axes` without those that the mesh does not divide, which every device then holds whole."""
    return tuple(
        axis if size % shards(mesh, axis) == 0 else None
        for size, axis in zip(shape, axes, strict=True)
    )


def batch_shardings(batch: Any, mesh: Mesh) -> Any:
    """The NamedSharding of every array of a batch, by the letters of its name; a length that
    does not divide stays whole."""

    def one(path, array) -> NamedSharding:
        letters = re.findall(r"_([A-Z]+)(?=/|$)", path_name(path))[-1]
        axes = tuple(BATCH_LETTERS.get(letter) for letter in letters)
        lengths = fitting(mesh, array.shape[1:], axes[1:])
        return NamedSharding(mesh, partition_spec((axes[0], *lengths)))

    return jax.tree_util.tree_map_with_path(one, batch)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Tells the compiler how an activation is laid out over the mesh in use; no mesh, no effect.

    An axis that does not divide (a single decoded token, an odd number of rows) stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(fitting(mesh, x.shape, axes)))


def merge_rows(x_BTD: jax.Array) -> jax.Array:
    """x_MD, M = B T: the tokens of all rows in one axis, on the devices where they were.

    Tokens that are split over `context` come chunk by chunk (all rows of the first chunk, then
    of the second): row by row, no device's tokens would lie together and all would be gathered.
    """
    B, T, *rest = x_BTD.shape
    chunks = _length_chunks(T)
    if chunks > 1:
        x_BTD = x_BTD.reshape(B, chunks, T // chunks, *rest).swapaxes(0, 1)
    return x_BTD.reshape(B * T, *rest)


def split_rows(x_MD: jax.Array, B: int, T: int) -> jax.Array:
    """x_BTD: the inverse of `merge_rows`."""
    rest = x_MD.shape[1:]
    chunks = _length_chunks(T)
    if chunks > 1:
        x_MD = x_MD.reshape(chunks, B, T // chunks, *rest).swapaxes(0, 1)
    return x_MD.reshape(B, T, *rest)


def _length_chunks(T: int) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    chunks = 1 if mesh.empty else shards(mesh, "length")
    return chunks if T % chunks == 0 else 1
