"""Supervised finetuning: the base model learns to answer, from demonstrations.

    python -m experiments.sft --init-from runs/pretrain/default
    python -m experiments.sft --init-from runs/pretrain/default --data.demonstrations chats.jsonl

Hardware and time (tiny): under a minute on 2 CPU cores.
Expected (tiny, microworld): held-out loss 0.34 to 0.35 nats per token of what the assistant says.
"""

import dataclasses
import functools
from collections.abc import Callable

from gpt_jax.data.packing import pack_demonstrations
from gpt_jax.data.pipeline import make_batch_at, share
from gpt_jax.losses.lm import Loss, lm_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.flops import training_flops
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train import command
from gpt_jax.train.checkpoint import load_model_files, load_params, save_model_files
from gpt_jax.train.evaluate import make_evaluate
from gpt_jax.train.loop import TrainConfig, fit, language_metrics, resolve_steps
from gpt_jax.train.optim import OptimizerConfig, make_optimizer, make_schedule
from gpt_jax.train.run import Run, is_finished
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Stage, make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFT:
    optimizer: OptimizerConfig
    train: TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/sft/default"
    init_from: str = "runs/pretrain/default"
    """The pretraining run's folder."""
    sft: SFT


def build(
    recipe: SFT,
    model: ModelConfig,
    train: TrainConfig,
    seed: int,
    loss: Callable[..., Loss] = lm_loss,
) -> Stage:
    """The stage's functions; `init(params)`. `train` is the recipe's with its steps resolved."""
    optimizer = make_optimizer(recipe.optimizer, train.steps)
    loss = functools.partial(loss, model)
    return Stage(
        lambda params: TrainState.create(params, optimizer),
        make_train_step(loss, optimizer, seed=seed, accumulate=train.accumulate),
        loss,
    )


def main(config: Config, loss: Callable[..., Loss] = lm_loss) -> None:
    """Runs the stage; `loss(model, params, batch, key)` may be another one."""
    recipe = config.sft
    if is_finished("sft", config):
        return
    mesh = make_mesh(config.mesh)
    model, tokenizer = load_model_files(config.init_from)
    rows = pack_demonstrations(
        config.data.read("demonstrations", "train"), tokenizer, model.context_length
    )
    held_out = pack_demonstrations(
        config.data.read("demonstrations", "test"), tokenizer, model.context_length
    )
    train = resolve_steps(recipe.train, len(rows.tokens_BT))
    batch_at = make_batch_at(rows, train.batch_size, config.seed, share(mesh))
    stage = build(recipe, model, train, config.seed, loss)

    with Run("sft", config) as run:
        save_model_files(run.folder, model, tokenizer)
        state = run.restore_or_create(stage.init, load_params(config.init_from, mesh), mesh=mesh)
        fit(
            run,
            state,
            stage.step,
            batch_at,
            train,
            mesh=mesh,
            row_numbers=batch_at.numbers,
            tokens_per_step=train.batch_size * model.context_length,
            evaluate=make_evaluate(stage.loss, held_out, train.batch_size, mesh),
            schedule=make_schedule(recipe.optimizer, train.steps),
            derive=language_metrics(
                train.batch_size * training_flops(model, model.context_length), mesh
            ),
        )


def smoke() -> Config:
    return Config(
        preset="smoke",
        sft=SFT(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        sft=SFT(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=300, batch_size=16, evaluate_every=150, checkpoint_every=150),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        sft=SFT(
            optimizer=OptimizerConfig(learning_rate=3e-4),
            train=TrainConfig(steps=300, batch_size=64, evaluate_every=100, checkpoint_every=100),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
