"""RLOO: REINFORCE with the mean of the other completions as baseline; no value model.

    python -m experiments.rloo --init-from runs/sft/default --reward-from runs/reward/default
    python -m experiments.rloo --rloo.level token

Hardware and time (tiny): 2 to 4 minutes on 2 CPU cores shared with other work.
Expected (tiny, microworld): `objective/scores` from about -0.7 to 3.5, at a KL of 2.1 nats
(PPO with as many samples: 3.3 at 2.2; the means of the last ten iterations, of one seed).
"""

import dataclasses
from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from gpt_jax.generate.sampler import Rollout
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.online import planned_recipe, policy_plan
from gpt_jax.plan.workload import StepPlan, Workload
from gpt_jax.rl.policy_stage import PolicyMethod, run_policy_stage
from gpt_jax.rl.rewards import Reward, Rule
from gpt_jax.rl.rloo import RLOOConfig, rloo
from gpt_jax.rl.stage import OnlineConfig, OnlineRecipe
from gpt_jax.train import command
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import LoopConfig

COST = Cost(learned=1, frozen=2, samples=True)
METHOD = PolicyMethod(rloo)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLOO(RLOOConfig, OnlineRecipe):
    """The algorithm, its optimizer and its length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(OnlineConfig):
    run_dir: str = "runs/rloo/default"
    rloo: RLOO


def main(
    config: Config,
    reward: Reward | Callable[[Rollout], Sequence[float]] | None = None,
    rule: Rule | None = None,
) -> None:
    """Runs RLOO against the reward model in `reward_from`, or against something else
    (`policy_stage.run_policy_stage`)."""
    run_policy_stage("rloo", config, METHOD, reward, rule)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One iteration, for the planner."""
    return policy_plan(work, mesh, RLOO(group=2, **planned_recipe(work)), rloo)


def smoke() -> Config:
    return Config(
        preset="smoke",
        rloo=RLOO(
            episodes=8,
            epochs=2,
            minibatches=2,
            group=4,
            max_new_tokens=16,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", eps=1e-5),
            train=LoopConfig(steps=4, log_every=1, checkpoint_every=2),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        rloo=RLOO(
            episodes=96,
            epochs=2,
            minibatches=2,
            group=4,
            kl_coef=0.3,
            max_new_tokens=36,
            optimizer=OptimizerConfig(
                learning_rate=3e-4, schedule="linear", weight_decay=0.0, eps=1e-5
            ),
            train=LoopConfig(steps=40, log_every=1, checkpoint_every=20),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        rloo=RLOO(
            episodes=256,
            epochs=2,
            minibatches=4,
            group=4,
            max_new_tokens=64,
            optimizer=OptimizerConfig(
                learning_rate=5e-5, schedule="linear", weight_decay=0.0, eps=1e-5
            ),
            train=LoopConfig(steps=200, log_every=1, checkpoint_every=50),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
