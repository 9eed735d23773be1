"""Rejection sampling: the policy is finetuned on the best of its own samples.

    python -m experiments.rejection --init-from runs/sft/default --reward-from runs/reward/default
    python -m experiments.rejection --rejection.round-length 40   # all samples are of the SFT model
    python -m experiments.rejection --rejection.round-length 10   # expert iteration in four rounds

Hardware and time (tiny): 2 to 4 minutes on 2 CPU cores shared with other work.
Expected (tiny, microworld): `objective/scores` from about -0.6 to 3.2, at a KL of 2.6 nats
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
from gpt_jax.rl.rejection import RejectionConfig, init_state, rejection
from gpt_jax.rl.rewards import Reward, Rule
from gpt_jax.rl.stage import OnlineConfig, OnlineRecipe
from gpt_jax.train import command
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import LoopConfig

COST = Cost(learned=1, frozen=2, samples=True)
METHOD = PolicyMethod(rejection, init_state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejection(RejectionConfig, OnlineRecipe):
    """The algorithm, its optimizer and its length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(OnlineConfig):
    run_dir: str = "runs/rejection/default"
    rejection: Rejection


def main(
    config: Config,
    reward: Reward | Callable[[Rollout], Sequence[float]] | None = None,
    rule: Rule | None = None,
) -> None:
    """Runs rejection sampling against the reward model in `reward_from`, or against something else
    (`policy_stage.run_policy_stage`)."""
    run_policy_stage("rejection", config, METHOD, reward, rule)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One iteration, for the planner."""
    return policy_plan(work, mesh, Rejection(group=2, **planned_recipe(work)), rejection)


def smoke() -> Config:
    return Config(
        preset="smoke",
        rejection=Rejection(
            episodes=8,
            epochs=2,
            minibatches=1,
            group=4,
            round_length=2,
            max_new_tokens=16,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", eps=1e-5),
            train=LoopConfig(steps=4, log_every=1, checkpoint_every=2),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        rejection=Rejection(
            episodes=96,
            epochs=2,
            minibatches=1,
            group=8,
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
        rejection=Rejection(
            episodes=256,
            epochs=1,
            minibatches=1,
            group=8,
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
