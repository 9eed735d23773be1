"""Frozen matrices in blocks of int8 or int4: a quarter or a sixth of float32's memory.

Along its input axis a matrix is cut into blocks of 32 weights, which share one float32 scale: the
largest of their magnitudes over 127 (int8) or 7 (int4). A weight is its scale times a whole
number, rounded to nearest, so that it is off by half a scale at the most:

    |w - dequantized w| <= max |block| / 254   (int8: 9 bits per weight with its share of the scale)
    |w - dequantized w| <= max |block| / 14    (int4: 5 bits)

Nothing else is lost: sums and products are those of the dequantized float weights, which exist
only inside the jitted program. Such a matrix takes no gradient; it is for what is frozen (a
reference model, a reward model, the backbone under an adapter). Biases, norms and tables of
positions stay as they are: they are small, and an error in one reaches every token alike.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.parallel.rules import Axes, find_axes, is_matrix, path_name

BLOCK = 32
LARGEST = {"int8": 127, "int4": 7}

Kind = Literal["int8", "int4"]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("values", "scales"), meta_fields=("kind", "axis")
)
@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix, or a stack of matrices, in blocks along one axis.

    Attributes:
      values: int8 of the matrix's shape; for int4 uint8, with half as many places along `axis`:
        place p of a block holds weight p in its lower and weight p + 16 in its upper half.
      scales: float32, one per block along `axis`.
      kind: "int8" or "int4".
      axis: counted from the end: -2 of a kernel [I, O], -1 of an embedding [V, D].
    """

    values: Any
    scales: Any
    kind: Kind
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        shape = list(self.scales.shape)
        shape[self.axis] *= BLOCK
        return tuple(shape)

    @property
    def ndim(self) -> int:
        return self.scales.ndim

    def astype(self, dtype: Any) -> jax.Array:
        """The matrix, dequantized in float32 and rounded to `dtype`."""
        values = _in_blocks(self.values, self.axis, BLOCK if self.kind == "int8" else BLOCK // 2)
        if self.kind == "int4":
            halves = (values & 15, values >> 4)
            values = jnp.concatenate(halves, axis=self.axis).astype(jnp.int8) - 8
        scales = jnp.expand_dims(self.scales, self.axis)
        return (values * scales).reshape(self.shape).astype(dtype)

    def __getitem__(self, ids: jax.Array) -> jax.Array:
        """The rows of an embedding, dequantized in float32."""
        if self.axis != -1:
            raise ValueError(
                "only the rows of a matrix in blocks along its last axis are looked up"
            )
        rows = Quantized(self.values[ids], self.scales[ids], self.kind, self.axis)
        return rows.astype(jnp.float32)

    @property
    def T(self) -> jax.Array:
        """The transpose, dequantized."""
        return self.astype(jnp.float32).T


def _in_blocks(x: Any, axis: int, size: int) -> Any:
    """The axis cut in two: which block, and the place in it, which lies at `axis` afterwards."""
    place = x.ndim + axis
    return x.reshape(*x.shape[:place], x.shape[place] // size, size, *x.shape[place + 1 :])


def quantize_array(
    x: np.ndarray | jax.Array, kind: Kind, axis: int, name: str = "a matrix"
) -> Quantized:
    """A matrix in blocks; see the top of this file for the error.

    Args:
      x: floating point, of at least two axes; on the host it is looked at and stays there.
      kind: "int8" or "int4".
      axis: the input axis, -1 or -2.
      name: how errors call it.

    Raises:
      UserError: if blocks of 32 do not divide the axis, or a weight on the host is not finite.
    """
    if x.shape[axis] % BLOCK:
        raise UserError(
            f"{name}: blocks of {BLOCK} do not divide its input axis of {x.shape[axis]}; keep "
            "this model in bfloat16"
        )
    xp = jnp if isinstance(x, jax.Array) else np
    blocks = _in_blocks(xp.asarray(x, np.float32), axis, BLOCK)
    largest = xp.abs(blocks).max(axis=axis, keepdims=True)
    if xp is np and not np.isfinite(largest).all():
        raise UserError(f"{name} has a weight that is not finite; it cannot be quantized")
    # A product: XLA makes one of a division by a constant, and both are to have the same bits.
    scales = largest * np.float32(1 / LARGEST[kind])
    values = xp.rint(blocks / xp.where(scales == 0, np.float32(1), scales)).astype(np.int8)
    if kind == "int4":
        low, high = xp.split((values + 8).astype(np.uint8), 2, axis=axis)
        values = low | high << 4
    shape = list(x.shape)
    shape[axis] //= 1 if kind == "int8" else 2
    return Quantized(values.reshape(shape), scales.squeeze(axis), kind, axis)


def block_axis(path: str, axes: Axes, ndim: int) -> int | None:
    """Along which axis the parameter at a path is cut into blocks; None: it stays as it is."""
    names = find_axes(axes, path, ndim)
    if not is_matrix(names) or "position" in names:
        return None
    return -1 if names[-2:] == ("vocab", "width") else -2


def quantize(params: Any, axes: Axes, kind: Kind) -> Any:
    """Parameters whose kernels and embeddings are in blocks.

    Args:
      params: a nested dict of floating-point arrays, on the host, on devices, or traced.
      axes: their logical axes, which say what is a matrix (`models.axes_of`).
      kind: "int8" or "int4".
    """

    def one(path, x):
        name = path_name(path)
        axis = block_axis(name, axes, x.ndim)
        return x if axis is None else quantize_array(x, kind, axis, name)

    return jax.tree_util.tree_map_with_path(one, params)


def keep_as(params: Any, axes: Axes, dtype: Kind | Literal["bfloat16"] | None) -> Any:
    """Frozen parameters whose matrices take less memory; all else stays float32.

    Args:
      params, axes: as for `quantize`.
      dtype: of the matrices; None: they stay as they are.
    """
    if dtype is None:
        return params
    if dtype != "bfloat16":
        return quantize(params, axes, dtype)

    def one(path, x):
        matrix = is_matrix(find_axes(axes, path_name(path), x.ndim))
        return x.astype(jnp.bfloat16) if matrix else x

    return jax.tree_util.tree_map_with_path(one, params)


def dequantize(params: Any) -> Any:
    """The float32 parameters that those in blocks stand for."""
    return jax.tree.map(dequantized, params, is_leaf=lambda x: isinstance(x, Quantized))


def dequantized(x: Any) -> jax.Array:
    """A matrix in blocks in float32; any other array as it is."""
    return x.astype(jnp.float32) if isinstance(x, Quantized) else x


def quantized_axes(axes: Axes) -> Axes:
    """The logical axes of parameters and, beside them, of the two arrays of those in blocks."""
    more = {
        f"{path}/{part}": names
        for path, names in axes.items()
        if is_matrix(names)
        for part in ("values", "scales")
    }
    return dict(axes) | more
