"""KTO: the SFT model learns from answers that are marked good or bad, each by itself.

    python -m experiments.kto --init-from runs/sft/default --data.feedback thumbs.jsonl
    python -m experiments.kto --init-from runs/sft/default --labels-from runs/label/default

A row of feedback is `prompt, completion, label`. Without any the comparisons are taken apart: of a
prompt's ranked answers those that beat more than beat them are good (`data/feedback.py`). The
formulas are in `losses/kto.py`.

Hardware and time (tiny): 10 minutes on 2 CPU cores that much else was using.
Expected (tiny, microworld, labels of the finetuned model's own answers): answers whose gold score
is 0.75 (SFT 0.61, PPO 0.82), at a KL of 1.3 nats.
"""

import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import sft
from gpt_jax.data.feedback import Feedback, feedback_length, pad_feedback, unpair
from gpt_jax.data.left_out import LeftOut
from gpt_jax.errors import UserError
from gpt_jax.losses.kto import kto_loss, with_kl
from gpt_jax.losses.lm import Metrics
from gpt_jax.models.contract import Model, init
from gpt_jax.models.flops import forward_flops
from gpt_jax.models.lora import attached
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.workload import StepPlan, Workload, floats, gradient_step, ints, tokens
from gpt_jax.ranges import NonNegativeFloat, Positive, PositiveFloat, check_ranges
from gpt_jax.train import command
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.comparisons import Compared, check_words, comparisons_of
from gpt_jax.train.gradient import GradientRecipe, gradient_functions, gradient_stage
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Functions, Stage, TrainConfig
from gpt_jax.train.state import TrainState
from gpt_jax.train.tuning import Start

COST = Cost(frozen=1, ranks=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KTO(GradientRecipe):
    beta: PositiveFloat = 0.1
    """How close to stay to the reference."""
    desirable_weight: NonNegativeFloat = 1.0
    """Of the loss of good answers. Where these are few, more: weight times count should be 1 to 4/3
    of that of the bad ones (eq. 8)."""
    undesirable_weight: NonNegativeFloat = 1.0
    """Of the loss of bad answers."""
    longest: Positive | None = None
    """The most tokens of a prompt with a completion: of a longer one old turns are left out, or all
    of it. None is what 99 of 100 of them fit in; the context length is the most."""

    def __post_init__(self):
        check_ranges(self)
        if not self.desirable_weight + self.undesirable_weight:
            raise UserError("desirable_weight and undesirable_weight are both 0; raise one of them")

    def function(self) -> functools.partial:
        """The loss with its options."""
        names = ("beta", "desirable_weight", "undesirable_weight")
        return functools.partial(kto_loss, **{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Compared):
    run_dir: str = "runs/kto/default"
    kto: KTO

    def __post_init__(self):
        super().__post_init__()
        if self.data.feedback and (self.labels_from or self.data.comparisons):
            raise UserError(
                "--data.feedback names what is learned from, and so do --labels-from and "
                "--data.comparisons; give one of them"
            )


def functions_of(model: Model, recipe: KTO, train: TrainConfig) -> Functions:
    """The functions of the stage: a step estimates the KL of its whole batch first."""
    made = gradient_functions(model, recipe.function(), recipe.optimizer, train, sft.first)

    def step(state: TrainState, batch: Feedback, frozen: dict) -> tuple[TrainState, Metrics]:
        policy, whole = attached(state.params, frozen), attached(frozen, frozen)
        return made.step(state, with_kl(model, policy, batch, whole), frozen)

    return made._replace(step=jax.jit(step, donate_argnums=0))


def feedback_of(config: Config, split: str, left_out: LeftOut, name: str) -> list[dict]:
    """What is learned from (`train`), or measured on (`test`)."""
    if config.data.feedback:
        return config.data.read("feedback", split)
    return unpair(comparisons_of(config, split), left_out, name)


def prepare(config: Config, start: ModelFiles, mesh: Mesh) -> Stage:
    """The stage: the finetuned model, on marked answers, and itself as the reference."""
    recipe, (model, tokenizer), left_out = config.kto, start, LeftOut()
    begin = Start(config, model)
    begin.check()
    context = model.context_length
    train, test = (
        feedback_of(config, split, left_out, name)
        for split, name in (("train", "answers"), ("test", "held-out answers"))
    )
    longest = min(recipe.longest or feedback_length(train, tokenizer, context), context)

    def lay_out(rows: list[dict], name: str) -> tuple[Feedback, np.ndarray]:
        found, numbers = pad_feedback(rows, tokenizer, longest, left_out, name)
        check_words(found.weights_BKT, np.full((len(numbers), 2), True), numbers, name)
        return found, numbers

    rows, numbers = lay_out(train, "answers")
    held_out, _ = lay_out(test, "held-out answers")
    stage = gradient_stage(
        recipe,
        rows,
        held_out,
        seed=config.seed,
        mesh=mesh,
        model=model,
        tokenizer=tokenizer,
        first=sft.first,
        load=functools.partial(begin.load, reference=True),
        shapes=begin.shapes(reference=True),
        adapter_file=begin.adapter_file,
        loss=recipe.function(),
        derive=margin,
        headline=("loss", "rewards/margins"),
        kinds=kinds_of(config),
        left_out=left_out,
        longest=longest,
        by_length=config.group_by_length,
    )
    made = functions_of(model, recipe, stage.train)
    return dataclasses.replace(
        stage,
        functions=made._replace(init=begin.first(made.init)),
        row_numbers=lambda step: numbers[stage.row_numbers(step)],
    )


def kinds_of(config: Config) -> tuple[str, ...]:
    """Of the data that is read."""
    if config.data.feedback:
        return ("feedback",)
    return () if config.labels_from else ("comparisons",)


def margin(values: dict[str, float]) -> dict[str, float]:
    """`rewards/margins`: what is no mean over pairs, since nothing is paired, but of means."""
    return {"rewards/margins": values["rewards/chosen"] - values["rewards/rejected"]}


def main(config: Config) -> None:
    """Runs the stage."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        return prepare(config, start_of(config), mesh)

    run_stage("kto", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One step on marked answers, for the planner."""
    model, rows = work.model, work.rows
    recipe = KTO(optimizer=work.optimizer, train=work.train)
    functions = functions_of(model, recipe, work.train)
    params = states.abstract(lambda: init(model, jax.random.key(0)), mesh=mesh, axes=functions.axes)
    shape_BKT = (rows, 2, work.length)
    batch = Feedback(tokens(*shape_BKT), floats(*shape_BKT), ints(rows))
    return StepPlan(
        gradient_step(functions, (params,), batch, mesh, {"reference": params}),
        tokens=rows * work.length,
        # The policy forward and backward, the reference, and both on the mismatched answers.
        flops=6 * rows * forward_flops(model, work.length),
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        kto=KTO(
            optimizer=OptimizerConfig(learning_rate=1e-4),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        kto=KTO(
            beta=1.0,
            optimizer=OptimizerConfig(learning_rate=3e-4, weight_decay=0.0),
            train=TrainConfig(steps=0, batch_size=64, evaluate_every=100, checkpoint_every=100),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        kto=KTO(
            optimizer=OptimizerConfig(learning_rate=1e-5, weight_decay=0.0),
            train=TrainConfig(steps=0, batch_size=128, evaluate_every=50, checkpoint_every=100),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
