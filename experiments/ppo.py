"""PPO: the SFT model learns to give the answers that the reward model prefers.

    python -m experiments.ppo --init-from runs/sft/default --reward-from runs/reward/default
    python -m experiments.ppo --preset tiny --ppo.kl-coef 0.1
    python -m experiments.ppo --reward "model:runs/reward/default + 0.5*rule:brevity"

Hardware and time (tiny): about 1 minute on 2 CPU cores.
Expected (tiny, microworld): `objective/scores` from about -0.6 to 3.4, at a KL of 2 nats.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import optax
from jax.sharding import Mesh

from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.flops import forward_flops
from gpt_jax.models.heads import axes_of
from gpt_jax.models.quantized import quantized_axes
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.online import iteration_programs
from gpt_jax.plan.workload import StepPlan, Workload
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, init_state, ppo
from gpt_jax.rl.iteration import EndIds, ends_of, make_iteration
from gpt_jax.rl.policy_stage import scoring_of
from gpt_jax.rl.rewards import Reward, Rule
from gpt_jax.rl.scoring import Scoring, model_scoring
from gpt_jax.rl.stage import OnlineConfig, OnlineRecipe, online_stage
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Functions, LoopConfig, Stage

COST = Cost(learned=2, frozen=2, samples=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(PPOConfig, OnlineRecipe):
    """The algorithm, its optimizer and its length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(OnlineConfig):
    run_dir: str = "runs/ppo/default"
    ppo: PPO


def optimizer_of(recipe: PPO, model: ActorCritic, steps: int) -> optax.GradientTransformation:
    """The optimizer of policy and value model, over all updates of the run."""
    return make_optimizer(recipe.optimizer, steps * recipe.passes.updates, axes_of(*model))


def functions(
    recipe: PPO, model: ActorCritic, ends: EndIds, scoring: Scoring, steps: int
) -> Functions:
    """The stage's functions; `init(seed, policy, value)` is `actor_critic.init_state`."""
    optimizer = optimizer_of(recipe, model, steps)
    return Functions(
        functools.partial(init_state, recipe, model, optimizer),
        make_iteration(ppo(recipe, model, ends), optimizer, scoring.reward, recipe.offload_frozen),
        quantized_axes(axes_of(*model, *scoring.models)),
    )


def prepare(config: Config, start: ModelFiles, scoring: Scoring, mesh: Mesh) -> Stage:
    """The stage.

    The value model starts as the (first) reward model, or, where there is none or `value_init` says
    so, as the policy with a head of zeros.
    """
    recipe = config.ppo
    value = scoring.scorer if recipe.value_init == "reward" else None
    shapes = ActorCritic(start.model, value or start.model)
    return online_stage(
        config,
        recipe,
        start,
        scoring,
        mesh,
        functions=functools.partial(functions, recipe, shapes, ends_of(start.tokenizer), scoring),
        from_scorer=value is not None,
        ptx_rows=recipe.ptx_rows if recipe.ptx_coef else 0,
    )


def main(
    config: Config,
    reward: Reward | Callable[[Rollout], Sequence[float]] | None = None,
    rule: Rule | None = None,
) -> None:
    """Runs PPO against the reward of its configuration, or against something else.

    Args:
      config: of the experiment.
      reward: a Reward, or a Python function of a rollout of NumPy arrays.
      rule: a function of the record that a prompt was made from, the completion's text and whether
        it stopped by itself.
    """

    def stage(config: Config, mesh: Mesh) -> Stage:
        start = start_of(config)
        return prepare(config, start, scoring_of(config, start, reward, rule), mesh)

    run_stage("ppo", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One iteration, for the planner."""
    model, new = work.model, work.new_tokens
    recipe = PPO(
        episodes=work.rows,
        epochs=work.epochs,
        minibatches=work.accumulate,
        max_new_tokens=new,
        optimizer=work.optimizer,
        train=LoopConfig(steps=work.train.steps),
    )
    shapes, steps = ActorCritic(model, model), work.train.steps
    ends = EndIds(stop_ids=(1,), pad_id=0)  # whichever they are: a program of one size
    made = functions(recipe, shapes, ends, model_scoring(model), steps)
    optimizer = optimizer_of(recipe, shapes, steps)
    # Prompts need no logits. Policy, reference, value and reward score; policy and value learn.
    body, told = (forward_flops(model, work.length, logits=n) for n in (0, new))
    each = told + (2 * body + 2 * told) + work.training_passes * recipe.epochs * (body + told)
    return StepPlan(
        iteration_programs(work, mesh, ppo(recipe, shapes, ends), optimizer, made),
        tokens=work.rows * new,
        flops=work.rows * each,
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        ppo=PPO(
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
        ppo=PPO(
            episodes=96,
            epochs=2,
            minibatches=2,
            max_new_tokens=36,
            kl_coef=0.3,
            optimizer=OptimizerConfig(
                learning_rate=3e-4, schedule="linear", weight_decay=0.0, eps=1e-5
            ),
            train=LoopConfig(steps=40, log_every=1, checkpoint_every=20),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        ppo=PPO(
            episodes=256,
            epochs=4,
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
