"""Several completions of each prompt: advantages from their scores alone, with no value model.

A group is `size` consecutive rows of a rollout. Rows without a token (whose score was not finite)
are in no group's mean.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.data.batches import Prompts
from gpt_jax.data.pipeline import BatchAt
from gpt_jax.errors import UserError
from gpt_jax.ranges import Range
from gpt_jax.rl.iteration import RolloutConfig

Scale = Literal["std", "none"]


@dataclasses.dataclass(frozen=True)
class GroupConfig(RolloutConfig):
    """What every method needs that compares the completions of one prompt."""

    group: Annotated[int, Range(2, 2**31 - 1)] = 8
    """Completions of each prompt; must divide the episodes."""

    def __post_init__(self):
        super().__post_init__()
        if self.episodes % self.group:
            raise UserError(
                f"{self.episodes} episodes do not divide into groups of {self.group}; change "
                "episodes or group"
            )


class GroupedPrompts(NamedTuple):
    """`batch_at(step)` that gives each prompt `size` times in a row.

    Attributes:
      prompts_at: gives each once.
      size: of a group.
    """

    prompts_at: BatchAt[Prompts]
    size: int

    def numbers(self, step: int) -> np.ndarray:
        """Which rows make up the whole global batch."""
        return np.repeat(self.prompts_at.numbers(step), self.size)

    def __call__(self, step: int) -> Prompts:
        """This process's rows; a group is whole on one process."""
        return jax.tree.map(lambda x: np.repeat(x, self.size, axis=0), self.prompts_at(step))


def group_advantages(scores_B: jax.Array, kept_B: jax.Array, size: int, scale: Scale) -> jax.Array:
    """A score less the mean of its group, float32 (B,).

        A_i = (s_i - mean(s)) / (std(s) + 1e-4)        Shao et al. 2024, section 4.1.2
        A_i = s_i - mean(s)                            Liu et al. 2025 (Dr. GRPO)

    The standard deviation is the sample's, with one degree of freedom less. A group whose scores
    are all equal says nothing: its advantages are exactly 0.

    Args:
      scores_B: float32.
      kept_B: which rows count; the others get 0.
      size: rows of a group.
      scale: "std" or "none".
    """
    scores_GK, kept_GK = _grouped(scores_B, kept_B, size)
    count_G1 = kept_GK.sum(axis=1, keepdims=True)
    mean_G1 = (scores_GK * kept_GK).sum(axis=1, keepdims=True) / jnp.maximum(count_G1, 1.0)
    above_GK = (scores_GK - mean_G1) * kept_GK
    if scale == "std":
        squares_G1 = (above_GK**2).sum(axis=1, keepdims=True)
        above_GK /= jnp.sqrt(squares_G1 / jnp.maximum(count_G1 - 1.0, 1.0)) + 1e-4
    return _unless_equal(above_GK, scores_GK, kept_GK)


def leave_one_out(scores_B: jax.Array, kept_B: jax.Array, size: int) -> jax.Array:
    """A score less the mean of the others of its group, float32 (B,).

        A_i = s_i - sum_{j != i} s_j / (K - 1)         Ahmadian et al. 2024, eq. 8

    The baseline does not depend on the completion itself, and so the gradient has no bias. A row
    that is alone in its group gets 0, and so does a group whose scores are all equal.
    """
    scores_GK, kept_GK = _grouped(scores_B, kept_B, size)
    scores_GK = scores_GK * kept_GK
    others_GK = scores_GK.sum(axis=1, keepdims=True) - scores_GK
    count_G1 = kept_GK.sum(axis=1, keepdims=True)
    above_GK = (scores_GK - others_GK / jnp.maximum(count_G1 - 1.0, 1.0)) * kept_GK
    return _unless_equal(above_GK, scores_GK, kept_GK)


def equal_groups(scores_B: jax.Array, kept_B: jax.Array, size: int) -> jax.Array:
    """Which groups have scores that are all equal, or less than two of them; bool (G,)."""
    scores_GK, kept_GK = _grouped(scores_B, kept_B, size)
    highest_G = jnp.where(kept_GK > 0, scores_GK, -jnp.inf).max(axis=1)
    lowest_G = jnp.where(kept_GK > 0, scores_GK, jnp.inf).min(axis=1)
    return highest_G <= lowest_G


def best_of_groups(scores_B: jax.Array, kept_B: jax.Array, size: int) -> jax.Array:
    """The number of the row with the highest score in each group, int32 (G,): the first of equals,
    and the group's first row where none counts."""
    scores_GK, kept_GK = _grouped(scores_B, kept_B, size)
    best_G = jnp.where(kept_GK > 0, scores_GK, -jnp.inf).argmax(axis=1)
    return (best_G + size * jnp.arange(len(best_G))).astype(jnp.int32)


def worst_of_groups(scores_B: jax.Array, kept_B: jax.Array, size: int) -> jax.Array:
    """The same of the lowest score; among equals the last, so that it is not the best one, too."""
    turned_B, turned_kept_B = -scores_B[::-1], kept_B[::-1]
    return len(scores_B) - 1 - best_of_groups(turned_B, turned_kept_B, size)[::-1]


def _grouped(scores_B: jax.Array, kept_B: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    scores_GK = scores_B.astype(jnp.float32).reshape(-1, size)
    return scores_GK, kept_B.astype(jnp.float32).reshape(-1, size)


def _unless_equal(above_GK: jax.Array, scores_GK: jax.Array, kept_GK: jax.Array) -> jax.Array:
    """Rounding makes a mean that is not quite the scores': what is equal is made 0."""
    size = scores_GK.shape[1]
    equal_G = equal_groups(scores_GK.reshape(-1), kept_GK.reshape(-1), size)
    return jnp.where(equal_G[:, None], 0.0, above_GK).reshape(-1)
