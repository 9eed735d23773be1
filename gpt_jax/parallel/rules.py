"""The one place that says how arrays are sharded: two small tables.

`PARAMETERS` names the logical axes of every parameter by its path; `MESH_AXES` says over which
mesh axes a logical axis is split. Changing how a model is sharded is changing a row.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gpt_jax.errors import UserError

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

# The first pattern found in a parameter's path wins. Optimizer moments and averages repeat the
# path of their parameter, so they are sharded alike. "layers" is the axis of the layer scan.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed/tokens$", ("vocab", "width")),
    (r"embed/positions$", (None, "width")),
    (r"attn/(q|k|v)$", ("layers", "width", "heads")),
    (r"attn/(q|k|v)_bias$", ("layers", "heads")),
    (r"attn/out$", ("layers", "heads", "width")),
    (r"mlp/(up|gate)$", ("layers", "width", "mlp")),
    (r"mlp/(up|gate)_bias$", ("layers", "mlp")),
    (r"mlp/down$", ("layers", "mlp", "width")),
    (r"(out|down)_bias$", ("layers", None)),
    (r"_norm/(scale|bias)$", ()),  # small: every device keeps them whole
    (r"unembed/kernel$", ("width", "vocab")),
    (r"head/(kernel_D|bias)$", ()),
)


def path_name(path: tuple) -> str:
    """A pytree path as `a/b/c`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def logical_axes(name: str, ndim: int) -> tuple[str | None, ...]:
    """The logical axes of the array at `name`; scalars (counters, coefficients) have none."""
    if ndim == 0:
        return ()
    parameter, _, factor = name.rpartition("/")
    if factor in ("row", "col"):  # of a factored second moment, each lacks one axis
        axes = logical_axes(parameter, ndim + 1)
        return axes[:-1] if factor == "row" else (*axes[:-2], axes[-1])
    for pattern, axes in PARAMETERS:
        if re.search(pattern, name):
            return axes
    raise UserError(
        f"no sharding rule matches {name}; add a row to PARAMETERS in parallel/rules.py"
    )


def partition_spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axes -> mesh axes."""
    return PartitionSpec(*(MESH_AXES.get(axis) if axis else None for axis in axes))


def shards(mesh: Mesh | AbstractMesh, axis: str | None) -> int:
    """Into how many parts the mesh splits a logical axis."""
    return math.prod(mesh.shape[name] for name in MESH_AXES.get(axis, ())) if axis else 1


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The NamedSharding of every leaf of a tree of arrays or ShapeDtypeStructs.

    Raises:
      UserError: naming the first tensor whose axis the mesh does not divide.
    """

    def one(path, leaf) -> NamedSharding:
        name = path_name(path)
        axes = logical_axes(name, leaf.ndim)
        for size, axis in zip(leaf.shape, axes, strict=False):
            if size % (parts := shards(mesh, axis)):
                over = " x ".join(MESH_AXES[axis])
                raise UserError(
                    f"the mesh does not divide {name}: its {axis} axis of {size} is not a multiple "
                    f"of {over} = {parts}; {over} = {math.gcd(size, parts)} would do, or an axis "
                    f"of {max(1, round(size / parts)) * parts}"
                )
        return NamedSharding(mesh, partition_spec(axes))

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
