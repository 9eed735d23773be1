"""Muon: the update of a matrix is its momentum with all singular values made about 1.

    M = beta M + G
    U = NewtonSchulz(G + beta M) 0.2 sqrt(max(rows, columns))

(Jordan et al. 2024.) The last factor gives an update the root mean square of Adam's, so that both
share a learning rate and a decay (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

STEPS = 5
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of Jordan et al.: the steepest at 0 that stay near 1
RMS = 0.2  # of an update of Adam's, about


def scale_by_muon(beta: float) -> optax.GradientTransformation:
    """Muon's update of float32 gradients, each (rows, columns) or one such matrix per layer."""

    def directions(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(_of_layers, updates)

    return optax.chain(optax.trace(beta, nesterov=True), optax.stateless(directions))


def orthogonalize(matrix: jax.Array) -> jax.Array:
    """U V^T of a matrix U S V^T, about: five steps of an odd polynomial of the matrix.

    Args:
      matrix: float32 (rows, columns).

    Returns:
      The same shape, with singular values between 0.7 and 1.2 where they were not all but 0.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    a, b, c = COEFFICIENTS
    x = wide / (jnp.linalg.norm(wide) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x if wide is matrix else x.T


def _of_layers(matrices: jax.Array) -> jax.Array:
    scale = RMS * max(matrices.shape[-2:]) ** 0.5
    if matrices.ndim == 2:
        return scale * orthogonalize(matrices)
    # Layer by layer: XLA's CPU backend takes twice the time for batched products.
    return scale * jnp.stack([orthogonalize(matrix) for matrix in matrices])
