"""Where a token stands: added to its embedding (sinusoids), or turned into its queries and keys."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.models.config import ModelConfig


def sinusoids(positions_BT: jax.Array, width: int) -> jax.Array:
    """Sines, then cosines, of positions (Vaswani et al. 2017, section 3.5): B x T x width."""
    frequency = 10000.0 ** (-jnp.arange(0, width, 2) / width)
    angle = positions_BT[..., None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def rotary_angles(config: ModelConfig, positions_BT: jax.Array) -> list[jax.Array] | None:
    """The angles position * theta^(-2i/R), i < R/2 (Su et al. 2021): B x T x R/2 float32.

    R is how many dimensions of a head are rotated. One array for all layers or for global ones
    and, if local layers have their own base, one for these; None without rotary positions.
    """
    c = config.resolved()
    if c.positions != "rope":
        return None
    exponent = jnp.arange(0, c.rotated, 2) / c.rotated
    if c.rope_scaling == "linear":
        angles = [(positions_BT / c.rope_divisor)[..., None] * c.rope_theta**-exponent]
    else:
        angles = [positions_BT[..., None] * jnp.float32(scaled_frequencies(c))]
    if c.window is not None and c.rope_theta_local is not None:
        angles.append(positions_BT[..., None] * c.rope_theta_local**-exponent)
    return angles


def scaled_frequencies(config: ModelConfig) -> np.ndarray:
    """The R/2 rotary frequencies of a context that was extended, float64.

    Those that turn often within the original context stay, those that turn seldom are divided, and
    a ramp joins them: over the number of turns (Llama 3), or over the index of the dimension
    between those that turn so often, rounded outwards to whole ones (YaRN, section 3.2).
    """
    c, R = config.resolved(), config.rotated
    frequencies = c.rope_theta ** -(np.arange(0, R, 2) / R)
    if c.rope_scaling == "llama3":
        turns = c.rope_original_context * frequencies / (2 * math.pi)
        kept = (turns - c.rope_turns_low) / (c.rope_turns_high - c.rope_turns_low)
    else:

        def dimension(turns: float) -> float:
            """The index of the one that turns so often."""
            longest = c.rope_original_context / (turns * 2 * math.pi)
            return R * math.log(longest) / (2 * math.log(c.rope_theta))

        first = max(math.floor(dimension(c.rope_turns_high)), 0)
        last = min(math.ceil(dimension(c.rope_turns_low)), R - 1)
        # A ramp of no length is a step.
        kept = 1 - (np.arange(R // 2) - first) / (last - first or 0.001)
    kept = np.clip(kept, 0, 1)
    return frequencies * (kept + (1 - kept) / c.rope_divisor)


def rotate(x_BTNH: jax.Array, angles: jax.Array, magnitude: jax.Array | float = 1.0) -> jax.Array:
    """Rotates dimension i together with i + R/2 (the pairing of the published Llama weights).

    The dimensions from R on stay as they are.

    Args:
      x_BTNH: queries or keys.
      angles: B x T x R/2.
      magnitude: multiplies what is rotated.
    """
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    if not isinstance(magnitude, float) or magnitude != 1.0:
        cos, sin = magnitude * cos, magnitude * sin
    R = 2 * angles.shape[-1]
    turning = x_BTNH if x_BTNH.shape[-1] == R else x_BTNH[..., :R]
    first, second = jnp.split(turning.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    rotated = rotated.astype(x_BTNH.dtype)
    if turning is x_BTNH:
        return rotated
    return jnp.concatenate([rotated, x_BTNH[..., R:]], axis=-1)
