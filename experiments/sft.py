"""Supervised finetuning: the base model learns to answer, from demonstrations.

    python -m experiments.sft --init-from runs/pretrain/default
    python -m experiments.sft --init-from runs/pretrain/default --data.demonstrations chats.jsonl
    python -m experiments.sft --init-from runs/pretrain/default --lora.rank 16

Hardware and time (tiny): under a minute on 2 CPU cores.
Expected (tiny, microworld): held-out loss 0.30 nats per token of what the assistant says.
"""

import dataclasses

import jax
from jax.sharding import Mesh

from gpt_jax.data.batches import Batch
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pack_demonstrations
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.flops import forward_flops
from gpt_jax.plan.workload import StepPlan, Workload, floats, gradient_step, placed, tokens
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.gradient import GradientRecipe, gradient_functions, language_stage
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Stage, TrainConfig
from gpt_jax.train.step import LossFn
from gpt_jax.train.tuning import Start, Tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Tuned):
    run_dir: str = "runs/sft/default"
    init_from: str = "runs/pretrain/default"
    template: str | None = None
    """The chat template that the model is to learn: gpt_jax, chatml, llama3, gemma, mistral,
    alpaca, hh or moss. None: its own. Tokens that are new to it begin as the mean of the old."""
    sft: GradientRecipe


def first(seed: jax.Array, params: dict) -> dict:
    """The parameters before the first step: those of the base model."""
    del seed
    return params


def prepare(config: Config, base: ModelFiles, mesh: Mesh, loss: LossFn = lm_loss) -> Stage:
    """The stage: the base model, on packed conversations."""
    recipe, (model, tokenizer), left_out = config.sft, base, LeftOut()
    start = Start(config, model, config.template)
    start.check()
    train, test = (
        pack_demonstrations(
            config.data.read("demonstrations", split),
            tokenizer,
            model.context_length,
            left_out,
            name,
        )
        for split, name in (("train", "demonstrations"), ("test", "held-out demonstrations"))
    )
    return language_stage(
        recipe,
        (train, test),
        model=model,
        mesh=mesh,
        seed=config.seed,
        tokenizer=tokenizer,
        first=start.first(first),
        load=start.load,
        shapes=start.shapes(),
        adapter_file=start.adapter_file,
        loss=loss,
        kinds=("demonstrations",),
        left_out=left_out,
    )


def main(config: Config, loss: LossFn = lm_loss) -> None:
    """Runs the stage; the loss may be another one."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        return prepare(config, start_of(config, template=config.template), mesh, loss)

    run_stage("sft", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One step on packed conversations, for the planner: the base model's, from its parameters."""
    begin = work.start.first(first)
    functions = gradient_functions(work.model, lm_loss, work.optimizer, work.train, begin)
    origin, frozen = placed(work.start.shapes(), mesh, functions.axes)
    batch = Batch(tokens(work.rows, work.length), floats(work.rows, work.length))
    return StepPlan(
        gradient_step(functions, origin, batch, mesh, frozen),
        tokens=work.rows * work.length,
        flops=work.training_passes * work.rows * forward_flops(work.model, work.length),
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        sft=GradientRecipe(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        sft=GradientRecipe(
            optimizer=OptimizerConfig(learning_rate=2e-3),
            train=TrainConfig(steps=500, batch_size=16, evaluate_every=250, checkpoint_every=250),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        sft=GradientRecipe(
            optimizer=OptimizerConfig(learning_rate=3e-4),
            train=TrainConfig(steps=300, batch_size=64, evaluate_every=100, checkpoint_every=100),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
