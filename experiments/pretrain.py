"""Pretraining: next-token prediction on documents, tokenizer included.

    python -m experiments.pretrain --preset tiny
    python -m experiments.pretrain --preset tiny --data.text corpus.txt --run-dir runs/pretrain/mine

Hardware and time (tiny, 0.9M parameters, 2.9M tokens): 3 to 4 minutes on 2 CPU cores.
Expected (tiny, microworld): held-out loss 0.82 to 0.84 nats per token.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from gpt_jax import keys
from gpt_jax.data.packing import pack_documents
from gpt_jax.data.pipeline import make_batch_at, share
from gpt_jax.losses.lm import Loss, lm_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.flops import training_flops
from gpt_jax.models.transformer import init
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.checkpoint import save_model_files
from gpt_jax.train.evaluate import make_evaluate
from gpt_jax.train.loop import TrainConfig, fit, language_metrics, resolve_steps
from gpt_jax.train.optim import OptimizerConfig, make_optimizer, make_schedule
from gpt_jax.train.run import Run, is_finished
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Stage, make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    model: ModelConfig
    """The transformer; `vocab_size` is also the size of the tokenizer that is trained."""
    optimizer: OptimizerConfig
    train: TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/pretrain/default"
    pretrain: Pretrain


def build(
    recipe: Pretrain, train: TrainConfig, seed: int, loss: Callable[..., Loss] = lm_loss
) -> Stage:
    """The stage's functions; `init(key)`. `train` is the recipe's with its steps resolved."""
    optimizer = make_optimizer(recipe.optimizer, train.steps)
    loss = functools.partial(loss, recipe.model)
    return Stage(
        lambda key: TrainState.create(init(recipe.model, key), optimizer),
        make_train_step(loss, optimizer, seed=seed, accumulate=train.accumulate),
        loss,
    )


def main(config: Config, loss: Callable[..., Loss] = lm_loss) -> None:
    """Runs the stage; `loss(model, params, batch, key)` may be another one."""
    recipe, model, folder = config.pretrain, config.pretrain.model, Path(config.run_dir)
    if is_finished("pretrain", config):
        return
    mesh = make_mesh(config.mesh)
    documents = config.data.read("text", "train")
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
    else:
        tokenizer = Tokenizer.train(config.data.tokenizer_texts(), model.vocab_size)
    rows = pack_documents(documents, tokenizer, model.context_length)
    held_out = pack_documents(config.data.read("text", "test"), tokenizer, model.context_length)

    train = resolve_steps(recipe.train, len(rows.tokens_BT))
    batch_at = make_batch_at(rows, train.batch_size, config.seed, share(mesh))
    stage = build(recipe, train, config.seed, loss)

    with Run("pretrain", config) as run:
        save_model_files(folder, model, tokenizer)
        state = run.restore_or_create(stage.init, keys.derive(config.seed, 0, "init"), mesh=mesh)
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
        pretrain=Pretrain(
            model=ModelConfig(vocab_size=512, context_length=128, width=32, layers=2, heads=2),
            optimizer=OptimizerConfig(learning_rate=3e-3),
            train=TrainConfig(steps=20, batch_size=8, evaluate_every=20, checkpoint_every=10),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        pretrain=Pretrain(
            model=ModelConfig(
                vocab_size=1024,
                context_length=128,
                width=128,
                layers=4,
                heads=4,
                mlp_width=352,
                positions="rope",
                norm="rms",
                mlp="swiglu",
                biases=False,
            ),
            optimizer=OptimizerConfig(learning_rate=3e-3),
            train=TrainConfig(steps=1400, batch_size=16, evaluate_every=350, checkpoint_every=350),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        pretrain=Pretrain(
            model=ModelConfig(
                vocab_size=4096,
                context_length=256,
                width=512,
                layers=8,
                heads=8,
                dtype="bfloat16",
            ),
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=2000, batch_size=64, evaluate_every=500, checkpoint_every=500),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
