"""Pretraining: next-token prediction on documents, tokenizer included.

    python -m experiments.pretrain --preset tiny
    python -m experiments.pretrain --preset tiny --data.text corpus.txt --run-dir runs/pretrain/mine

Hardware and time (tiny, 0.5M parameters, 5.3M tokens): 4 minutes on 2 CPU cores.
Expected (tiny, microworld): held-out loss 0.65 nats per token.

Of GPT-1, 2 and 3 and of LLaMA there are the published shapes and recipes, for text of one's own:

    python -m experiments.pretrain --preset gpt3_125m --data.text tokens:DIR
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from gpt_jax import keys
from gpt_jax.data.batches import Batch
from gpt_jax.data.openings import openings
from gpt_jax.data.rows import language_rows, tokenizer_of_shards
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.flops import training_flops
from gpt_jax.models.presets import PRESETS
from gpt_jax.models.recipes import RECIPES
from gpt_jax.plan.workload import StepPlan, Workload, floats, gradient_step, tokens
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.gradient import GradientRecipe, gradient_functions, language_stage
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.samples import Samples
from gpt_jax.train.stage import Stage, TrainConfig
from gpt_jax.train.step import LossFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain(GradientRecipe):
    model: ModelConfig
    """The transformer; `vocab_size` is also the size of the tokenizer that is trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/pretrain/default"
    pretrain: Pretrain


def tokenizer_of(config: Config) -> Tokenizer:
    """The run folder's tokenizer, that of the token shards to be trained on, or a new one.

    Raises:
      UserError: if it has not as many tokens as the model has logits, or the text has too few.
    """
    path, wanted = Path(config.run_dir) / "tokenizer.json", config.pretrain.model.vocab_size
    of_shards = tokenizer_of_shards(config.data)
    if of_shards and of_shards.vocab_size != wanted:
        raise UserError(
            f"the tokenizer of {config.data.text} has {of_shards.vocab_size} tokens, not {wanted}; "
            f"give --pretrain.model.vocab-size {of_shards.vocab_size}"
        )
    if path.is_file():
        tokenizer = Tokenizer.load(path)
        if tokenizer.vocab_size != wanted:
            raise UserError(
                f"{path} has {tokenizer.vocab_size} tokens, not {wanted}; give "
                f"--pretrain.model.vocab-size {tokenizer.vocab_size}, or another --run-dir"
            )
        return tokenizer
    if of_shards:
        return of_shards
    tokenizer = Tokenizer.train(config.data.tokenizer_texts(), wanted)
    if tokenizer.vocab_size < wanted:
        raise UserError(
            f"only {tokenizer.vocab_size} tokens can be learned from {config.data.text}, not "
            f"{wanted}; give --pretrain.model.vocab-size {tokenizer.vocab_size}, or more text"
        )
    return tokenizer


def first(model: ModelConfig) -> Callable[..., dict]:
    """`seed -> params`: a model from nothing."""
    return lambda seed: init(model, keys.derive(seed, 0, "init"))


def prepare(config: Config, tokenizer: Tokenizer, mesh: Mesh, loss: LossFn = lm_loss) -> Stage:
    """The stage: a model from nothing, on packed documents."""
    recipe, model = config.pretrain, config.pretrain.model
    train, test = (
        language_rows(config.data, split, tokenizer, model.context_length)
        for split in ("train", "test")
    )
    begun = openings(config.data, tokenizer, model.context_length // 2, config.seed)
    return language_stage(
        recipe,
        (train, test),
        model=model,
        mesh=mesh,
        seed=config.seed,
        tokenizer=tokenizer,
        first=first(model),
        loss=loss,
        samples=Samples(model, tokenizer, begun, mesh, config.seed),
        kinds=("text",),
    )


def main(config: Config, loss: LossFn = lm_loss) -> None:
    """Runs the stage; the loss may be another one."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        return prepare(config, tokenizer_of(config), mesh, loss)

    run_stage("pretrain", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One step on rows of documents, for the planner."""
    functions = gradient_functions(
        work.model, lm_loss, work.optimizer, work.train, first(work.model)
    )
    batch = Batch(tokens(work.rows, work.length), floats(work.rows, work.length))
    return StepPlan(
        gradient_step(functions, (), batch, mesh),
        tokens=work.rows * work.length,
        flops=work.rows * training_flops(work.model, work.length),
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
                width=96,
                layers=4,
                heads=3,
                mlp_width=256,
                positions="rope",
                norm="rms",
                mlp="swiglu",
                biases=False,
            ),
            optimizer=OptimizerConfig(kind="muon", learning_rate=6e-3),
            train=TrainConfig(steps=2600, batch_size=16, evaluate_every=650, checkpoint_every=650),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        pretrain=Pretrain(
            model=ModelConfig(
                vocab_size=1024,
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


def published(name: str) -> Config:
    """A published model as its paper says that it was trained; its vocabulary is learned anew, from
    the text, or is that of the token shards. GPT-3's batch has its full size from the start."""
    recipe = RECIPES[name]
    model = dataclasses.replace(
        PRESETS[name],
        dtype="bfloat16",
        remat="block",
        dropout=recipe.dropout,
        attention_dropout=recipe.dropout,
        embedding_dropout=recipe.dropout,
    )
    steps = recipe.steps(recipe.total_tokens)
    return Config(
        preset=name,
        pretrain=Pretrain(
            model=model,
            optimizer=OptimizerConfig(
                learning_rate=recipe.learning_rate,
                warmup_fraction=recipe.steps(recipe.warmup_tokens) / steps,
                final_fraction=recipe.final_share,
                decay_fraction=recipe.steps(recipe.decay_tokens) / steps,
                weight_decay=recipe.weight_decay,
                beta1=recipe.betas[0],
                beta2=recipe.betas[1],
                eps=recipe.eps,
                clip=recipe.clip,
            ),
            train=TrainConfig(
                steps=steps,
                batch_size=recipe.batch_rows,
                evaluate_every=1000,
                checkpoint_every=1000,
            ),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab} | {
    name: functools.partial(published, name) for name in RECIPES
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
