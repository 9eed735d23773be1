"""The one place that says how arrays are sharded: two small tables.

`PARAMETERS` names the logical axes of every parameter by its path; `MESH_AXES` says over which
mesh axes a logical axis is split. Changing how a model is sharded is changing a row.
"""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.errors import UserError

MESH_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "width": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}

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
    for pattern, axes in PARAMETERS:
        if re.search(pattern, name):
            return axes
    raise UserError(
        f"no sharding rule matches {name}; add a row to PARAMETERS in parallel/rules.py"
    )


def partition_spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axes -> mesh axes."""
    return PartitionSpec(*(MESH_AXES.get(axis) if axis else None for axis in axes))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The NamedSharding of every leaf of a tree of arrays or ShapeDtypeStructs.

    Raises:
      UserError: naming the first tensor whose axis the mesh does not divide.
    """

    def one(path, leaf) -> NamedSharding:
        name = path_name(path)
        axes = logical_axes(name, leaf.ndim)
        for size, axis in zip(leaf.shape, axes, strict=False):
            shards = 1
            for mesh_axis in MESH_AXES.get(axis, ()) if axis else ():
                shards *= mesh.shape[mesh_axis]
            if size % shards:
                over = " x ".join(MESH_AXES[axis])
                raise UserError(
                    f"the mesh does not divide {name}: its {axis} axis of {size} is not a multiple "
                    f"of {over} = {shards}; choose a smaller {over} or another size"
                )
        return NamedSharding(mesh, partition_spec(axes))

    return jax.tree_util.tree_map_with_path(one, tree)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Tells the compiler how an activation is laid out over the mesh in use; no mesh, no effect."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes))
