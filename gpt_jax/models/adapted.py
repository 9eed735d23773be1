"""A kernel with a low-rank adapter beside it, and the product with it.

    y = x W + (x A) B,        W [I, O] frozen,  A [I, R] and B [R, O] learned,  R small

(Hu et al. 2021, equation 3, with their factor alpha / r inside B; `lora.py` puts it there.) W + A B
is never formed: W may be in bfloat16 or in blocks of int8 or int4, and several adapters may share
one W.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.models.quantized import dequantized
from gpt_jax.parallel.mesh import platform


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("kernel", "a", "b"), meta_fields=()
)
@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """What stands where a kernel is; stacked over layers, all three are.

    Attributes:
      kernel: [..., I, O], an array or a `Quantized`.
      a: float32 [..., I, R].
      b: float32 [..., R, O], with its factor.
    """

    kernel: Any
    a: Any
    b: Any

    def __rmatmul__(self, x_MI: jax.Array) -> jax.Array:
        """`x @ kernel`, as models of one's own say it."""
        return product(x_MI, self, x_MI.dtype)

    def merged(self) -> jax.Array:
        """W + A B, float32."""
        low_rank = jnp.matmul(self.a, self.b, precision="highest")
        return dequantized(self.kernel).astype(jnp.float32) + low_rank


def product(x_MI: jax.Array, kernel: Any, dtype: Any) -> jax.Array:
    """x W, or x W + (x A) B, computed in `dtype`."""
    if not isinstance(kernel, Adapted):
        return matmul(x_MI, kernel.astype(dtype))
    low_MR = matmul(x_MI, kernel.a.astype(dtype))
    return product(x_MI, kernel.kernel, dtype) + matmul(low_MR, kernel.b.astype(dtype))


@jax.custom_vjp
def matmul(x_MI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """x W, whose weight gradient transposes the narrower of its two operands.

    XLA's CPU backend copies the transposed operand, so x^T g is slow where x is wide; there
    (g^T x)^T transposes g and the small result. The barrier keeps XLA from folding it back.
    """
    return _dot(x_MI, kernel_IO)


def _matmul_forward(x_MI, kernel_IO):
    return _dot(x_MI, kernel_IO), (x_MI, kernel_IO)


def _matmul_backward(residuals, gradient_MO):
    x_MI, kernel_IO = residuals
    if x_MI.shape[1] > gradient_MO.shape[1]:
        kernel_gradient_IO = jax.lax.optimization_barrier(_dot(gradient_MO.T, x_MI)).T
    else:
        kernel_gradient_IO = _dot(x_MI.T, gradient_MO)
    return _dot(gradient_MO, kernel_IO.T), kernel_gradient_IO


def _dot(a_MI: jax.Array, b_IO: jax.Array) -> jax.Array:
    """a b, rounded once. On CPUs the sum is asked for in float32 by name: else XLA casts bfloat16
    operands to float32 and leaves the processor's own bfloat16 products (AMX) unused."""
    if platform() != "cpu":
        return a_MI @ b_IO
    return jnp.matmul(a_MI, b_IO, preferred_element_type=jnp.float32).astype(a_MI.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)
