"""The reward model: a scalar head on the SFT model, trained to rank answers as people did.

    python -m experiments.reward --init-from runs/sft/default
    python -m experiments.reward --init-from runs/sft/default --labels-from runs/label/default
    python -m experiments.reward --init-from runs/sft/default --data.comparisons pairs.jsonl.gz

Hardware and time (tiny): under a minute on 2 CPU cores.
Expected (tiny, labels of the finetuned model's own answers): held-out accuracy 0.89 to 0.92.

One epoch: more overfits (Ouyang et al. 2022, 3.5). At the end the head's bias is set so that the
mean score of the demonstrations is 0, which fixes the one degree of freedom that ranking leaves.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Annotated, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt_jax import keys
from gpt_jax.data.batches import Comparisons
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import comparison_length, empty_comparisons
from gpt_jax.data.ranking import check_degrees
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.losses.ranking import RankingOptions, ranking_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.flops import forward_flops
from gpt_jax.models.heads import HeadOptions, init_scorer
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.workload import StepPlan, Workload, floats, gradient_step, ints, placed, tokens
from gpt_jax.ranges import NonNegativeFloat, Positive, PositiveFloat, Range, check_ranges
from gpt_jax.tasks.microworld import MICROWORLD
from gpt_jax.tasks.task import opening
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.comparisons import Compared, check_pairs, comparisons_of, tensorize
from gpt_jax.train.evaluate import HeldOut
from gpt_jax.train.gradient import GradientRecipe, gradient_functions, gradient_stage
from gpt_jax.train.inputs import label_files
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Stage, TrainConfig
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import LossFn
from gpt_jax.train.tuning import Start

COST = Cost(ranks=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reward(GradientRecipe):
    longest: Positive | None = None
    """The most tokens of a prompt with a completion: of a longer one old turns are left out, or all
    of it. None is what 99 of 100 of the comparisons fit in; the context length is the most."""
    likelihood: PositiveFloat | None = None
    """The weight, at first, of an answer's log-likelihood in its score (see
    `heads.score_completions`), which is learned as all else. None: the last token alone is read."""
    readout: bool = False
    """Read the score at a padding token put behind the answer, which stands for its end and nothing
    else, not at the answer's last token."""
    sum: bool = False
    """Read the score off all of the answer's tokens, as their sum, not off its last one."""
    margin: NonNegativeFloat = 0.0
    """The scores of a pair shall differ by so much for each rank between the two or, where the data
    has `margin`, for each unit of it (Touvron et al. 2023)."""
    centring: NonNegativeFloat = 0.0
    """The weight of the squared sum of a pair's scores (Eisenstein et al. 2023; they took 0.01)."""
    smoothing: Annotated[float, Range(0.0, 0.5, open_high=True)] = 0.0
    """The share of labels that are taken to be wrong."""
    calibration_rows: Positive = 256
    """Demonstrations whose mean score is set to 0, drawn by what they say."""

    def __post_init__(self):
        check_ranges(self)
        if self.sum and self.readout:
            raise UserError("--reward.sum reads all tokens and --reward.readout one; give one")

    @property
    def options(self) -> HeadOptions:
        """What the head has."""
        return HeadOptions(self.likelihood is not None, self.readout, self.sum)

    @property
    def loss(self) -> LossFn:
        """The ranking loss with these options."""
        options = RankingOptions(self.margin, self.centring, self.smoothing)
        return functools.partial(ranking_loss, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Compared):
    run_dir: str = "runs/reward/default"
    reward: Reward


def cluster_of(config: Config) -> Callable[[dict], Hashable]:
    """`row -> id` of what a comparison is about, as a task's."""
    kind = "prompts" if config.labels_from else "comparisons"
    return MICROWORLD.cluster if config.data.in_microworld(kind, "test") else opening


class Expected(NamedTuple):
    """Comparisons that are still to be made: how many at the most, for training and held out, of
    how many answers each, and the longest in tokens."""

    train: int
    test: int
    answers: int
    longest: int


def first(model: ModelConfig, **head) -> Callable[..., dict]:
    """`(seed, backbone) -> scorer`: the finetuned model with a fresh head, of these options."""
    return lambda seed, backbone: init_scorer(
        model, backbone, keys.derive(seed, 0, "reward/head"), **head
    )


def prepare(
    config: Config, start: ModelFiles, mesh: Mesh, expected: Expected | None = None
) -> Stage:
    """The stage: the finetuned model with a fresh head, on comparisons.

    Args:
      config: of the experiment.
      start: shape and tokenizer of the finetuned model.
      mesh: over which a batch is split.
      expected: of the labels, where they are still to be made: they decide on the shapes, and as
        long as the labels are not there empty rows stand for them.
    """
    recipe, (model, tokenizer), left_out = config.reward, start, LeftOut()
    begin = Start(config, model)
    begin.check()
    there = not expected or all(p.is_file() for f in config.labels_from for p in label_files(f))
    if there:
        train, test = (comparisons_of(config, split) for split in ("train", "test"))
    context = model.context_length - recipe.readout
    fitting = expected.longest if expected else comparison_length(train, tokenizer, context)
    longest = min(recipe.longest or fitting, context)
    layout = (tokenizer, longest, left_out)
    if there:
        if recipe.margin:
            check_degrees([*train, *test])
        rows, numbers = tensorize(train, *layout, "comparisons")
        held_out, _ = tensorize(test, *layout, "held-out comparisons")
    else:
        rows, held_out = (
            empty_comparisons((count, expected.answers, longest), tokenizer.pad_id)
            for count in (expected.train, expected.test)
        )
        numbers = np.arange(expected.train)
    for name, some in (("comparisons", rows), ("held-out comparisons", held_out)):
        check_pairs(some, name, longest, "reward")
    demonstrations, _ = tensorize(
        calibration_rows(config), *layout, "demonstrations to calibrate the score on"
    )
    mean_of_demonstrations = HeldOut(
        model,
        ranking_loss,
        demonstrations,
        recipe.train.batch_size,
        mesh,
        by_length=config.group_by_length,
    )
    head = {
        "likelihood": recipe.likelihood,
        "readout": tokenizer.pad_id if recipe.readout else None,
        "sum": recipe.sum,
    }
    stage = gradient_stage(
        recipe,
        rows,
        held_out,
        seed=config.seed,
        mesh=mesh,
        model=model,
        tokenizer=tokenizer,
        first=begin.first(first(model, **head)),
        load=begin.load,
        shapes=begin.shapes(),
        adapter_file=begin.adapter_file,
        loss=recipe.loss,
        finish=functools.partial(calibrate, mean_of_demonstrations),
        headline=("loss", "accuracy"),
        kinds=("demonstrations",) if config.labels_from else ("comparisons", "demonstrations"),
        left_out=left_out,
        longest=longest,
        by_length=config.group_by_length,
    )
    return dataclasses.replace(stage, row_numbers=lambda step: numbers[stage.row_numbers(step)])


def calibration_rows(config: Config) -> list[dict]:
    """Demonstrations whose last answers are scored, as comparisons with one completion each."""
    rows = config.data.read("demonstrations", "train")
    drawn = sample_rows(rows, config.reward.calibration_rows, config.seed)
    return [
        {"prompt": m[:-1], "completions": [m[-1]["content"]], "ranks": [0], "stopped": [True]}
        for m in (row["messages"] for row in drawn)
    ]


def calibrate(mean_of_demonstrations: HeldOut, state: TrainState, frozen: dict) -> TrainState:
    """Moves the head's bias so that the demonstrations score 0 on average."""
    mean_score = mean_of_demonstrations(state, frozen)["mean_reward"]
    head = state.params["head"]
    head = head | {"bias": head["bias"] - jnp.float32(mean_score)}
    return dataclasses.replace(state, params=state.params | {"head": head})


def main(config: Config) -> None:
    """Runs the stage."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        return prepare(config, start_of(config), mesh)

    run_stage("reward", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One step on K completions of every prompt, for the planner."""
    model, rows = work.model, work.rows * work.completions
    begin = work.start.first(first(model))
    functions = gradient_functions(model, ranking_loss, work.optimizer, work.train, begin)
    origin, frozen = placed(work.start.shapes(), mesh, functions.axes)
    shape_BKT = (work.rows, work.completions, work.length)
    batch = Comparisons(tokens(*shape_BKT), floats(*shape_BKT), ints(*shape_BKT[:2]))
    return StepPlan(
        gradient_step(functions, origin, batch, mesh, frozen),
        tokens=rows * work.length,
        flops=work.training_passes * rows * forward_flops(model, work.length, logits=0),
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        reward=Reward(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
            likelihood=1.2,
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        reward=Reward(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=0, batch_size=32, evaluate_every=100, checkpoint_every=100),
            likelihood=1.2,
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        reward=Reward(
            optimizer=OptimizerConfig(learning_rate=1e-4),
            train=TrainConfig(steps=0, batch_size=64, evaluate_every=50, checkpoint_every=100),
            likelihood=1.2,
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
