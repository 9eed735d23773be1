"""PPO: the SFT model learns to give the answers that the reward model prefers.

    python -m experiments.ppo --init-from runs/sft/default --reward-from runs/reward/default
    python -m experiments.ppo --preset tiny --ppo.kl-coef 0.1

Hardware and time (tiny): about 1 minute on 2 CPU cores.
Expected (tiny, microworld): `objective/scores` from about -0.2 to 2, at a KL of 2 to 3 nats.
"""

import dataclasses
import functools
from collections.abc import Callable

import optax
from jax.sharding import Mesh

from gpt_jax import keys
from gpt_jax.data.batches import Batch
from gpt_jax.data.packing import pack_documents, pad_prompt_records
from gpt_jax.data.pipeline import make_batch_at, share
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.rl.ppo import PPOConfig, PPOInputs, init_ppo_state, make_ppo_iteration
from gpt_jax.rl.rewards import Reward, model_reward
from gpt_jax.train import command
from gpt_jax.train.checkpoint import load_model_files, load_params, save_model_files
from gpt_jax.train.loop import TrainConfig, fit
from gpt_jax.train.optim import OptimizerConfig, make_optimizer, make_schedule
from gpt_jax.train.run import Run, is_finished


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(PPOConfig):
    optimizer: OptimizerConfig
    train: TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/ppo/default"
    init_from: str = "runs/sft/default"
    """The SFT run's folder: where the policy starts and what it is held close to."""
    reward_from: str = "runs/reward/default"
    """The reward model's folder."""
    ppo: PPO


def build(recipe: PPO, model: ModelConfig) -> tuple[optax.GradientTransformation, Callable]:
    """(optimizer, `init(policy, scorer, key)`); the iteration is `rl.ppo.iterate`."""
    updates = recipe.train.steps * recipe.epochs * recipe.minibatches
    optimizer = make_optimizer(recipe.optimizer, updates)
    return optimizer, functools.partial(init_ppo_state, recipe, model, optimizer)


def main(config: Config, reward: Reward | None = None) -> None:
    """Runs PPO; `reward` replaces the trained reward model (see `gpt_jax.rl.rewards`)."""
    recipe = config.ppo
    if is_finished("ppo", config):
        return
    mesh = make_mesh(config.mesh)
    model, tokenizer = load_model_files(config.init_from)
    prompts = pad_prompt_records(
        config.data.read("prompts", "train"),
        tokenizer,
        longest=model.context_length - recipe.max_new_tokens,
    )
    prompts_at = make_batch_at(prompts, recipe.episodes, config.seed, share(mesh))
    ptx_at = pretraining_batches(config, tokenizer, model.context_length, mesh)

    updates = recipe.train.steps * recipe.epochs * recipe.minibatches
    optimizer, init = build(recipe, model)
    schedule = make_schedule(recipe.optimizer, updates)
    policy = load_params(config.init_from, mesh)
    scorer = load_params(config.reward_from, mesh)

    with Run("ppo", config) as run:
        save_model_files(run.folder, model, tokenizer)
        state = run.restore_or_create(
            init,
            policy,
            scorer,
            keys.derive(config.seed, 0, "ppo/value_head"),
            mesh=mesh,
        )
        iteration = make_ppo_iteration(
            recipe,
            model,
            optimizer,
            reward=reward or model_reward(model, scorer),
            reference=policy,
            seed=config.seed,
        )
        fit(
            run,
            state,
            iteration,
            lambda step: PPOInputs(prompts_at(step), ptx_at(step)),
            recipe.train,
            mesh=mesh,
            row_numbers=prompts_at.numbers,
            schedule=lambda step: schedule(step * recipe.epochs * recipe.minibatches),
            derive=lambda values: {"eps": recipe.episodes / values["seconds_per_step"]},
            headline=("objective/scores", "objective/kl"),
        )


def pretraining_batches(config: Config, tokenizer, length: int, mesh: Mesh):
    """`batch_at(step)` of pretraining rows for PPO-ptx, or of None when it is off."""
    if not config.ppo.ptx_coef:
        return lambda step: None
    rows: Batch = pack_documents(config.data.read("text", "train"), tokenizer, length)
    return make_batch_at(rows, config.ppo.ptx_rows, config.seed, share(mesh))


def smoke() -> Config:
    return Config(
        preset="smoke",
        ppo=PPO(
            episodes=8,
            epochs=2,
            minibatches=2,
            max_new_tokens=16,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", eps=1e-5),
            train=TrainConfig(steps=4, log_every=1, checkpoint_every=2),
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
            train=TrainConfig(steps=40, log_every=1, checkpoint_every=20),
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
            train=TrainConfig(steps=200, log_every=1, checkpoint_every=50),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
