"""The methods that `experiments.algorithms` compares, and what a step of each costs.

Compute is counted in completions: 1 for one that is sampled, 3 for one that is trained on (a
forward and a backward pass), by each model that learns. Scoring is not counted.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from jax.sharding import Mesh

from experiments import dpo, grpo, online_dpo, ppo, reinforce, rejection, rloo
from gpt_jax.rl.policy_stage import policy_stage
from gpt_jax.train.command import Common
from gpt_jax.train.comparisons import comparisons_of
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Stage


class Method(NamedTuple):
    """A method, and the setting that says how far it may go: the first value is its default."""

    title: str
    module: ModuleType
    setting: str
    values: tuple[float, ...]


METHODS = {
    "ppo": Method("PPO", ppo, "kl_coef", (0.3, 0.1, 1.0)),
    "grpo": Method("GRPO", grpo, "kl_coef", (0.04, 0.01, 0.16)),
    "rloo": Method("RLOO", rloo, "kl_coef", (0.3, 0.1, 1.0)),
    "reinforce": Method("REINFORCE++", reinforce, "kl_coef", (0.3, 0.1, 1.0)),
    "online_dpo": Method("online DPO", online_dpo, "beta", (0.1, 0.03, 0.3)),
    "rejection": Method("rejection", rejection, "group", (8, 4, 16)),
    "dpo": Method("DPO", dpo, "beta", (0.5, 0.1, 2.0)),
}


def batch(name: str, config: Common, episodes: int) -> dict[str, int]:
    """The setting by which a step of a method has so many completions."""
    if name == "dpo":
        return {"dpo.train.batch_size": max(1, episodes // ranked(config))}
    return {f"{name}.episodes": episodes}


def ranked(config: Common) -> int:
    """Completions of one comparison that DPO learns from."""
    return len(comparisons_of(config, "train")[0]["completions"])


def trained(name: str, config: Common) -> float:
    """Completions that one step trains on, PPO's twice: it is policy and value model that learn."""
    recipe = getattr(config, name)
    if name == "dpo":
        return recipe.train.batch_size * ranked(config)
    learning = recipe.episodes * recipe.epochs
    if name in ("rejection", "online_dpo"):  # of a group the best, or the best and the worst
        return learning * (1 if name == "rejection" else 2) / recipe.group
    return learning * (2 if name == "ppo" else 1)


def sampled(name: str, config: Common) -> int:
    """Completions that one step samples."""
    return 0 if name == "dpo" else getattr(config, name).episodes


def spent(name: str, config: Common) -> float:
    """What one step costs, in the budget's unit."""
    return sampled(name, config) + 3 * trained(name, config)


def stage_of(name: str, config: Any, mesh: Mesh) -> Stage:
    """The stage of a method, as its experiment prepares it."""
    start = start_of(config)
    if name == "dpo":
        return dpo.prepare(config, start, mesh)
    scoring = config.scoring(start)
    if name == "ppo":
        return ppo.prepare(config, start, scoring, mesh)
    method = METHODS[name].module.METHOD
    return policy_stage(config, getattr(config, name), method, start, scoring, mesh)
