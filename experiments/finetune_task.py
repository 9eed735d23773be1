"""Finetuning on a task of classes, as GPT-1 was: a linear head, and language modelling beside.

    python -m experiments.finetune_task --init-from runs/pretrain/default
    python -m experiments.finetune_task --init-from hf:openai-community/gpt2 --context 256 \\
        --task hf:nyu-mll/glue/sst2
    python -m experiments.finetune_task --init-from runs/pretrain/default --task pairs.jsonl

Rows have `text`, or two texts under names that are known (`gpt_jax/data/classification.py`), and a
`label`. The embedded task: a note of microworld and a statement, which the note says or does not.

Hardware and time: smoke, under a minute on a CPU; tiny and colab have not been measured.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from gpt_jax import files, keys
from gpt_jax.data import classification, sources
from gpt_jax.data.classification import Labelled
from gpt_jax.data.left_out import LeftOut
from gpt_jax.losses.classification import classification_loss
from gpt_jax.models.contract import Model
from gpt_jax.models.flops import training_flops
from gpt_jax.models.heads import init_class_head
from gpt_jax.parallel import distributed
from gpt_jax.plan.workload import StepPlan, Workload, gradient_step, ints, placed, tokens
from gpt_jax.ranges import NonNegativeFloat, check_ranges
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.gradient import GradientRecipe, gradient_functions, gradient_stage
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Stage, TrainConfig
from gpt_jax.train.tuning import Start, Tuned

TASK = "task.json"  # the classes, in the order of the head's numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneTask(GradientRecipe):
    auxiliary: NonNegativeFloat = 0.5
    """The weight of the language model's loss on the same texts (lambda in the paper)."""

    def __post_init__(self):
        check_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Tuned):
    run_dir: str = "runs/finetune_task/default"
    init_from: str = "runs/pretrain/default"
    task: str = sources.MICROWORLD
    """Rows to train on: microworld, a file, or hf:ORG/NAME[/CONFIG]."""
    test: str | None = None
    """Held-out rows; by default the task's own, or a twentieth of a file."""
    test_split: str = "held_out"
    """The split of a data set by name that is held out, such as GLUE's validation; by default what
    there is to test on."""
    finetune_task: FinetuneTask

    def sources(self) -> dict[str, str]:
        """What else than `data` the run is made from."""
        return {"task": self.task} | ({"test": self.test} if self.test else {})


def rows_of(config: Config, split: str) -> list[dict]:
    """The rows to train on ("train"), or those held out ("test").

    Raises:
      UserError: as `classification.read`.
    """
    spec = config.task if split == "train" else config.test or config.task
    return classification.read(spec, "all" if config.test else split, config.test_split)


def first(model: Model, classes: int) -> Callable[..., dict]:
    """`(seed, backbone) -> params`: the language model with a fresh head."""

    def begin(seed, backbone):
        key = keys.derive(seed, 0, "classes/head")
        return {"backbone": backbone, "head": init_class_head(key, model, classes)}

    return begin


def prepare(config: Config, base: ModelFiles, mesh: Mesh) -> Stage:
    """The stage: the language model with a fresh head, on texts and their classes."""
    recipe, (model, tokenizer), left_out = config.finetune_task, base, LeftOut()
    start = Start(config, model)
    start.check()
    train, test = (rows_of(config, split) for split in ("train", "test"))
    classes = classification.classes_of(train)
    rows, held_out = (
        classification.lay_out(some, classes, tokenizer, model.context_length, left_out, name)
        for some, name in ((train, "rows"), (test, "held-out rows"))
    )
    return gradient_stage(
        recipe,
        rows,
        held_out,
        seed=config.seed,
        mesh=mesh,
        model=model,
        tokenizer=tokenizer,
        first=start.first(first(model, len(classes))),
        load=start.load,
        shapes=start.shapes(),
        adapter_file=start.adapter_file,
        loss=functools.partial(classification_loss, auxiliary=recipe.auxiliary),
        headline=("loss", "accuracy"),
        left_out=left_out,
    )


def main(config: Config) -> None:
    """Runs the stage."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        return prepare(config, start_of(config), mesh)

    run_stage("finetune_task", config, stage)
    classes = classification.classes_of(rows_of(config, "train"))
    text = json.dumps({"classes": classes}, indent=2) + "\n"
    distributed.on_main(lambda: files.write_text(Path(config.run_dir) / TASK, text))


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One step on texts of two classes, for the planner."""
    model = work.model
    begin = work.start.first(first(model, 2))
    functions = gradient_functions(model, classification_loss, work.optimizer, work.train, begin)
    origin, frozen = placed(work.start.shapes(), mesh, functions.axes)
    batch = Labelled(tokens(work.rows, work.length), ints(work.rows))
    return StepPlan(
        gradient_step(functions, origin, batch, mesh, frozen),
        tokens=work.rows * work.length,
        flops=work.rows * training_flops(model, work.length),
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        finetune_task=FinetuneTask(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        finetune_task=FinetuneTask(
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=750, batch_size=32, evaluate_every=250, checkpoint_every=250),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        finetune_task=FinetuneTask(
            optimizer=OptimizerConfig(learning_rate=6.25e-5, warmup_fraction=0.002),
            train=TrainConfig(steps=0, batch_size=32, evaluate_every=500, checkpoint_every=500),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
