"""Ways of prompting, measured on two small models: accuracy with intervals, and tokens an answer.

    python -m experiments.prompting.ladder
    python -m experiments.prompting.ladder --course skills
    python -m experiments.prompting.ladder --seeds 2 --run-dir runs/ladder/two

A model learns from conversations about microworld in which tools, notes, steps and patterns are
used (`lessons.py`), and another from conversations in which answers are checked, searched for,
planned, mended, cited and refused (`skills.py`, `skill_lessons.py`). Then every strategy answers
held-out questions, each by its own prompts (`rungs.py`, `skill_rungs.py`). Running the same command
again resumes; `results.json` and `ladder.md` have the tables, `ladder-COURSE.svg` the figures.

Hardware and time (tiny, 0.5M parameters, 5.5M tokens): 4.6 minutes of CPU time for two thirds of
the training, on a machine of 2 cores that others used as well; the questions take a minute or two.
The second course (9.2M tokens) takes 10 minutes of one core where nothing else runs, and 3 more for
its questions.
Measured (tiny, seeds 0 and 1; docs/results/ladder.md): step by step 64% of the sums, directly 13%;
with a calculator 100% of the large ones, without 1%; with notes 35% of unknown facts, without 6%.
The second course (docs/results/ladder-skills.md): by browsing 89% of the facts in documents, by
plans with tools 94% of sums of prices, without either none; reflection and trees gain nothing.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Literal

from jax.sharding import Mesh

from experiments import pretrain
from experiments.prompting import climb, lessons, rungs, skill_lessons, skill_rungs
from gpt_jax import files
from gpt_jax.data.config import DataConfig
from gpt_jax.data.extra import extra
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.microworld import make_world
from gpt_jax.data.packing import pack_demonstrations
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.machine import machine
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import Positive, check_ranges
from gpt_jax.report import ladder as report
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.gradient import GradientRecipe, language_stage
from gpt_jax.train.launch import look_at, run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.run import FINISHED
from gpt_jax.train.seeds_run import in_turn
from gpt_jax.train.served import open_run
from gpt_jax.train.stage import Stage, TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder(GradientRecipe):
    model: ModelConfig
    """The transformer; `vocab_size` is also the size of the tokenizer that is trained."""
    lessons: Positive = 40_000
    """Problems that are made for training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/ladder/default"
    ladder: Ladder
    """The first course: examples, steps, a tool, notes, JSON."""
    skills: Ladder
    """The second course: checking, searching, planning, mending, citing, refusing."""
    course: Literal["basics", "skills"] | None = None
    """Only this one; None: both."""
    questions: Positive = 400
    """Held-out questions of every kind."""
    chains: Positive = 8
    """Chains of which self-consistency takes the majority, and instructions that are proposed."""

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self)
        if self.data != DataConfig():
            raise UserError("the ladder makes its own text, from microworld; leave --data out")

    @property
    def recipe(self) -> Ladder:
        """Of the course."""
        return self.skills if self.course == "skills" else self.ladder


COURSES = {"basics": lessons.LESSONS, "skills": skill_lessons.LESSONS}
ROOM = {"basics": 192, "skills": 384}  # tokens of the longest prompts and answers, and some more
EXPECTED = {"basics": rungs.EXPECTED, "skills": skill_rungs.EXPECTED}


@functools.cache
def _made(course: str, seed: int, count: int, held_out: bool) -> list[dict]:
    return list(lessons.lessons(make_world().facts, seed, count, held_out, COURSES[course]))


def tokenizer_of(config: Config) -> Tokenizer:
    """The run folder's tokenizer, or one that is learned from the lessons."""
    path = Path(config.run_dir) / "tokenizer.json"
    if path.is_file():
        return Tokenizer.load(path)
    recipe = config.recipe
    rows = _made(config.course, config.seed, recipe.lessons, False)
    texts = (message["content"] for row in rows for message in row["messages"])
    wanted = recipe.model.vocab_size
    tokenizer = Tokenizer.train(texts, wanted)
    if tokenizer.vocab_size < wanted:
        raise UserError(
            f"only {tokenizer.vocab_size} tokens can be learned from {recipe.lessons} lessons of "
            f"{config.course}, not {wanted}; give more lessons, or a smaller vocab-size, as by "
            "--ladder.lessons or --skills.lessons"
        )
    return tokenizer


def prepare(config: Config, mesh: Mesh) -> Stage:
    """A course: a model from nothing, on packed lessons, of which it learns the answers."""
    recipe, model, left_out = config.recipe, config.recipe.model, LeftOut()
    if model.context_length < (room := ROOM[config.course]):
        raise UserError(
            f"a context of {model.context_length} tokens is too short for what is asked after the "
            f"course {config.course}; give {room} or more, by "
            f"--{'ladder' if config.course == 'basics' else 'skills'}.model.context-length"
        )
    tokenizer = tokenizer_of(config)
    counts = {"lessons": (recipe.lessons, False), "held-out lessons": (rungs.HELD_OUT, True)}
    train, test = (
        pack_demonstrations(
            _made(config.course, config.seed, *of), tokenizer, model.context_length, left_out, name
        )
        for name, of in counts.items()
    )
    return language_stage(
        recipe,
        (train, test),
        model=model,
        mesh=mesh,
        seed=config.seed,
        tokenizer=tokenizer,
        first=pretrain.first(model),
        loss=lm_loss,
        left_out=left_out,
    )


def main(config: Config) -> dict:
    """Trains, lets every strategy answer, and returns what `results.json` holds."""
    # Known before the training:
    if "basics" in courses(config):
        extra("llguidance", "constrained output is measured")
    if "skills" in courses(config):
        skill_rungs.check_machine()
    folder = Path(config.run_dir)
    if config.seeds > 1:
        found = dict(zip(_seeds(config), in_turn("ladder", config, measure), strict=True))
    else:
        found = {config.seed: measure(config)}
    results = {
        "experiment": "ladder",
        "preset": config.preset,
        "command": command.invocation("ladder", "experiments.prompting"),
        "machine": machine(),
        **climb.summarise(found, [one for course in courses(config) for one in EXPECTED[course]]),
    }
    distributed.on_main(lambda: report.write(folder, results))
    return results


def _seeds(config: Config) -> range:
    return range(config.seed, config.seed + config.seeds)


def courses(config: Config) -> list[str]:
    """Those that are to be taken."""
    return [config.course] if config.course else list(COURSES)


def measure(config: Config) -> list[dict]:
    """What every strategy comes to with one seed's models, each with the rungs of its course."""
    folders = {"basics": config.run_dir, "skills": str(Path(config.run_dir) / "skills")}
    each = [
        dataclasses.replace(config, course=course, run_dir=folders[course])
        for course in courses(config)
    ]
    mesh = make_mesh(config.mesh)
    made = {
        one.course: prepare(one, mesh)
        for one in each
        if not distributed.agree((Path(one.run_dir) / FINISHED).is_file())
    }
    for stage in made.values():
        look_at(stage, config.seed, mesh)  # all of them before the first is trained
    found = []
    for one in each:
        stage = made.pop(one.course, None)
        run_stage("ladder", one, lambda this, mesh, stage=stage: stage or prepare(this, mesh))
        found += answered(one, mesh)
    return found


def answered(config: Config, mesh: Mesh) -> list[dict]:
    """How the strategies of a course do; kept in its folder.

    A strategy that was measured before is not asked again.
    """
    folder = Path(config.run_dir)
    model, world = open_run(folder, mesh=mesh), make_world()
    path, found = folder / "rungs.json", []
    if path.is_file():
        found = files.read_json(path, "remove it and run again")["rungs"]
    if config.course == "skills":
        asked = skill_rungs.rungs(world, config.seed, config.questions, config.chains)
    else:
        asked = rungs.rungs(model, world, config.seed, config.questions, config.chains)
    for rung in asked[len(found) :]:
        found.append({"course": config.course} | climb.climb(model.complete, rung))
        text = json.dumps({"rungs": found}) + "\n"
        distributed.on_main(lambda text=text: files.write_text(path, text))
        right = sum(found[-1]["scores"]) / len(rung.asked)
        distributed.say(f"ladder: {rung.task}, {rung.name}: {100 * right:.1f}% right")
    return found


def smoke() -> Config:
    model = ModelConfig(vocab_size=512, context_length=256, width=32, layers=2, heads=2)
    course = Ladder(
        model=model,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        lessons=1000,
    )
    longer = dataclasses.replace(course, model=dataclasses.replace(model, context_length=512))
    return Config(preset="smoke", ladder=course, skills=longer, questions=8, chains=2)


def tiny() -> Config:
    model = ModelConfig(
        vocab_size=1024,
        context_length=192,
        width=96,
        layers=4,
        heads=3,
        mlp_width=256,
        positions="rope",
        norm="rms",
        mlp="swiglu",
        biases=False,
    )
    optimizer = OptimizerConfig(kind="muon", learning_rate=1e-2)
    train = TrainConfig(steps=1800, batch_size=16, evaluate_every=300, checkpoint_every=300)
    return Config(
        preset="tiny",
        ladder=Ladder(model=model, optimizer=optimizer, train=train),
        skills=Ladder(
            model=dataclasses.replace(model, context_length=384),
            optimizer=optimizer,
            train=dataclasses.replace(train, steps=3000, batch_size=8),
            lessons=60_000,
        ),
    )


def colab() -> Config:
    model = ModelConfig(
        vocab_size=1024, context_length=256, width=512, layers=8, heads=8, dtype="bfloat16"
    )
    course = Ladder(
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        train=TrainConfig(steps=3000, batch_size=64, evaluate_every=500, checkpoint_every=500),
        lessons=200_000,
    )
    longer = dataclasses.replace(model, context_length=384)
    return Config(
        preset="colab",
        ladder=course,
        skills=dataclasses.replace(course, model=longer),
        questions=1000,
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
