"""Online DPO: of two completions of a prompt the better one by the reward is the chosen one.

    python -m experiments.online_dpo --init-from runs/sft/default --reward-from runs/reward/default

Hardware and time (tiny): 2 to 5 minutes on 2 CPU cores shared with other work.
Expected (tiny, microworld): `objective/scores` from about -0.3 to 3.2, at a KL of 2.6 nats
(PPO with as many samples: 3.3 at 2.2; the means of the last ten iterations, of one seed).
"""

import dataclasses
from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from gpt_jax.generate.sampler import Rollout
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.online import planned_recipe, policy_plan
from gpt_jax.plan.workload import StepPlan, Workload
from gpt_jax.rl.online_dpo import OnlineDPOConfig, online_dpo
from gpt_jax.rl.policy_stage import PolicyMethod, run_policy_stage
from gpt_jax.rl.rewards import Reward, Rule
from gpt_jax.rl.stage import OnlineConfig, OnlineRecipe
from gpt_jax.train import command
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import LoopConfig

COST = Cost(learned=1, frozen=2, samples=True)
METHOD = PolicyMethod(online_dpo)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineDPO(OnlineDPOConfig, OnlineRecipe):
    """The algorithm, its optimizer and its length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(OnlineConfig):
    run_dir: str = "runs/online_dpo/default"
    online_dpo: OnlineDPO


def main(
    config: Config,
    reward: Reward | Callable[[Rollout], Sequence[float]] | None = None,
    rule: Rule | None = None,
) -> None:
    """Runs online DPO against the reward model in `reward_from`, or against something else
    (`policy_stage.run_policy_stage`)."""
    run_policy_stage("online_dpo", config, METHOD, reward, rule)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One iteration, for the planner."""
    return policy_plan(work, mesh, OnlineDPO(**planned_recipe(work)), online_dpo)


def smoke() -> Config:
    return Config(
        preset="smoke",
        online_dpo=OnlineDPO(
            episodes=8,
            epochs=2,
            minibatches=2,
            max_new_tokens=16,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", eps=1e-5),
            train=LoopConfig(steps=4, log_every=1, checkpoint_every=2),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        online_dpo=OnlineDPO(
            episodes=96,
            epochs=2,
            minibatches=2,
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
        online_dpo=OnlineDPO(
            episodes=256,
            epochs=1,
            minibatches=4,
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
