"""Generalised advantage estimation and masked whitening."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gae(
    rewards_BC: jax.Array, values_BC: jax.Array, mask_BC: jax.Array, gamma: float, lam: float
) -> tuple[jax.Array, jax.Array]:
    """Advantages and returns (Schulman et al. 2016, eq. 16), float32 (B, C).

        delta_t = r_t + gamma V_{t+1} - V_t        A_t = delta_t + gamma lam A_{t+1}

    `values_BC[:, t]` is the value before token t is chosen. An episode ends with its last masked
    token: what follows has value 0 and contributes nothing. Returns are `A + V`, not whitened.
    """
    values_BC = values_BC * mask_BC
    rewards_BC = rewards_BC * mask_BC
    next_values_BC = jnp.pad(values_BC[:, 1:], ((0, 0), (0, 1)))
    deltas_BC = rewards_BC + gamma * next_values_BC - values_BC

    def backwards(advantage_B, column):
        delta_B, mask_B = column
        advantage_B = (delta_B + gamma * lam * advantage_B) * mask_B
        return advantage_B, advantage_B

    columns = (deltas_BC.T, mask_BC.T)
    _, advantages_CB = jax.lax.scan(
        backwards, jnp.zeros_like(deltas_BC[:, 0]), columns, reverse=True
    )
    advantages_BC = advantages_CB.T
    return advantages_BC, advantages_BC + values_BC


def whiten(x_BC: jax.Array, mask_BC: jax.Array) -> jax.Array:
    """Shifts and scales to mean 0 and variance 1 over the masked entries; 0 elsewhere."""
    count = jnp.sum(mask_BC)
    mean = jnp.sum(x_BC * mask_BC) / count
    variance = jnp.sum(mask_BC * (x_BC - mean) ** 2) / count
    return (x_BC - mean) * jax.lax.rsqrt(variance + 1e-8) * mask_BC
