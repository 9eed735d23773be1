"""Reward-weighted finetuning: the SFT model learns its own answers, the better the more.

    python -m experiments.reward_weighted --reward-from runs/reward/default
    python -m experiments.reward_weighted --reward "task:microworld + 0.2*rule:brevity"

The simplest baseline for PPO: sample, score, finetune with weights exp(score / beta), the scores
counted in standard deviations.

Hardware and time (tiny): 6 minutes on 2 CPU cores that a dozen other processes wanted, too; PPO
took 13.5 beside as many.
Expected (tiny, microworld, one seed): `objective/scores` from -0.3 to 2.6, the mean of the last ten
iterations, at a KL of 1.9 nats. PPO came from the same two models to 2.5, at 1.7 nats.
"""

import dataclasses
import functools

import optax
from jax.sharding import Mesh

from gpt_jax.models.contract import Model
from gpt_jax.models.flops import forward_flops
from gpt_jax.models.heads import axes_of
from gpt_jax.models.quantized import quantized_axes
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.online import iteration_programs
from gpt_jax.plan.workload import StepPlan, Workload
from gpt_jax.rl.iteration import EndIds, ends_of, make_iteration
from gpt_jax.rl.reward_weighted import RewardWeightedConfig, init_state, reward_weighted
from gpt_jax.rl.scoring import Scoring, model_scoring
from gpt_jax.rl.stage import OnlineConfig, OnlineRecipe, online_stage
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Functions, LoopConfig, Stage

COST = Cost(learned=1, frozen=2, samples=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardWeighted(RewardWeightedConfig, OnlineRecipe):
    """The algorithm, its optimizer and its length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(OnlineConfig):
    run_dir: str = "runs/reward_weighted/default"
    reward_weighted: RewardWeighted


def optimizer_of(recipe: RewardWeighted, model: Model, steps: int) -> optax.GradientTransformation:
    """The optimizer of the policy, over all updates of the run."""
    return make_optimizer(recipe.optimizer, steps * recipe.passes.updates, axes_of(model))


def functions(
    recipe: RewardWeighted, model: Model, ends: EndIds, scoring: Scoring, steps: int
) -> Functions:
    """The stage's functions; `init(seed, policy, unused)` is `reward_weighted.init_state`."""
    optimizer = optimizer_of(recipe, model, steps)
    algorithm = reward_weighted(recipe, model, ends)
    return Functions(
        functools.partial(init_state, optimizer),
        make_iteration(algorithm, optimizer, scoring.reward, recipe.offload_frozen),
        quantized_axes(axes_of(model, *scoring.models)),
    )


def prepare(config: Config, start: ModelFiles, scoring: Scoring, mesh: Mesh) -> Stage:
    """The stage."""
    recipe, ends = config.reward_weighted, ends_of(start.tokenizer)
    made = functools.partial(functions, recipe, start.model, ends, scoring)
    return online_stage(config, recipe, start, scoring, mesh, functions=made)


def main(config: Config) -> None:
    """Runs the stage against the reward of its configuration."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        start = start_of(config)
        config.check_policy(start)
        return prepare(config, start, config.scoring(start), mesh)

    run_stage("reward_weighted", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One iteration, for the planner."""
    model, new = work.model, work.new_tokens
    recipe = RewardWeighted(
        episodes=work.rows,
        epochs=work.epochs,
        minibatches=work.accumulate,
        max_new_tokens=new,
        optimizer=work.optimizer,
        train=LoopConfig(steps=work.train.steps),
    )
    ends = EndIds(stop_ids=(1,), pad_id=0)  # whichever they are: a program of one size
    made = functions(recipe, model, ends, model_scoring(model), work.train.steps)
    optimizer = optimizer_of(recipe, model, work.train.steps)
    # Prompts need no logits. Policy, reference and reward score; the policy learns.
    body, told = (forward_flops(model, work.length, logits=n) for n in (0, new))
    each = told + (body + 2 * told) + 3 * recipe.epochs * told
    return StepPlan(
        iteration_programs(work, mesh, reward_weighted(recipe, model, ends), optimizer, made),
        tokens=work.rows * new,
        flops=work.rows * each,
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        reward_weighted=RewardWeighted(
            episodes=8,
            minibatches=2,
            max_new_tokens=16,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", eps=1e-5),
            train=LoopConfig(steps=4, log_every=1, checkpoint_every=2),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        reward_weighted=RewardWeighted(
            episodes=96,
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
        reward_weighted=RewardWeighted(
            episodes=256,
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
