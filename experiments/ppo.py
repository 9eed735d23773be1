"""PPO: the SFT model learns to give the answers that the reward model prefers.

    python -m experiments.ppo --init-from runs/sft/default --reward-from runs/reward/default
    python -m experiments.ppo --preset tiny --ppo.kl-coef 0.1

Hardware and time (tiny): about 1 minute on 2 CPU cores.
Expected (tiny, microworld): `objective/scores` from about -0.2 to 2, at a KL of 2 to 3 nats.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from gpt_jax.data.packing import pack_documents, pad_prompt_records
from gpt_jax.data.pipeline import make_batch_at, share
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import scorer_shapes
from gpt_jax.models.transformer import param_shapes
from gpt_jax.parallel.offload import check_offload, to_host
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, init_state, ppo
from gpt_jax.rl.iteration import Inputs, make_iteration
from gpt_jax.rl.rewards import (
    DeviceReward,
    HostReward,
    Reward,
    Rule,
    model_score,
    record_reward,
    retokenized_reward,
)
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles, load_model_files, load_params
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig, make_optimizer, rate_at
from gpt_jax.train.stage import Functions, LoopConfig, Parameters, Stage, resolve_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(PPOConfig):
    optimizer: OptimizerConfig
    train: LoopConfig
    offload_frozen: bool = False
    """Keep the reference and the reward model in the host's memory between their uses."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    retokenize: bool = False
    """Let a reward model with another tokenizer than the policy's read the text, on the host."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/ppo/default"
    init_from: str = "runs/sft/default"
    """The SFT run's folder: where the policy starts and what it is held close to."""
    reward_from: str = "runs/reward/default"
    """The reward model's folder; its shape may be another than the policy's."""
    reward: Judge = Judge()
    ppo: PPO


class Scoring(NamedTuple):
    """How completions are scored.

    Attributes:
      reward: what scores them.
      scorer: the shape of the reward model in `reward_from`, whose parameters the reward is given
        when the stage starts; None if the reward is anything else.
    """

    reward: Reward
    scorer: ModelConfig | None = None


def functions(recipe: PPO, model: ActorCritic, steps: int, scoring: Scoring) -> Functions:
    """The stage's functions; `init(seed, policy, value)` is `actor_critic.init_state`."""
    optimizer = make_optimizer(recipe.optimizer, steps * recipe.passes.updates)
    return Functions(
        functools.partial(init_state, recipe, model, optimizer),
        make_iteration(
            ppo(recipe, model), optimizer, scoring.reward, offloaded=recipe.offload_frozen
        ),
    )


def prepare(config: Config, start: ModelFiles, scoring: Scoring, mesh: Mesh) -> Stage:
    """The stage: the finetuned model as policy and as reference, on prompts.

    The value model starts as the reward model, or, where there is none or `value_init` says so, as
    the policy with a head of zeros.
    """
    recipe, (model, tokenizer) = config.ppo, start
    room = model.context_length - recipe.max_new_tokens
    if room < 1:
        raise UserError(
            f"--ppo.max-new-tokens {recipe.max_new_tokens} leaves no room for a prompt in the "
            f"model's context of {model.context_length} tokens; lower it"
        )
    if recipe.offload_frozen:
        check_offload(mesh)
    prompts = pad_prompt_records(config.data.read("prompts", "train"), tokenizer, longest=room)
    prompts_at = make_batch_at(prompts, recipe.episodes, config.seed, share(mesh))
    ptx_at = pretraining_batches(config, start, mesh)
    train = resolve_steps(recipe.train, len(prompts.rows_B), recipe.episodes)
    value = scoring.scorer if recipe.value_init == "reward" else None
    given = scoring.reward.params if isinstance(scoring.reward, DeviceReward) else ()

    def load(mesh: Mesh) -> Parameters:
        policy = load_params(config.init_from, mesh)
        scorer = load_params(config.reward_from, mesh) if scoring.scorer else given
        frozen = {"reference": policy, "reward": scorer}
        if recipe.offload_frozen:
            frozen = to_host(frozen)
        return Parameters((policy, scorer if value else policy), frozen)

    policy = param_shapes(model)
    scorer = scorer_shapes(scoring.scorer) if scoring.scorer else given
    updates = recipe.passes.updates
    return Stage(
        model=model,
        tokenizer=tokenizer,
        train=train,
        functions=functions(recipe, ActorCritic(model, value or model), train.steps, scoring),
        load=load,
        shapes=Parameters(
            (policy, scorer if value else policy), {"reference": policy, "reward": scorer}
        ),
        batch_at=lambda step: Inputs(prompts_at(step), ptx_at(step)),
        row_numbers=prompts_at.numbers,
        learning_rate=lambda step: rate_at(
            recipe.optimizer, train.steps * updates, recipe.optimizer.learning_rate, step * updates
        ),
        derive=lambda values: {"eps": recipe.episodes / values["seconds_per_step"]},
        headline=("objective/scores", "objective/kl"),
    )


def pretraining_batches(config: Config, start: ModelFiles, mesh: Mesh):
    """`batch_at(step)` of pretraining rows for PPO-ptx, or of None when it is off."""
    if not config.ppo.ptx_coef:
        return lambda step: None
    documents = config.data.read("text", "train")
    rows = pack_documents(documents, start.tokenizer, start.model.context_length)
    return make_batch_at(rows, config.ppo.ptx_rows, config.seed, share(mesh))


def trained_reward(config: Config, start: ModelFiles) -> Scoring:
    """The reward model in `reward_from`.

    Raises:
      UserError: if its tokenizer is not the policy's, unless `reward.retokenize` allows for that.
    """
    judge = load_model_files(config.reward_from)
    if judge.tokenizer == start.tokenizer:
        return Scoring(DeviceReward(model_score(judge.model)), judge.model)
    if not config.reward.retokenize:
        raise UserError(
            f"{config.reward_from} has another tokenizer than {config.init_from}; train the reward "
            "model from that one, or give --reward.retokenize to let it read text"
        )
    records = config.data.read("prompts", "train")
    scorer = load_params(config.reward_from)
    return Scoring(retokenized_reward(judge, scorer, records, start.tokenizer))


def main(
    config: Config,
    reward: Reward | Callable[[Rollout], Sequence[float]] | None = None,
    rule: Rule | None = None,
) -> None:
    """Runs PPO against the reward model in `reward_from`, or against something else.

    Args:
      config: of the experiment.
      reward: a Reward, or a Python function of a rollout of NumPy arrays.
      rule: a function of the record that a prompt was made from, the completion's text and whether
        it stopped by itself.
    """

    def stage(mesh: Mesh) -> Stage:
        start = load_model_files(config.init_from)
        if rule:
            records = config.data.read("prompts", "train")
            scoring = Scoring(record_reward(rule, records, start.tokenizer))
        elif reward:
            known = isinstance(reward, DeviceReward | HostReward)
            scoring = Scoring(reward if known else HostReward(reward))
        else:
            scoring = trained_reward(config, start)
        return prepare(config, start, scoring, mesh)

    run_stage("ppo", config, stage)


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
            episodes=64,
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
