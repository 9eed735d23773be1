"""Where a token stands: added to its embedding (sinusoids), or turned into its queries and keys."""

import jax
import jax.numpy as jnp

from gpt_jax.models.config import ModelConfig


def sinusoids(positions_BT: jax.Array, width: int) -> jax.Array:
    """Sines, then cosines, of positions (Vaswani et al. 2017, section 3.5): B x T x width."""
    frequency = 10000.0 ** (-jnp.arange(0, width, 2) / width)
    angle = positions_BT[..., None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def rotary_angles(config: ModelConfig, positions_BT: jax.Array) -> list[jax.Array] | None:
    """The angles position * theta^(-2i/H), i < H/2 (Su et al. 2021): B x T x H/2 float32.

    One array for global layers and, with a window, one for local layers; None without rotary
    positions.
    """
    c = config.resolved()
    if c.positions != "rope":
        return None
    exponent = jnp.arange(0, c.head_size, 2) / c.head_size
    angles = [(positions_BT / c.rope_divisor)[..., None] * c.rope_theta**-exponent]
    if c.window is not None:
        angles.append(positions_BT[..., None] * c.rope_theta_local**-exponent)
    return angles


def rotate(x_BTNH: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates dimension i together with i + H/2 (the pairing of the published Llama weights)."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)
