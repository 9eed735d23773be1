"""An arena: models answer the same prompts, answers are compared, and ratings follow (Elo's scale).

    python -m experiments.arena runs/rlhf/tiny/sft runs/rlhf/tiny/ppo --prompts 200
    python -m experiments.arena --votes comparisons.jsonl

Every model meets every other one on every held-out prompt. The judge is the task's own score
(microworld's gold), or those who voted on the web page (`python -m gpt_jax.serve --votes`).
Ratings are Bradley-Terry's maximum likelihood, with 95% intervals over the prompts.

Hardware and time: three models of 1M parameters and 200 prompts, half a minute on 2 CPU cores.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rich
import tyro

from gpt_jax import files, terminal
from gpt_jax.data.config import DataConfig
from gpt_jax.data.ranking import NOTICEABLE
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate.elo import Game, Rating, ratings, read_votes
from gpt_jax.evaluate.task import evaluate_task
from gpt_jax.generate.sampling import Sampling
from gpt_jax.ranges import NonNegativeFloat, Positive, check_ranges
from gpt_jax.report.table import Table, for_terminal, interval_text, plain
from gpt_jax.tasks.prompts import task_of
from gpt_jax.tasks.task import Task, opening
from gpt_jax.train.command import use_compilation_cache
from gpt_jax.train.served import open_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, or what else can be asked (hf:ORG/NAME, gguf:FILE); NAME=FOLDER names one."""
    votes: str | None = None
    """In place of models: the file that the web page's votes were written to."""
    data: DataConfig = DataConfig()
    """Whose held-out prompts are asked."""
    prompts: Positive = 200
    """How many."""
    max_new_tokens: Positive = 48
    """The longest answer."""
    temperature: NonNegativeFloat = 0.7
    """Of the answers."""
    noticeable: NonNegativeFloat = NOTICEABLE
    """Scores that lie closer together are a tie."""
    seed: int = 0
    """Of prompts, answers and intervals."""
    run_dir: str = "runs/arena/default"
    """Where `ratings.json` is written."""

    def __post_init__(self):
        check_ranges(self)
        if (self.votes is None) == (not self.models):
            raise UserError("name the models that are to meet, or --votes FILE, and not both")
        if self.votes is None and len(self.models) < 2:
            raise UserError("one model meets nobody; name two or more")


def main(options: Options) -> list[Rating]:
    """Rates the models, and returns the ratings, the best first."""
    games = read_votes(options.votes) if options.votes else play(options)
    found = ratings(games, options.seed)
    folder = Path(options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [one._asdict() for one in found]
    files.write_text(folder / "ratings.json", json.dumps(rows, indent=2) + "\n")
    rich.print(for_terminal([table(found)]))
    return found


def play(options: Options) -> list[Game]:
    """Lets every model answer, and compares the answers to each prompt by the task's score.

    Raises:
      UserError: if two models have one name, or the prompts have no judge.
    """
    task = task_of(options.data)
    if task.score is None:
        raise UserError("these prompts have no score of their own; give --votes, or microworld's")
    named = [_named(model) for model in options.models]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UserError(f"two models are called {names}; name them apart as NAME=FOLDER")
    models = {name: open_run(where) for name, where in named}
    rows = sample_rows(task.rows("test"), options.prompts, options.seed)
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature, seed=options.seed
    )
    found = evaluate_task(models, task, sampling, rows)
    scores = {name: one.scores_AN[0] for name, one in found.items()}
    return games_of(scores, [_about(task, row) for row in rows], options.noticeable)


def games_of(
    scores: Mapping[str, np.ndarray], about: Sequence[object], noticeable: float
) -> list[Game]:
    """Every two models' scores on every prompt, compared; those that lie close are a tie."""
    games = []
    for first, second in itertools.combinations(scores, 2):
        for ours, theirs, key in zip(scores[first], scores[second], about, strict=True):
            tie = abs(ours - theirs) < noticeable
            games.append(Game(first, second, 0.5 if tie else float(ours > theirs), key))
    return games


def table(found: Sequence[Rating]) -> Table:
    """A row for every model."""
    rows = [
        [one.name, interval_text(one.rating, digits=0), f"{100 * one.won:.1f}", f"{one.games:,}"]
        for one in found
    ]
    headings = ["model", "rating [95%]", "won, % (ties half)", "games"]
    return plain(headings, rows, "Arena")


def _named(model: str) -> tuple[str, str]:
    name, equals, where = model.partition("=")
    return (name, where) if equals and name and where else (model, model)


def _about(task: Task, row: dict) -> object:
    return task.cluster(row) if task.cluster else opening(row)


if __name__ == "__main__":
    use_compilation_cache()
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Options, description=__doc__))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
