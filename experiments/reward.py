"""The reward model: a scalar head on the SFT model, trained to rank answers as people did.

    python -m experiments.reward --init-from runs/sft/default
    python -m experiments.reward --init-from runs/sft/default --data.comparisons pairs.jsonl.gz

Hardware and time (tiny): about 1.5 minutes on 2 CPU cores.
Expected (tiny, microworld, clean labels): held-out accuracy 0.88 to 0.90.

One epoch: more overfits (Ouyang et al. 2022, 3.5). At the end the head's bias is set so that the
mean score of the demonstrations is 0, which fixes the one degree of freedom that ranking leaves.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from gpt_jax import keys
from gpt_jax.data.packing import pad_comparisons
from gpt_jax.data.pipeline import make_batch_at, share
from gpt_jax.losses.ranking import ranking_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import init_scorer
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train import command
from gpt_jax.train.checkpoint import load_model_files, load_params, save_model_files
from gpt_jax.train.evaluate import make_evaluate
from gpt_jax.train.loop import TrainConfig, fit, resolve_steps
from gpt_jax.train.optim import OptimizerConfig, make_optimizer, make_schedule
from gpt_jax.train.run import Run, is_finished
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Stage, make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reward:
    optimizer: OptimizerConfig
    train: TrainConfig
    longest: int = 48
    """Longest prompt and completion together, in tokens; a longer one keeps its end."""
    calibration_rows: int = 256
    """Demonstrations whose mean score is set to 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/reward/default"
    init_from: str = "runs/sft/default"
    """The SFT run's folder."""
    reward: Reward


def build(recipe: Reward, model: ModelConfig, train: TrainConfig, seed: int) -> Stage:
    """The stage's functions; `init(backbone, key)`."""
    optimizer = make_optimizer(recipe.optimizer, train.steps)
    loss = functools.partial(ranking_loss, model)
    return Stage(
        lambda backbone, key: TrainState.create(init_scorer(model, backbone, key), optimizer),
        make_train_step(loss, optimizer, seed=seed, accumulate=train.accumulate),
        loss,
    )


def main(config: Config) -> None:
    recipe = config.reward
    if is_finished("reward", config):
        return
    mesh = make_mesh(config.mesh)
    model, tokenizer = load_model_files(config.init_from)
    tensorize = functools.partial(
        pad_comparisons,
        tokenizer=tokenizer,
        longest=min(recipe.longest, model.context_length),
    )
    rows = tensorize(config.data.read("comparisons", "train"))
    held_out = tensorize(config.data.read("comparisons", "test"))
    demonstrations = [
        {"prompt": m[:-1], "completions": [m[-1]["content"]], "ranks": [0], "stopped": [True]}
        for m in (row["messages"] for row in config.data.read("demonstrations", "train"))
    ]
    demonstrations = tensorize(demonstrations[: recipe.calibration_rows])

    train = resolve_steps(recipe.train, len(rows.ranks_BK))
    batch_at = make_batch_at(rows, train.batch_size, config.seed, share(mesh))
    stage = build(recipe, model, train, config.seed)
    evaluate = functools.partial(make_evaluate, stage.loss, batch_size=train.batch_size, mesh=mesh)
    mean_demonstration = evaluate(demonstrations)

    def calibrate(state: TrainState) -> TrainState:
        mean_score = mean_demonstration(state)["mean_reward"]
        head = state.params["head"]
        head = head | {"bias": head["bias"] - jnp.float32(mean_score)}
        return dataclasses.replace(state, params=state.params | {"head": head})

    with Run("reward", config) as run:
        save_model_files(run.folder, model, tokenizer)
        state = run.restore_or_create(
            stage.init,
            load_params(config.init_from, mesh),
            keys.derive(config.seed, 0, "reward/head"),
            mesh=mesh,
        )
        fit(
            run,
            state,
            stage.step,
            batch_at,
            train,
            mesh=mesh,
            row_numbers=batch_at.numbers,
            tokens_per_step=train.batch_size * int(np.prod(rows.tokens_BKT.shape[1:])),
            evaluate=evaluate(held_out),
            schedule=make_schedule(recipe.optimizer, train.steps),
            headline=("loss", "accuracy"),
            finish=calibrate,
        )


def smoke() -> Config:
    return Config(
        preset="smoke",
        reward=Reward(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        reward=Reward(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=0, batch_size=32, evaluate_every=100, checkpoint_every=100),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        reward=Reward(
            optimizer=OptimizerConfig(learning_rate=1e-4),
            train=TrainConfig(steps=0, batch_size=64, evaluate_every=50, checkpoint_every=100),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
