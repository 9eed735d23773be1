"""DPO and its kin: the SFT model learns from ranked answers, without a reward model or sampling.

    python -m experiments.dpo --init-from runs/sft/default --labels-from runs/label/default
    python -m experiments.dpo --init-from runs/sft/default --data.comparisons pairs.jsonl.gz
    python -m experiments.dpo --labels-from runs/label/default --dpo.loss simpo --dpo.gamma 0.5

`--dpo.loss` is dpo (with `--dpo.label-smoothing`, cDPO), ipo, orpo or simpo; `losses/preference.py`
has their formulas. DPO and IPO hold the policy close to the model that it starts from, which stands
by, frozen; ORPO and SimPO need none, and none is held.

Hardware and time (tiny): 6 minutes on 2 CPU cores that much else was using, 1:50 of processor time.
Expected (tiny, microworld, labels of the finetuned model's own answers): 82% of held-out pairs
ranked right, and answers whose gold score is 0.75 (SFT 0.61, PPO 0.82), at a KL of 1.7 nats.
"""

import dataclasses
import functools
from typing import Annotated, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import sft
from gpt_jax.data.batches import Comparisons
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import comparison_length
from gpt_jax.errors import UserError
from gpt_jax.losses.preference import dpo_loss, ipo_loss, orpo_loss, simpo_loss
from gpt_jax.models.contract import init
from gpt_jax.models.flops import forward_flops
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.workload import StepPlan, Workload, floats, gradient_step, ints, tokens
from gpt_jax.ranges import NonNegativeFloat, Positive, PositiveFloat, Range, check_ranges
from gpt_jax.train import command
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.comparisons import (
    Compared,
    check_pairs,
    check_words,
    comparisons_of,
    tensorize,
)
from gpt_jax.train.gradient import GradientRecipe, gradient_functions, gradient_stage
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Stage, TrainConfig
from gpt_jax.train.step import LossFn
from gpt_jax.train.tuning import Start

COST = Cost(frozen=1, ranks=True)
LOSSES = {"dpo": dpo_loss, "ipo": ipo_loss, "orpo": orpo_loss, "simpo": simpo_loss}
# The options of each loss, and what they are unless somebody says otherwise.
OPTIONS = {
    "dpo": {"beta": 0.5, "label_smoothing": 0.0},
    "ipo": {"beta": 0.5},
    "orpo": {"odds_weight": 0.1},
    "simpo": {"beta": 2.0, "gamma": 1.0},
}
WITH_REFERENCE = ("dpo", "ipo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(GradientRecipe):
    loss: Literal["dpo", "ipo", "orpo", "simpo"] = "dpo"
    """What is minimised."""
    beta: PositiveFloat | None = None
    """dpo, ipo: how close to stay to the reference (0.5; of models of billions of parameters many
    take 0.1); simpo: the scale of the reward (2)."""
    label_smoothing: Annotated[float, Range(0.0, 0.5, open_high=True)] | None = None
    """dpo: the share of labels that are thought wrong, which makes it cDPO (0)."""
    gamma: NonNegativeFloat | None = None
    """simpo: the margin between the rewards that is asked for (1)."""
    odds_weight: PositiveFloat | None = None
    """orpo: the weight of the odds ratio beside the likelihood of the better answer (0.1)."""
    longest: Positive | None = None
    """The most tokens of a prompt with a completion: of a longer one old turns are left out, or all
    of it. None is what 99 of 100 of the comparisons fit in; the context length is the most."""

    def __post_init__(self):
        check_ranges(self)
        for name in sorted(set().union(*OPTIONS.values()) - set(OPTIONS[self.loss])):
            if getattr(self, name) is not None:
                has = " and ".join(OPTIONS[self.loss])
                raise UserError(
                    f"{name} is no option of {self.loss}, which has {has}; leave it out"
                )

    def function(self) -> LossFn:
        """The loss with its options."""
        given = {name: getattr(self, name) for name in OPTIONS[self.loss]}
        given = {name: value for name, value in given.items() if value is not None}
        return functools.partial(LOSSES[self.loss], **(OPTIONS[self.loss] | given))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Compared):
    run_dir: str = "runs/dpo/default"
    dpo: DPO


def prepare(config: Config, start: ModelFiles, mesh: Mesh) -> Stage:
    """The stage: the finetuned model, and where the loss needs one itself as the reference."""
    recipe, (model, tokenizer), left_out = config.dpo, start, LeftOut()
    begin = Start(config, model)
    begin.check()
    train, test = (comparisons_of(config, split) for split in ("train", "test"))
    context = model.context_length
    longest = min(recipe.longest or comparison_length(train, tokenizer, context), context)

    def lay_out(rows: list[dict], name: str) -> tuple[Comparisons, np.ndarray]:
        found, numbers = tensorize(rows, tokenizer, longest, left_out, name)
        check_pairs(found, name, longest, "dpo")
        check_words(found.weights_BKT, found.ranks_BK >= 0, numbers, name)
        return found, numbers

    rows, numbers = lay_out(train, "comparisons")
    held_out, _ = lay_out(test, "held-out comparisons")
    reference = recipe.loss in WITH_REFERENCE
    stage = gradient_stage(
        recipe,
        rows,
        held_out,
        seed=config.seed,
        mesh=mesh,
        model=model,
        tokenizer=tokenizer,
        first=begin.first(sft.first),
        load=functools.partial(begin.load, reference=reference),
        shapes=begin.shapes(reference=reference),
        adapter_file=begin.adapter_file,
        loss=recipe.function(),
        headline=("loss", "rewards/accuracies"),
        kinds=() if config.labels_from else ("comparisons",),
        left_out=left_out,
        longest=longest,
        by_length=config.group_by_length,
    )
    return dataclasses.replace(stage, row_numbers=lambda step: numbers[stage.row_numbers(step)])


def main(config: Config) -> None:
    """Runs the stage."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        return prepare(config, start_of(config), mesh)

    run_stage("dpo", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One step of DPO on K completions of every prompt, for the planner."""
    model, rows = work.model, work.rows * work.completions
    loss = functools.partial(dpo_loss, **OPTIONS["dpo"])
    functions = gradient_functions(model, loss, work.optimizer, work.train, sft.first)
    params = states.abstract(lambda: init(model, jax.random.key(0)), mesh=mesh, axes=functions.axes)
    shape_BKT = (work.rows, work.completions, work.length)
    batch = Comparisons(tokens(*shape_BKT), floats(*shape_BKT), ints(*shape_BKT[:2]))
    return StepPlan(
        gradient_step(functions, (params,), batch, mesh, {"reference": params}),
        tokens=rows * work.length,
        flops=4 * rows * forward_flops(model, work.length),  # of which the reference one
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        dpo=DPO(
            optimizer=OptimizerConfig(learning_rate=1e-4),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        dpo=DPO(
            optimizer=OptimizerConfig(learning_rate=3e-4, weight_decay=0.0),
            train=TrainConfig(steps=0, batch_size=32, evaluate_every=100, checkpoint_every=100),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        dpo=DPO(
            optimizer=OptimizerConfig(learning_rate=1e-5, weight_decay=0.0),
            train=TrainConfig(steps=0, batch_size=64, evaluate_every=50, checkpoint_every=100),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
