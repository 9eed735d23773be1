"""What every implementation computes from the products q k: the scores, and which of them count.

Query t has index i = q_offset + t on the key axis; its distance to key s is i - s.

    score = cap * tanh(scale * q k / cap) - slope * distance          (cap, slope: optional)
    seen  = same nonzero segment, distance >= 0 (causal), distance < window (optional)

These are functions of broadcastable arrays, so a kernel calls them on its block of scores.
"""

import dataclasses

import jax
import jax.numpy as jnp

# A hidden score: finite, and exp(HIDDEN - m) is 0 for every maximum m >= LEAST_MAX.
HIDDEN = -1e30
LEAST_MAX = -1e29


@dataclasses.dataclass(frozen=True)
class Options:
    """The static part of an attention call.

    Attributes:
      causal: whether keys after the query are hidden.
      window: how many keys a query sees, itself included; None: all. Needs causal.
      softcap: scores are squashed into (-softcap, softcap) (Gemma team 2024, section 2).
      scale: multiplies q k.
    """

    causal: bool
    window: int | None
    softcap: float | None
    scale: float


def scores(products, distance, slope, options: Options) -> jax.Array:
    """float32 scores of float32 products q k; `slope` (ALiBi, Press et al. 2022) may be None."""
    products = options.scale * products
    if options.softcap is not None:
        products = options.softcap * jnp.tanh(products / options.softcap)
    if slope is not None:
        products -= slope * distance.astype(jnp.float32)
    return products


def scores_gradient(dscores, products, options: Options) -> jax.Array:
    """d loss / d products, but for the factor `scale`, which is cheaper on dq and dk."""
    if options.softcap is None:
        return dscores
    return dscores * (1.0 - jnp.square(jnp.tanh(options.scale * products / options.softcap)))


def visible(q_segment_ids, kv_segment_ids, distance, options: Options) -> jax.Array:
    """True where a query may read a key."""
    # Padding as -1 on one side sees nothing; `&` with a row of booleans is costlier.
    seen = jnp.where(q_segment_ids == 0, -1, q_segment_ids) == kv_segment_ids
    if options.causal:
        seen &= distance >= 0
    if options.window is not None:
        seen &= distance < options.window
    return seen
